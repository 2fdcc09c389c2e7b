"""Checks of a Config: every value by itself, then those that depend on one another.

What needs the data, the devices or the disk is checked where those are known.
"""

import math
import re
import struct
from typing import List, Tuple

from meta_pseudo_labels.config.choices import APPLICATIONS, EFFICIENTNETS, is_pretrained
from meta_pseudo_labels.config.fields import LARGEST, SEED, Flag, Names, Rule
from meta_pseudo_labels.config.sections import FLAGS_BY_NAME, Config
from meta_pseudo_labels.errors import UserError, did_you_mean

_TYPE_WORDS = {
  bool: 'true or false',
  int: 'a whole number in digits, such as 300000',
  float: 'a number',
  str: 'a text',
}


def type_words(kind: type) -> str:
  """Returns what a value of a flag's type is, in words."""
  return _TYPE_WORDS[kind]


def choices(values) -> str:
  """Returns accepted values as a person reads them."""
  return ', '.join(value or '(empty)' for value in values)


def validate(config: Config) -> None:
  """Checks every value by itself, then those that depend on one another.

  Raises:
    UserError: one line with flag, value and what is accepted.
  """
  for name in _required(config):
    if not getattr(config, name):
      raise UserError(f'--{name}: not given; --task_mode={config.task} needs --{name}=...')
  for flag in FLAGS_BY_NAME.values():
    _validate_value(flag, getattr(config, flag.name))
  if config.task == 'finetune' and not config.finetune_steps:
    raise UserError(
      '--task_mode=finetune: --finetune_steps=0 leaves nothing to do; give a number '
      'such as --finetune_steps=1000'
    )
  if '://' in (config.output_dir or ''):
    raise UserError(
      f'--output_dir={config.output_dir}: must be a folder of this machine; mount the '
      'bucket, or copy the folder there afterwards'
    )
  if config.use_float16 and config.use_bfloat16:
    raise UserError('--use_float16: not together with --use_bfloat16; leave one out')
  for name in ('bfloat16', 'float16'):
    if getattr(config, f'use_{name}') and config.precision not in ('auto', name):
      raise UserError(f'--precision={config.precision}: not together with --use_{name}; leave one out')
  if config.labeled_count == 0:
    raise UserError(
      f'--dataset_name={config.dataset_name}: the number of labeled examples in it must be 1 or more'
    )
  for name in ('seed', 'label_seed'):
    value = getattr(config, name)
    if value is not None and not SEED.holds(value + config.num_seeds - 1):
      raise UserError(
        f'--num_seeds={config.num_seeds}: counts --{name}={value} up beyond 2147483647; give a smaller one'
      )
  seconds_of(config.time_limit)
  if config.labels and config.dataset_name and config.dataset != 'folder':
    raise UserError(
      f'--labels={config.labels}: is for your own images in folders, and --dataset_name='
      f'{config.dataset_name} has labels of its own; leave it out'
    )
  if config.task == 'suggest' and config.dataset != 'folder':
    raise UserError(
      '--task_mode=suggest: is for your own images in folders; give --dataset_name=folder --data_dir=...'
    )
  _validate_networks(config)
  _validate_predictions(config)
  _validate_pseudo_labels(config)
  _validate_cores(config)
  if config.reset_output_dir and config.task not in ('train', 'finetune', 'ladder'):
    verb = 'evaluate' if config.task.startswith('eval') else 'read'
    raise UserError(
      f'--reset_output_dir: would delete the checkpoints that --task_mode='
      f'{config.task_mode} is to {verb}; leave it out'
    )


def _validate_cores(config: Config) -> None:
  """Images are split over the cores of a replica (spatial.py) if both flags say so."""
  cores = config.num_cores_per_replica
  if config.use_xla_sharding != (cores > 1):
    raise UserError(
      f'--use_xla_sharding={str(config.use_xla_sharding).lower()} --num_cores_per_replica={cores}: a '
      'replica is split with the first and a number above 1, or neither; give --use_xla_sharding '
      '--num_cores_per_replica=2 or more, or leave both out'
    )
  if cores & (cores - 1):
    raise UserError(
      f'--num_cores_per_replica={cores}: must be a power of two, such as {2 ** (cores.bit_length() - 1)}'
    )


