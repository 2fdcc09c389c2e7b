"""A run's folder: its checkpoints, what it was started with, and going on from them."""

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
    return next(iter(files.listed_checkpoints(workers.path_in_run_folder(self._last))), None)

  @contextlib.contextmanager
  def gather(self, number):
    """Yields the path of a checkpoint of this number, gone afterwards; None where there is one worker.

    Several have to read together what their replicas keep for themselves: once, however often the
    chief then tries to write it to the run's folder.

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
        raise Failure(f'cannot write a checkpoint to {folder}: {one_line(error)}') from error
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
      _remove(path + '_temp')  # On a full disk it would be in the way of the next try.
      raise
    kept = (before[: keep - 1])[::-1] + [path]
    names = [os.path.basename(other) for other in kept]
    write_text(
      os.path.join(folder, 'checkpoint'),
      f'model_checkpoint_path: "{names[-1]}"\n'
      + ''.join(f'all_model_checkpoint_paths: "{name}"\n' for name in names),
    )
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
    folder = workers.path_in_run_folder(folder)
    found = workers.run_on_chief(self._strategy, lambda: files.newest_intact(folder, self._say))
    number = workers.from_chief(self._strategy, int(found.rsplit('-', 1)[1]) if found else -1)
    path = os.path.join(folder, f'ckpt-{number}') if number >= 0 else None
    if path:
      try:
        self._reader(path).read(path).assert_existing_objects_matched().expect_partial()
      except (AssertionError, ValueError) as error:
        raise UserError(
          f'{path} lacks a part of what a run needs to go on: it is from another '
          'version; give another --output_dir, and this one as '
          f'--load_checkpoint={path}'
        ) from error
    return path

  def _reader(self, path):
    """A tf.train.Checkpoint of what has to be in a checkpoint: a finetune may have been planned since."""
    keys = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    if 'finetune' in self._objects and not any(key.startswith('finetune/') for key in keys):
      return tf.train.Checkpoint(
        **{name: value for name, value in self._objects.items() if name != 'finetune'}
      )
    return self._checkpoint


def _remove(path):
  """Removes a file or folder that may be there."""
  with contextlib.suppress(tf.errors.OpError):
    if tf.io.gfile.isdir(path):
      tf.io.gfile.rmtree(path)
    elif tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
