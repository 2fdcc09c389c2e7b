"""A run's folder: marks it, locks it, stores its settings, and empties it."""

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import shutil

from meta_pseudo_labels.checkpoints import files
from meta_pseudo_labels.config import FLAGS_BY_NAME, Config, from_json, to_json, validate
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import write_text

# This file marks a folder that this program made, so that --reset_output_dir may empty it.
MARKER = '.meta_pseudo_labels'
LOCK = '.lock'
# The files that runs write. A folder without a marker (of an older run) is ours if it has no others.
OURS = (
  '.lock',
  'ckpt_last',
  'ckpt_best',
  'logs',
  'metrics.jsonl',
  'hparams.json',
  'labeled_split.json',
  'results.json',
  'table.json',
  'decision_regions.png',
  'baselines',
  'seed_*',
  'eval_*.json',
  'eval_*.png',
  'predictions.csv',
  'predictions.jsonl',
  'selected.json',
  'teacher_predictions.npz',
  'saved_model',
  'export.json',
  'report*',
  '*.tmp',
  '*.partial',
)


def mark(folder):
  """Creates the folder if it does not exist, and marks it as made by this program if it is empty.

  Raises:
    OSError: it cannot be created or written.
  """
  os.makedirs(folder, exist_ok=True)
  if not set(os.listdir(folder)) - {LOCK}:
    with open(os.path.join(folder, MARKER), 'w', encoding='utf-8') as file:
      file.write('Made by meta_pseudo_labels: --reset_output_dir may remove everything here.\n')


@contextlib.contextmanager
def lock(folder):
  """Prevents other processes from writing in the folder in this context; creates it if necessary.

  The lock is the operating system's, on an open file. It ends with the process, also with a killed one.

  Raises:
    UserError: another process holds it, or the folder cannot be written.
  """
  try:
    mark(folder)
    file = open(os.path.join(folder, LOCK), 'ab+', buffering=0)
  except OSError as error:
    raise write_error(folder, error) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise UserError(
        f'--output_dir={folder}: process {file.read().decode().strip()} is '
        'writing there; wait until it ends, stop it, or give another folder'
      ) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
        raise write_error(folder, error) from error
    # The process id is only informative. On a full disk saving reports the error.
    with contextlib.suppress(OSError):
      file.truncate(0)
      file.write(f'{os.getpid()}\n'.encode())
    yield


def write_error(folder, error):
  """Returns the UserError for an OSError in the folder."""
  return UserError(f'--output_dir={folder}: cannot be written ({error.strerror}); give another folder')


def reset(folder, data_dir=None, **inputs):
  """Removes everything in a folder that this program made, except its marker and lock.

  Args:
    folder: str.
    data_dir: str, the path of the run's data, or None.
    **inputs: str, files that the run trains on, by the names of their flags; or None.

  Returns:
    str, one line that lists what was removed; '' if the folder was empty.

  Raises:
    UserError: this program did not make the folder, or it holds something that must not be lost.
  """
  names = sorted(set(os.listdir(folder)) - {MARKER, LOCK}) if os.path.isdir(folder) else []
  if not names:
    return ''
  reason = _find_objection(folder, names, data_dir, inputs)
  if reason:
    raise UserError(
      f'--reset_output_dir: {folder} {reason}; nothing was removed; give another --output_dir'
    )
  count, size = 0, 0
  try:
    for name in names:
      path = os.path.join(folder, name)
      for entry in _list_files(path):
        count, size = count + 1, size + os.lstat(entry).st_size
      if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
      else:
        os.remove(path)
  except OSError as error:
    raise write_error(folder, error) from error
  return f'--reset_output_dir: removed {count} file(s), {size / 1e6:.1f} MB, from {folder}: ' + ', '.join(
    names
  )


def _list_files(path):
  """Lists the files at or below a path; links count as files."""
  if os.path.islink(path) or not os.path.isdir(path):
    return [path]
  return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]


def _find_objection(folder, names, data_dir, inputs):
  """Returns why a folder must not be emptied, as words that follow its name, or '' if it may be."""
  real = os.path.realpath(folder)
  inside = lambda path: path and (os.path.realpath(path) + '/').startswith(real.rstrip('/') + '/')
  if inside('/') or inside(os.path.expanduser('~')):
    return 'is or holds a home or root folder'
  if inside(data_dir):
    return f'is or holds --data_dir={data_dir}'
  for flag, path in inputs.items():
    if inside(path):
      return f'holds --{flag}={path}'
  if any(name == '.git' for _, folders, files in os.walk(real) for name in folders + files):
    return 'is or holds a repository (.git)'
  if inside(os.getcwd()):
    return 'is or holds the current folder'
  if MARKER in os.listdir(folder):
    return ''
  if 'hparams.json' not in names:
    return f'has neither {MARKER} nor hparams.json, so this program did not make it'
  strange = [name for name in names if not any(fnmatch.fnmatch(name, ours) for ours in OURS)]
  return f'holds {strange[0]!r}, which this program did not write' if strange else ''


