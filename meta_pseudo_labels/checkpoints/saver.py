"""Saves and restores a run's checkpoints."""

import contextlib
import errno
import os
import tempfile

from meta_pseudo_labels import errors
from meta_pseudo_labels.checkpoints import files, run_folder
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import Failure, UserError, one_line
from meta_pseudo_labels.files import write_text

import tensorflow as tf


class Checkpoints:
  """The checkpoints `output_dir/ckpt_last` (the newest few) and `ckpt_best` (one): release's names.

  A checkpoint is written and read back with its checksums. Only then it is named in the folder's
  `checkpoint` file, and older checkpoints are removed after that. So this file names intact
  checkpoints at all times. Saving is synchronous. Asynchronous saving would need a copy of the values,
  which costs about as much as writing them to the operating system's cache. So a checkpoint exists
  when the log says so.
  """

  def __init__(self, output_dir, keep, say=lambda line: None, strategy=None, **objects):
    """Stores the arguments; nothing is read or written yet.

    Args:
      output_dir: str; with several workers the worker's own folder (workers.py). Only the chief writes
        checkpoints, and all workers restore them.
      keep: int, how many of the newest checkpoints are kept.
      say: function of a line, called for a damaged checkpoint.
      strategy: tf.distribute.Strategy, or None.
      **objects: trackable objects that hold the state of the run.
    """
    self._objects = objects
    self._checkpoint = tf.train.Checkpoint(**objects)
    self._output_dir = output_dir
    self._last, self._best = (os.path.join(output_dir, name) for name in ('ckpt_last', 'ckpt_best'))
    self._keep, self._say, self._strategy = keep, say, strategy

  @property
  def newest(self):
    """The path of the newest checkpoint, or None."""
    return next(iter(files.listed_checkpoints(workers.path_in_run_folder(self._last))), None)

  @contextlib.contextmanager
  def gather(self, number):
    """Yields the path of a temporary checkpoint of this number, or None if there is one worker.

    All workers have to read the variables with one copy per replica together. They do it only once,
    however often the chief then tries to write to the run's folder.

    Raises:
      Failure: it cannot be written.
    """
    if workers.index_and_count(self._strategy)[1] == 1:
      yield None
      return
    with tempfile.TemporaryDirectory(prefix='meta_pseudo_labels_') as folder:
      try:
        path = self._checkpoint.write(os.path.join(folder, f'ckpt-{number}'))
      except (OSError, tf.errors.OpError) as error:
        raise Failure(f'{folder}: cannot be written ({one_line(error)}); free space there') from error
      yield path

  def save(self, number, best=False, gathered=None):
    """Writes a checkpoint; does nothing on workers other than the chief.

    Args:
      number: int, the number of steps made.
      best: bool, whether to write it to `ckpt_best` too.
      gathered: path of a checkpoint from `gather` that is copied, or None.

    Raises:
      OSError, tf.errors.OpError: it cannot be written; the previous checkpoints are intact.
    """
    if not workers.is_chief(self._strategy):
      return
    if not os.path.isdir(self._output_dir):
      # If the folder's volume was unmounted, a new folder of the same name would be on another disk.
      raise FileNotFoundError(errno.ENOENT, 'the folder is gone', self._output_dir)
    # The best first: a run that is killed in between repeats these steps and finds it the best again.
    if best:
      self._write(self._best, number, 1, gathered)
    self._write(self._last, number, self._keep, gathered)

  def _write(self, folder, number, keep, gathered):
    """Writes and checks a checkpoint, names it in the `checkpoint` file, removes all but `keep`."""
    path = os.path.join(folder, f'ckpt-{number}')
    before = [other for other in files.listed_checkpoints(folder) if other != path]
    try:
      if gathered is None:
        self._checkpoint.write(path)
      else:
        tf.io.gfile.makedirs(folder)
        for file in tf.io.gfile.glob(gathered + '.*'):
          tf.io.gfile.copy(file, path + file[len(gathered) :], overwrite=True)
      files.check(path)
    except BaseException:
      _remove(path + '_temp')  # It takes space that the next try needs on a full disk.
      raise
    kept = (before[: keep - 1])[::-1] + [path]
    names = [os.path.basename(other) for other in kept]
    write_text(
      os.path.join(folder, 'checkpoint'),
      f'model_checkpoint_path: "{names[-1]}"\n'
      + ''.join(f'all_model_checkpoint_paths: "{name}"\n' for name in names),
    )
    # Removes all other checkpoints, including those that a killed run left behind.
    for file in tf.io.gfile.listdir(folder):
      if file.startswith('ckpt-') and file.rstrip('/').split('.')[0] not in names:
        _remove(os.path.join(folder, file))

  def restore(self):
    """Restores the newest intact checkpoint; returns its path, or None if there is none.

    Raises:
      UserError: all are damaged, or another version wrote it, which stored fewer values.
    """
    return self._restore(self._last)

  def restore_best(self):
    """Restores the best checkpoint; returns its path, or None if there is none. See `restore`."""
    return self._restore(self._best)

  def _restore(self, folder):
    """Restores the newest intact checkpoint of a folder on all workers. See `restore`."""
    folder = workers.path_in_run_folder(folder)
    found = workers.run_on_chief(self._strategy, lambda: files.newest_intact(folder, self._say))
    number = workers.from_chief(self._strategy, int(found.rsplit('-', 1)[1]) if found else -1)
    path = os.path.join(folder, f'ckpt-{number}') if number >= 0 else None
    if path:
      try:
        self._reader(path).read(path).assert_existing_objects_matched().expect_partial()
      except (AssertionError, ValueError) as error:
        raise UserError(
          f'{path}: lacks values that a run needs to resume, so another version wrote it; '
          f'give another --output_dir and --load_checkpoint={path}'
        ) from error
    return path

  def _reader(self, path):
    """Returns a tf.train.Checkpoint of the objects that a checkpoint must have.

    They do not include the finetune if it was added to the run after the checkpoint was written.
    """
    keys = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    missing = [
      name
      for name in ('finetune', 'serving')
      if name in self._objects and not any(key.startswith(f'{name}/') for key in keys)
    ]
    if not missing:
      return self._checkpoint
    return tf.train.Checkpoint(
      **{name: value for name, value in self._objects.items() if name not in missing}
    )


def _remove(path):
  """Removes a file or folder if it exists."""
  with contextlib.suppress(tf.errors.OpError):
    if tf.io.gfile.isdir(path):
      tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
