"""Task convert: writes a run's newest checkpoint in the official release's format."""

import contextlib
import json
import os

from meta_pseudo_labels.checkpoints import files, release_format
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import UserError

import tensorflow as tf

# The key in a checkpoint of the variable `identity` of training.Run.
IDENTITY = 'identity/.ATTRIBUTES/VARIABLE_VALUE'
SERVING = 'serving/.ATTRIBUTES/VARIABLE_VALUE'


def find_newest(output_dir, say, task='convert'):
  """Returns the path of a run's newest intact checkpoint.

  Args:
    output_dir: str, the run's.
    say: function of a line, told of damaged ones.
    task: name of the task that needs it.

  Raises:
    UserError: there is none.
  """
  path = files.newest_intact(os.path.join(output_dir, 'ckpt_last'), say)
  if not path:
    raise UserError(
      f'--output_dir={output_dir}: no checkpoint there, which --task_mode={task} needs; train first'
    )
  return path


def read_serving(path):
  """Returns what a checkpoint's run needs in order to classify: a Serving; None of earlier versions."""
  try:
    return Serving.from_json(tf.train.load_variable(path, SERVING).decode())
  except tf.errors.NotFoundError:
    return None


def read_newest_serving(output_dir):
  """Returns the Serving in a run's newest checkpoint that can be read; None if there is none."""
  return _read_newest(output_dir, read_serving)


def read_newest_identity(output_dir):
  """Returns `read_identity` of a run's newest checkpoint that can be read; None if there is none."""
  return _read_newest(output_dir, read_identity)


def _read_newest(output_dir, read):
  """Returns what `read` finds in a run's newest checkpoint that can be read; None if there is none."""
  for path in files.listed_checkpoints(workers.path_in_run_folder(os.path.join(output_dir, 'ckpt_last'))):
    with contextlib.suppress(tf.errors.OpError, ValueError):
      return read(path)
  return None


def read_class_names(path):
  """Returns the names of the classes of a checkpoint's run: list of str. Raises UserError."""
  identity = read_identity(path)
  if identity is None:
    raise UserError(f'{path}: has no class names, so an earlier version wrote it; train again')
  return json.loads(identity)['class_names']


def read_identity(path):
  """Returns the `Problem.identity` of a checkpoint's run: JSON text; None of earlier versions."""
  try:
    return tf.train.load_variable(path, IDENTITY).decode()
  except tf.errors.NotFoundError:
    return None


def get_input_shape(info, image_size):
  """Returns the shape of the inputs of a run's models, (H, W, C) or (D,), without reading the data.

  Raises:
    UserError: the shape is only known from the data.
  """
  if info.image_shape is None and info.default_channels is None:
    raise UserError(
      "--output_dir: a run on a .npz file cannot be written in the release's format, since the "
      "arrays' shape is only in that file; convert a run on another dataset"
    )
  if info.kind == 'points':
    return info.image_shape
  return image_size, image_size, info.default_channels or info.image_shape[-1]


def convert(path, method, to):
  """Writes a checkpoint of a run in the release's format.

  Args:
    path: str, of the checkpoint.
    method: Method of its phase `train`.
    to: str, path to write without suffix: `to`.index and `to`.data-00000-of-00001. The release resumes
      from a checkpoint at <output_dir>/ckpt_last/ckpt-<step> of its own output folder.

  Raises:
    UserError: it cannot be written.
  """
  tf.train.Checkpoint(train=method).read(path).assert_existing_objects_matched().expect_partial()
  release_format.write(to, method)
