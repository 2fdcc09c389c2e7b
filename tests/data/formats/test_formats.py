"""Reading data: what ships with a dependency for real, files written here in the true formats."""

import gzip
import hashlib
import os
import struct
import time

from meta_pseudo_labels.data import registry
from meta_pseudo_labels.data.formats import idx
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest


def load(name, *args):
  """`registry.load` by name."""
  return registry.load(registry.info(name), *args)


def refusal(name, *args):
  """The one line that `load` refuses with."""
  with pytest.raises(UserError) as caught:
    load(name, *args)
  assert '\n' not in str(caught.value)
  return str(caught.value)


# Digits.


def test_digits_are_scikit_learns():
  from sklearn import datasets as sklearn_datasets

  original = sklearn_datasets.load_digits()
  data = load('digits')
  assert data.train.inputs.shape == (1297, 8, 8, 1) and data.test.inputs.shape == (500, 8, 8, 1)
  assert data.train.inputs.dtype == np.uint8 and data.train.labels.dtype == np.int32
  assert len(data.train) == 1297 and data.unlabeled_extra is None
  # 16 gray levels on 0..255: 0 -> 0, 8 -> 127.5, rounded to even, 16 -> 255.
  levels = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
  assert np.array_equal(np.unique(data.train.inputs), levels)

  # Together, the two splits are the original images with their labels, each once.
  def rows(images, labels):
    return sorted(map(tuple, np.column_stack([images.reshape(len(labels), -1), labels])))

  images = np.concatenate([data.train.inputs, data.test.inputs])
  labels = np.concatenate([data.train.labels, data.test.labels])
  assert rows(images, labels) == rows(levels[original.images.astype(int)], original.target)


def test_the_digits_test_split_never_changes():
  test = load('digits').test
  assert np.bincount(test.labels).tolist() == [50] * 10
  digest = hashlib.sha256(test.inputs.tobytes() + test.labels.astype('<i4').tobytes()).hexdigest()
  assert digest == '767e2dd9c57cad0be98df32633ad0e032f013f356d828e335a10f7b0614e8261'
  assert np.array_equal(test.inputs, load('digits', None, 7).test.inputs)  # whatever the seed


def test_the_digits_mean_and_std_are_those_of_the_training_split():
  images = load('digits').train.inputs.astype(np.float64)
  info = registry.info('digits')
  np.testing.assert_allclose([info.mean[0], info.std[0]], [images.mean(), images.std()], rtol=1e-6)


# Two moons.


def test_two_moons_lie_on_two_half_circles():
  data = load('two_moons', None, 3)
  for examples in (data.train, data.test):
    assert examples.inputs.shape == (2000, 2) and examples.inputs.dtype == np.float32
    assert examples.labels.dtype == np.int32
    assert np.bincount(examples.labels).tolist() == [1000, 1000]
    # The upper moon is the upper half of the circle around (0, 0), the lower one the lower half
    # of the one around (1, .5); normal noise with standard deviation .1 on both coordinates.
    centers = np.array([[0.0, 0.0], [1.0, 0.5]])[examples.labels]
    offsets = examples.inputs - centers
    radii = np.hypot(*offsets.T)
    assert abs(radii.mean() - 1.0) < 0.02
    assert abs(radii.std() - 0.1) < 0.01
    up = np.where(examples.labels == 0, 1, -1) * offsets[:, 1]
    assert up.min() > -0.5 and np.mean(up > 0) > 0.95
  assert not np.array_equal(examples.labels, np.sort(examples.labels))  # shuffled


def test_two_moons_depend_on_the_seed():
  first, again, other = (load('two_moons', None, seed) for seed in (0, 0, 1))
  assert np.array_equal(first.train.inputs, again.train.inputs)
  assert not np.array_equal(first.train.inputs, other.train.inputs)
  assert not np.array_equal(first.test.inputs, first.train.inputs)


# CIFAR-10's binary records.


def cifar10_record(label, value):
  """One record by hand: the label, then red = value, green = its row, blue = its column."""
  red = bytes([value]) * 1024
  green = b''.join(bytes([row]) * 32 for row in range(32))
  blue = bytes(range(32)) * 32
  return bytes([label]) + red + green + blue


@pytest.fixture(name='records')
def cifar10_records(tmp_path):
  """A folder with the release's six files: two records in each, values 0, 1, 2, ..."""
  folder = tmp_path / 'cifar-10-batches-bin'
  folder.mkdir()
  names = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
  for i, name in enumerate(names):
    (folder / name).write_bytes(cifar10_record(i, 2 * i) + cifar10_record(9 - i, 2 * i + 1))
  return folder


