"""Where examples come from: scikit-learn, a generator, TFDS, and the datasets' own files.

Everything here is read into memory, in an order that never changes, so that a position names an
example for good (`splits.manifest` writes positions down).
"""
import dataclasses
import gzip
import os
import re
import zlib
from typing import Optional

import numpy as np
import tensorflow as tf

from meta_pseudo_labels.errors import UserError

# scikit-learn's digits have no test split of their own: 50 images of every class are drawn for it
# (from RandomState, whose streams are frozen for good). Never to be changed: every accuracy on
# digits that was ever reported depends on these 500 images.
DIGITS_TEST_PER_CLASS = 50
DIGITS_TEST_SEED = 1797

# Where Debian's package dataset-fashion-mnist puts its files.
IDX_FOLDERS = {'fashion_mnist': '/usr/share/datasets/fashion-mnist'}

_CIFAR10_TRAIN_FILES = tuple(f'data_batch_{i}.bin' for i in range(1, 6))
_CIFAR10_RECORD = 1 + 32 * 32 * 3


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Inputs with their labels.

  Attributes:
    inputs: uint8 [N, H, W, C] in 0..255, or float32 [N, D].
    labels: int32 [N], -1 where unknown.
  """
  inputs: np.ndarray
  labels: np.ndarray

  def __len__(self):
    return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """The splits of a dataset.

  Attributes:
    train, test: `Examples` whose labels are all known.
    unlabeled_extra: more `Examples` to use without labels (all -1), or None.
  """
  train: Examples
  test: Examples
  unlabeled_extra: Optional[Examples] = None


def load(info, data_dir=None, seed=0):
  """Reads a dataset.

  Args:
    info: a `datasets.DatasetInfo`.
    data_dir: the folder to look in; None or '' for the usual one: TFDS's
      ($TFDS_DATA_DIR or ~/tensorflow_datasets), or where Debian installs the IDX files.
    seed: int >= 0; only generated datasets depend on it.

  Returns:
    A `Data`.

  Raises:
    UserError: the data is not there and cannot be fetched, or is damaged.
  """
  source, _, name = info.source.partition(':')
  if source == 'sklearn':
    return _load_digits()
  if source == 'generated':
    return _load_two_moons(seed)
  if source == 'idx':
    return _load_idx(info, data_dir)
  folder = _cifar10_folder(data_dir) if info.name == 'cifar10' else None
  if folder:
    return _load_cifar10_records(info, folder)
  return _load_tfds(info, name, data_dir)


def _checked(info, inputs, labels, where):
  """`Examples` from what was read `where`. Raises UserError if they cannot be this dataset's."""
  labels = np.asarray(labels, np.int32)
  if inputs.shape[1:] != info.image_shape:
    raise UserError(f'{where} has examples of shape {inputs.shape[1:]}, but those of {info.name} '
                    f'have {info.image_shape}: is this the right folder?')
  if len(inputs) != len(labels) or not len(labels):
    raise UserError(f'{where} has {len(inputs)} examples and {len(labels)} labels: fetch it again')
  if labels.min() < 0 or labels.max() >= info.num_classes:
    raise UserError(f'{where} has labels from {labels.min()} to {labels.max()}, but {info.name} '
                    f'has classes 0 to {info.num_classes - 1}: fetch it again')
  return Examples(inputs, labels)


def _load_digits():
  from sklearn import datasets as sklearn_datasets  # pylint: disable=import-outside-toplevel
  digits = sklearn_datasets.load_digits()
  images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
  labels = digits.target.astype(np.int32)
  random = np.random.RandomState(DIGITS_TEST_SEED)
  test = np.sort(np.concatenate([
      random.permutation(np.flatnonzero(labels == digit))[:DIGITS_TEST_PER_CLASS]
      for digit in range(10)]))
  train = np.setdiff1d(np.arange(len(labels)), test)
  return Data(Examples(images[train], labels[train]), Examples(images[test], labels[test]))


def _load_two_moons(seed):
  from sklearn import datasets as sklearn_datasets  # pylint: disable=import-outside-toplevel

  def draw(stream):
    points, labels = sklearn_datasets.make_moons(
        (1000, 1000), noise=.1, random_state=np.random.RandomState([seed, stream]))
    return Examples(points.astype(np.float32), labels.astype(np.int32))
  return Data(train=draw(0), test=draw(1))


def _read_file(path):
  """The bytes of a file, local or remote; decompressed if its name ends in .gz."""
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      content = file.read()
    return gzip.decompress(content) if path.endswith('.gz') else content
  except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
    raise UserError(f'cannot read {path}: {_one_line(error)}') from error


def _one_line(error):
  return ' '.join(str(error).split())[:300]


def _load_idx(info, data_dir):
  """MNIST's file format: train-images-idx3-ubyte and the other three, plain or .gz."""
  folders = [folder for folder in (data_dir, IDX_FOLDERS[info.name]) if folder]
  for folder in folders:
    if _idx_path(folder, 'train-images-idx3-ubyte'):
      return Data(*(_read_idx_split(info, folder, prefix) for prefix in ('train', 't10k')))
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
  return _checked(info, images, labels, f'{folder}/{prefix}-*')


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
  if len(values) != np.prod(shape, dtype=np.int64):
    raise UserError(f'{path} is damaged: its header says {shape.tolist()}, but {len(values)} bytes '
                    'follow: fetch it again')
  return values.reshape(shape)


