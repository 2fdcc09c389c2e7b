"""Checkpoints as files: finds those of a folder, and checks whether they are intact."""

import errno
import os
import re

from meta_pseudo_labels.errors import UserError, one_line

import tensorflow as tf


def newest_intact(folder, say=lambda line: None):
  """Returns the path of the newest intact checkpoint in a folder, or None if there is no checkpoint.

  Args:
    folder: str.
    say: function of a line, called for each damaged checkpoint.

  Raises:
    UserError: all checkpoints are damaged.
  """
  paths = listed_checkpoints(folder)
  for number, path in enumerate(paths):
    try:
      check(path)
      return path
    except OSError as error:
      older = paths[number + 1 : number + 2]
      say(f'{path}: damaged ({one_line(error)})' + (f'; resuming from {older[0]}' if older else ''))
  if paths:
    raise UserError(
      f'{folder}: all {len(paths)} checkpoints in it are damaged; restore them, or '
      'start again with --reset_output_dir or another --output_dir'
    )
  return None


def listed_checkpoints(folder):
  """Returns the paths of the checkpoints that a folder's `checkpoint` file names, newest first.

  That file can be empty after a power failure. Then all checkpoints in the folder are returned, ordered
  by their numbers.
  """
  path = os.path.join(folder, 'checkpoint')
  if not tf.io.gfile.exists(path):
    return []
  with tf.io.gfile.GFile(path, 'rb') as file:
    text = file.read().decode(errors='replace')
  names = re.findall(r'^all_model_checkpoint_paths: "(.*)"$', text, re.MULTILINE)
  if not names:
    numbers = [re.fullmatch(r'ckpt-(\d+)\.index', name) for name in tf.io.gfile.listdir(folder)]
    names = [f'ckpt-{number}' for number in sorted(int(found[1]) for found in numbers if found)]
  return [os.path.join(folder, os.path.basename(name)) for name in reversed(names)]


def check(path):
  """Reads all tensors of a checkpoint, which verifies its checksums.

  Raises:
    OSError: it is damaged or incomplete.
  """
  try:
    reader = tf.train.load_checkpoint(path)
    keys = reader.get_variable_to_shape_map()
    for key in keys:
      reader.get_tensor(key)
  except tf.errors.OpError as error:
    raise OSError(errno.EIO, one_line(error)) from error
  except (IndexError, ValueError, RuntimeError) as error:  # A file that is too short, or not a table.
    raise OSError(errno.EIO, str(error)) from error
  if not keys:
    raise OSError(errno.EIO, 'it is empty')
