"""Reads ImageNet from TFRecord shards: finds the shards, the places of their records, and the labels.

The images stay in their files. `storage.Records` reads them one by one.
"""

import concurrent.futures
import os
import re
import struct

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.formats import record_index, tfds
from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

# Number of shards that are read in parallel. On a network the latency dominates, not the bandwidth.
_THREADS = 16
# Number of records (some 110 kB each) whose labels are parsed at once, and bytes fetched at once.
_BATCH = 64
_BUFFER = 1 << 20

# The release's names of the sets: (labeled training, unlabeled training, test).
_RELEASE_SETS = {
  'imagenet': ('train', None, 'validation'),
  'imagenet_10_percent': ('ten_percent', 'train', 'validation'),
  'imagenet_heldout': ('train', None, 'heldout'),
}
_RELEASE_KEYS = ('image/encoded', 'image/class/label')
_RELEASE_FIRST_LABEL = 1
_TFDS_KEYS = ('image', 'label')

# A record is the length of its payload (8 bytes, little-endian), that length's checksum (4), the
# payload, and the payload's checksum (4).
_HEAD = struct.Struct('<QI')
_FOOT = storage.RECORD_FOOT


def _crc32c_table():
  """Computes the checksum of every byte, from Castagnoli's polynomial with its bits reversed."""
  table = []
  for value in range(256):
    for _ in range(8):
      value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    table.append(value)
  return tuple(table)


_CRC32C = _crc32c_table()


def _masked_crc32c(content):
  """Computes the checksum (int) of bytes that TFRecord files store."""
  crc = 0xFFFFFFFF
  for byte in content:
    crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
  crc ^= 0xFFFFFFFF
  return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def _map_in_parallel(function, paths):
  """Returns [function(path)] in the order of the paths, computed in parallel; raises the first error."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, paths))


def index(paths, key, cache_dir=None):
  """Finds every record of uncompressed TFRecord files; reads only the records' headers.

  Args:
    paths: str or path-likes `[P]`, local or remote.
    key: str, the image's name in a record's tf.train.Example.
    cache_dir: folder where what is found is kept for later starts, or None.

  Returns:
    `storage.Records`, file by file in the order of `paths`.

  Raises:
    UserError: a file cannot be read, is damaged or is truncated; no file has a record.
  """
  paths = [os.fspath(path) for path in paths]
  if not paths:
    raise UserError('TFRecord files: none given; give one or more')

  def find():
    places = _map_in_parallel(_find_places, paths)
    shards = np.repeat(np.arange(len(paths), dtype=np.int32), [len(place) for place in places])
    return {'shard': shards, 'place': np.concatenate(places)}

  found = record_index.cached(cache_dir, paths, 'places', find)
  if not len(found['shard']):
    raise UserError(
      f'{paths[0]}: none of {len(paths)} TFRecord files, of which it is the first, has a record; '
      'fetch them again'
    )
  return storage.Records(np.array(paths), found['shard'], found['place'], key)


def _open(path):
  """Opens a file for reading, with `GFile` only if it is remote: it fetches 0.5 MB after every seek."""
  if '://' in path:
    return tf.io.gfile.GFile(path, 'rb')
  return open(path, 'rb', buffering=0)


def _find_places(path):
  """Returns `Records.place` of one file, int64 `[n, 2]`. Raises UserError."""
  places = []
  start = 0
  try:
    size = tf.io.gfile.stat(path).length
    with _open(path) as file:
      while start < size:
        file.seek(start)
        length = _payload_length(path, start, file.read(_HEAD.size))
        before = start + _HEAD.size
        start = before + length + _FOOT
        if start > size:
          raise UserError(
            f'{path}: ends at byte {size}, inside the record at byte {before - _HEAD.size}; fetch it again'
          )
        places.append((length, before))
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f'{path}: cannot be read ({one_line(error)}); fetch it again') from error
  return np.array(places, np.int64).reshape(-1, 2)


def _payload_length(path, start, head):
  """Returns the payload's bytes (int) by the header at byte `start`. Raises UserError."""
  if len(head) < _HEAD.size:
    raise UserError(
      f'{path}: ends at byte {start + len(head)}, inside the header of the record at '
      f'byte {start}; fetch it again'
    )
  length, crc = _HEAD.unpack(head)
  if crc != _masked_crc32c(head[:8]):
    raise UserError(
      f'{path}: damaged, or not an uncompressed TFRecord file (the length at byte '
      f'{start} does not match its checksum); fetch it again'
    )
  return length


