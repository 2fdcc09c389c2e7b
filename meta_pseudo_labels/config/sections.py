"""Every flag: one line in the section that it belongs to.

A section is a dataclass, so that an editor knows a flag's type and `Config` has them all as
attributes. absl's definitions, the checks and `--help` come from these lines. The flags of the
official release (google-research, meta_pseudo_labels/flag_utils.py) have its names and defaults;
those that nothing reads, there or here, are in unread.py.
"""

import dataclasses
import re
from typing import Optional, Tuple

from meta_pseudo_labels.config.fields import (
    BELOW_ONE,
    CLASSES,
    COUNT,
    FEW,
    FRACTION,
    LAYERS,
    NON_NEGATIVE,
    PIXELS,
    POSITIVE,
    SEED,
    SIZE,
    Names,
    flag,
    flags_of,
)

METHODS = ('supervised', 'pseudo_labels', 'uda', 'mpl', 'reduced_mpl')
FEEDBACKS = ('release', 'soft', 'sampled', 'sampled_dot', 'argmax')
STRATEGIES = ('auto', 'one_device', 'mirrored', 'multi_worker', 'tpu')
BASELINES = METHODS + ('mpl_without_uda', 'label_spreading')
TASKS = (
    'train', 'finetune', 'eval', 'eval_forever', 'export', 'predict', 'report', 'select', 'label',
    'convert')  # fmt: skip
EFFICIENTNETS = (
    'bs', 'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'b5-mpl',
    'b6-mpl')  # fmt: skip
VIEWS = ('pad_crop', 'resized_crop')
# What RandAugment draws from in the release, and all that there is.
RELEASE_OPS = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize', 'Color',
    'Contrast', 'Brightness', 'Sharpness', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY',
    'Cutout')  # fmt: skip
AUGMENT_OPS = RELEASE_OPS + ('SolarizeAdd', 'Identity')
_RELEASE_CLASSES = {'imagenet': 1000, 'cifar100': 100, 'cifar10': 10}
SELECTIONS = ('validation', 'last', 'best_on_test')


@dataclasses.dataclass(frozen=True)
class RunFlags:
  """What to run, and where its results go."""

  task_mode: Optional[str] = flag(None, 'What to do (none: train; evals means eval).', TASKS + ('evals',), may_change=True, per_command=True, in_report=False)
  dataset_name: Optional[str] = flag(None, 'Dataset, as <name>[_<labels>][_<method>]: cifar10_4000_mpl is CIFAR-10 with 4,000 labeled examples, trained by Meta Pseudo Labels.', may_change=True)
  method: str = flag('', 'Training method (empty: from the end of dataset_name: _mpl, _uda, _pseudo_labels, _reduced_mpl, else supervised).', ('',) + METHODS, may_change=True)
  output_dir: Optional[str] = flag(None, 'Folder of checkpoints, logs and hparams.json. A run that finds a checkpoint in it continues from there.', may_change=True, per_command=True)
  reset_output_dir: bool = flag(False, 'Empty output_dir first, if this program made it. Not with eval tasks.', may_change=True, per_command=True, in_report=False)
  seed: int = flag(0, 'Seed of weights, data order, augmentation and dropout.', SEED)
  running_local_dev: bool = flag(False, 'Marks a trial run; accepted as in the release.', may_change=True)
  use_vizier: bool = flag(False, 'Accepted as in the release; there is no tuning service.', may_change=True)


@dataclasses.dataclass(frozen=True)
class ComparisonFlags:
  """Baselines, seeds, and what is reported."""

  baselines: str = flag('', 'Methods that are trained before the main run on the same data and shown in the same table.', Names('method', BASELINES), may_change=True)
  num_seeds: int = flag(1, 'Repeat the run and its baselines with this many seeds. seed and label_seed count up; the table shows mean and standard deviation.', COUNT, may_change=True)
  eval_split: str = flag('test', 'Split whose accuracies are reported.', ('validation', 'test'), may_change=True)
  select: str = flag('', 'Which student is reported. validation: the best on the validation split, then measured once on eval_split. last: that of the last step, as in the paper. best_on_test: the best on the test split, as in the release, which flatters it. Empty: validation where there is such a split, else last.', ('',) + SELECTIONS)


