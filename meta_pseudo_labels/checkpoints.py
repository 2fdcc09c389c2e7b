"""A run's folder: its checkpoints, what it was started with, and going on from them."""
import contextlib
import errno
import json
import os
import tempfile

from meta_pseudo_labels import checkpoint_files, run_folder
from meta_pseudo_labels import config as config_lib
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import Failure, UserError

import tensorflow as tf

# Flags that may differ between a run and its continuation: they do not change what is computed.
FREE = frozenset((
    'task_mode', 'output_dir', 'reset_output_dir', 'save_every', 'log_every', 'eval_batch_size',
    'steps_per_loop', 'strategy', 'remat', 'num_virtual_devices', 'intra_op_threads', 'keep_checkpoints',
    'save_retry_seconds', 'max_nonfinite_steps', 'max_restarts',
    'baselines', 'num_seeds', 'eval_split', 'select_per_class', 'cache', 'data_dir',
    'dataset_service_address',
    'running_local_dev', 'use_vizier', 'master', 'tpu_platform', 'tpu_topology', 'use_tpu',
    'use_xla_sharding', 'num_cores_per_replica',
    'dataset_name', 'method', 'num_labeled', 'export_dir', 'export_weights', 'export_tflite',
    'input', 'output', 'format', 'saved_model', 'teacher_predictions', 'finetune_steps', 'finetune_lr',
    'finetune_batch_size', 'load_checkpoint', 'load_checkpoint_and_restart_global_step',
    'mpl_teacher_checkpoint', 'mpl_student_checkpoint'))
# ... and what follows from some of them, which must not.
DERIVED = ('dataset', 'method_name', 'labeled_count')


def prepare_folder(config):
  """Makes `output_dir`, empties it if asked to, and writes `hparams.json` (the release's name).

  Returns:
    str: a line that says what was removed, or ''.

  Raises:
    UserError: it cannot be written, is not ours to empty, or holds a run of another kind.
  """
  folder = config.output_dir
  path = os.path.join(folder, 'hparams.json')
  predictions = config.teacher_predictions if config.reads_predictions else None
  removed = (run_folder.reset(folder, config.data_dir, predictions)
             if config.reset_output_dir else '')
  try:
    run_folder.mark(folder)
    if os.path.isfile(path):
      with open(path, 'rb') as file:
        refuse_other_run(config_lib.from_json(file.read(), path), config)
    write_text(path, config_lib.to_json(config))
  except OSError as error:
    raise run_folder.cannot_be_written(folder, error) from error
  return removed


def refuse_other_run(before, now):
  """Raises UserError, with the differences, if `now` would compute something else than `before`."""
  names = sorted(set(config_lib.Config.__dataclass_fields__) - FREE) + list(DERIVED)
  differences = [f'{name} {getattr(before, name)} -> {getattr(now, name)}' for name in names
                 if getattr(before, name) != getattr(now, name)]
  if differences:
    raise UserError(f'--output_dir={now.output_dir} holds a run with other settings '
                    f'({"; ".join(differences)}): give another folder, the same settings, or '
                    + ('--reset_output_dir' if now.task in ('train', 'finetune') else
                       'none: the run there knows its own'))


def refuse_other_data(folder, before, now):
  """Raises UserError if two `Problem.identity` differ, with what differs."""
  if before != now:
    before, now = json.loads(before), json.loads(now)
    names = ', '.join(name.replace('_', ' ') for name in sorted({*before, *now})
                      if before.get(name) != now.get(name))
    raise UserError(f'--output_dir={folder}: its checkpoint was trained with other data ({names} '
                    'differ): give another folder, the same data, or --reset_output_dir')


def write_text(path, text):
  """Writes a file in one move, so that a reader never sees half of it. Raises OSError."""
  with open(path + '.tmp', 'w', encoding='utf-8') as file:
    file.write(text)
  os.replace(path + '.tmp', path)


