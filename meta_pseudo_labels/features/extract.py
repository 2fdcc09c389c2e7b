"""Runs a network over images, for several views of each.

A chunk's random views depend on the chunk's number and the seed alone. So a run that was killed goes on
to the same features, and images that are added later change none of those that are there.
"""

import time

from meta_pseudo_labels import rng
from meta_pseudo_labels.data import input_pipeline, storage
from meta_pseudo_labels.data.store import hashes
from meta_pseudo_labels.data.store.reading import Prepared

import numpy as np
import tensorflow as tf

CHUNK = 256  # Images; what a kill can lose.
_BATCH = 64  # Images that go through the network at once.
_SAY_SECONDS = 10.0


def fingerprints(inputs):
  """Returns the fingerprints of images: uint64 `[N]`, of their pixels, or of encoded images their place.

  Args:
    inputs: a storage.Inputs.
  """
  if isinstance(inputs, Prepared):
    return inputs.entries['pixel_hash'].astype(np.uint64)
  if isinstance(inputs, storage.Records):
    return hashes.of_strings([inputs.name(position) for position in range(len(inputs))])
  return hashes.of_strings([np.ascontiguousarray(row).tobytes() for row in inputs])


def extract(network, inputs, views, cache, *, num_views, seed, say):
  """Returns the features of images; those that the cache does not have are computed first.

  Args:
    network: Keras model, views -> features `[N, D]`.
    inputs: N of a storage.Inputs.
    views: one of data/augment/views.py that takes them.
    cache: FeatureCache, for this network, these views and this number of them.
    num_views: int V, random views of each image; 0: the plain view.
    seed: int.
    say: function of a line (str).

  Returns:
    float16 `[N, 1, D]` of the plain view; or `[N, 2 V, D]` of V original and of V augmented views
    (`views.unlabeled`).
  """
  keys = fingerprints(inputs)
  with cache.locked():
    missing = cache.missing(keys)
    if len(missing):
      _add(network, inputs[missing], keys[missing], views, cache, num_views, seed, say)
  return cache.take(keys)


def _add(network, inputs, keys, views, cache, num_views, seed, say):
  """Computes the features of images with these keys, and adds them to the cache chunk by chunk."""
  progress = _Progress(len(inputs), 2 * num_views or 1, say)
  parts, first = [], 0
  for batch in _batches(inputs, views, num_views, seed, cache.next_chunk):
    parts.append(_forward(network, batch))
    if len(parts) == CHUNK // _BATCH or first + len(parts) * _BATCH >= len(inputs):
      rows = np.concatenate(parts)[: len(inputs) - first]
      cache.add(keys[first : first + len(rows)], rows)
      parts, first = [], first + len(rows)
      progress.reached(first)


def _batches(inputs, views, num_views, seed, first_chunk):
  """Makes the views of images: a tf.data.Dataset of 1 or 2 V tensors `[_BATCH, ...]`.

  The last batch is filled up with the last image.
  """
  read, count = input_pipeline.reader(inputs), len(inputs)
  last = tf.constant(count - 1, tf.int64)

  @tf.autograph.experimental.do_not_convert
  def batch(number):
    begin = number * _BATCH
    images = read(tf.minimum(begin + tf.range(_BATCH, dtype=tf.int64), last))
    if not num_views:
      return (views.plain(images),)
    key = rng.key(seed, first_chunk + begin // CHUNK)
    offset = tf.cast(begin % CHUNK, tf.int32)
    pairs = [views.unlabeled(images, rng.fold(key, view), offset, CHUNK) for view in range(num_views)]
    originals, augmented = zip(*pairs)
    return (*originals, *augmented)

  return input_pipeline.in_parallel(tf.data.Dataset.range(-(-count // _BATCH)), batch, 1)


def _forward(network, batch):
  """Returns the features of a batch's views: float16 `[_BATCH, views, D]`."""
  return np.stack([np.float16(network(view).numpy()) for view in batch], axis=1)


class _Progress:
  """Says now and then how many images are done."""

  def __init__(self, total, num_views, say):
    self._total, self._views, self._say = total, num_views, say
    self._began = self._said = time.monotonic()

  def reached(self, done):
    """Says it, if the last line was some seconds ago."""
    now = time.monotonic()
    if now - self._said < _SAY_SECONDS:
      return
    self._said, speed = now, done / (now - self._began)
    self._say(
      f'features of {done:,} of {self._total:,} images, {self._views} view{"s" * (self._views > 1)} each, '
      f'{speed:.0f} a second, about {(self._total - done) / speed:.0f} s left'
    )