def labels(records, key, first=0, cache_dir=None):
  """Reads the labels of all records, in one pass over the files.

  Args:
    records: `storage.Records` of complete files, from `index`.
    key: str, the label's name in a record's tf.train.Example.
    first: int, the label of class 0.
    cache_dir: folder where what is read is kept for later starts, or None.

  Returns:
    int32 `[N]`, in the order of the records. The range of the labels is not checked.

  Raises:
    UserError: a file cannot be read or is damaged; a record has no such label.
  """
  paths = [str(path) for path in records.paths]
  counts = np.bincount(records.shard, minlength=len(paths))

  def read():
    found = _map_in_parallel(lambda path: _read_labels(path, key), paths)
    for path, values, count in zip(paths, found, counts):
      if len(values) != count:
        raise UserError(
          f'{path}: has {len(values)} records, but {count} labels are needed; use '
          'complete files, and do not write to them while they are read'
        )
    return {'labels': np.concatenate(found)}

  # 140 GB have to be read for the labels of all shards.
  stored = record_index.cached(cache_dir, paths, f'labels {key}', read)['labels']
  # A label that does not fit into int32 only has to stay out of range.
  limits = np.iinfo(np.int32)
  return np.clip(stored - first, limits.min, limits.max).astype(np.int32)


def _read_labels(path, key):
  """Reads the labels of one file as stored: int64 `[n]`. Raises UserError."""
  found = [np.zeros(0, np.int64)]
  try:
    with tf.device('CPU:0'):
      for serialized in tf.data.TFRecordDataset(path, buffer_size=_BUFFER).batch(_BATCH):
        parsed = tf.io.parse_example(serialized, {key: tf.io.FixedLenFeature([], tf.int64)})
        found.append(parsed[key].numpy())
  except tf.errors.DataLossError as error:
    raise UserError(f'{path}: damaged ({one_line(error)}); fetch it again') from error
  except tf.errors.InvalidArgumentError as error:
    raise UserError(
      f'{path}: has a record without a label {key!r} that is one integer ({one_line(error)}); '
      'give the right --data_dir'
    ) from error
  except tf.errors.OpError as error:
    raise UserError(f'{path}: cannot be read ({one_line(error)}); fetch it again') from error
  return np.concatenate(found)


def _labeled(info, records, key, first=0, cache_dir=None):
  """Returns `Examples` of records and labels. Raises UserError if the dataset has no such class."""
  values = labels(records, key, first, cache_dir)
  wrong = np.flatnonzero((values < 0) | (values >= info.num_classes))
  if wrong.size:
    stored = int(values[wrong[0]]) + first
    raise UserError(
      f'{records.name(wrong[0])}: has label {stored}, but those of {info.name} are '
      f'{first} to {first + info.num_classes - 1}; give the right --data_dir'
    )
  return storage.Examples(records, values)


def load(info, request):
  """Returns the `storage.Data` of the release's shards, or of a dataset prepared by TFDS.

  Raises:
    UserError: the data are missing or damaged, or have no such split.
  """
  data_dir = tfds.default_folder(request.data_dir)
  folder = tfds.prepared_folder(data_dir, 'imagenet2012')
  if folder is None:
    return load_release(info, data_dir, info.name, request.cache_dir)
  if info.name != 'imagenet':
    raise UserError(
      f'--dataset_name={info.name}: TFDS has no such split; take the shards of the '
      'release, or --dataset_name=imagenet with --num_labeled and --label_seed'
    )
  return load_tfds(info, tfds.builder(folder), request.cache_dir)


