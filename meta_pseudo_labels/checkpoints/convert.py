"""Task convert: a run's newest checkpoint in the official release's format."""

import json
import os

from meta_pseudo_labels.checkpoints import files, release_format
from meta_pseudo_labels.errors import UserError

import tensorflow as tf

# What the variable of training.Run is called in a checkpoint.
IDENTITY = 'identity/.ATTRIBUTES/VARIABLE_VALUE'


def find_newest(output_dir, say):
  """Returns the path of a run's newest intact checkpoint. Raises UserError if there is none."""
  path = files.newest_intact(os.path.join(output_dir, 'ckpt_last'), say)
  if not path:
    raise UserError(f'--output_dir={output_dir}: no checkpoint in its ckpt_last; train first')
  return path


def read_class_names(path):
  """Returns the names of the classes of a checkpoint's run: list of str. Raises UserError."""
  try:
    return json.loads(tf.train.load_variable(path, IDENTITY))['class_names']
  except tf.errors.NotFoundError as error:
    raise UserError(
      f'{path}: does not say which classes it has, as checkpoints of earlier versions; train again'
    ) from error


def get_input_shape(info, image_size):
  """Returns the shape of what a run's models see, (H, W, C) or (D,); the data need not be at hand.

  Raises:
    UserError: only the data say it.
  """
  if info.image_shape is None and info.default_channels is None:
    raise UserError(
      "--output_dir: a run on a .npz file cannot be written in the release's format; only that "
      'file says what shape its arrays have'
    )
  if info.kind == 'points':
    return info.image_shape
  return image_size, image_size, info.default_channels or info.image_shape[-1]


def convert(path, method, to):
  """Writes a checkpoint of a run in the release's format.

  Args:
    path: of the checkpoint.
    method: Method of its phase `train`.
    to: path to write, without .index: `to`.index and `to`.data-00000-of-00001. For the release to
      continue from it, its own <output_dir>/ckpt_last/ckpt-<step>.

  Raises:
    UserError: it cannot be written.
  """
  tf.train.Checkpoint(train=method).read(path).assert_existing_objects_matched().expect_partial()
  release_format.write(to, method)
