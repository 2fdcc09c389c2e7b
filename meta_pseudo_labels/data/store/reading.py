"""Prepared images as a dataset's inputs: mapped into memory, read inside tf.data without Python.

A shard is a tensor over the mapped file; nothing is copied but the images that are asked for. The
operation that TensorFlow has for this (ImmutableConst) is not used: constant folding runs it and copies
the whole file. The shards' tensors are handed to tf.data as one list of tensors (a scalar of type
variant): for a large tensor that is captured as it is, tf.data's optimizer makes up another one, of 1 GB.
"""

import concurrent.futures
import ctypes
import dataclasses
import mmap
import os
from typing import Optional, Tuple

from meta_pseudo_labels.data.store import hashes, layout

import numpy as np
import tensorflow as tf

_MOST_GATHERED = 32  # Shards that are all asked for a batch's images of one size; of more, one by one.


def mapped(path):
  """Returns a shard's pixels as a tensor that reads the file when it is read: uint8 [bytes].

  The file's pages are the system's to keep or to drop. The tensor stays right when the file is removed.

  Raises:
    OSError: the file cannot be read.
    ValueError: it holds no pixels.
  """
  with open(path, 'rb') as file:
    region = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  whole = np.frombuffer(region, np.uint8)
  # DLPack takes no array that is marked as read-only. Nothing writes to this one: TensorFlow lets no
  # operation write to the memory of a tensor that others still hold, and here the list holds it.
  memory = (ctypes.c_uint8 * (len(whole) - layout.HEADER)).from_address(whole.ctypes.data + layout.HEADER)
  memory.owner = whole
  return tf.experimental.dlpack.from_dlpack(np.ctypeslib.as_array(memory).__dlpack__())


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
  """Decoded images in a store, indexed like an array.

  A tf.data service cannot read them: the tensors are this process's.

  Attributes:
    names: str [N] (an array of objects), what the images are called.
    shards: tensors uint8 [bytes].
    shard: int32 [N], the number of an image's tensor among `shards`; -1 of files that cannot be decoded.
    entries: layout.ENTRY [N].
    side: int, the height and width of all images, or None where they differ.
  """

  names: np.ndarray
  shards: Tuple[tf.Tensor, ...]
  shard: np.ndarray
  entries: np.ndarray
  side: Optional[int] = None

  def __len__(self):
    return len(self.entries)

  def __getitem__(self, chosen):
    return dataclasses.replace(
      self, names=self.names[chosen], shard=self.shard[chosen], entries=self.entries[chosen]
    )

  @property
  def shape(self):
    """(N, side, side, 3) of images of one size."""
    return len(self), self.side, self.side, 3

  @property
  def ndim(self):
    """The number of axes of images of one size."""
    return 4

  def __array__(self, dtype=None, copy=None):
    """Returns all images of one size in memory: uint8 [N, side, side, 3]."""
    del copy
    read, count = tf.function(self.reader(), autograph=False), len(self)
    parts = [
      read(tf.range(first, min(first + 1000, count), dtype=tf.int64)).numpy()
      for first in range(0, count, 1000)
    ]
    return np.concatenate(parts).astype(dtype or np.uint8, copy=False)

  @property
  def readable(self):
    """Whether there are pixels: bool [N]. Choose the images that are, before reading."""
    return self.shard >= 0

  @property
  def sizes(self):
    """Height and width as stored, int32 [N, 2]."""
    return np.stack([self.entries['height'], self.entries['width']], 1)

  @property
  def full_sizes(self):
    """Height and width of the files' images, upright, int32 [N, 2]."""
    return np.stack([self.entries['full_height'], self.entries['full_width']], 1)

  def name(self, position):
    """Returns what a person would call the image at a position (str)."""
    return str(self.names[position])

  def joined(self, other):
    """Returns both, one after the other. Raises ValueError if their sides differ."""
    if self.side != other.side:
      raise ValueError(f'images of sides {self.side} and {other.side} cannot be read as one')
    same = self.shards is other.shards
    more = other.shard if same else np.where(other.shard < 0, -1, other.shard + np.int32(len(self.shards)))
    return Prepared(
      np.concatenate([self.names, other.names]),
      self.shards if same else self.shards + other.shards,
      np.concatenate([self.shard, more]),
      np.concatenate([self.entries, other.entries]),
      self.side,
    )

  def reader(self):
    """Returns a function of positions for use inside tf.data, of TensorFlow's own operations.

    With a side it takes int64 [n] and gives uint8 [n, side, side, 3]. Without, it takes int64 [] and gives
    uint8 [h, w, 3].
    """
    one = self._reader_of_one()
    if self.side is None:
      return one
    if 1 <= len(self.shards) <= _MOST_GATHERED:
      return self._reader_of_rows()
    signature = tf.TensorSpec([self.side, self.side, 3], tf.uint8)
    return lambda positions: tf.map_fn(one, positions, fn_output_signature=signature)

  def _held(self):
    with tf.device('CPU:0'):
      held = tf.raw_ops.EmptyTensorList(
        element_shape=tf.constant([-1], tf.int64), max_num_elements=-1, element_dtype=tf.uint8
      )
      for shard in self.shards:
        held = tf.raw_ops.TensorListPushBack(input_handle=held, tensor=shard)
    return lambda number: tf.raw_ops.TensorListGetItem(
      input_handle=held, index=number, element_shape=tf.constant([-1]), element_dtype=tf.uint8
    )

  def _reader_of_one(self):
    held = self._held()
    with tf.device('CPU:0'):
      shard = tf.constant(self.shard)
      offset = tf.constant(self.entries['offset'])
      shape = tf.constant(np.insert(self.sizes, 2, 3, 1).astype(np.int64))

    def read(position):
      here = shape[position]
      pixels = tf.slice(held(shard[position]), [offset[position]], [tf.reduce_prod(here)])
      return tf.ensure_shape(tf.reshape(pixels, here), [self.side, self.side, 3])

    return read

  def _reader_of_rows(self):
    """Of images of one size in a few shards: all that are asked for from each in one operation."""
    held, room = self._held(), layout.stride(self.side, self.side)
    rows = [shard.shape[0] // room for shard in self.shards]
    with tf.device('CPU:0'):
      row = tf.constant(self.entries['offset'] // room)
      shard = tf.constant(self.shard)

    def gathered(number, chosen):
      table = tf.reshape(held(number)[: rows[number] * room], [rows[number], room])
      return tf.gather(table, chosen)

    def read(positions):
      chosen = tf.gather(row, positions)
      if len(rows) == 1:
        pixels = gathered(0, chosen)
      else:
        of_shard = tf.gather(shard, positions)
        places = [tf.where(tf.equal(of_shard, number))[:, 0] for number in range(len(rows))]
        pixels = tf.dynamic_stitch(
          [tf.cast(place, tf.int32) for place in places],
          [gathered(number, tf.gather(chosen, place)) for number, place in enumerate(places)],
        )
      pixels = tf.reshape(pixels[:, : self.side**2 * 3], [-1, self.side, self.side, 3])
      return tf.ensure_shape(pixels, [positions.shape[0], None, None, None])

    return read


def opened(folder, entries, names, side=None):
  """Returns `Prepared` images; called with the store's lock held, so that no shard goes away before.

  Args:
    folder: str, the store's.
    entries: layout.ENTRY [N].
    names: N str.
    side: int, the height and width of all images, or None.

  Raises:
    OSError: a shard cannot be read.
  """
  numbers = np.unique(entries['shard'][entries['shard'] >= 0])
  shard = np.where(entries['shard'] < 0, -1, np.searchsorted(numbers, entries['shard'])).astype(np.int32)
  with tf.device('CPU:0'):
    shards = tuple(mapped(layout.shard_path(folder, number)) for number in numbers)
  return Prepared(np.array(names, object), shards, shard, entries, side)


def verify(prepared):
  """Returns the positions of images whose pixels are not those that were written: int64 [n], sorted.

  Reads all of them, so it takes as long as the disk does.

  Args:
    prepared: `Prepared`.
  """
  kept = np.flatnonzero(prepared.readable)
  views = [memoryview(shard) for shard in prepared.shards]

  def differs(position):
    entry = prepared.entries[position]
    begin = int(entry['offset'])
    end = begin + int(entry['height']) * int(entry['width']) * 3
    return hashes.of_pixels(views[prepared.shard[position]][begin:end]) != entry['pixel_hash']

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return kept[np.fromiter(pool.map(differs, kept), bool, len(kept))]