def _required(config: Config) -> Tuple[str, ...]:
  """Returns the names of the flags that a task cannot do without."""
  if config.task in ('export', 'report', 'select', 'label'):
    return ('output_dir',)  # The run there knows the rest.
  if config.task == 'prepare':
    return ('dataset_name',)
  if config.task == 'convert':
    return ('output_dir', 'output')
  if config.task == 'predict':
    to = 'output' if config.saved_model and not config.output_dir else 'output_dir'
    return ('input', to)
  return 'dataset_name', 'output_dir'


def _validate_predictions(config: Config) -> None:
  """Raises UserError unless reduced_mpl, if it is asked for, has one teacher's predictions."""
  if not config.reads_predictions or 'dataset_name' not in _required(config):
    return
  if not config.teacher_predictions:
    raise UserError(
      '--teacher_predictions: required by reduced_mpl and not given; add the file that '
      '--task_mode=label of a trained run writes'
    )
  if config.num_seeds > 1:
    raise UserError(
      f'--num_seeds={config.num_seeds}: reduced_mpl has the predictions of one '
      'teacher, of one seed; give a command with --seed and --label_seed for each'
    )


def _validate_pseudo_labels(config: Config) -> None:
  """Raises UserError if a flag about pseudo labels asks for what no method of the run has."""
  if config.task not in ('train', 'finetune'):
    return
  trained = {config.method_name, *config.baseline_names}
  unlabeled_loss = {'uda', 'mpl', 'mpl_without_uda'}
  for name, methods in (
    ('pseudo_labels', unlabeled_loss),
    ('pseudo_labels_smoothing', unlabeled_loss),
    ('distribution_alignment', unlabeled_loss),
    ('student_targets_from', unlabeled_loss - {'uda'}),
    ('pseudo_labels_soft', {'pseudo_labels'}),
    ('pseudo_label_rounds', {'pseudo_labels'}),
  ):
    value = getattr(config, name)
    if value != FLAGS_BY_NAME[name].default and not trained & methods:
      known = ' or '.join(sorted(methods - {'mpl_without_uda'}))
      raise UserError(
        f'--{name}={str(value).lower()}: is for --method={known}, and this is '
        f'--method={config.method_name}; leave it out'
      )
  threshold = config.pseudo_labels_threshold
  if (
    threshold is not None
    and 'pseudo_labels' not in trained
    and config.pseudo_labels not in ('fixmatch', 'flexmatch')
  ):
    raise UserError(
      f'--pseudo_labels_threshold={threshold}: is for fixmatch, flexmatch and --method=pseudo_labels, and '
      f'--pseudo_labels={config.pseudo_labels} does not read it; leave it out'
    )


def has_type(flag: Flag, value) -> bool:
  """Returns whether `value` has the flag's type, or is the None of a flag that is not given."""
  if value is None:
    return flag.default is None
  accepted = (int, float) if flag.type is float else flag.type
  return isinstance(value, accepted) and (flag.type is bool or not isinstance(value, bool))


def _validate_value(flag: Flag, value) -> None:
  """Raises UserError unless `value` has the flag's type and satisfies its rule."""
  if not has_type(flag, value):
    raise UserError(f'--{flag.name}={value}: must be {_TYPE_WORDS[flag.type]}')
  if value is None:
    return
  if flag.type is float and not math.isfinite(value):
    raise UserError(f'--{flag.name}={value}: must be a finite number')
  if flag.type is str and '\0' in value:
    raise UserError(f'--{flag.name}={value}: has a character of code 0; remove it')
  if isinstance(flag.rule, Rule) and not flag.rule.holds(value):
    raise UserError(f'--{flag.name}={value}: must be {flag.rule.words}')
  if flag.type is int and abs(value) > LARGEST:
    raise UserError(f'--{flag.name}={value}: must be at most {LARGEST}')
  if flag.type is float:
    _validate_float32(flag, value)
  if isinstance(flag.rule, tuple) and value not in flag.rule:
    raise UserError(
      f'--{flag.name}={value}: unknown value{did_you_mean(value, flag.rule)}; use one of '
      f'{choices(flag.rule)}'
    )
  if isinstance(flag.rule, Names):
    for name in Names.split(value):
      if name not in flag.rule.known:
        raise UserError(
          f'--{flag.name}={value}: unknown {flag.rule.what} {name!r}'
          f'{did_you_mean(name, flag.rule.known)}; use {choices(flag.rule.known)}'
        )


