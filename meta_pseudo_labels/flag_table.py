"""The one place where a flag is written: name, type, default, help and accepted values.

absl's definitions, the fields of `Config`, the checks and the help text all come from
`FLAG_TABLE` (config.py). Its first rows are the official release's flags under their own names
and defaults (google-research, meta_pseudo_labels/flag_utils.py); the last ones are ours.
"""
import dataclasses
from typing import Any, Callable, Tuple, Union

METHODS = ('supervised', 'pseudo_labels', 'uda', 'mpl', 'reduced_mpl')
FEEDBACKS = ('release', 'soft', 'sampled', 'sampled_dot', 'argmax')
STRATEGIES = ('auto', 'one_device', 'mirrored', 'multi_worker', 'tpu')
BASELINES = METHODS + ('mpl_without_uda', 'label_spreading')
TASKS = ('train', 'finetune', 'eval', 'eval_forever', 'export', 'predict', 'report', 'select',
         'label')
EFFICIENTNETS = ('bs', 'b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2', 'b5-mpl',
                 'b6-mpl')
VIEWS = ('pad_crop', 'resized_crop')
# What RandAugment draws from in the release, and all that there is.
RELEASE_OPS = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize', 'Color',
    'Contrast', 'Brightness', 'Sharpness', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY',
    'Cutout')
AUGMENT_OPS = RELEASE_OPS + ('SolarizeAdd', 'Identity')
SELECTIONS = ('validation', 'last', 'best_on_test')


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a number must satisfy: `words` complete the sentence 'must be ...'."""
  words: str
  holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Names:
  """What a text of names between commas may name: `what` is the word for one of them."""
  what: str
  known: Tuple[str, ...]

  @staticmethod
  def split(text: str) -> Tuple[str, ...]:
    """The names in a text, in the order given."""
    return tuple(name.strip() for name in text.split(',') if name.strip())


POSITIVE = Rule('above 0', lambda v: v > 0)
NON_NEGATIVE = Rule('0 or more', lambda v: v >= 0)
COUNT = Rule('1 or more', lambda v: v >= 1)
FRACTION = Rule('between 0 and 1', lambda v: 0 <= v <= 1)
BELOW_ONE = Rule('at least 0 and below 1', lambda v: 0 <= v < 1)
CLASSES = Rule('2 or more', lambda v: v >= 2)
SEED = Rule('between 0 and 2147483647', lambda v: 0 <= v < 2**31)
# More is a slip of the keyboard, on which memory would run out instead of a message coming.
PIXELS = Rule('between 1 and 2048', lambda v: 1 <= v <= 2048)
SIZE = Rule('between 1 and 65536', lambda v: 1 <= v <= 65536)
LAYERS = Rule('between 0 and 100', lambda v: 0 <= v <= 100)
FEW = Rule('between 0 and 1024', lambda v: 0 <= v <= 1024)


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag: `type` is bool, int, float or str; `default` None means 'not given'."""
  name: str
  type: type
  default: Any
  help: str
  # Numbers: a Rule; strings: the accepted values, or Names.
  rule: Union[None, Rule, Names, Tuple[str, ...]] = None
  unread: bool = False  # defined by the release, read neither there nor here


