"""Fingerprints of names, files and pixels, 64 bits each, and what is found twice by them.

Those of names and files are the FarmHash of `tf.fingerprint`, which does not change between versions and
needs no Python inside tf.data. Two of a million differing files get the same one with a probability of
3e-8. It is no protection from somebody who wants two to be the same.
"""

import os

import numpy as np
import tensorflow as tf

_AT_ONCE = 100_000


def of_strings(strings):
  """Returns the fingerprints of names or contents: uint64 [N].

  Args:
    strings: list of N str or bytes; str as the file system encodes them.
  """
  result = np.empty(len(strings), np.uint64)
  for first in range(0, len(strings), _AT_ONCE):
    part = [os.fsencode(value) for value in strings[first : first + _AT_ONCE]]
    with tf.device('CPU:0'):
      result[first : first + _AT_ONCE] = tf.fingerprint(tf.constant(part)).numpy().view(np.uint64)[:, 0]
  return result


def of_pixels(pixels):
  """Returns the fingerprint of one image's pixels: int in [0, 2**64).

  Args:
    pixels: uint8 [h, w, 3], anything with a contiguous buffer.
  """
  with tf.device('CPU:0'):
    flat = tf.constant(np.frombuffer(pixels, np.uint8))
    return int(in_graph(flat)) & (2**64 - 1)


def in_graph(value):
  """Returns the fingerprint of a content as int64 []: the same 64 bits as `of_strings` and `of_pixels`.

  Args:
    value: string [], or uint8 [n].
  """
  return tf.bitcast(tf.fingerprint(value[tf.newaxis])[0], tf.int64)


def duplicates(hashes, groups=None):
  """Returns what is there more than once: int64 [M, 2], pairs (first, other) of positions, by `other`.

  `first` is the first position with that hash. `other` is each later one; with groups, each later one of
  another group than the first one's. So where the training examples come first, these are the pairs
  (training example, the same image in another split).

  Args:
    hashes: an array [N] that can be sorted, such as uint64.
    groups: [N], or None.
  """
  hashes = np.asarray(hashes)
  order = np.argsort(hashes, kind='stable')
  ordered = hashes[order]
  new = np.ones(len(order), bool)
  new[1:] = ordered[1:] != ordered[:-1]
  starts = np.flatnonzero(new)
  first = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
  twice = ~new
  if groups is not None:
    groups = np.asarray(groups)
    twice &= groups[first] != groups[order]
  pairs = np.stack([first[twice], order[twice]], 1).astype(np.int64).reshape(-1, 2)
  return pairs[np.argsort(pairs[:, 1], kind='stable')]
