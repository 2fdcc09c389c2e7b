"""ImageNet in TFRecord shards: small ones, written by TensorFlow's and TFDS's own writers."""

import dataclasses
import itertools
import os
import struct

from meta_pseudo_labels.data import registry, storage
from meta_pseudo_labels.data.formats import imagenet_tfrecord
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
import tensorflow as tf

INFO = dataclasses.replace(registry.info('cifar10'), name='imagenet')  # ten classes will do
IMAGE, LABEL = 'image/encoded', 'image/class/label'


def refusal(function, *args):
  """The one line that `function` refuses with."""
  with pytest.raises(UserError) as caught:
    function(*args)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def jpeg(number):
  """A JPEG (bytes) whose contents and length depend on the number."""
  noise = np.random.RandomState(number).randint(0, 256, (3 + number, 5, 3), np.uint8)
  return tf.io.encode_jpeg(noise).numpy()


def example(number, label):
  """A record as the release's, with more in it than is read."""

  def feature(value):
    if isinstance(value, bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

  values = {
    IMAGE: jpeg(number),
    LABEL: label,
    'image/filename': b'n%d.JPEG' % number,
    'image/height': 3 + number,
  }
  return tf.train.Example(
    features=tf.train.Features(feature={key: feature(value) for key, value in values.items()})
  ).SerializeToString()


def write(path, payloads):
  """Writes a TFRecord file; returns its name."""
  with tf.io.TFRecordWriter(str(path)) as writer:
    for payload in payloads:
      writer.write(payload)
  return str(path)


def write_set(folder, prefix, sizes, total=None, start=0):
  """Shards of so many records, numbered from `start`; record n has label n % 10, stored as + 1."""
  numbers = itertools.count(start)
  return [
    write(
      folder / f'{prefix}-{i:05d}-of-{total or len(sizes):05d}',
      [example(n, n % 10 + 1) for n in itertools.islice(numbers, size)],
    )
    for i, size in enumerate(sizes)
  ]


@pytest.fixture(name='shards')
def three_shards(tmp_path):
  """Paths of shards with 3, 0 and 2 records."""
  return write_set(tmp_path, 'train', [3, 0, 2])


def read(inputs, positions):
  """The bytes of the images at some positions, read within a tf.data map."""
  positions = np.asarray(positions, np.int64)
  dataset = tf.data.Dataset.from_tensors(positions).map(inputs.reader())
  return dataset.get_single_element().numpy().tolist()


# Where the records are.


def test_images_are_read_from_any_place_in_any_order(shards):
  found = imagenet_tfrecord.index(shards, IMAGE)
  assert len(found) == 5 and found.key == IMAGE
  assert found.shard.tolist() == [0, 0, 0, 2, 2] and found.shard.dtype == np.int32
  assert found.place.shape == (5, 2) and found.place.dtype == np.int64
  assert found.paths.tolist() == shards
  order = [4, 0, 3, 3, 1, 2, 0]
  assert read(found, order) == [jpeg(number) for number in order]
  assert len({len(jpeg(number)) for number in range(5)}) > 2


def test_places_are_the_payloads(shards):
  found = imagenet_tfrecord.index(shards, IMAGE)
  for i in range(5):
    length, before = found.place[i]
    with open(shards[found.shard[i]], 'rb') as file:
      content = file.read()
    assert content[before : before + length] == example(i, i + 1)
    assert found.name(i) == f'{shards[found.shard[i]]} (record at byte {before - 12})'


def test_slices_and_joined_records(shards, tmp_path):
  found = imagenet_tfrecord.index(shards, IMAGE)
  assert read(found[np.array([3, 1])], [1, 0, 1]) == [jpeg(1), jpeg(3), jpeg(1)]
  assert read(found[2:4], [0, 1]) == [jpeg(2), jpeg(3)]
  (tmp_path / 'more').mkdir()
  more = imagenet_tfrecord.index(write_set(tmp_path / 'more', 'ten_percent', [1, 2], start=7), IMAGE)
  both = storage.joined(found[2:4], more[1:])
  assert len(both) == 4
  assert read(both, [3, 0, 2, 1]) == [jpeg(9), jpeg(2), jpeg(8), jpeg(3)]


def test_remote_files_are_indexed_as_local_ones(shards):
  remote = imagenet_tfrecord.index([f'file://{path}' for path in shards], IMAGE)
  local = imagenet_tfrecord.index(shards, IMAGE)
  assert np.array_equal(remote.place, local.place) and np.array_equal(remote.shard, local.shard)
  assert read(remote, [4, 1]) == [jpeg(4), jpeg(1)]


def test_payloads_are_passed_over_unread(tmp_path):
  (path,) = write_set(tmp_path, 'train', [1])
  with open(path, 'rb') as file:
    record = file.read()
  length = 1 << 36  # a hole in the file: nothing on the disk, but minutes to read
  head = struct.pack('<Q', length)
  crc = imagenet_tfrecord._masked_crc32c(head)
  with open(path, 'wb') as file:
    file.write(head + struct.pack('<I', crc))
    file.seek(length + 4, 1)
    file.write(record)
  found = imagenet_tfrecord.index([path], IMAGE)
  assert found.place.tolist() == [[length, 12], [len(record) - 16, length + 28]]


@pytest.mark.skipif(not os.path.exists('/proc/self/io'), reason='nothing counts what is read')
def test_heads_alone_are_fetched(tmp_path):
  def fetched():
    with open('/proc/self/io', encoding='ascii') as file:
      return int(file.readline().split()[1])

  path = write(tmp_path / 'long', [bytes(50_000)] * 100)
  before = fetched()
  assert len(imagenet_tfrecord.index([path], IMAGE)) == 100
  assert fetched() - before < 1_000_000  # 1,200 bytes, and what other threads read; not 5 MB


def test_files_that_end_too_soon_are_named(shards, tmp_path):
  with open(shards[0], 'rb') as file:
    content = file.read()
  second, third = (before - 12 for before in imagenet_tfrecord.index(shards, IMAGE).place[1:3, 1])
  path = tmp_path / 'cut'
  starts = [0, second, third, len(content)]
  # Behind a whole record: nothing is wrong with what is there.
  for count in (1, 2, 3):
    path.write_bytes(content[: starts[count]])
    assert len(imagenet_tfrecord.index([path], IMAGE)) == count
  # In the length, its checksum, between the two, the payload, and the payload's checksum.
  for start, stop in zip(starts, starts[1:]):
    for cut in (start + 1, start + 8, start + 11):
      path.write_bytes(content[:cut])
      assert refusal(imagenet_tfrecord.index, [shards[2], path], IMAGE) == (
        f'{path}: ends at byte {cut}, inside the header of the record at byte {start}; fetch it again'
      )
    for cut in (start + 12, start + 13, stop - 5, stop - 4, stop - 1):
      path.write_bytes(content[:cut])
      assert refusal(imagenet_tfrecord.index, [shards[2], path], IMAGE) == (
        f'{path}: ends at byte {cut}, inside the record at byte {start}; fetch it again'
      )
  assert 'inside the record at byte' in refusal(imagenet_tfrecord.index, [f'file://{path}'], IMAGE)


def test_lengths_that_are_damaged_are_named(shards):
  second = imagenet_tfrecord.index(shards, IMAGE).place[1, 1] - 12
  with open(shards[0], 'rb') as file:
    content = file.read()
  for byte in range(12):  # of the length and of its checksum
    damaged = bytearray(content)
    damaged[second + byte] ^= 0x10
    with open(shards[0], 'wb') as file:
      file.write(damaged)
    message = refusal(imagenet_tfrecord.index, shards, IMAGE)
    assert shards[0] in message and f'byte {second} ' in message and 'fetch it again' in message


def test_files_that_are_no_shards_are_named(tmp_path):
  path = tmp_path / 'train'
  with tf.io.TFRecordWriter(str(path), 'GZIP') as writer:
    writer.write(example(0, 1))
  assert f'{path}: damaged, or not an uncompressed TFRecord file' in refusal(
    imagenet_tfrecord.index, [path], IMAGE
  )
  missing = tmp_path / 'missing'
  assert f'{missing}: cannot be read' in refusal(imagenet_tfrecord.index, [missing], IMAGE)
  assert f'{tmp_path}: cannot be read' in refusal(imagenet_tfrecord.index, [tmp_path], IMAGE)
  path.write_bytes(b'')
  assert refusal(imagenet_tfrecord.index, [path, path], IMAGE) == (
    f'{path}: none of 2 TFRecord files, of which it is the first, has a record; fetch them again'
  )
  assert 'TFRecord files: none given' in refusal(imagenet_tfrecord.index, [], IMAGE)


# Labels.


def test_labels_are_in_the_records_order(shards, monkeypatch):
  found = imagenet_tfrecord.index(shards[::-1], IMAGE)
  for batch in (1, 2, 64):
    monkeypatch.setattr(imagenet_tfrecord, '_BATCH', batch)
    labels = imagenet_tfrecord.labels(found, LABEL)
    assert labels.tolist() == [4, 5, 1, 2, 3] and labels.dtype == np.int32
  assert imagenet_tfrecord.labels(found, LABEL, first=1).tolist() == [3, 4, 0, 1, 2]
  assert read(found, range(5)) == [jpeg(number) for number in (3, 4, 0, 1, 2)]


def test_records_that_are_damaged_are_named(shards, tmp_path):
  found = imagenet_tfrecord.index(shards, IMAGE)
  with open(shards[2], 'rb') as file:
    content = file.read()
  for byte in (found.place[4, 1] + 20, -1):  # the payload's, its checksum's
    damaged = bytearray(content)
    damaged[byte] ^= 1
    with open(shards[2], 'wb') as file:
      file.write(damaged)
    imagenet_tfrecord.index(shards, IMAGE)  # does not read it
    message = refusal(imagenet_tfrecord.labels, found, LABEL)
    assert f'{shards[2]}: damaged' in message and 'fetch it again' in message
  path = write(tmp_path / 'none', [b'no example'])
  assert path in refusal(imagenet_tfrecord.labels, imagenet_tfrecord.index([path], IMAGE), LABEL)


def test_records_without_the_label_are_named(shards):
  found = imagenet_tfrecord.index(shards, IMAGE)
  for key in ('label', 'image/filename'):
    message = refusal(imagenet_tfrecord.labels, found, key)
    assert f'{shards[0]}: has a record without a label {key!r} that is one integer' in message


def test_labels_of_files_that_have_changed_are_refused(shards):
  found = imagenet_tfrecord.index(shards, IMAGE)
  write(shards[1], [example(0, 1)])
  assert f'{shards[1]}: has 1 records, but 0 labels' in refusal(imagenet_tfrecord.labels, found, LABEL)
  assert f'{shards[0]}: has 3 records, but 1 labels' in refusal(imagenet_tfrecord.labels, found[2:], LABEL)


# The release's shards.


@pytest.fixture(name='release')
def releases_folder(tmp_path):
  """A folder with every set, of other numbers of shards than the release's."""
  write_set(tmp_path, 'train', [2, 3, 2])
  write_set(tmp_path, 'ten_percent', [1, 1], start=2)
  write_set(tmp_path, 'validation', [2, 1], start=20)
  write_set(tmp_path, 'heldout', [1], start=35)
  (tmp_path / 'README').write_text('train-00000-of-00002')
  return tmp_path


@pytest.mark.parametrize(
  'name, train, extra, test',
  [
    ('imagenet', range(7), None, (20, 21, 22)),
    ('imagenet_heldout', range(7), None, (35,)),
    ('imagenet_10_percent', (2, 3), range(7), (20, 21, 22)),
  ],
)
def test_the_releases_sets(release, name, train, extra, test):
  data = imagenet_tfrecord.load_release(INFO, str(release), name)
  for found, numbers in ((data.train, train), (data.test, test)):
    assert found.labels.tolist() == [number % 10 for number in numbers]
    assert found.labels.dtype == np.int32
    assert read(found.inputs, range(len(found))) == [jpeg(number) for number in numbers]
  if extra is None:
    assert data.unlabeled is None
  else:
    assert data.unlabeled.labels.tolist() == [-1] * 7
    assert data.unlabeled.labels.dtype == np.int32
    assert read(data.unlabeled.inputs, range(7)) == [jpeg(number) for number in extra]
  assert data.validation is None and not data.facts


def test_shards_that_are_missing_are_named(release):
  load = imagenet_tfrecord.load_release
  (release / 'train-00001-of-00003').unlink()
  (release / 'train-00002-of-00003').unlink()
  for name in ('imagenet', 'imagenet_10_percent'):
    assert refusal(load, INFO, str(release), name) == (
      f'{release}/train-00001-of-00003: missing (2 of 3 shards are missing); fetch them'
    )
  write_set(release, 'train', [1, 1])
  assert '-of-00002 and -of-00003' in refusal(load, INFO, str(release), 'imagenet')
  (release / 'heldout-00000-of-00001').unlink()
  for path in release.glob('train-*-of-00003'):
    path.unlink()
  load(INFO, str(release), 'imagenet')
  message = refusal(load, INFO, str(release), 'imagenet_heldout')
  assert f'{release}: has no heldout-?????-of-?????' in message and '--data_dir' in message


def test_folders_that_are_not_there(release):
  for folder in (None, '', f'{release}/none', f'{release}/README'):
    message = refusal(imagenet_tfrecord.load_release, INFO, folder, 'imagenet')
    assert repr(folder or '') in message and '--data_dir' in message
  assert '--dataset_name=imagenet_1_percent: ' in refusal(
    imagenet_tfrecord.load_release, INFO, str(release), 'imagenet_1_percent'
  )


@pytest.mark.parametrize('stored', [0, 11, 2**31, 2**32 + 1, -(2**63)])
def test_labels_out_of_range_are_named(release, stored):
  path = write(release / 'train-00001-of-00003', [example(0, 1), example(1, stored)])
  message = refusal(imagenet_tfrecord.load_release, INFO, str(release), 'imagenet')
  start = imagenet_tfrecord.index([path], IMAGE).place[1, 1] - 12
  assert f'{path} (record at byte {start}): has label ' in message
  assert message.endswith('but those of imagenet are 1 to 10; give the right --data_dir')
  if stored in (0, 11):
    assert f'has label {stored},' in message


# TFDS.


def prepare(folder, sizes=(5, 2), features=('image', 'label', 'file_name'), file_format=None):
  """A builder of a dataset like imagenet2012, written by TFDS. `sizes`: of train, in two shards, and of
  validation; example n has label n % 10."""
  tfds = pytest.importorskip('tensorflow_datasets')
  image = tfds.features.Image(encoding_format='jpeg')
  label = tfds.features.ClassLabel(num_classes=20)
  kinds = {'image': image, 'label': label, 'file_name': tfds.features.Text()}

  def values(number):
    found = {'image': jpeg(number), 'label': number % 10, 'file_name': f'n{number}.JPEG'}
    return number, {name: found[name] for name in features}

  tfds.dataset_builders.store_as_tfds_dataset(
    name='imagenet2012',
    version='5.1.0',
    data_dir=folder,
    features=tfds.features.FeaturesDict({name: kinds[name] for name in features}),
    split_datasets={
      split: [values(10 * i + n) for n in range(size)]
      for i, (split, size) in enumerate(zip(('train', 'validation'), sizes))
    },
    file_format=file_format,
    download_config=tfds.download.DownloadConfig(num_shards=2),
  )
  return tfds.builder_from_directory(str(folder / 'imagenet2012/5.1.0'))


def test_a_prepared_imagenet(tmp_path):
  builder = prepare(tmp_path)
  data = imagenet_tfrecord.load_tfds(INFO, builder)
  assert len(data.train.inputs.paths) == 2 and len(data.train) == 5 and len(data.test) == 2
  assert data.train.labels.dtype == np.int32 and data.unlabeled is None
  for found, first in ((data.train, 0), (data.test, 10)):
    # Whatever the order, every image is there once, with its label.
    assert sorted(found.labels) == list(range(len(found)))
    assert read(found.inputs, range(len(found))) == [jpeg(first + n) for n in found.labels]


def test_prepared_imagenets_that_do_not_fit_are_named(tmp_path):
  builder = prepare(tmp_path / 'a', file_format='array_record')
  message = refusal(imagenet_tfrecord.load_tfds, INFO, builder)
  assert f"{tmp_path}/a/imagenet2012/5.1.0: is in the format 'array_record'" in message
  assert "prepare it with file_format='tfrecord'" in message
  builder = prepare(tmp_path / 'b', sizes=(5,))
  assert "has no split 'validation', only ['train']" in refusal(imagenet_tfrecord.load_tfds, INFO, builder)
  builder = prepare(tmp_path / 'c', features=('image', 'file_name'))
  assert "has no feature 'label', only ['file_name', 'image']" in refusal(
    imagenet_tfrecord.load_tfds, INFO, builder
  )
  builder = prepare(tmp_path / 'd')
  message = refusal(
    imagenet_tfrecord.load_tfds, dataclasses.replace(INFO, class_names=('a', 'b')), builder
  )
  assert '5.1.0/imagenet2012-train.tfrecord-' in message and 'are 0 to 1; ' in message


def test_prepared_files_that_are_damaged_are_named(tmp_path):
  builder = prepare(tmp_path)
  last = sorted(tmp_path.rglob('*-train.tfrecord*'))[-1]
  content = last.read_bytes()
  first = imagenet_tfrecord.index([last], 'image').place[0]
  count = builder.info.splits['train'].shard_lengths[-1]
  last.write_bytes(content[: first[0] + 16])
  assert refusal(imagenet_tfrecord.load_tfds, INFO, builder) == (
    f'{last}: has 1 records, but was written with {count}; prepare the dataset again'
  )
  last.write_bytes(content[:-1])
  assert f'{last}: ends at byte {len(content) - 1}' in refusal(imagenet_tfrecord.load_tfds, INFO, builder)
  last.unlink()
  assert f'{last}: cannot be read' in refusal(imagenet_tfrecord.load_tfds, INFO, builder)