FLAG_TABLE = (
    # The release's: what to run, and where.
    Flag('task_mode', str, None, 'What to do (none: train; evals means eval).', TASKS + ('evals',)),
    Flag('dataset_name', str, None, 'Data set, as <name>[_<labels>][_<method>]: cifar10_4000_mpl '
         'is CIFAR-10 with 4,000 labeled examples, trained by Meta Pseudo Labels.'),
    Flag('output_dir', str, None, 'Folder of checkpoints, logs and hparams.json; a run that finds '
         'a checkpoint in it goes on from there.'),
    Flag('reset_output_dir', bool, False, 'Empty output_dir first, if this program made it. Not '
         'with eval tasks.'),
    Flag('load_checkpoint', str, None, 'Checkpoint to start from when output_dir has none.'),
    Flag('load_checkpoint_and_restart_global_step', bool, False, 'Start counting steps at 0 after '
         'load_checkpoint.'),
    Flag('mpl_teacher_checkpoint', str, None, 'Checkpoint the teacher starts from (mpl).'),
    Flag('mpl_student_checkpoint', str, None, 'Checkpoint the student starts from (mpl).'),
    Flag('save_every', int, 1000, 'Steps between checkpoints and evaluations.', COUNT),
    Flag('log_every', int, 10, 'Steps between log lines and summaries.', COUNT),
    Flag('running_local_dev', bool, False, 'Marks a trial run; accepted as in the release.'),
    Flag('use_vizier', bool, False, 'Accepted as in the release; there is no tuning service.'),
    # The release's: hardware.
    Flag('master', str, None, 'Name or address of the TPU.'),
    Flag('tpu_platform', str, None, 'Accepted as in the release\'s commands; the TPU tells it.'),
    Flag('tpu_topology', str, '', 'Shape of the TPU slice, such as 2x2 or 4x4.'),
    Flag('use_tpu', bool, False, 'With --strategy=auto, use the TPU if there is one.'),
    Flag('use_xla_sharding', bool, False, 'Split images over num_cores_per_replica TPU cores.'),
    Flag('num_cores_per_replica', int, 1, 'TPU cores that share one replica.', COUNT),
    Flag('use_bfloat16', bool, False, 'Compute in bfloat16; variables, batch statistics, logits '
         'and losses stay float32.'),
    # The release's: model and data.
    Flag('model_type', str, 'wrn-28-2', 'Network of teacher and student: wrn-<depth 6n+4>-<width '
         'factor>, wrn-28-large, resnet-50, efficientnet-<bs, b0-b8, l2, b5-mpl, b6-mpl>, '
         'mlp-<units>x<hidden layers>.'),
    Flag('image_size', int, 32, 'Height and width of the images, in pixels.', PIXELS),
    Flag('num_classes', int, 10, 'Number of classes; the data set\'s own number replaces it.',
         CLASSES),
    Flag('train_batch_size', int, 128, 'Labeled examples in a step, over all replicas.', COUNT),
    Flag('eval_batch_size', int, 128, 'Examples in an evaluation step, over all replicas.', COUNT),
    Flag('use_augment', bool, False, 'RandAugment on the labeled view too (supervised).'),
    Flag('augment_magnitude', int, 5, 'RandAugment magnitude, in tenths of each op\'s range; above '
         '10 exceeds the range.', NON_NEGATIVE),
    Flag('batch_norm_decay', float, 0.99, 'Decay a step of the moving batch statistics.', FRACTION),
    Flag('batch_norm_epsilon', float, 1e-3, 'Added to the variance in batch norm.', POSITIVE),
    Flag('batch_norm_batch_size', int, None, 'Examples that share batch statistics when there are '
         'more than 8 replicas (none: those of max(8, replicas / 8) replicas).', COUNT),
    Flag('dense_dropout_rate', float, 0.1, 'Dropout rate before the last layer.', BELOW_ONE),
    Flag('stochastic_depth_drop_rate', float, 0., 'Drop rate of the last residual block, from 0 '
         'at the first (EfficientNet).', BELOW_ONE),
    # The release's: optimization.
    Flag('num_train_steps', int, 10000, 'Training steps.', COUNT),
    Flag('num_warmup_steps', int, 0, 'Steps of linear warm-up (supervised, uda).', NON_NEGATIVE),
    Flag('lr', float, 0.016, 'Learning rate per 256 labeled examples: the rate used is lr * '
         'train_batch_size / 256 (supervised, uda).', NON_NEGATIVE),
    Flag('lr_decay_type', str, 'exponential', 'Schedule after the warm-up.',
         ('constant', 'exponential', 'cosine')),
    Flag('lr_decay_rate', float, 0.97, 'Factor of each exponential decay.', POSITIVE),
    Flag('num_decay_steps', int, 750, 'Steps between exponential decays.', COUNT),
    Flag('optim_type', str, 'momentum', 'Optimizer; momentum is Nesterov\'s with 0.9.',
         ('sgd', 'momentum', 'rmsprop', 'lars')),
    Flag('rmsprop_rho', float, 0.9, 'Decay a step of the mean square.', BELOW_ONE),
    Flag('rmsprop_momentum', float, 0.9, 'Momentum of rmsprop.', BELOW_ONE),
    Flag('rmsprop_epsilon', float, 1e-3, 'Added to the mean square, under the root.', POSITIVE),
    Flag('weight_decay', float, 1e-4, 'Coefficient of half the squared norm of the weights (batch '
         'norm left out).', NON_NEGATIVE),
    Flag('grad_bound', float, 1e9, 'Largest global norm of a gradient; longer ones are scaled '
         'down to it.', POSITIVE),
    Flag('label_smoothing', float, 0., 'Share of a label spread over all classes.', FRACTION),
    Flag('ema_decay', float, 0., 'Decay a step of the student\'s averaged weights, which are the '
         'ones evaluated; 0 makes them a plain copy.', BELOW_ONE),
    Flag('ema_start', int, 0, 'Step at which averaging starts; a copy before.', NON_NEGATIVE),
    # The release's: UDA, also the teacher's own loss in Meta Pseudo Labels.
    Flag('uda_data', int, 4, 'Unlabeled examples for each labeled one.', COUNT),
    Flag('uda_weight', float, 1., 'Weight of the unlabeled loss after its ramp.', NON_NEGATIVE),
    Flag('uda_steps', int, 10000, 'Steps of the linear ramp of uda_weight.', COUNT),
    Flag('uda_temp', float, 0.75, 'Softmax temperature of the unlabeled targets.', POSITIVE),
    Flag('uda_threshold', float, 0.6, 'Smallest largest probability of a target, after the '
         'temperature, that is learned from.', FRACTION),
    # The release's: Meta Pseudo Labels.
    Flag('mpl_student_lr', float, 0.1, 'Student\'s rate per 256 labeled examples.', NON_NEGATIVE),
    Flag('mpl_student_lr_wait_steps', int, 500, 'Steps at rate 0 at first.', NON_NEGATIVE),
    Flag('mpl_student_lr_warmup_steps', int, 5000, 'Steps of linear warm-up after that.',
         NON_NEGATIVE),
    Flag('mpl_teacher_lr', float, 0.1, 'Teacher\'s rate per 256 labeled examples.', NON_NEGATIVE),
    Flag('mpl_teacher_lr_warmup_steps', int, 5000, 'Steps of linear warm-up.', NON_NEGATIVE),
    # The release's: defined there, read by nothing.
    Flag('mpl_temp', float, 0.75, '', unread=True),
    Flag('mpl_threshold', float, 0.6, '', unread=True),
    Flag('mpl_dot_product_bound', float, 0.1, '', unread=True),
    Flag('mpl_student_wait_steps', int, 2500, '', unread=True),
    Flag('uda_warmup_steps', int, 2000, '', unread=True),
    Flag('teacher_lr', float, 0.1, '', unread=True),
    Flag('teacher_base_lr', float, 1e-3, '', unread=True),
    Flag('teacher_grad_bound', float, 20., '', unread=True),
    Flag('teacher_eps', float, 1e-7, '', unread=True),
    Flag('teacher_weight_decay', float, 1e-4, '', unread=True),
    Flag('teacher_temperature', float, 0.5, '', unread=True),
    Flag('teacher_grad_dot_moving_average_decay', float, 0.99, '', unread=True),
    Flag('teacher_init_range', float, 0.1, '', unread=True),
    Flag('teacher_one_hot_w', float, 0.9, '', unread=True),
    Flag('teacher_num_samples', int, 10, '', unread=True),
    Flag('num_infeed_threads', int, 4, '', unread=True),
    Flag('num_shards_per_worker', int, None, '', unread=True),
    Flag('inference_ckpt', str, None, '', unread=True),
    Flag('inference_ckpt_ensemble', str, None, '', unread=True),
    Flag('inference_class_id', int, 0, '', unread=True),
    Flag('inference_num_threads', int, None, '', unread=True),
    Flag('inference_thread_index', int, 0, '', unread=True),
    Flag('dataset_service_replicas', int, None, '', unread=True),
    Flag('dataset_service_bns_prefix', str, None, '', unread=True),
    # Ours.
    Flag('method', str, '', 'Training method; empty: from the end of dataset_name (_mpl, _uda, '
         '_pseudo_labels, _reduced_mpl, else supervised).', ('',) + METHODS),
    Flag('mpl_feedback', str, 'release', 'Estimator of the student\'s feedback to the teacher; '
         'release is what the release computes, whose gradient is zero.', FEEDBACKS),
    Flag('mpl_weight', float, 1., 'Factor of the feedback term.', NON_NEGATIVE),
    Flag('teacher_predictions', str, None, 'File of --task_mode=label with what a trained teacher '
         'says of the labeled and the unlabeled examples (reduced_mpl).'),
    Flag('calibration_units', int, 64, 'Units in a hidden layer of the small network that makes '
         'pseudo labels of those (reduced_mpl).', SIZE),
    Flag('calibration_layers', int, 1, 'Its hidden layers.', LAYERS),
    Flag('baselines', str, '', 'Methods trained before the main run on the same data and shown in '
         'the same table.', Names('method', BASELINES)),
    Flag('num_seeds', int, 1, 'Repeat the run and its baselines with so many seeds, counting up '
         'seed and label_seed; the table shows mean and standard deviation.', COUNT),
    Flag('num_labeled', int, None, 'Labeled training examples (none: the number in dataset_name, '
         'else all).', COUNT),
    Flag('label_seed', int, None, 'Seed of a class-balanced draw of the labeled examples (none: '
         'the first ones, as in the release).', SEED),
    Flag('num_validation', int, None, 'Labeled examples held out of the training split for tuning '
         'and selection (none: of your own images a fifth, if they come without validation images; '
         'else 0).', NON_NEGATIVE),
    Flag('eval_split', str, 'test', 'Split whose accuracies are reported.', ('validation', 'test')),
    Flag('select', str, '', 'Which student is reported: validation: the best on the validation '
         'split, then measured once on eval_split; last: that of the last step, as in the paper; '
         'best_on_test: the best on the test split, as in the release, which flatters it; empty: '
         'validation where there is such a split, else last.', ('',) + SELECTIONS),
    Flag('views', str, '', 'How images are cropped: pad_crop: shifted by up to an eighth, as the '
         'release does with CIFAR; resized_crop: a random part enlarged, as with ImageNet; empty: '
         'the data set\'s own way; for your own images resized_crop from 96 pixels on.',
         ('',) + VIEWS),
    Flag('flip', bool, None, 'Mirror images left to right at random; --noflip where a mirror image is '
         'of another class, as with letters (none: the data set\'s own way; your own images are '
         'mirrored).'),
    Flag('augment_ops', str, '', 'The operations that RandAugment draws from; Identity alone turns it '
         'off (empty: the data set\'s own; for your own images the release\'s fifteen).',
         Names('operation', AUGMENT_OPS)),
    Flag('skip_bad_images', bool, False, 'Leave out images that cannot be decoded, and say how many, '
         'instead of refusing to start.'),
    Flag('unlabeled_manifest', str, None, 'File of --task_mode=select that says which unlabeled '
         'examples to train on (none: all).'),
    Flag('select_per_class', int, 1000, 'Unlabeled examples of each class that --task_mode=select '
         'chooses, the most probable ones.', COUNT),
    Flag('dataset_service_address', str, None, 'Dispatcher (host:port) of a tf.data service whose '
         'workers make the training batches.'),
    Flag('cache', bool, False, 'Keep encoded images in memory after reading them once.'),
    Flag('augment_stddev', float, 0.1, 'Standard deviation, in data units, of the noise that makes '
         'the augmented view of vector data such as two_moons.', NON_NEGATIVE),
    Flag('data_dir', str, None, 'Folder the data are read from (none: TFDS\'s own).'),
    Flag('seed', int, 0, 'Seed of weights, data order, augmentation and dropout.', SEED),
    Flag('strategy', str, 'auto', 'How to distribute over devices.', STRATEGIES),
    Flag('intra_op_threads', int, 0, 'CPU threads that one operation may use (0: as many as cores). '
         'With 1, operations run beside each other instead: faster for small networks.', FEW),
    Flag('num_virtual_devices', int, 0, 'CPU devices to split the CPU into, for trying a strategy '
         'without GPUs (0: leave it whole).', FEW),
    Flag('steps_per_loop', int, 100, 'Steps that run without returning to Python.', COUNT),
    Flag('jit_compile', bool, False, 'Compile the training step with XLA.'),
    Flag('use_float16', bool, False, 'Compute in float16 with loss scaling, for GPUs without bfloat16; '
         'variables, batch statistics, logits and losses stay float32.'),
    Flag('remat', bool, False, 'Keep less of the networks\' passes in memory and compute it again, '
         'block by block: slower, same results.'),
    Flag('deterministic', bool, False, 'Slower, bit-identical op order.'),
    Flag('keep_checkpoints', int, 3, 'Newest checkpoints to keep, besides the best.', COUNT),
    Flag('save_retry_seconds', int, 300, 'Seconds to go on trying to save when the disk is full or '
         'gone, before the run ends.', NON_NEGATIVE),
    Flag('max_nonfinite_steps', int, 10, 'Steps in a row whose update is left out, because a '
         'gradient is not finite, that end the run (0: none do).', NON_NEGATIVE),
    Flag('max_restarts', int, 3, 'Restarts from the newest checkpoint after failures that pass by '
         'themselves, such as a worker that is gone.', NON_NEGATIVE),
    Flag('finetune_steps', int, 0, 'Steps of the student on labeled data alone after training (0: '
         'none).', NON_NEGATIVE),
    Flag('finetune_lr', float, 1e-5, 'Rate of that SGD itself, not per 256.', NON_NEGATIVE),
    Flag('finetune_batch_size', int, 512, 'Examples in a finetune step, over all replicas.', COUNT),
    Flag('export_dir', str, '', 'Folder of the SavedModel that --task_mode=export writes (empty: '
         'saved_model in output_dir).'),
    Flag('export_weights', str, 'ema', 'Which network export, predict, select and label take: the '
         'student\'s averaged weights, its raw ones, or the teacher.', ('ema', 'raw', 'teacher')),
    Flag('export_tflite', bool, False, 'Export a model.tflite too: preprocessed images to logits.'),
    Flag('input', str, '', 'Images that --task_mode=predict classifies: a file, a folder, or a '
         'pattern such as "photos/**/*.jpg".'),
    Flag('output', str, '', 'File that predict, select or label writes (empty: predictions.csv, or '
         '.jsonl, '
         'selected.json or teacher_predictions.npz in output_dir).'),
    Flag('format', str, '', 'How predictions are written (empty: jsonl where the output file is '
         'called so, else csv).', ('', 'csv', 'jsonl')),
    Flag('saved_model', str, '', 'Exported folder that predict takes the network from (empty: the '
         'checkpoint in output_dir).'),
)