def _validate_float32(flag: Flag, value) -> None:
  """Raises UserError if the number breaks the flag's rule once it is a float32, as in training."""
  try:
    (rounded,) = struct.unpack('<f', struct.pack('<f', value))
  except OverflowError:
    raise UserError(f'--{flag.name}={value}: must be at most 3.4e38, the largest float32') from None
  if flag.rule and not flag.rule.holds(rounded):
    raise UserError(
      f'--{flag.name}={value}: must be {flag.rule.words}, but a float32 rounds it to {rounded}'
    )


def _validate_networks(config: Config) -> None:
  """Raises UserError unless both networks are known, and the flags about pretrained ones fit them."""
  _validate_model_type('model_type', config.model_type)
  if config.student_model_type:
    _validate_model_type('student_model_type', config.student_model_type)
  for flag, network, name in (
    ('model_weights', 'model_type', config.model_type),
    ('student_model_weights', 'student_model_type', config.student_model_type),
  ):
    weights = getattr(config, flag)
    if weights and name not in APPLICATIONS:
      raise UserError(
        f'--{flag}={weights}: is for networks of tf.keras.applications, and --{network}={name} is none; '
        'leave it out'
      )
  if config.freeze not in ('none', 'all') and not re.fullmatch(r'[1-9][0-9]{0,3}', config.freeze):
    raise UserError(f'--freeze={config.freeze}: must be none, all, or a number of blocks above 0')
  networks = (config.model_type, config.student_model_type)
  stated = [
    f'--{name}={getattr(config, name)}'
    for name in (
      'freeze',
      'train_batch_norm',
      'model_inputs',
      'head_steps',
      'layer_decay',
    )
    if getattr(config, name) != FLAGS_BY_NAME[name].default
  ]
  if config.features or config.uses_all_labels:
    _validate_features(config, stated if config.features else [])
  if config.head_weights and not is_pretrained(config.model_type):
    raise UserError(
      f'--head_weights={config.head_weights}: is for pretrained networks, and --model_type='
      f'{config.model_type} is none; leave it out'
    )
  if stated and not any(map(is_pretrained, networks)):
    raise UserError(
      f'{stated[0]}: is for pretrained networks, and --model_type={config.model_type} is '
      'none; leave it out'
    )


def seconds_of(duration: str) -> float:
  """Returns the seconds of a text such as 90s, 30m or 1.5h. Raises UserError."""
  found = re.fullmatch(r'([0-9]+(?:\.[0-9]+)?)([smh])', duration)
  if not found or not float(found[1]):
    raise UserError(f'--time_limit={duration}: must be a number above 0 with s, m or h, such as 30m')
  return float(found[1]) * {'s': 1, 'm': 60, 'h': 3600}[found[2]]


def _validate_features(config: Config, stated: List[str]) -> None:
  """Raises UserError unless all other flags fit --features, or a task that begins with them.

  Args:
    config: Config.
    stated: flags about pretrained networks that have no meaning for features alone.
  """
  own_head = config.uses_all_labels
  asked = f'--task_mode={config.task}' if own_head else '--features'
  unused = [text for text in stated if not text.startswith('--model_inputs')]
  unused += [
    f'--{name}={getattr(config, name)}'
    for name in ('student_model_type', *(('head', 'head_weights') if own_head else ()))
    if getattr(config, name) != FLAGS_BY_NAME[name].default
  ]
  if unused:
    raise UserError(
      f'{unused[0]}: not with {asked}, where a new last layer learns from features; leave it out'
    )
  if not is_pretrained(config.model_type) or config.model_weights == 'none':
    raise UserError(
      f'{asked}: --model_type={config.model_type} starts with random weights; give a pretrained '
      'network such as --model_type=MobileNetV2'
    )
  if config.head != 'linear':
    if not re.fullmatch(r'mlp-[1-9][0-9]*x[1-9][0-9]*', config.head):
      raise UserError(f'--head={config.head}: must be linear or mlp-<units>x<hidden layers>')
    if config.head_weights:
      raise UserError(f'--head={config.head}: not with --head_weights, which are of --head=linear')
    _validate_model_type('head', config.head)