@pytest.mark.parametrize('inside', [False, True])
def test_cifar10_records_in_the_releases_order(records, inside):
  data = load('cifar10', str(records if inside else records.parent))
  assert data.train.inputs.shape == (10, 32, 32, 3) and data.train.inputs.dtype == np.uint8
  assert data.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
  assert data.train.labels.dtype == np.int32
  assert data.train.inputs[:, 5, 7, 0].tolist() == list(range(10))
  assert data.train.inputs[3, 5, 7].tolist() == [3, 5, 7]  # value, row, column
  assert data.test.labels.tolist() == [5, 4]
  assert data.test.inputs[:, 31, 0].tolist() == [[10, 31, 0], [11, 31, 0]]


def test_cifar10_records_that_are_damaged_are_named(records):
  path = records / 'data_batch_3.bin'
  path.write_bytes(path.read_bytes()[:-1])
  message = refusal('cifar10', str(records))
  assert str(path) in message and '6145 bytes' in message and '3073' in message
  path.write_bytes(cifar10_record(10, 0))
  assert 'labels from 0 to 10' in refusal('cifar10', str(records))
  path.write_bytes(b'')
  assert 'data_batch_3.bin: damaged' in refusal('cifar10', str(records))
  path.unlink()
  assert 'data_batch_3.bin' in refusal('cifar10', str(records))


# IDX files.