@dataclasses.dataclass(frozen=True)
class DataFlags:
  """The examples: where they are, which are labeled, which are held out."""

  data_dir: Optional[str] = flag(None, 'Folder that the data are read from (none: that of TFDS).', may_change=True)
  num_classes: int = flag(10, 'Number of classes; the dataset\'s own number replaces it.', CLASSES, in_report=False)
  num_labeled: Optional[int] = flag(None, 'Labeled training examples (none: the number in dataset_name, else all).', COUNT, may_change=True)
  label_seed: Optional[int] = flag(None, 'Seed of a class-balanced draw of the labeled examples (none: the first ones, as in the release).', SEED)
  num_validation: Optional[int] = flag(None, 'Labeled examples held out of the training split for tuning and selection (none: a fifth of your own images if they come without validation images, else 0).', NON_NEGATIVE)
  unlabeled_manifest: Optional[str] = flag(None, 'File of --task_mode=select that says which unlabeled examples to train on (none: all).')
  select_per_class: int = flag(1000, 'Unlabeled examples of each class that --task_mode=select chooses, the most probable ones.', COUNT, may_change=True, per_command=True)
  skip_bad_images: bool = flag(False, 'Leave out images that cannot be decoded, and say how many, instead of refusing to start.')
  cache: bool = flag(False, 'Keep encoded images in memory after reading them once.', may_change=True)
  dataset_service_address: Optional[str] = flag(None, 'Dispatcher (host:port) of a tf.data service whose workers make the training batches.', may_change=True)


