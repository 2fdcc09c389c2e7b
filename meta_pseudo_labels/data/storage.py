"""What a dataset is once it has been found: inputs in memory or in files, with their labels."""

import dataclasses
from typing import Any, Optional, Union

from meta_pseudo_labels.data import dataset_info
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.store.reading import Prepared
from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

# Bytes of a TFRecord before (its length and that number's checksum) and after its content.
RECORD_HEAD, RECORD_FOOT = 12, 4
READS = 8  # Records of a batch that are read at once.


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """Encoded images in TFRecord shards, each read from its place when a batch needs it.

  So shards are shuffled as well as arrays are, and a run resumes where it stopped without
  reading what it has seen.

  Attributes:
    paths: str `[P]`, the shards.
    shard: int32 `[N]`, the path an image is in.
    place: int64 `[N, 2]`: bytes of the record's tf.train.Example, and bytes before it.
    key: the image's name in the tf.train.Example.
  """

  paths: np.ndarray
  shard: np.ndarray
  place: np.ndarray
  key: str

  def __len__(self):
    return len(self.shard)

  def __getitem__(self, chosen):
    return dataclasses.replace(self, shard=self.shard[chosen], place=self.place[chosen])

  def name(self, position):
    """What a person would call the image at a position."""
    return f'{self.paths[self.shard[position]]} (record at byte {self.place[position, 1] - RECORD_HEAD})'

  def joined(self, other):
    """Both, one after the other. Raises ValueError if their keys differ."""
    if self.key != other.key:
      raise ValueError(f'{self.key!r} and {other.key!r} cannot be read as one')
    return Records(
      np.concatenate([self.paths, other.paths]),
      np.concatenate([self.shard, other.shard + np.int32(len(self.paths))]),
      np.concatenate([self.place, other.place]),
      self.key,
    )

  def reader(self):
    """A function of positions, int64 `[n]` tensor (n > 0) -> the images' bytes, string `[n]`.

    Of TensorFlow's own operations, so that a tf.data service can carry it out. A damaged record
    raises tf.errors.DataLossError.
    """
    with tf.device('CPU:0'):
      paths, shard, place = (tf.constant(value) for value in (self.paths, self.shard, self.place))

    def record(path, place):
      # Goes to the record and reads it at once, with its checksum; tf.data.TFRecordDataset has no
      # argument for that, and a dataset of fixed-length records reads all that comes before.
      variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type='',
        buffer_size=place[0] + RECORD_HEAD + RECORD_FOOT,
        byte_offsets=[place[1] - RECORD_HEAD],
      )
      return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

    def read(positions):
      found = tf.data.Dataset.from_tensor_slices(
        (tf.gather(paths, tf.gather(shard, positions)), tf.gather(place, positions))
      )
      serialized = (
        found.interleave(record, cycle_length=READS, num_parallel_calls=READS, deterministic=True)
        .batch(tf.size(positions, tf.int64))
        .get_single_element()
      )
      serialized = tf.ensure_shape(serialized, positions.shape)
      return tf.io.parse_example(serialized, {self.key: tf.io.FixedLenFeature([], tf.string)})[self.key]

    return read


def joined(first, second):
  """Inputs of two sources of one kind, one after the other."""
  if isinstance(first, np.ndarray):
    return np.concatenate([first, second])
  return first.joined(second)


def of_one_size(inputs):
  """Returns whether all inputs have one shape: arrays, or prepared images that were cut to squares."""
  if isinstance(inputs, np.ndarray):
    return inputs.dtype != object
  return getattr(inputs, 'side', None) is not None


def held(inputs):
  """Returns encoded images read into memory: an array of bytes `[N]`; other inputs as they are."""
  if not isinstance(inputs, Records):
    return inputs
  read, count = tf.function(inputs.reader(), autograph=False), len(inputs)
  parts = [
    read(tf.range(first, min(first + 1000, count), dtype=tf.int64)).numpy()
    for first in range(0, count, 1000)
  ]
  return np.concatenate(parts) if parts else np.empty([0], object)


Inputs = Union[np.ndarray, Records, Prepared]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Inputs with their labels.

  Attributes:
    inputs: uint8 [N, H, W, C] in 0..255, float32 [N, D]; Prepared images; or N encoded
      images: Records, bytes [N].
    labels: int32 [N], -1 where unknown.
    names: str [N], what the examples are called where a position could come to mean another one
      (a file in a folder), else None.
  """

  inputs: Inputs
  labels: np.ndarray
  names: Optional[np.ndarray] = None

  def __len__(self):
    return len(self.labels)

  def chosen(self, positions):
    """Returns the Examples at some positions, int64 `[n]`."""
    names = None if self.names is None else self.names[positions]
    return Examples(self.inputs[positions], self.labels[positions], names)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """The splits of a dataset.

  Attributes:
    train: `Examples`; those without a label (-1) are only ever unlabeled.
    test: `Examples` whose labels are all known, or None if the dataset has none.
    validation: the dataset's own `Examples` for it, or None: then it is drawn from `train`.
    unlabeled: the `Examples` to use without labels, or None for all of `train`.
    unlabeled_extra: more `Examples` to use without labels (all -1), or None.
    facts: what the dataset's own files say of its DatasetInfo: {attribute: value}.
    decoding: images.decoding.Decoding by which files became pixels, or None.
  """

  train: Examples
  test: Optional[Examples] = None
  validation: Optional[Examples] = None
  unlabeled: Optional[Examples] = None
  unlabeled_extra: Optional[Examples] = None
  facts: dict = dataclasses.field(default_factory=dict)
  decoding: Any = None


def checked(info: dataset_info.DatasetInfo, inputs, labels, where):
  """`Examples` from what was read `where`. Raises UserError if they cannot be this dataset's."""
  labels = np.asarray(labels, np.int32)
  if inputs.shape[1:] != info.image_shape:
    raise UserError(
      f'{where} has examples of shape {inputs.shape[1:]}, but those of {info.name} '
      f'have {info.image_shape}: is this the right folder?'
    )
  if len(inputs) != len(labels) or not len(labels):
    raise UserError(f'{where} has {len(inputs)} examples and {len(labels)} labels: fetch it again')
  if labels.min() < 0 or labels.max() >= info.num_classes:
    raise UserError(
      f'{where} has labels from {labels.min()} to {labels.max()}, but {info.name} '
      f'has classes 0 to {info.num_classes - 1}: fetch it again'
    )
  return Examples(inputs, labels)
