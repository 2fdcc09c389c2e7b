"""The flags that determine what is trained: one entry each.

A section is a dataclass, so that an editor knows a flag's type and `Config` has them all as
attributes. absl's definitions, the checks and `--help` come from these entries. The flags of the
official release (google-research, meta_pseudo_labels/flag_utils.py) have its names and defaults;
those that nothing reads, there or here, are in unread.py.
"""

import dataclasses
from typing import Optional

from meta_pseudo_labels.config.choices import (
  AUGMENT_OPS,
  FEEDBACKS,
  INPUTS,
  ORIGINAL_VIEWS,
  RANGES,
  VIEWS,
)
from meta_pseudo_labels.config.fields import (
  BELOW_ONE,
  BYTE,
  CLASSES,
  COUNT,
  FEW,
  FRACTION,
  LAYERS,
  NON_NEGATIVE,
  PART,
  PIXELS,
  POSITIVE,
  SEED,
  SIZE,
  SOME,
  Names,
  flag,
)


@dataclasses.dataclass(frozen=True)
class DataFlags:
  """The examples: where they are, which are labeled, which are held out."""

  data_dir: Optional[str] = flag(
    None, 'Folder that the data are read from (none: that of TFDS).', may_change=True
  )
  labels: Optional[str] = flag(
    None,
    'CSV file with the columns path and class: labels of your own images in unlabeled/, beside the '
    'folders in labeled/ or in place of them (none: the folders alone).',
    may_change=True,
  )
  num_classes: int = flag(
    10, "Number of classes; the dataset's own number replaces it.", CLASSES, in_report=False
  )
  num_labeled: Optional[int] = flag(
    None, 'Labeled training examples (none: the number in dataset_name, else all).', COUNT, may_change=True
  )
  label_seed: Optional[int] = flag(
    None,
    'Seed of a class-balanced draw of the labeled examples (none: the first ones, as in the release).',
    SEED,
  )
  num_validation: Optional[int] = flag(
    None,
    'Labeled examples held out of the training split for tuning and selection (none: a fifth '
    'of your own images if they come without validation images, else 0).',
    NON_NEGATIVE,
  )
  unlabeled_manifest: Optional[str] = flag(
    None, 'File of --task_mode=select that says which unlabeled examples to train on (none: all).'
  )
  select_per_class: int = flag(
    1000,
    'Unlabeled examples of each class that --task_mode=select chooses, the most probable ones.',
    COUNT,
    may_change=True,
    per_command=True,
  )
  suggest_images: int = flag(
    100,
    'Unlabeled images that --task_mode=suggest names, the most useful ones to label.',
    SOME,
    may_change=True,
    per_command=True,
  )
  cache_dir: str = flag(
    '',
    'Folder where your own images are kept once they are decoded (empty: meta_pseudo_labels in the '
    "user's cache folder).",
    may_change=True,
  )
  image_background: str = flag(
    'white', 'Color on which transparent images are composed: a name, or #rrggbb.'
  )
  image_range: str = flag(
    'high_bits',
    'Your own images of more than 8 bits. high_bits: their upper 8 bits. data: values from 0 to the '
    'largest one in the folder become 0 to 255.',
    RANGES,
  )
  skip_bad_images: bool = flag(
    False, 'Leave out images that cannot be decoded, and say how many, instead of refusing to start.'
  )
  cache: bool = flag(False, 'Keep encoded images in memory after reading them once.', may_change=True)
  dataset_service_address: Optional[str] = flag(
    None,
    'Dispatcher (host:port) of a tf.data service whose workers make the training batches.',
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class AugmentationFlags:
  """The views of an example: size, crops, mirroring, RandAugment."""

  image_size: int = flag(32, 'Height and width of the images, in pixels.', PIXELS)
  views: str = flag(
    '',
    'How images are cropped. pad_crop: shifted by up to an eighth, as the release does with '
    "CIFAR. resized_crop: a random part enlarged, as with ImageNet. Empty: the dataset's own "
    'way; for your own images resized_crop from 96 pixels on.',
    ('',) + VIEWS,
  )
  whole_image: bool = flag(
    False,
    'Evaluation sees all of an image, squeezed to a square, and not its central part alone '
    '(--views=resized_crop).',
  )
  crop_area: float = flag(
    0.08, 'Least part of an image that a random crop shows (--views=resized_crop).', PART
  )
  flip: Optional[bool] = flag(
    None,
    'Mirror images left to right at random; --noflip where a mirror image is of another '
    "class, as with letters (none: the dataset's own way; your own images are mirrored).",
  )
  augment_ops: str = flag(
    '',
    'Operations that RandAugment draws from; Identity alone turns it off (empty: the '
    "dataset's own; for your own images the release's fifteen).",
    Names('operation', AUGMENT_OPS),
  )
  augment_magnitude: int = flag(
    5,
    "RandAugment magnitude, in tenths of each operation's range; above 10 exceeds the range.",
    NON_NEGATIVE,
  )
  augment_fill: int = flag(
    128,
    'Value of the pixels that shifts, rotations and cutout leave empty, 0 to 255; grey as in the release. '
    'Where all images have one background, such as black, its value.',
    BYTE,
  )
  use_augment: bool = flag(False, 'RandAugment on the labeled view too (supervised).')
  augment_stddev: float = flag(
    0.1,
    'Standard deviation, in data units, of the noise that makes the augmented view of vectors'
    ' such as two_moons.',
    NON_NEGATIVE,
  )


@dataclasses.dataclass(frozen=True)
class ModelFlags:
  """The networks, and the weights that they start from."""

  model_type: str = flag(
    'wrn-28-2',
    'Network of teacher and student: wrn-<depth 6n+4>-<width factor>, wrn-28-large, '
    'resnet-50, efficientnet-<bs, b0-b8, l2, b5-mpl, b6-mpl>, mlp-<units>x<hidden layers>; '
    'pretrained: a network of tf.keras.applications such as MobileNetV2 or EfficientNetB0, or the path of '
    'a Keras 2 model (.h5, .keras) or of a SavedModel of features.',
  )
  features: bool = flag(
    False,
    'Train a new last layer alone, on the features that a pretrained network gave once for every image; '
    'they are kept in --cache_dir.',
  )
  feature_views: int = flag(
    2, 'Of --features: random views of each training image, original and augmented ones each.', FEW
  )
  head: str = flag(
    'linear', 'Of --features: what learns from them, linear or mlp-<units>x<hidden layers>.'
  )
  head_weights: Optional[str] = flag(
    None,
    'File head.npz of --task_mode=ladder: what the last layer of a pretrained network starts with.',
  )
  student_model_type: str = flag(
    '',
    'Network of the student, if it is another than the teacher (mpl, pseudo_labels, reduced_mpl; empty: '
    'model_type).',
  )
  model_weights: str = flag(
    '',
    'Weights that a network of tf.keras.applications starts with: imagenet, none, or a file of that '
    'network (empty: imagenet).',
  )
  student_model_weights: str = flag('', 'The same for student_model_type.')
  model_inputs: str = flag(
    '',
    'Pixels that a network given by its path was trained on, where it does not scale them itself: 0 to '
    "255, 0 to 1, -1 to 1, or normalized as Caffe's or PyTorch's networks have them (empty: as it says).",
    ('',) + INPUTS,
  )
  freeze: str = flag(
    'none',
    'What of a pretrained network keeps its weights: none of it, all but the new last layer, or all but '
    'that and so many of its last blocks (a number).',
  )
  feature_layers: int = flag(
    0,
    'Inner layers of a pretrained network whose features its new last layer sees besides the last ones: '
    'the last one at each of so many sizes of the maps, or fewer if there are fewer. Others have none.',
    NON_NEGATIVE,
  )
  train_batch_norm: bool = flag(
    False,
    "Let batch norms of a pretrained network use and move the batch's statistics, instead of keeping "
    'those that they come with.',
  )
  backbone_lr_scale: float = flag(
    0.1, "Factor of the learning rate for a pretrained network's own weights.", NON_NEGATIVE
  )
  layer_decay: float = flag(
    1.0, 'Factor of that rate from each block of a pretrained network to the one before it.', POSITIVE
  )
  head_steps: int = flag(
    0, "Steps in which a pretrained network's new last layer learns alone.", NON_NEGATIVE
  )
  batch_norm_decay: float = flag(0.99, 'Decay per step of the moving batch statistics.', FRACTION)
  batch_norm_epsilon: float = flag(1e-3, 'Added to the variance in batch norm.', POSITIVE)
  batch_norm_batch_size: Optional[int] = flag(
    None,
    'Examples that share batch statistics when there are more than 8 replicas (none: those of'
    ' max(8, replicas / 8) replicas).',
    COUNT,
  )
  dense_dropout_rate: float = flag(0.1, 'Dropout rate before the last layer.', BELOW_ONE)
  stochastic_depth_drop_rate: float = flag(
    0.0, 'Drop rate of the last residual block, from 0 at the first (EfficientNet).', BELOW_ONE
  )
  load_checkpoint: Optional[str] = flag(
    None, 'Checkpoint to start from when output_dir has none.', may_change=True
  )
  load_checkpoint_and_restart_global_step: bool = flag(
    False, 'Start counting steps at 0 after load_checkpoint.', may_change=True
  )
  mpl_teacher_checkpoint: Optional[str] = flag(
    None, 'Checkpoint the teacher starts from (mpl).', may_change=True
  )
  mpl_student_checkpoint: Optional[str] = flag(
    None, 'Checkpoint the student starts from (mpl).', may_change=True
  )


@dataclasses.dataclass(frozen=True)
class OptimizationFlags:
  """Batches, steps, learning rates, optimizers, the averaged weights."""

  train_batch_size: int = flag(128, 'Labeled examples in a step, over all replicas.', COUNT)
  eval_batch_size: int = flag(
    128, 'Examples in an evaluation step, over all replicas.', COUNT, may_change=True, per_command=True
  )
  balanced_sampling: bool = flag(
    False,
    'Labeled batches draw every class equally often. A first answer weighs the classes equally too, and '
    'compares by balanced accuracy.',
  )
  num_train_steps: int = flag(10000, 'Training steps.', COUNT)
  num_warmup_steps: int = flag(0, 'Steps of linear warm-up (supervised, uda).', NON_NEGATIVE)
  lr: float = flag(
    0.016,
    'Learning rate per 256 labeled examples: the rate used is lr * train_batch_size / 256 '
    '(supervised, uda).',
    NON_NEGATIVE,
  )
  lr_decay_type: str = flag(
    'exponential', 'Schedule after the warm-up.', ('constant', 'exponential', 'cosine')
  )
  lr_decay_rate: float = flag(0.97, 'Factor of each exponential decay.', POSITIVE)
  num_decay_steps: int = flag(750, 'Steps between exponential decays.', COUNT)
  optim_type: str = flag(
    'momentum',
    "Optimizer; momentum is Nesterov's with 0.9; adamw has its weight decay apart from the gradient.",
    ('sgd', 'momentum', 'rmsprop', 'lars', 'adamw'),
  )
  rmsprop_rho: float = flag(0.9, 'Decay per step of the mean square.', BELOW_ONE)
  rmsprop_momentum: float = flag(0.9, 'Momentum of rmsprop.', BELOW_ONE)
  rmsprop_epsilon: float = flag(1e-3, 'Added to the mean square, under the root.', POSITIVE)
  weight_decay: float = flag(
    1e-4, 'Coefficient of half the squared norm of the weights (except batch norm).', NON_NEGATIVE
  )
  grad_bound: float = flag(
    1e9, 'Largest global norm of a gradient; longer ones are scaled down to it.', POSITIVE
  )
  max_nonfinite_steps: int = flag(
    10,
    'Steps in a row whose update is left out because a gradient is not finite, after which '
    'the run ends (0: it never does).',
    NON_NEGATIVE,
    may_change=True,
  )
  label_smoothing: float = flag(0.0, 'Share of a label spread over all classes.', FRACTION)
  ema_decay: float = flag(
    0.0,
    "Decay per step of the student's averaged weights, which are the ones evaluated; 0 makes "
    'them a plain copy.',
    BELOW_ONE,
  )
  ema_start: int = flag(0, 'Step at which averaging starts; a copy before.', NON_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class UdaFlags:
  """The unlabeled loss of UDA, which is also the teacher's own loss in Meta Pseudo Labels."""

  uda_data: int = flag(4, 'Unlabeled examples for each labeled one.', COUNT)
  uda_weight: float = flag(1.0, 'Weight of the unlabeled loss after its ramp.', NON_NEGATIVE)
  uda_steps: int = flag(10000, 'Steps of the linear ramp of uda_weight.', COUNT)
  uda_temp: float = flag(0.75, 'Softmax temperature of the unlabeled targets.', POSITIVE)
  uda_threshold: float = flag(
    0.6, 'Smallest largest probability of a target, after the temperature, that is learned from.', FRACTION
  )
  original_view: str = flag(
    'together',
    'Batch of the original views in the network that learns from UDA. together: one batch with the '
    'labeled and augmented ones, as in the release. separate: a batch of their own, with batch statistics '
    "of its own and no backward pass, which saves a third of that network's time.",
    ORIGINAL_VIEWS,
  )


@dataclasses.dataclass(frozen=True)
class MplFlags:
  """Meta Pseudo Labels, and its reduced form on stored predictions."""

  mpl_feedback: str = flag(
    'release',
    "Estimator of the student's feedback to the teacher; release is what the release "
    'computes, whose gradient is zero.',
    FEEDBACKS,
  )
  mpl_weight: float = flag(1.0, 'Factor of the feedback term.', NON_NEGATIVE)
  mpl_student_lr: float = flag(0.1, "Student's rate per 256 labeled examples.", NON_NEGATIVE)
  mpl_student_lr_wait_steps: int = flag(500, 'Steps at rate 0 at first.', NON_NEGATIVE)
  mpl_student_lr_warmup_steps: int = flag(5000, 'Steps of linear warm-up after that.', NON_NEGATIVE)
  mpl_teacher_lr: float = flag(0.1, "Teacher's rate per 256 labeled examples.", NON_NEGATIVE)
  mpl_teacher_lr_warmup_steps: int = flag(5000, 'Steps of linear warm-up.', NON_NEGATIVE)
  teacher_predictions: Optional[str] = flag(
    None,
    'File of --task_mode=label with what a trained teacher says of the labeled and the '
    'unlabeled examples (reduced_mpl).',
    may_change=True,
  )
  calibration_units: int = flag(
    64,
    'Units in a hidden layer of the small network that makes pseudo labels of those (reduced_mpl).',
    SIZE,
  )
  calibration_layers: int = flag(1, 'Its hidden layers.', LAYERS)


@dataclasses.dataclass(frozen=True)
class FinetuneFlags:
  """The finetune of the student on labeled examples alone, after training."""

  finetune_steps: int = flag(0, 'Steps (0: no finetune).', NON_NEGATIVE, may_change=True)
  finetune_lr: float = flag(1e-5, 'Rate of its SGD, not per 256 examples.', NON_NEGATIVE, may_change=True)
  finetune_batch_size: int = flag(
    512, 'Examples in a finetune step, over all replicas.', COUNT, may_change=True
  )