@dataclasses.dataclass(frozen=True)
class AugmentationFlags:
  """The views of an example: size, crops, mirroring, RandAugment."""

  image_size: int = flag(32, 'Height and width of the images, in pixels.', PIXELS)
  views: str = flag('', 'How images are cropped. pad_crop: shifted by up to an eighth, as the release does with CIFAR. resized_crop: a random part enlarged, as with ImageNet. Empty: the dataset\'s own way; for your own images resized_crop from 96 pixels on.', ('',) + VIEWS)
  flip: Optional[bool] = flag(None, 'Mirror images left to right at random; --noflip where a mirror image is of another class, as with letters (none: the dataset\'s own way; your own images are mirrored).')
  augment_ops: str = flag('', 'Operations that RandAugment draws from; Identity alone turns it off (empty: the dataset\'s own; for your own images the release\'s fifteen).', Names('operation', AUGMENT_OPS))
  augment_magnitude: int = flag(5, 'RandAugment magnitude, in tenths of each operation\'s range; above 10 exceeds the range.', NON_NEGATIVE)
  use_augment: bool = flag(False, 'RandAugment on the labeled view too (supervised).')
  augment_stddev: float = flag(0.1, 'Standard deviation, in data units, of the noise that makes the augmented view of vectors such as two_moons.', NON_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class ModelFlags:
  """The networks, and the weights that they start from."""

  model_type: str = flag('wrn-28-2', 'Network of teacher and student: wrn-<depth 6n+4>-<width factor>, wrn-28-large, resnet-50, efficientnet-<bs, b0-b8, l2, b5-mpl, b6-mpl>, mlp-<units>x<hidden layers>.')
  batch_norm_decay: float = flag(0.99, 'Decay per step of the moving batch statistics.', FRACTION)
  batch_norm_epsilon: float = flag(1e-3, 'Added to the variance in batch norm.', POSITIVE)
  batch_norm_batch_size: Optional[int] = flag(None, 'Examples that share batch statistics when there are more than 8 replicas (none: those of max(8, replicas / 8) replicas).', COUNT)
  dense_dropout_rate: float = flag(0.1, 'Dropout rate before the last layer.', BELOW_ONE)
  stochastic_depth_drop_rate: float = flag(0., 'Drop rate of the last residual block, from 0 at the first (EfficientNet).', BELOW_ONE)
  load_checkpoint: Optional[str] = flag(None, 'Checkpoint to start from when output_dir has none.', may_change=True)
  load_checkpoint_and_restart_global_step: bool = flag(False, 'Start counting steps at 0 after load_checkpoint.', may_change=True)
  mpl_teacher_checkpoint: Optional[str] = flag(None, 'Checkpoint the teacher starts from (mpl).', may_change=True)
  mpl_student_checkpoint: Optional[str] = flag(None, 'Checkpoint the student starts from (mpl).', may_change=True)


@dataclasses.dataclass(frozen=True)
class OptimizationFlags:
  """Batches, steps, learning rates, optimizers, the averaged weights."""

  train_batch_size: int = flag(128, 'Labeled examples in a step, over all replicas.', COUNT)
  eval_batch_size: int = flag(128, 'Examples in an evaluation step, over all replicas.', COUNT, may_change=True, per_command=True)
  num_train_steps: int = flag(10000, 'Training steps.', COUNT)
  num_warmup_steps: int = flag(0, 'Steps of linear warm-up (supervised, uda).', NON_NEGATIVE)
  lr: float = flag(0.016, 'Learning rate per 256 labeled examples: the rate used is lr * train_batch_size / 256 (supervised, uda).', NON_NEGATIVE)
  lr_decay_type: str = flag('exponential', 'Schedule after the warm-up.', ('constant', 'exponential', 'cosine'))
  lr_decay_rate: float = flag(0.97, 'Factor of each exponential decay.', POSITIVE)
  num_decay_steps: int = flag(750, 'Steps between exponential decays.', COUNT)
  optim_type: str = flag('momentum', 'Optimizer; momentum is Nesterov\'s with 0.9.', ('sgd', 'momentum', 'rmsprop', 'lars'))
  rmsprop_rho: float = flag(0.9, 'Decay per step of the mean square.', BELOW_ONE)
  rmsprop_momentum: float = flag(0.9, 'Momentum of rmsprop.', BELOW_ONE)
  rmsprop_epsilon: float = flag(1e-3, 'Added to the mean square, under the root.', POSITIVE)
  weight_decay: float = flag(1e-4, 'Coefficient of half the squared norm of the weights (except batch norm).', NON_NEGATIVE)
  grad_bound: float = flag(1e9, 'Largest global norm of a gradient; longer ones are scaled down to it.', POSITIVE)
  max_nonfinite_steps: int = flag(10, 'Steps in a row whose update is left out because a gradient is not finite, after which the run ends (0: it never does).', NON_NEGATIVE, may_change=True)
  label_smoothing: float = flag(0., 'Share of a label spread over all classes.', FRACTION)
  ema_decay: float = flag(0., 'Decay per step of the student\'s averaged weights, which are the ones evaluated; 0 makes them a plain copy.', BELOW_ONE)
  ema_start: int = flag(0, 'Step at which averaging starts; a copy before.', NON_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class UdaFlags:
  """The unlabeled loss of UDA, which is also the teacher's own loss in Meta Pseudo Labels."""

  uda_data: int = flag(4, 'Unlabeled examples for each labeled one.', COUNT)
  uda_weight: float = flag(1., 'Weight of the unlabeled loss after its ramp.', NON_NEGATIVE)
  uda_steps: int = flag(10000, 'Steps of the linear ramp of uda_weight.', COUNT)
  uda_temp: float = flag(0.75, 'Softmax temperature of the unlabeled targets.', POSITIVE)
  uda_threshold: float = flag(0.6, 'Smallest largest probability of a target, after the temperature, that is learned from.', FRACTION)


@dataclasses.dataclass(frozen=True)
class MplFlags:
  """Meta Pseudo Labels, and its reduced form on stored predictions."""

  mpl_feedback: str = flag('release', 'Estimator of the student\'s feedback to the teacher; release is what the release computes, whose gradient is zero.', FEEDBACKS)
  mpl_weight: float = flag(1., 'Factor of the feedback term.', NON_NEGATIVE)
  mpl_student_lr: float = flag(0.1, 'Student\'s rate per 256 labeled examples.', NON_NEGATIVE)
  mpl_student_lr_wait_steps: int = flag(500, 'Steps at rate 0 at first.', NON_NEGATIVE)
  mpl_student_lr_warmup_steps: int = flag(5000, 'Steps of linear warm-up after that.', NON_NEGATIVE)
  mpl_teacher_lr: float = flag(0.1, 'Teacher\'s rate per 256 labeled examples.', NON_NEGATIVE)
  mpl_teacher_lr_warmup_steps: int = flag(5000, 'Steps of linear warm-up.', NON_NEGATIVE)
  teacher_predictions: Optional[str] = flag(None, 'File of --task_mode=label with what a trained teacher says of the labeled and the unlabeled examples (reduced_mpl).', may_change=True)
  calibration_units: int = flag(64, 'Units in a hidden layer of the small network that makes pseudo labels of those (reduced_mpl).', SIZE)
  calibration_layers: int = flag(1, 'Its hidden layers.', LAYERS)


@dataclasses.dataclass(frozen=True)
class FinetuneFlags:
  """The finetune of the student on labeled examples alone, after training."""

  finetune_steps: int = flag(0, 'Steps (0: no finetune).', NON_NEGATIVE, may_change=True)
  finetune_lr: float = flag(1e-5, 'Rate of its SGD, not per 256 examples.', NON_NEGATIVE, may_change=True)
  finetune_batch_size: int = flag(512, 'Examples in a finetune step, over all replicas.', COUNT, may_change=True)


@dataclasses.dataclass(frozen=True)
class HardwareFlags:
  """Devices, precision, memory."""

  strategy: str = flag('auto', 'How to distribute over devices.', STRATEGIES, may_change=True)
  use_bfloat16: bool = flag(False, 'Compute in bfloat16; variables, batch statistics, logits and losses stay float32.')
  use_float16: bool = flag(False, 'Compute in float16 with loss scaling, for GPUs without bfloat16; variables, batch statistics, logits and losses stay float32.')
  jit_compile: bool = flag(False, 'Compile the training step with XLA.')
  remat: bool = flag(False, 'Keep less of the networks\' passes in memory and compute it again, block by block: slower, same results.', may_change=True)
  deterministic: bool = flag(False, 'Slower, bit-identical order of operations.')
  intra_op_threads: int = flag(0, 'CPU threads that one operation may use (0: as many as cores). With 1, operations run beside each other instead: faster for small networks.', FEW, may_change=True)
  num_virtual_devices: int = flag(0, 'CPU devices to split the CPU into, for trying a strategy without GPUs (0: one).', FEW, may_change=True)
  use_tpu: bool = flag(False, 'With --strategy=auto, use the TPU if there is one.', may_change=True)
  master: Optional[str] = flag(None, 'Name or address of the TPU.', may_change=True)
  tpu_topology: str = flag('', 'Shape of the TPU slice, such as 2x2 or 4x4.', may_change=True)
  tpu_platform: Optional[str] = flag(None, 'Accepted as in the release\'s commands; the TPU tells it.', may_change=True)
  use_xla_sharding: bool = flag(False, 'Split images over num_cores_per_replica TPU cores.', may_change=True, per_command=True)
  num_cores_per_replica: int = flag(1, 'TPU cores that share one replica.', COUNT, may_change=True, per_command=True)


@dataclasses.dataclass(frozen=True)
class CheckpointFlags:
  """Saving, logging, and continuing after a failure."""

  save_every: int = flag(1000, 'Steps between checkpoints and evaluations.', COUNT, may_change=True)
  log_every: int = flag(10, 'Steps between log lines and summaries.', COUNT, may_change=True)
  steps_per_loop: int = flag(100, 'Steps that run without returning to Python.', COUNT, may_change=True)
  keep_checkpoints: int = flag(3, 'Newest checkpoints to keep, besides the best.', COUNT, may_change=True)
  save_retry_seconds: int = flag(300, 'Seconds to keep trying to save when the disk is full or gone, before the run ends.', NON_NEGATIVE, may_change=True)
  max_restarts: int = flag(3, 'Restarts from the newest checkpoint after failures that pass by themselves, such as a lost worker.', NON_NEGATIVE, may_change=True)


@dataclasses.dataclass(frozen=True)
class InferenceFlags:
  """What is made of a trained run: predictions, a SavedModel, a checkpoint of the release."""

  input: str = flag('', 'Images that --task_mode=predict classifies: a file, a folder, or a pattern such as "photos/**/*.jpg".', may_change=True, per_command=True)
  output: str = flag('', 'File that predict, select, label or convert writes (empty: predictions.csv or .jsonl, selected.json, teacher_predictions.npz in output_dir).', may_change=True, per_command=True)
  format: str = flag('', 'How predictions are written (empty: jsonl where the output file is called so, else csv).', ('', 'csv', 'jsonl'), may_change=True, per_command=True)
  saved_model: str = flag('', 'Exported folder that predict takes the network from (empty: the checkpoint in output_dir).', may_change=True, per_command=True)
  export_dir: str = flag('', 'Folder of the SavedModel that --task_mode=export writes (empty: saved_model in output_dir).', may_change=True, per_command=True)
  export_weights: str = flag('ema', 'Network that export, predict, select and label take: the student\'s averaged weights, its raw ones, or the teacher.', ('ema', 'raw', 'teacher'), may_change=True, per_command=True)
  export_tflite: bool = flag(False, 'Export a model.tflite too: preprocessed images to logits.', may_change=True, per_command=True)


@dataclasses.dataclass(frozen=True)
class Config(
    RunFlags,
    ComparisonFlags,
    DataFlags,
    AugmentationFlags,
    ModelFlags,
    OptimizationFlags,
    UdaFlags,
    MplFlags,
    FinetuneFlags,
    HardwareFlags,
    CheckpointFlags,
    InferenceFlags,
):
  """All flags of all sections as attributes, and what follows from them.

  `Config(dataset_name='digits_40_mpl', seed=1)` takes the defaults for everything else.
  """

  def replace(self, **changes) -> 'Config':
    """Returns a copy with some fields changed. Raises TypeError for a name that is no flag."""
    return dataclasses.replace(self, **changes)

  @property
  def task(self) -> str:
    """`task_mode` with the release's words resolved: none is train, evals is eval."""
    return {None: 'train', 'evals': 'eval'}.get(self.task_mode, self.task_mode)

  @property
  def method_name(self) -> str:
    """The method: `method` if given, else the end of dataset_name as in the release."""
    return self.method or _split_name(self.dataset_name)[2] or 'supervised'

  @property
  def dataset(self) -> str:
    """dataset_name in lower case without labels and method: cifar10 of cifar10_4000_mpl."""
    return _split_name(self.dataset_name)[0]

  @property
  def labeled_count(self) -> Optional[int]:
    """Labeled examples: `num_labeled`, else the number in dataset_name, else None for all."""
    return self.num_labeled if self.num_labeled is not None else _split_name(self.dataset_name)[1]

  @property
  def dataset_classes(self) -> Optional[int]:
    """Number of classes of the release's datasets; None: the data layer knows its own."""
    return _RELEASE_CLASSES.get(self.dataset.split('_')[0])

  @property
  def reads_predictions(self) -> bool:
    """Whether something is trained on `teacher_predictions`."""
    return 'reduced_mpl' in (self.method_name, *self.baseline_names)

  @property
  def baseline_names(self) -> Tuple[str, ...]:
    """`baselines` as a tuple, in the order given."""
    return Names.split(self.baselines)

  @property
  def augment_op_names(self) -> Tuple[str, ...]:
    """`augment_ops` as a tuple, in the order given."""
    return Names.split(self.augment_ops)


SECTIONS = Config.__bases__
FLAGS_BY_NAME = {flag.name: flag for section in SECTIONS for flag in flags_of(section)}


def _split_name(dataset_name: Optional[str]) -> Tuple[str, Optional[int], str]:
  """'cifar10_4000_mpl' -> ('cifar10', 4000, 'mpl'); a missing part is None or ''."""
  pattern = r'(.*?)(?:_([0-9]+))?(?:_(%s))?' % '|'.join(METHODS)
  name, count, method = re.fullmatch(pattern, (dataset_name or '').lower(), re.DOTALL).groups()
  return name, None if count is None else int(count), method or ''
