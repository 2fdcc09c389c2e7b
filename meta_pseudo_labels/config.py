"""The frozen `Config` that the command line becomes, and its validation (design rule 2).

Every flag comes from flag_table.py. No module but this one and main.py touches absl's flags, and
TensorFlow is not imported here.
"""
import dataclasses
import difflib
import json
import math
import os
import re
import struct
import sys
from typing import List, Optional, Tuple, Union

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.flag_table import EFFICIENTNETS, FLAG_TABLE, METHODS, SEED, Flag, Names, Rule

from absl import app, flags

_BY_NAME = {flag.name: flag for flag in FLAG_TABLE}
_RELEASE_CLASSES = {'imagenet': 1000, 'cifar100': 100, 'cifar10': 10}
_TYPE_WORDS = {bool: 'true or false', int: 'a whole number in digits, such as 300000',
               float: 'a number', str: 'a text'}
LARGEST = 2**31 - 1  # Of every whole number: TensorFlow counts many things in int32.

_Fields = dataclasses.make_dataclass(
    '_Fields', frozen=True, fields=[
        (f.name, f.type if f.default is not None else Optional[f.type], f.default)
        for f in FLAG_TABLE])


@dataclasses.dataclass(frozen=True)
class Config(_Fields):
  """One attribute per flag, under the flag's name and with its default, and what follows from them.

  `Config(dataset_name='digits_40_mpl', seed=1)` takes the defaults for everything else.
  """

  def replace(self, **changes) -> 'Config':
    """A copy with some fields changed. Raises TypeError for a name that is no flag."""
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
    """Number of classes of the release's data sets; None: the data layer knows its own."""
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


def _split_name(dataset_name: Optional[str]) -> Tuple[str, Optional[int], str]:
  """'cifar10_4000_mpl' -> ('cifar10', 4000, 'mpl'); a missing part is None or ''."""
  pattern = r'(.*?)(?:_([0-9]+))?(?:_(%s))?' % '|'.join(METHODS)
  name, count, method = re.fullmatch(pattern, (dataset_name or '').lower(), re.DOTALL).groups()
  return name, None if count is None else int(count), method or ''


def define_flags(flag_values=flags.FLAGS):
  """Defines every flag of the table on `flag_values`; a second call does nothing.

  They are made key flags of the running program, so that --help shows them, not --helpfull alone.
  """
  if FLAG_TABLE[0].name in flag_values:
    return
  define = {bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, float: flags.DEFINE_float,
            str: flags.DEFINE_string}
  for flag in FLAG_TABLE:
    define[flag.type](flag.name, flag.default, _help_text(flag), flag_values=flag_values)
    flag_values.register_key_flag_for_module(sys.argv[0], flag_values[flag.name])


def _help_text(flag: Flag) -> str:
  if flag.unread:
    return 'Accepted for the release\'s sake; nothing reads it, there or here.'
  if isinstance(flag.rule, Rule):
    return f'{flag.help} Must be {flag.rule.words}.'
  if isinstance(flag.rule, Names):
    return f'{flag.help} Values, separated by commas: {_choices(flag.rule.known)}.'
  return f'{flag.help} Values: {_choices(flag.rule)}.' if flag.rule else flag.help


def _choices(values) -> str:
  return ', '.join(value or '(empty)' for value in values)


def from_flags(flag_values=flags.FLAGS) -> Config:
  """The Config of flags that absl has parsed. Not validated."""
  return Config(**{flag.name: flag_values[flag.name].value for flag in FLAG_TABLE})


def parse(argv: List[str], flag_values=flags.FLAGS) -> Config:
  """Parses a command line, program name first, --flagfile and absl's own flags included.

  Our flags start from their defaults each time, so that one process can parse many command lines.
  Not validated. --help and its kin print and raise SystemExit, as everywhere in absl.

  Raises:
    UserError: unknown flag, value of the wrong type, unreadable flagfile, stray argument.
  """
  app.define_help_flags()
  define_flags(flag_values)
  for flag in FLAG_TABLE:
    flag_values[flag.name].unparse()
  try:
    rest = flag_values(_without_flagfiles(argv))[1:]
  except flags.UnrecognizedFlagError as error:
    name = '--' + error.flagname
    known = suggest(name, ['--' + known for known in flag_values
                           if known not in _BY_NAME or not _BY_NAME[known].unread])
    raise UserError(f'{name}: unknown flag{known}; --helpfull lists all flags') from None
  except (flags.Error, ValueError) as error:
    raise UserError(_value_error_line(str(error))) from None
  if rest:
    raise UserError(f'unexpected argument {rest[0]!r}: write flags as --name=value')
  return from_flags(flag_values)


