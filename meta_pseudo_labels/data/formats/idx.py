"""Reads MNIST's IDX format: flat binary files of images and of labels."""

import gzip
import os
import zlib

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

# The folder of the files of Debian's package dataset-fashion-mnist.
IDX_FOLDERS = {'fashion_mnist': '/usr/share/datasets/fashion-mnist'}


def read_file(path):
  """Returns the bytes of a file, local or remote; decompressed if its name ends in .gz."""
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      content = file.read()
    return gzip.decompress(content) if path.endswith('.gz') else content
  except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
    raise UserError(f'{path}: cannot be read ({one_line(error)}); fetch it again') from error


def load(info, request):
  """Returns the `storage.Data` of train-images-idx3-ubyte and the other three files, plain or .gz.

  Raises:
    UserError: they are missing or damaged.
  """
  folders = [folder for folder in (request.data_dir, IDX_FOLDERS[info.name]) if folder]
  for folder in folders:
    if _find_idx(folder, 'train-images-idx3-ubyte'):
      return storage.Data(*(_read_idx_split(info, folder, prefix) for prefix in ('train', 't10k')))
  package = os.path.basename(IDX_FOLDERS[info.name])
  raise UserError(
    f'--dataset_name={info.name}: no train-images-idx3-ubyte(.gz) in {" or ".join(folders)}; '
    f"run 'apt-get install dataset-{package}', or give --data_dir=<folder of its four IDX files>"
  )


def _find_idx(folder, stem):
  """Returns the path of a file in a folder, plain or .gz, or None."""
  for name in (stem, f'{stem}.gz'):
    if tf.io.gfile.exists(os.path.join(folder, name)):
      return os.path.join(folder, name)
  return None


def _read_idx_split(info, folder, prefix):
  """Reads the `storage.Examples` of one split."""
  images = _read_idx(folder, f'{prefix}-images-idx3-ubyte')[..., np.newaxis]
  labels = _read_idx(folder, f'{prefix}-labels-idx1-ubyte')
  return storage.checked(info, images, labels, f'{folder}/{prefix}-*')


def _read_idx(folder, stem):
  """Reads one IDX file of unsigned bytes: uint8, of the shape in its header (big-endian int32s)."""
  path = _find_idx(folder, stem)
  if path is None:
    raise UserError(f'{folder}: has no {stem} or {stem}.gz; fetch the file')
  content = read_file(path)
  rank = int(stem.split('idx')[1][0])
  if content[:4] != bytes([0, 0, 8, rank]) or len(content) < 4 + 4 * rank:
    raise UserError(f'{path}: not an IDX file of unsigned bytes in {rank} dimensions; fetch it again')
  shape = np.frombuffer(content, '>i4', count=rank, offset=4)
  values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
  if shape.min() < 0 or len(values) != np.prod(shape, dtype=np.int64):
    raise UserError(
      f'{path}: damaged (its header says {shape.tolist()}, but {len(values)} bytes follow); fetch it again'
    )
  return values.reshape(shape)
