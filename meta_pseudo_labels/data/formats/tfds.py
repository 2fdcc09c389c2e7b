"""Reads datasets prepared by TensorFlow Datasets into memory."""

import functools
import os
import re

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

EXTRA = ('extra', 'unlabelled')  # Splits of SVHN and STL-10 that are used without labels.


def default_folder(data_dir):
  """Returns `data_dir`, or by default the folder where TFDS stores prepared datasets."""
  return os.path.expanduser(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets')


def builder(folder):
  """Returns the `tfds.core.DatasetBuilder` of a prepared folder. Raises UserError if it is damaged."""
  import tensorflow_datasets as tfds

  try:
    return tfds.builder_from_directory(folder)
  except Exception as error:  # Damaged files raise many kinds of errors.
    raise UserError(f'{folder}: cannot be read ({one_line(error)}); prepare it again') from error


def load(info, request, name=None):
  """Returns the `storage.Data` of a dataset in `request.data_dir`; prepares it there if it is missing.

  Args:
    info: DatasetInfo.
    request: Request.
    name: str, the name of the dataset in TFDS; None: `info.name`.

  Raises:
    UserError: it cannot be read, or is missing and cannot be downloaded.
  """
  import tensorflow_datasets as tfds

  name, data_dir = name or info.name, default_folder(request.data_dir)
  folder = prepared_folder(data_dir, name)
  if folder is None:
    _prepare(tfds, info, name, data_dir)
    folder = prepared_folder(data_dir, name)
  try:
    builder = tfds.builder_from_directory(folder)
    available = builder.info.splits
    found = {
      split: _read_tfds_split(tfds, info, builder, split)
      for split in ('train', 'test', *EXTRA)
      if split in available
    }
  except UserError:
    raise
  except Exception as error:
    raise UserError(f'{folder}: cannot be read ({one_line(error)}); prepare it again') from error
  for split in ('train', 'test'):
    if split not in found:
      raise UserError(f'{folder}: has no split {split!r}, only {sorted(available)}; prepare it again')
  extra = next((found[split] for split in EXTRA if split in found), None)
  if extra is not None:
    extra = storage.Examples(extra.inputs, np.full(len(extra), -1, np.int32))
  return storage.Data(found['train'], found['test'], unlabeled_extra=extra)


def loader(name):
  """Returns `load` for a dataset with this name in TFDS."""
  return functools.partial(load, name=name)


def prepared_folder(data_dir, name):
  """Returns the folder of the newest complete version in data_dir/name, or None."""
  parent = os.path.join(data_dir, name)
  if not tf.io.gfile.isdir(parent):
    return None
  versions = [entry.strip('/') for entry in tf.io.gfile.listdir(parent)]
  versions = [
    tuple(map(int, version.split('.')))
    for version in versions
    if re.fullmatch(r'\d+\.\d+\.\d+', version)
    and tf.io.gfile.exists(os.path.join(parent, version, 'dataset_info.json'))
  ]
  return os.path.join(parent, '.'.join(map(str, max(versions)))) if versions else None


def _prepare(tfds, info, name, data_dir):
  """Downloads a dataset and prepares it in `data_dir`. Raises UserError."""
  try:
    builder = tfds.builder(name, data_dir=data_dir)
    _probe(builder)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except Exception as error:
    command = (
      f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
      f"data_dir='{data_dir}').download_and_prepare()\""
    )
    raise UserError(
      f'--dataset_name={info.name}: nothing is prepared in {os.path.join(data_dir, name)}, and it '
      f'cannot be downloaded ({one_line(error)}); give --data_dir=<folder that has it>, or run '
      f'on a machine with a network: {command}'
    ) from error


def _probe(builder):
  """Raises ConnectionError if the download's host cannot be reached; TFDS itself retries for minutes."""
  import requests

  for url in list(builder.url_infos or ())[:1]:
    try:
      requests.head(url, timeout=10)
    except requests.exceptions.RequestException as error:
      raise ConnectionError(f'no connection to {url}') from error


def _read_tfds_split(tfds, info, builder, split):
  """Reads one split, in the order of the examples' numbers.

  TFDS stores examples in a shuffled order. The `id` feature of CIFAR and SVHN ends in the position in
  the original files. Sorted by it, the first N examples are those of the release.
  """
  where = f'{builder.data_path} ({split})'
  shape = tuple(builder.info.features['image'].shape)
  if shape != info.image_shape:
    raise UserError(
      f'{where}: has images of shape {shape}, but those of {info.name} have '
      f'{info.image_shape}; give the right --data_dir'
    )
  count = builder.info.splits[split].num_examples
  images = np.empty((count,) + shape, np.uint8)
  labels = np.empty(count, np.int32)
  numbers = np.arange(count)
  config = tfds.ReadConfig(interleave_cycle_length=1)  # Reads one shard after the other.
  start = 0
  for batch in (
    builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    .batch(1000)
    .as_numpy_iterator()
  ):
    stop = start + len(batch['label'])
    images[start:stop], labels[start:stop] = batch['image'], batch['label']
    if 'id' in batch:
      numbers[start:stop] = [int(re.search(rb'\d+$', id_).group()) for id_ in batch['id']]
    start = stop
  order = np.argsort(numbers, kind='stable')
  return storage.checked(info, images[order], labels[order], where)