def _without_flagfiles(argv: List[str], base: str = '', inside: Tuple[str, ...] = ()) -> List[str]:
  """The arguments with every --flagfile=PATH replaced by what that file holds.

  absl would do it too, but takes a flagfile named in a flagfile relative to the current folder;
  here it is relative to the file that names it, so that recipes can share their settings.

  Args:
    argv: arguments, or lines of a file without comments.
    base: folder that relative paths start from.
    inside: the files that are being read, outermost first.

  Raises:
    UserError: a file cannot be read, or includes itself.
  """
  result, rest = [], iter(argv)
  for argument in rest:
    match = re.fullmatch(r'--?flagfile(?:=(.*))?', argument)
    if not match:
      result.append(argument)
      continue
    value = match.group(1) if match.group(1) is not None else next(rest, '')
    path = os.path.join(base, os.path.expanduser(value))
    if not value or '\0' in value:
      raise UserError(f'--flagfile={value}: no path; give that of a file with one flag a line')
    try:
      with open(path, encoding='utf-8') as file:
        lines = [line.strip() for line in file]
    except OSError as error:
      raise UserError(f'--flagfile={path}: {error.strerror}; give the path of a file with one '
                      'flag a line') from None
    except UnicodeDecodeError:
      raise UserError(f'--flagfile={path}: not a text file; give a file with one flag a '
                      'line') from None
    if os.path.realpath(path) in inside:
      raise UserError(f'--flagfile={path}: includes itself; remove that line')
    result += _without_flagfiles(
        [line for line in lines if line and not line.startswith(('#', '//'))],
        os.path.dirname(path), (*inside, os.path.realpath(path)))
  return result


def _value_error_line(message: str) -> str:
  """One line for absl's message about a value, with what was expected in plain words."""
  match = re.match(r'flag (--(\w+)=.*?): ', message, re.DOTALL)
  if match and match.group(2) in _BY_NAME:
    message = f'{match.group(1)}: must be {_TYPE_WORDS[_BY_NAME[match.group(2)].type]}'
  return ' '.join(message.split())


def suggest(name: str, names) -> str:
  """' (did you mean ...?)' with the nearest of `names`, or '' when none is near."""
  near = difflib.get_close_matches(str(name), list(names), n=1)
  return f' (did you mean {near[0]!r}?)' if near else ''


def validate(config: Config) -> None:
  """Checks every value by itself, then those that depend on one another.

  What needs the data, the devices or the disk is checked where those are known.

  Raises:
    UserError: one line with flag, value and what is accepted.
  """
  for name in _required(config):
    if not getattr(config, name):
      raise UserError(f'--{name}: required and not given; add --{name}=...')
  for flag in FLAG_TABLE:
    _validate_value(flag, getattr(config, flag.name))
  if config.task == 'finetune' and not config.finetune_steps:
    raise UserError('--task_mode=finetune: --finetune_steps=0 leaves nothing to do; give a number '
                    'such as --finetune_steps=1000')
  if '://' in (config.output_dir or ''):
    raise UserError(f'--output_dir={config.output_dir}: must be a folder of this machine; mount the '
                    'bucket, or copy the folder there afterwards')
  if config.use_float16 and config.use_bfloat16:
    raise UserError('--use_float16: not together with --use_bfloat16; leave one out')
  if config.labeled_count == 0:
    raise UserError(f'--dataset_name={config.dataset_name}: the number of labeled examples in it '
                    'must be 1 or more')
  for name in ('seed', 'label_seed'):
    value = getattr(config, name)
    if value is not None and not SEED.holds(value + config.num_seeds - 1):
      raise UserError(f'--num_seeds={config.num_seeds}: counts --{name}={value} up beyond '
                      '2147483647; give a smaller one')
  _validate_model_type(config.model_type)
  _validate_predictions(config)
  _validate_cores(config)
  if config.reset_output_dir and config.task not in ('train', 'finetune'):
    verb = 'evaluate' if config.task.startswith('eval') else 'read'
    raise UserError(f'--reset_output_dir: would delete the checkpoints that --task_mode='
                    f'{config.task_mode} is to {verb}; leave it out')


