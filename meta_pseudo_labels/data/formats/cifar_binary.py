"""Reads CIFAR-10's binary records, as the release does, or CIFAR-10 from TFDS."""

import os

from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.formats import idx, tfds
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf

_CIFAR10_TRAIN_FILES = tuple(f'data_batch_{i}.bin' for i in range(1, 6))


_CIFAR10_RECORD = 1 + 32 * 32 * 3


def load(info, request):
  """Returns the `storage.Data` of CIFAR-10.

  Raises:
    UserError: it is damaged, or cannot be found or downloaded.
  """
  folder = cifar10_folder(request.data_dir)
  return load_cifar10_records(info, folder) if folder else tfds.load(info, request)


def cifar10_folder(data_dir):
  """Returns the folder under `data_dir` that has the binary records, or None."""
  for folder in (os.path.join(data_dir, 'cifar-10-batches-bin'), data_dir) if data_dir else ():
    if tf.io.gfile.exists(os.path.join(folder, _CIFAR10_TRAIN_FILES[0])):
      return folder
  return None


def load_cifar10_records(info, folder):
  """Reads the release's records: a label byte, then 32x32 red, green and blue planes."""

  def read(names):
    records = [_read_cifar10_file(os.path.join(folder, name)) for name in names]
    records = np.concatenate(records)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return storage.checked(info, np.ascontiguousarray(images), records[:, 0], folder)

  return storage.Data(train=read(_CIFAR10_TRAIN_FILES), test=read(['test_batch.bin']))


def _read_cifar10_file(path):
  """Reads the records of one file: uint8 [N, 3073]. Raises UserError if it is damaged."""
  content = np.frombuffer(idx.read_file(path), np.uint8)
  if not len(content) or len(content) % _CIFAR10_RECORD:
    raise UserError(
      f'{path}: damaged ({len(content)} bytes are not a multiple of the '
      f'{_CIFAR10_RECORD} bytes of a record); fetch it again'
    )
  return content.reshape(-1, _CIFAR10_RECORD)