def _validate_model_type(flag: str, model_type: str) -> None:
  """Raises UserError unless the name follows one of the known patterns, with sizes in reason."""
  names = ['wrn-28-2', 'wrn-28-10', 'wrn-28-large', 'resnet-50', 'mlp-8x2']
  names += ['efficientnet-' + variant for variant in EFFICIENTNETS]
  wide = re.fullmatch(r'wrn-([0-9]+)-([1-9][0-9]*)', model_type)
  mlp = re.fullmatch(r'mlp-([1-9][0-9]*)x([1-9][0-9]*)', model_type)
  if wide:
    depth = int(wide.group(1))
    if depth < 10 or depth % 6 != 4:
      raise UserError(f'--{flag}={model_type}: the depth {depth} must be 6n+4, such as 10, 16, 22, 28')
  elif model_type not in names and not mlp and not is_pretrained(model_type):
    raise UserError(
      f'--{flag}={model_type}: unknown model{did_you_mean(model_type, (*names, *APPLICATIONS))}; use '
      'wrn-<depth>-<width>, wrn-28-large, resnet-50, efficientnet-<variant>, mlp-<units>x<layers>, a '
      'network of tf.keras.applications such as MobileNetV2, or the path of a Keras model'
    )
  for match, limits in ((wide, (1000, 100)), (mlp, (65536, 100))):
    if match and any(int(size) > limit for size, limit in zip(match.groups(), limits)):
      raise UserError(
        f'--{flag}={model_type}: too large; the numbers go up to {limits[0]} and {limits[1]}'
      )


def _batch_norms_take_statistics(config: Config) -> bool:
  """Returns whether a network of the run may have batch norms that normalize by their batch."""
  networks = [(config.model_type, config.model_weights)]
  if config.student_model_type:
    networks.append((config.student_model_type, config.student_model_weights))
  return any(
    config.train_batch_norm or weights == 'none' if is_pretrained(name) else not name.startswith('mlp-')
    for name, weights in networks
  )


def notes(config: Config) -> List[str]:
  """Returns remarks for the log at start, a line each: what is easily overlooked in the flags."""
  lines = []
  if config.dataset_classes not in (None, config.num_classes):
    lines.append(
      f'num_classes {config.num_classes} replaced by {config.dataset_classes}, the '
      f'number of classes of {config.dataset}'
    )
  if config.method_name in ('mpl', 'reduced_mpl') and config.mpl_feedback == 'release':
    lines.append(
      '--mpl_feedback=release: its term has a gradient of exactly zero, so the student '
      'is distilled from a UDA teacher; use --mpl_feedback=soft for a real feedback '
      '(docs/fidelity.md)'
    )
  if config.method_name in ('mpl', 'reduced_mpl') and (
    0 < config.num_train_steps <= config.mpl_student_lr_wait_steps
  ):
    lines.append(
      f"the student's rate is zero for the first {config.mpl_student_lr_wait_steps} steps "
      f'(--mpl_student_lr_wait_steps), and there are {config.num_train_steps}: it learns '
      'nothing'
    )
  if config.micro_batches > 1 and _batch_norms_take_statistics(config):
    lines.append(
      f'--micro_batches={config.micro_batches}: batch norms take their statistics over a part of a '
      "device's batch, and their averages move once for each part (docs/scaling.md)"
    )
  if config.ema_decay == 0:
    lines.append('ema_decay 0: the averaged student is a plain copy of the student')
  return lines