def _validate_cores(config: Config) -> None:
  """Images are split over the cores of a replica (spatial.py) if both flags say so."""
  cores = config.num_cores_per_replica
  if config.use_xla_sharding != (cores > 1):
    raise UserError(
        f'--use_xla_sharding={str(config.use_xla_sharding).lower()} --num_cores_per_replica={cores}: a '
        'replica is split with the first and a number above 1, or neither; give --use_xla_sharding '
        '--num_cores_per_replica=2 or more, or leave both out')
  if cores & (cores - 1):
    raise UserError(f'--num_cores_per_replica={cores}: must be a power of two, such as '
                    f'{2 ** (cores.bit_length() - 1)}')


def _required(config: Config) -> Tuple[str, ...]:
  """The names of the flags that a task cannot do without."""
  if config.task in ('export', 'report', 'select', 'label'):
    return ('output_dir',)  # The run there knows the rest.
  if config.task == 'predict':
    to = 'output' if config.saved_model and not config.output_dir else 'output_dir'
    return ('input', to)
  return 'dataset_name', 'output_dir'


def _validate_predictions(config: Config) -> None:
  """Raises UserError unless reduced_mpl, if it is asked for, has one teacher's predictions."""
  if not config.reads_predictions or 'dataset_name' not in _required(config):
    return
  if not config.teacher_predictions:
    raise UserError('--teacher_predictions: required by reduced_mpl and not given; add the file that '
                    '--task_mode=label of a trained run writes')
  if config.num_seeds > 1:
    raise UserError(f'--num_seeds={config.num_seeds}: reduced_mpl has the predictions of one '
                    'teacher, of one seed; give a command with --seed and --label_seed for each')


def _has_type(flag: Flag, value) -> bool:
  """Whether `value` has the flag's type, or is the None of a flag that is not given."""
  if value is None:
    return flag.default is None
  accepted = (int, float) if flag.type is float else flag.type
  return isinstance(value, accepted) and (flag.type is bool or not isinstance(value, bool))


def _validate_value(flag: Flag, value) -> None:
  """Raises UserError unless `value` has the flag's type and satisfies its rule."""
  if not _has_type(flag, value):
    raise UserError(f'--{flag.name}={value}: must be {_TYPE_WORDS[flag.type]}')
  if value is None:
    return
  if flag.type is float and not math.isfinite(value):
    raise UserError(f'--{flag.name}={value}: must be a finite number')
  if flag.type is str and '\0' in value:
    raise UserError(f'--{flag.name}={value}: must be without the character of code 0')
  if isinstance(flag.rule, Rule) and not flag.rule.holds(value):
    raise UserError(f'--{flag.name}={value}: must be {flag.rule.words}')
  if flag.type is int and abs(value) > LARGEST:
    raise UserError(f'--{flag.name}={value}: must be at most {LARGEST}')
  if flag.type is float:
    _validate_float32(flag, value)
  if isinstance(flag.rule, tuple) and value not in flag.rule:
    raise UserError(f'--{flag.name}={value}: unknown value{suggest(value, flag.rule)}; use one of '
                    f'{_choices(flag.rule)}')
  if isinstance(flag.rule, Names):
    for name in Names.split(value):
      if name not in flag.rule.known:
        raise UserError(f'--{flag.name}={value}: unknown {flag.rule.what} {name!r}'
                        f'{suggest(name, flag.rule.known)}; use {_choices(flag.rule.known)}')