def write_json(path, value):
  """Writes JSON in one move. Raises OSError."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def read_json(path):
  """The value in a JSON file, or None where there is no such file.

  Raises:
    UserError: it is damaged.
  """
  if not os.path.isfile(path):
    return None
  try:
    with open(path, 'rb') as file:
      return json.load(file)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path}: cannot be read as JSON; remove it, and it is written again') from error


class Checkpoints:
  """`output_dir/ckpt_last` (the newest few) and `output_dir/ckpt_best` (one): release's names.

  A checkpoint is written, read back with its checksums, and only then named in the folder's
  `checkpoint` file; what that file named before goes last. So at every moment it names whole ones.
  Saving is not asynchronous: a copy of the values to write meanwhile costs about what writing
  them into the operating system's cache does, and a checkpoint that is announced is there.
  """

  def __init__(self, output_dir, keep, say=lambda line: None, strategy=None, **objects):
    """Prepares; nothing is read or written yet.

    Args:
      output_dir: str; a worker's own folder where there are several (workers.py), of which the chief
        alone writes checkpoints and all restore what it wrote.
      keep: int, how many of the newest.
      say: function of a line, told of a damaged one.
      strategy: tf.distribute.Strategy, or None.
      **objects: trackable things that determine the future.
    """
    self._objects = objects
    self._checkpoint = tf.train.Checkpoint(**objects)
    self._output_dir = output_dir
    self._last, self._best = (os.path.join(output_dir, name) for name in ('ckpt_last', 'ckpt_best'))
    self._keep, self._say, self._strategy = keep, say, strategy

  @property
  def newest(self):
    """Path of the newest checkpoint that is there, or None."""
    return next(iter(checkpoint_files.named(workers.shared(self._last))), None)

  @contextlib.contextmanager
  def gathered(self, number):
    """Yields the path of a checkpoint of this number, gone afterwards; None where there is one worker.

    Several have to read together what their replicas keep for themselves: once, however often the
    chief then tries to write it to the run's folder.

    Raises:
      Failure: it cannot be written.
    """
    if workers.number(self._strategy)[1] == 1:
      yield None
      return
    with tempfile.TemporaryDirectory(prefix='meta_pseudo_labels_') as folder:
      try:
        path = self._checkpoint.write(os.path.join(folder, f'ckpt-{number}'))
      except (OSError, tf.errors.OpError) as error:
        raise Failure(f'cannot write a checkpoint to {folder}: '
                      f'{checkpoint_files.reason(error)}') from error
      yield path

  def save(self, number, best=False, gathered=None):
    """Writes a checkpoint of this number (the steps made), as the best so far too if it is.

    `gathered`: the path of one that has been written elsewhere; what is not the chief's is let be.

    Raises:
      OSError, tf.errors.OpError: it cannot be written; what was there before still is.
    """
    if not workers.is_chief(self._strategy):
      return
    if not os.path.isdir(self._output_dir):
      # A volume that was taken away must not be made anew, elsewhere, under its name.
      raise FileNotFoundError(errno.ENOENT, 'the folder is gone', self._output_dir)
    # The best first: a run killed in between does these steps again, and finds it best again.
    if best:
      self._write(self._best, number, 1, gathered)
    self._write(self._last, number, self._keep, gathered)

  def _write(self, folder, number, keep, gathered):
    path = os.path.join(folder, f'ckpt-{number}')
    before = [other for other in checkpoint_files.named(folder) if other != path]
    try:
      if gathered is None:
        self._checkpoint.write(path)
      else:
        tf.io.gfile.makedirs(folder)
        for file in tf.io.gfile.glob(gathered + '.*'):
          tf.io.gfile.copy(file, path + file[len(gathered):], overwrite=True)
      checkpoint_files.check(path)
    except BaseException:
      _remove(path + '_temp')  # On a full disk it would be in the way of the next try.
      raise
    kept = (before[:keep - 1])[::-1] + [path]
    names = [os.path.basename(other) for other in kept]
    with tf.io.gfile.GFile(os.path.join(folder, 'checkpoint.tmp'), 'w') as file:
      file.write(f'model_checkpoint_path: "{names[-1]}"\n' + ''.join(
          f'all_model_checkpoint_paths: "{name}"\n' for name in names))
    tf.io.gfile.rename(os.path.join(folder, 'checkpoint.tmp'), os.path.join(folder, 'checkpoint'),
                       overwrite=True)
    # All others, so that what a killed run left behind goes too.
    for file in tf.io.gfile.listdir(folder):
      if file.startswith('ckpt-') and file.rstrip('/').split('.')[0] not in names:
        _remove(os.path.join(folder, file))

  def restore(self):
    """Restores the newest checkpoint that is whole: its path, or None if there is none.

    Raises:
      UserError: all are damaged, or it was written by another version, which stored less.
    """
    return self._restore(self._last)

  def restore_best(self):
    """Restores the best checkpoint: its path, or None if there is none. Raises as `restore`."""
    return self._restore(self._best)

  def _restore(self, folder):
    folder = workers.shared(folder)
    found = workers.prepare(
        self._strategy, lambda: checkpoint_files.newest_whole(folder, self._say))
    number = workers.of_chief(self._strategy, int(found.rsplit('-', 1)[1]) if found else -1)
    path = os.path.join(folder, f'ckpt-{number}') if number >= 0 else None
    if path:
      try:
        self._reader(path).read(path).assert_existing_objects_matched().expect_partial()
      except (AssertionError, ValueError) as error:
        raise UserError(f'{path} lacks a part of what a run needs to go on: it is from another '
                        'version; give another --output_dir, and this one as '
                        f'--load_checkpoint={path}') from error
    return path

  def _reader(self, path):
    """A tf.train.Checkpoint of what has to be in a checkpoint: a finetune may have been planned since."""
    keys = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    if 'finetune' in self._objects and not any(key.startswith('finetune/') for key in keys):
      return tf.train.Checkpoint(
          **{name: value for name, value in self._objects.items() if name != 'finetune'})
    return self._checkpoint


def _remove(path):
  """Removes a file or folder that may be there."""
  with contextlib.suppress(tf.errors.OpError):
    if tf.io.gfile.isdir(path):
      tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