def load_release(info, data_dir, name, cache_dir=None):
  """Reads ImageNet from the release's shards: train-00000-of-01024 and so on.

  Args:
    info: DatasetInfo.
    data_dir: str, the folder of the shards, local or remote.
    name: 'imagenet', 'imagenet_10_percent' or 'imagenet_heldout'; it determines the labeled examples
      and the test split.
    cache_dir: as of `index`.

  Returns:
    A `storage.Data`, in the order of the shards. With 'imagenet_10_percent' its `unlabeled` is the
    complete training split, which includes the images of `train` and those held out for validation.

  Raises:
    UserError: a shard is missing, damaged or of another dataset.
  """
  if name not in _RELEASE_SETS:
    raise UserError(
      f'--dataset_name={name}: the release has no shards for it; use {", ".join(_RELEASE_SETS)}'
    )
  folder = os.path.expanduser(data_dir or '')
  if not folder or not tf.io.gfile.isdir(folder):
    raise UserError(
      f'--dataset_name={name}: there is no folder {folder!r}; give --data_dir=<folder of its '
      'TFRecord shards>'
    )
  files = set(tf.io.gfile.listdir(folder))
  # Missing shards are found here, before the first one is read, since reading takes minutes.
  train, unlabeled, test = (
    prefix and _find_shards(folder, files, prefix) for prefix in _RELEASE_SETS[name]
  )
  image, label = _RELEASE_KEYS
  train, test = (
    _labeled(info, index(paths, image, cache_dir), label, _RELEASE_FIRST_LABEL, cache_dir)
    for paths in (train, test)
  )
  if unlabeled is not None:
    unlabeled = index(unlabeled, image, cache_dir)
    unlabeled = storage.Examples(unlabeled, np.full(len(unlabeled), -1, np.int32))
  return storage.Data(train=train, test=test, unlabeled=unlabeled)


def _find_shards(folder, files, prefix):
  """Returns the paths of all shards of one set, in order. Raises UserError if one is missing."""
  matches = [re.fullmatch(rf'{prefix}-\d{{5}}-of-(\d{{5}})', file) for file in files]
  totals = sorted({match.group(1) for match in matches if match})
  if not totals:
    raise UserError(
      f'{folder}: has no {prefix}-?????-of-?????; give --data_dir=<folder of these TFRecord shards>'
    )
  if len(totals) > 1:
    raise UserError(
      f'{folder}: has more than one set of {prefix} shards, -of-{totals[0]} and '
      f'-of-{totals[1]}; remove all but one'
    )
  wanted = [f'{prefix}-{i:05d}-of-{totals[0]}' for i in range(int(totals[0]))]
  missing = [file for file in wanted if file not in files]
  if missing:
    raise UserError(
      f'{os.path.join(folder, missing[0])}: missing ({len(missing)} of '
      f'{len(wanted)} shards are missing); fetch them'
    )
  return [os.path.join(folder, file) for file in wanted]


def load_tfds(info, builder, cache_dir=None):
  """Reads ImageNet as prepared by TFDS, in the order in which TFDS stores it.

  Args:
    info: DatasetInfo.
    builder: the `tfds.core.DatasetBuilder` of a prepared folder, with the splits 'train' and
      'validation' (used as test split) and the features 'image' and 'label' (0-based).

  Returns:
    A `storage.Data`.

  Raises:
    UserError: it is in another format than TFRecord; a split, a feature or a file is missing; a
      file is damaged or of another dataset.
  """
  folder = os.fspath(builder.data_path)
  format_ = getattr(builder.info.file_format, 'value', None)
  if format_ != 'tfrecord':
    raise UserError(
      f"{folder}: is in the format {format_!r}, but images are read from 'tfrecord'; "
      "prepare it with file_format='tfrecord'"
    )
  for what, wanted, there in (
    ('split', ('train', 'validation'), builder.info.splits),
    ('feature', _TFDS_KEYS, builder.info.features),
  ):
    missing = [name for name in wanted if name not in there]
    if missing:
      raise UserError(
        f'{folder}: has no {what} {missing[0]!r}, only {sorted(there)}; give the right --data_dir'
      )
  image, label = _TFDS_KEYS
  train, test = (
    _labeled(info, _tfds_records(builder.info.splits[split], image, cache_dir), label, 0, cache_dir)
    for split in ('train', 'validation')
  )
  return storage.Data(train=train, test=test)


def _tfds_records(split, key, cache_dir):
  """Returns the `Records` of a `tfds.core.SplitInfo`. Raises UserError if some are missing."""
  records = index(split.filepaths, key, cache_dir)
  counts = np.bincount(records.shard, minlength=len(records.paths))
  for path, count, expected in zip(records.paths, counts, split.shard_lengths):
    if count != expected:
      raise UserError(
        f'{path}: has {count} records, but was written with {expected}; prepare the dataset again'
      )
  return records