def idx_bytes(values):
  """The bytes of an IDX file of unsigned bytes."""
  values = np.asarray(values, np.uint8)
  return struct.pack(f'>BBBB{values.ndim}i', 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture(name='idx_files')
def fashion_mnist_files(tmp_path):
  """The four files, with 3 training and 2 test images; one of them is not compressed."""
  images = np.arange(5 * 28 * 28).reshape(5, 28, 28) % 251
  (tmp_path / 'train-images-idx3-ubyte').write_bytes(idx_bytes(images[:3]))
  for name, values in (
    ('train-labels-idx1-ubyte', [3, 9, 0]),
    ('t10k-images-idx3-ubyte', images[3:]),
    ('t10k-labels-idx1-ubyte', [1, 2]),
  ):
    (tmp_path / f'{name}.gz').write_bytes(gzip.compress(idx_bytes(values)))
  return tmp_path


def test_idx_files(idx_files):
  data = load('fashion_mnist', str(idx_files))
  images = np.arange(5 * 28 * 28).reshape(5, 28, 28, 1) % 251
  assert np.array_equal(data.train.inputs, images[:3]) and data.train.inputs.dtype == np.uint8
  assert np.array_equal(data.test.inputs, images[3:])
  assert data.train.labels.tolist() == [3, 9, 0] and data.test.labels.tolist() == [1, 2]
  assert data.train.labels.dtype == np.int32


def test_idx_files_that_are_damaged_are_named(idx_files):
  labels = idx_files / 't10k-labels-idx1-ubyte.gz'
  labels.write_bytes(gzip.compress(idx_bytes([1, 2]))[:-9])
  assert f'{labels}: cannot be read' in refusal('fashion_mnist', str(idx_files))
  labels.write_bytes(gzip.compress(idx_bytes([1, 2])[:-1]))
  message = refusal('fashion_mnist', str(idx_files))
  assert str(labels) in message and '[2]' in message and '1 bytes' in message
  labels.write_bytes(gzip.compress(idx_bytes([[1, 2]])))
  assert 'not an IDX file' in refusal('fashion_mnist', str(idx_files))
  labels.write_bytes(gzip.compress(idx_bytes([1, 2, 3])))
  assert '2 examples and 3 labels' in refusal('fashion_mnist', str(idx_files))
  labels.write_bytes(gzip.compress(idx_bytes([1, 10])))
  assert 'labels from 1 to 10' in refusal('fashion_mnist', str(idx_files))
  labels.unlink()
  assert 'has no t10k-labels-idx1-ubyte' in refusal('fashion_mnist', str(idx_files))
  (idx_files / 'train-images-idx3-ubyte').write_bytes(idx_bytes(np.zeros([3, 8, 8])))
  assert '(8, 8, 1)' in refusal('fashion_mnist', str(idx_files))


def test_idx_files_that_are_not_there(tmp_path, monkeypatch):
  monkeypatch.setitem(idx.IDX_FOLDERS, 'fashion_mnist', str(tmp_path / 'fashion-mnist'))
  message = refusal('fashion_mnist', str(tmp_path / 'mine'))
  for word in (
    'fashion_mnist',
    str(tmp_path / 'mine'),
    str(tmp_path / 'fashion-mnist'),
    'apt-get install dataset-fashion-mnist',
    '--data_dir',
  ):
    assert word in message


@pytest.mark.skipif(
  not os.path.isdir(idx.IDX_FOLDERS['fashion_mnist']),
  reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_debians_fashion_mnist():
  data = load('fashion_mnist')
  assert np.bincount(data.train.labels).tolist() == [6000] * 10
  assert np.bincount(data.test.labels).tolist() == [1000] * 10
  info = registry.info('fashion_mnist')
  images = data.train.inputs.astype(np.float64)
  np.testing.assert_allclose([info.mean[0], info.std[0]], [images.mean(), images.std()], rtol=1e-6)


# TFDS.


def prepare(folder, name, version, num_examples, *, size=32, with_id=True, file_format=None):
  """Writes a dataset of flat images with TFDS's own writer: example i has value i, label i % 10.

  num_examples: dict of split -> int. TFDS shuffles what it writes, by its keys.
  """
  tfds = pytest.importorskip('tensorflow_datasets')
  features = {
    'image': tfds.features.Image(shape=(size, size, 3)),
    'label': tfds.features.ClassLabel(num_classes=10),
  }
  if with_id:
    features['id'] = tfds.features.Text()

  def example(split, i):
    values = {'image': np.full((size, size, 3), i, np.uint8), 'label': i % 10}
    return i, dict(values, id=f'{split}_{i:05d}') if with_id else values

  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version=version,
    data_dir=folder,
    features=tfds.features.FeaturesDict(features),
    split_datasets={
      split: [example(split, i) for i in range(count)] for split, count in num_examples.items()
    },
    file_format=file_format,
  )


@pytest.fixture(name='no_network')
def a_proxy_that_refuses(monkeypatch):
  """Every connection that honors proxies is refused at once."""
  for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')
  for name in ('no_proxy', 'NO_PROXY'):
    monkeypatch.delenv(name, raising=False)


def test_a_prepared_dataset_in_its_original_order(tmp_path, no_network):
  prepare(tmp_path, 'cifar10', '3.0.2', {'train': 25, 'test': 4})
  data = load('cifar10', str(tmp_path))
  assert data.train.inputs.shape == (25, 32, 32, 3) and data.train.inputs.dtype == np.uint8
  assert data.train.labels.dtype == np.int32
  # "The first N" are the first of the original files, though TFDS stores them shuffled.
  assert data.train.inputs[:, 0, 0, 0].tolist() == list(range(25))
  assert data.train.labels.tolist() == [i % 10 for i in range(25)]
  assert data.test.labels.tolist() == [0, 1, 2, 3]
  assert data.unlabeled_extra is None


def test_the_newest_prepared_version_and_the_extra_split(tmp_path, no_network, monkeypatch):
  prepare(tmp_path, 'svhn_cropped', '3.0.0', {'train': 3, 'test': 3}, with_id=False)
  prepare(tmp_path, 'svhn_cropped', '3.10.0', {'train': 6, 'test': 2, 'extra': 5}, with_id=False)
  prepare(tmp_path, 'svhn_cropped', '3.9.0', {'train': 4, 'test': 4})
  (tmp_path / 'svhn_cropped/4.0.0').mkdir()  # not finished
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  data = load('svhn')
  assert (len(data.train), len(data.test), len(data.unlabeled_extra)) == (6, 2, 5)
  assert sorted(data.train.inputs[:, 0, 0, 0]) == list(range(6))  # no id: in the stored order
  assert np.array_equal(data.train.inputs[:, 0, 0, 0] % 10, data.train.labels)
  assert sorted(data.unlabeled_extra.inputs[:, 0, 0, 0]) == list(range(5))
  assert data.unlabeled_extra.labels.tolist() == [-1] * 5  # unlabeled: nobody can look


def test_prepared_datasets_that_do_not_fit_are_named(tmp_path, no_network):
  prepare(tmp_path / 'a', 'cifar10', '3.0.2', {'train': 3, 'test': 3}, size=16)
  assert '(16, 16, 3)' in refusal('cifar10', str(tmp_path / 'a'))
  prepare(tmp_path / 'b', 'cifar10', '3.0.2', {'train': 3})
  assert "no split 'test', only ['train']" in refusal('cifar10', str(tmp_path / 'b'))
  prepare(tmp_path / 'c', 'cifar10', '3.0.2', {'train': 3, 'test': 3})
  (damaged,) = (tmp_path / 'c').rglob('*-train.tfrecord*')
  damaged.write_bytes(damaged.read_bytes()[:-7])
  assert f'{tmp_path}/c/cifar10/3.0.2: cannot be read' in refusal('cifar10', str(tmp_path / 'c'))


@pytest.mark.parametrize(
  'name, tfds_name', [('cifar10', 'cifar10'), ('cifar100', 'cifar100'), ('svhn', 'svhn_cropped')]
)
def test_what_is_neither_prepared_nor_to_be_had_is_told_soon(tmp_path, no_network, name, tfds_name):
  start = time.monotonic()
  message = refusal(name, str(tmp_path))
  assert time.monotonic() - start < 20
  command = (
    f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{tfds_name}', "
    f"data_dir='{tmp_path}').download_and_prepare()\""
  )
  assert f'--dataset_name={name}: ' in message
  assert str(tmp_path / tfds_name) in message
  assert 'no connection to http' in message
  assert message.endswith(command)
  assert not list(tmp_path.iterdir())  # nothing half-done is left