def _validate_float32(flag: Flag, value) -> None:
  """Raises UserError if the number breaks the flag's rule once it is a float32, as in training."""
  try:
    rounded, = struct.unpack('<f', struct.pack('<f', value))
  except OverflowError:
    raise UserError(f'--{flag.name}={value}: must be at most 3.4e38, the largest float32') from None
  if flag.rule and not flag.rule.holds(rounded):
    raise UserError(f'--{flag.name}={value}: must be {flag.rule.words}, but a float32 rounds it to '
                    f'{rounded}')


def _validate_model_type(model_type: str) -> None:
  """Raises UserError unless the name follows one of the known patterns, with sizes in reason."""
  names = ['wrn-28-2', 'wrn-28-10', 'wrn-28-large', 'resnet-50', 'mlp-8x2']
  names += ['efficientnet-' + variant for variant in EFFICIENTNETS]
  wide = re.fullmatch(r'wrn-([0-9]+)-([1-9][0-9]*)', model_type)
  mlp = re.fullmatch(r'mlp-([1-9][0-9]*)x([1-9][0-9]*)', model_type)
  if wide:
    depth = int(wide.group(1))
    if depth < 10 or depth % 6 != 4:
      raise UserError(f'--model_type={model_type}: the depth {depth} must be 6n+4, '
                      'such as 10, 16, 22, 28')
  elif model_type not in names and not mlp:
    raise UserError(f'--model_type={model_type}: unknown model{suggest(model_type, names)}; use '
                    'wrn-<depth>-<width>, wrn-28-large, resnet-50, efficientnet-<variant> or '
                    'mlp-<units>x<layers>')
  for match, limits in ((wide, (1000, 100)), (mlp, (65536, 100))):
    if match and any(int(size) > limit for size, limit in zip(match.groups(), limits)):
      raise UserError(f'--model_type={model_type}: too large; the numbers go up to {limits[0]} and '
                      f'{limits[1]}')


def notes(config: Config) -> List[str]:
  """One-line remarks for the log at start: what a flag's value means that is easily overlooked."""
  lines = []
  if config.dataset_classes not in (None, config.num_classes):
    lines.append(f'num_classes {config.num_classes} replaced by {config.dataset_classes}, the '
                 f'number of classes of {config.dataset}')
  unread = [f'--{flag.name}' for flag in FLAG_TABLE
            if flag.unread and getattr(config, flag.name) != flag.default]
  if unread:
    lines.append(f'accepted without effect, as in the release: {", ".join(unread)}')
  if config.method_name in ('mpl', 'reduced_mpl') and config.mpl_feedback == 'release':
    lines.append('--mpl_feedback=release: its term has a gradient of exactly zero, so the student '
                 'is distilled from a UDA teacher; use --mpl_feedback=soft for a real feedback '
                 '(google-research issues 534, 541)')
  if config.method_name in ('mpl', 'reduced_mpl') and (
      0 < config.num_train_steps <= config.mpl_student_lr_wait_steps):
    lines.append(f'the student\'s rate is zero for the first {config.mpl_student_lr_wait_steps} steps '
                 f'(--mpl_student_lr_wait_steps), and there are {config.num_train_steps}: it learns '
                 'nothing')
  if config.ema_decay == 0:
    lines.append('ema_decay 0: the averaged student is a plain copy of the student')
  return lines


def to_json(config: Config) -> str:
  """The text of hparams.json: every field, sorted by name."""
  return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + '\n'


def from_json(text: Union[str, bytes], where: str = 'hparams.json') -> Config:
  """The Config of an hparams.json; a field it does not name has its default. Not validated.

  `where`: what an error calls it.

  Raises:
    UserError: not a JSON object, a name that is no flag, or a value of another type than its flag.
  """
  try:
    values = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(f'{where}: not JSON ({error}); restore it or remove it') from None
  if not isinstance(values, dict):
    raise UserError(f'{where}: must hold a JSON object, holds a {type(values).__name__}')
  for name in values:
    if name not in _BY_NAME:
      raise UserError(f'{where}: unknown name {name!r}{suggest(name, _BY_NAME)}; remove it')
    if not _has_type(_BY_NAME[name], values[name]):
      raise UserError(f'{where}: {name} is {values[name]!r}, but must be '
                      f'{_TYPE_WORDS[_BY_NAME[name].type]}; restore it')
  return Config(**values)