# Properties that are derived from flags. The flags may change when a run resumes, these must not.
DERIVED = ('dataset', 'method_name', 'labeled_count', 'micro_batch_count', 'computes_in')


def prepare_folder(config):
  """Creates `output_dir`, empties it if `reset_output_dir`, writes `hparams.json` (the release's name).

  Returns:
    str, a line that lists what was removed, or ''.

  Raises:
    UserError: it cannot be written, must not be emptied, or holds a run with other settings.
  """
  folder = config.output_dir
  path = settings_path(folder)
  predictions = config.teacher_predictions if config.reads_predictions else None
  inputs = dict(teacher_predictions=predictions, labels=config.labels)
  removed = reset(folder, config.data_dir, **inputs) if config.reset_output_dir else ''
  try:
    mark(folder)
    if os.path.isfile(path):
      before = read_settings(folder)
      config = keep_choices(before, config)
      # A run that has not chosen its parts has not trained.
      refuse_other_run(before if before.micro_batches else keep_choices(config, before), config)
    write_settings(config)
  except OSError as error:
    raise write_error(folder, error) from error
  return removed


def settings_path(folder):
  """Returns the path of a run's settings."""
  return os.path.join(folder, 'hparams.json')


def read_settings(folder):
  """Returns the Config of the run in a folder. Raises OSError, UserError: as of `from_json`."""
  path = settings_path(folder)
  with open(path, 'rb') as file:
    found = from_json(file.read(), path)
  if files.listed_checkpoints(os.path.join(folder, 'ckpt_last')):  # Trained, so not to be chosen anew.
    found = found.replace(micro_batches=found.micro_batch_count, remat=bool(found.remat))
  return found


def find_settings(config):
  """Returns the Config of the run that a command goes on with, or None. Raises as `read_settings`."""
  there = not config.reset_output_dir and os.path.isfile(settings_path(config.output_dir))
  return read_settings(config.output_dir) if there else None


def write_settings(config):
  """Writes the settings of a run into its `output_dir`. Raises OSError."""
  write_text(settings_path(config.output_dir), to_json(config))


def keep_choices(before, now):
  """Returns the Config `now` with the parts and the remat of `before` where it leaves them open."""
  return now.replace(
    micro_batches=now.micro_batches or before.micro_batches,
    remat=before.remat if now.remat is None else now.remat,
  )


def refuse_other_run(before, now):
  """Raises UserError that lists the differences, if `now` would compute other results than `before`."""
  names = sorted(name for name, flag in FLAGS_BY_NAME.items() if not flag.may_change)
  names += DERIVED
  differences = [
    f'{name} {getattr(before, name)} -> {getattr(now, name)}'
    for name in names
    if getattr(before, name) != getattr(now, name)
  ]
  if differences:
    raise UserError(
      f'--output_dir={now.output_dir}: holds a run with other settings '
      f'({"; ".join(differences)}); give another folder, the same settings, or '
      + ('--reset_output_dir' if now.task in ('train', 'finetune') else 'leave them out')
    )


def refuse_other_data(folder, before, now, advice='another folder, the same data, or --reset_output_dir'):
  """Raises UserError that lists the differences and gives advice, if two `Problem.identity` differ."""
  if before != now:
    before, now = json.loads(before), json.loads(now)
    names = ', '.join(
      name.replace('_', ' ') for name in sorted({*before, *now}) if before.get(name) != now.get(name)
    )
    raise UserError(
      f'--output_dir={folder}: its checkpoint was trained with other data ({names} differ); give {advice}'
    )


def load_trained_config(config):
  """Returns the Config of the run in `output_dir`, from its hparams.json, with this command's own flags.

  So a command does not have to repeat the flags of the training. Flags that it repeats must agree.

  Raises:
    UserError: there is no run, or it has other settings than the command's flags.
  """
  try:
    trained = read_settings(config.output_dir)
  except OSError as error:
    raise UserError(
      f'--output_dir={config.output_dir}: no run there (hparams.json: '
      f'{error.strerror}), which --task_mode={config.task} needs; train '
      'first'
    ) from None
  trained = trained.replace(
    **{name: getattr(config, name) for name, flag in FLAGS_BY_NAME.items() if flag.per_command}
  )
  defaults = Config()
  stated = {
    name: getattr(config, name)
    for name in FLAGS_BY_NAME
    if getattr(config, name) != getattr(defaults, name)
  }
  stated['num_classes'] = trained.num_classes  # The data's own number, whatever the flag says.
  now = trained.replace(**stated)
  validate(now)
  refuse_other_run(trained, now)
  return now