def _cifar10_folder(data_dir):
  """The folder under `data_dir` that has the binary records, or None."""
  for folder in (os.path.join(data_dir, 'cifar-10-batches-bin'), data_dir) if data_dir else ():
    if tf.io.gfile.exists(os.path.join(folder, _CIFAR10_TRAIN_FILES[0])):
      return folder
  return None


def _load_cifar10_records(info, folder):
  """The records the release reads: a label byte, then 32x32 red, green and blue planes."""
  def read(names):
    records = [_read_cifar10_file(os.path.join(folder, name)) for name in names]
    records = np.concatenate(records)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _checked(info, np.ascontiguousarray(images), records[:, 0], folder)
  return Data(train=read(_CIFAR10_TRAIN_FILES), test=read(['test_batch.bin']))


def _read_cifar10_file(path):
  """uint8 [N, 3073]."""
  content = np.frombuffer(_read_file(path), np.uint8)
  if not len(content) or len(content) % _CIFAR10_RECORD:
    raise UserError(f'{path} is damaged: {len(content)} bytes are no whole number of '
                    f'{_CIFAR10_RECORD}-byte records: fetch it again')
  return content.reshape(-1, _CIFAR10_RECORD)


def _load_tfds(info, name, data_dir):
  """A dataset that TFDS has prepared in `data_dir`, or prepares there now."""
  import tensorflow_datasets as tfds  # pylint: disable=import-outside-toplevel
  data_dir = os.path.expanduser(
      data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets')
  folder = _prepared_folder(data_dir, name)
  if folder is None:
    _prepare(tfds, info, name, data_dir)
    folder = _prepared_folder(data_dir, name)
  try:
    builder = tfds.builder_from_directory(folder)
    available = builder.info.splits
    examples = {split: _read_tfds_split(tfds, info, builder, split)
                for split in ('train', 'test', 'extra') if split in available}
  except UserError:
    raise
  except Exception as error:
    raise UserError(f'cannot read the dataset {name!r} in {folder}: {_one_line(error)}') from error
  for split in ('train', 'test'):
    if split not in examples:
      raise UserError(
          f'{folder} has no split {split!r}, only {sorted(available)}: prepare it again')
  extra = examples.get('extra')
  if extra is not None:
    extra = Examples(extra.inputs, np.full(len(extra), -1, np.int32))
  return Data(examples['train'], examples['test'], extra)


def _prepared_folder(data_dir, name):
  """The newest version that is complete in data_dir/name, or None."""
  parent = os.path.join(data_dir, name)
  if not tf.io.gfile.isdir(parent):
    return None
  versions = [entry.strip('/') for entry in tf.io.gfile.listdir(parent)]
  versions = [tuple(map(int, version.split('.'))) for version in versions
              if re.fullmatch(r'\d+\.\d+\.\d+', version)
              and tf.io.gfile.exists(os.path.join(parent, version, 'dataset_info.json'))]
  return os.path.join(parent, '.'.join(map(str, max(versions)))) if versions else None


def _prepare(tfds, info, name, data_dir):
  """Downloads a dataset and prepares it in `data_dir`. Raises UserError."""
  try:
    builder = tfds.builder(name, data_dir=data_dir)
    _probe(builder)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except Exception as error:
    command = (f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
               f"data_dir='{data_dir}').download_and_prepare()\"")
    raise UserError(
        f'dataset {info.name!r}: nothing is prepared in {os.path.join(data_dir, name)}, and it '
        f'cannot be fetched from here ({_one_line(error)}): point --data_dir at a folder that has '
        f'it, or where there is a network run: {command}') from error


def _probe(builder):
  """Raises if the download's host cannot be reached: TFDS itself retries for minutes."""
  import requests  # pylint: disable=import-outside-toplevel
  for url in list(builder.url_infos or ())[:1]:
    try:
      requests.head(url, timeout=10)
    except requests.exceptions.RequestException as error:
      raise ConnectionError(f'no connection to {url}') from error


def _read_tfds_split(tfds, info, builder, split):
  """One split, in the order its examples are numbered in.

  TFDS stores examples in a shuffled order; the `id` feature of CIFAR and SVHN ends in the position
  in the original files, so that "the first N" are the release's.
  """
  where = f'{builder.data_path} ({split})'
  shape = tuple(builder.info.features['image'].shape)
  if shape != info.image_shape:
    raise UserError(f'{where} has images of shape {shape}, but those of {info.name} have '
                    f'{info.image_shape}: is this the right folder?')
  count = builder.info.splits[split].num_examples
  images = np.empty((count,) + shape, np.uint8)
  labels = np.empty(count, np.int32)
  numbers = np.arange(count)
  config = tfds.ReadConfig(interleave_cycle_length=1)  # one shard after the other
  start = 0
  for batch in builder.as_dataset(
      split=split, shuffle_files=False, read_config=config).batch(1000).as_numpy_iterator():
    stop = start + len(batch['label'])
    images[start:stop], labels[start:stop] = batch['image'], batch['label']
    if 'id' in batch:
      numbers[start:stop] = [int(re.search(rb'\d+$', id_).group()) for id_ in batch['id']]
    start = stop
  order = np.argsort(numbers, kind='stable')
  return _checked(info, images[order], labels[order], where)
