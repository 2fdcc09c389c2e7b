"""Image datasets in flat binary files: MNIST's IDX format and CIFAR-10's records."""
import gzip
import os
import zlib

from meta_pseudo_labels.data import examples
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf

# Where Debian's package dataset-fashion-mnist puts its files.
IDX_FOLDERS = {'fashion_mnist': '/usr/share/datasets/fashion-mnist'}

_CIFAR10_TRAIN_FILES = tuple(f'data_batch_{i}.bin' for i in range(1, 6))
_CIFAR10_RECORD = 1 + 32 * 32 * 3


def _read_file(path):
  """The bytes of a file, local or remote; decompressed if its name ends in .gz."""
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      content = file.read()
    return gzip.decompress(content) if path.endswith('.gz') else content
  except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
    raise UserError(f'cannot read {path}: {examples.one_line(error)}') from error


def load_idx(info, data_dir):
  """MNIST's file format: train-images-idx3-ubyte and the other three, plain or .gz."""
  folders = [folder for folder in (data_dir, IDX_FOLDERS[info.name]) if folder]
  for folder in folders:
    if _idx_path(folder, 'train-images-idx3-ubyte'):
      return examples.Data(*(_read_idx_split(info, folder, prefix) for prefix in ('train', 't10k')))
  package = os.path.basename(IDX_FOLDERS[info.name])
  raise UserError(
      f"dataset {info.name!r}: no train-images-idx3-ubyte(.gz) in {' or '.join(folders)}: "
      f"'apt-get install dataset-{package}', or point --data_dir at a folder that has its four "
      'IDX files')


def _idx_path(folder, stem):
  for name in (stem, f'{stem}.gz'):
    if tf.io.gfile.exists(os.path.join(folder, name)):
      return os.path.join(folder, name)
  return None


def _read_idx_split(info, folder, prefix):
  images = _read_idx(folder, f'{prefix}-images-idx3-ubyte')[..., np.newaxis]
  labels = _read_idx(folder, f'{prefix}-labels-idx1-ubyte')
  return examples.checked(info, images, labels, f'{folder}/{prefix}-*')


def _read_idx(folder, stem):
  """One IDX file of unsigned bytes: uint8, of the shape its header gives (big-endian int32s)."""
  path = _idx_path(folder, stem)
  if path is None:
    raise UserError(f'{folder} has no {stem} or {stem}.gz: fetch the file')
  content = _read_file(path)
  rank = int(stem.split('idx')[1][0])
  if content[:4] != bytes([0, 0, 8, rank]) or len(content) < 4 + 4 * rank:
    raise UserError(f'{path} is not an IDX file of unsigned bytes in {rank} dimensions')
  shape = np.frombuffer(content, '>i4', count=rank, offset=4)
  values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
  if shape.min() < 0 or len(values) != np.prod(shape, dtype=np.int64):
    raise UserError(f'{path} is damaged: its header says {shape.tolist()}, but {len(values)} bytes '
                    'follow: fetch it again')
  return values.reshape(shape)


def cifar10_folder(data_dir):
  """The folder under `data_dir` that has the binary records, or None."""
  for folder in (os.path.join(data_dir, 'cifar-10-batches-bin'), data_dir) if data_dir else ():
    if tf.io.gfile.exists(os.path.join(folder, _CIFAR10_TRAIN_FILES[0])):
      return folder
  return None


def load_cifar10_records(info, folder):
  """The records the release reads: a label byte, then 32x32 red, green and blue planes."""
  def read(names):
    records = [_read_cifar10_file(os.path.join(folder, name)) for name in names]
    records = np.concatenate(records)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return examples.checked(info, np.ascontiguousarray(images), records[:, 0], folder)
  return examples.Data(train=read(_CIFAR10_TRAIN_FILES), test=read(['test_batch.bin']))


def _read_cifar10_file(path):
  """uint8 [N, 3073]."""
  content = np.frombuffer(_read_file(path), np.uint8)
  if not len(content) or len(content) % _CIFAR10_RECORD:
    raise UserError(f'{path} is damaged: {len(content)} bytes are no whole number of '
                    f'{_CIFAR10_RECORD}-byte records: fetch it again')
  return content.reshape(-1, _CIFAR10_RECORD)
