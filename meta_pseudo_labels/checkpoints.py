"""A run's folder: its checkpoints, what it was started with, and going on from them."""
import json
import os
import shutil

import tensorflow as tf

from meta_pseudo_labels import config as config_lib
from meta_pseudo_labels.errors import UserError

# Flags that may differ between a run and its continuation: they do not change what is computed.
FREE = frozenset((
    'task_mode', 'output_dir', 'reset_output_dir', 'save_every', 'log_every', 'eval_batch_size',
    'steps_per_loop', 'strategy', 'num_virtual_devices', 'intra_op_threads', 'keep_checkpoints',
    'baselines', 'num_seeds', 'eval_split', 'select_per_class', 'cache', 'data_dir',
    'dataset_service_address',
    'running_local_dev', 'use_vizier', 'master', 'tpu_platform', 'tpu_topology', 'use_tpu',
    'dataset_name', 'method', 'num_labeled', 'export_dir', 'export_weights', 'export_tflite',
    'input', 'output', 'format', 'saved_model', 'finetune_steps', 'finetune_lr',
    'finetune_batch_size', 'load_checkpoint', 'load_checkpoint_and_restart_global_step',
    'mpl_teacher_checkpoint', 'mpl_student_checkpoint'))
# ... and what follows from some of them, which must not.
DERIVED = ('dataset', 'method_name', 'labeled_count')


def prepare_folder(config):
  """Makes `output_dir`, empties it if asked to, and writes `hparams.json` (the release's name).

  Raises:
    UserError: it cannot be written, is not ours to empty, or holds a run of another kind.
  """
  folder = config.output_dir
  path = os.path.join(folder, 'hparams.json')
  if config.reset_output_dir and os.path.isdir(folder) and os.listdir(folder):
    if not os.path.isfile(path):
      raise UserError(f'--reset_output_dir: {folder} has no hparams.json, so this program did not '
                      'make it and will not empty it; give another --output_dir')
    shutil.rmtree(folder)
  try:
    os.makedirs(folder, exist_ok=True)
    if os.path.isfile(path):
      with open(path, encoding='utf-8') as file:
        refuse_other_run(config_lib.from_json(file.read()), config)
    with open(path, 'w', encoding='utf-8') as file:
      file.write(config_lib.to_json(config))
  except OSError as error:
    raise UserError(f'--output_dir={folder}: cannot be written ({error.strerror}); give a folder '
                    'that can') from error


def refuse_other_run(before, now):
  """Raises UserError, with the differences, if `now` would compute something else than `before`."""
  names = sorted(set(config_lib.Config.__dataclass_fields__) - FREE) + list(DERIVED)
  differences = [f'{name} {getattr(before, name)} -> {getattr(now, name)}' for name in names
                 if getattr(before, name) != getattr(now, name)]
  if differences:
    raise UserError(f'--output_dir={now.output_dir} holds a run with other settings '
                    f'({"; ".join(differences)}): give another folder, the same settings'
                    + (', or --reset_output_dir' if now.task in ('train', 'finetune') else ''))


def refuse_other_data(folder, before, now):
  """Raises UserError if two `Problem.identity` differ, with what differs."""
  if before != now:
    before, now = json.loads(before), json.loads(now)
    names = ', '.join(name.replace('_', ' ') for name in now if before.get(name) != now[name])
    raise UserError(f'--output_dir={folder}: its checkpoint was trained with other data ({names} '
                    'differ): give another folder, the same data, or --reset_output_dir')


def write_json(path, value):
  """Writes JSON in one move, so that a reader never sees half a file."""
  with open(path + '.tmp', 'w', encoding='utf-8') as file:
    json.dump(value, file, indent=2, sort_keys=True)
    file.write('\n')
  os.replace(path + '.tmp', path)


def read_json(path):
  """The value in a JSON file, or None where there is no such file."""
  if not os.path.isfile(path):
    return None
  with open(path, encoding='utf-8') as file:
    return json.load(file)


class Checkpoints:
  """`output_dir/ckpt_last` (the newest few) and `output_dir/ckpt_best` (one): release's names."""

  def __init__(self, output_dir, keep, **objects):
    """`keep`: how many of the newest; `objects`: trackable things that determine the future."""
    self._checkpoint = tf.train.Checkpoint(**objects)
    make = lambda name, count: tf.train.CheckpointManager(
        self._checkpoint, os.path.join(output_dir, name), max_to_keep=count,
        checkpoint_name='ckpt')
    self._last = make('ckpt_last', keep)
    self._best = make('ckpt_best', 1)

  def save(self, number, best=False):
    """Writes a checkpoint of this number (the steps made), as the best so far too if it is."""
    self._last.save(checkpoint_number=number)
    if best:
      self._best.save(checkpoint_number=number)

  def restore(self):
    """Restores the newest checkpoint: its path, or None if there is none.

    Raises:
      UserError: it was written by another version, which stored less.
    """
    return self._restore(self._last.latest_checkpoint)

  def restore_best(self):
    """Restores the best checkpoint: its path, or None if there is none."""
    return self._restore(self._best.latest_checkpoint)

  def _restore(self, path):
    if path:
      try:
        self._checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
      except AssertionError as error:
        raise UserError(f'{path} lacks a part of what a run needs to go on: it is from another '
                        'version; give another --output_dir, and this one as '
                        f'--load_checkpoint={path}') from error
    return path
