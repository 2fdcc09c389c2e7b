"""Randomness as a pure function of (seed, step, purpose, position): design rule 5.

Nothing here keeps state. A run that is resumed at a step draws what the uninterrupted run
would have drawn, and a replica that needs rows [offset, offset + n) of the global batch draws
the global batch's numbers and slices them, so that N replicas see what one would see.
"""
import zlib

import tensorflow as tf


def key(seed, step):
  """The key of one step: int32 `[2]` tensor from two scalars (ints or integer tensors)."""
  return tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])


def fold(key_, purpose):
  """A key for one purpose (str or int scalar): independent streams from one step's key."""
  data = zlib.crc32(purpose.encode()) & 0x7fffffff if isinstance(purpose, str) else purpose
  return tf.random.experimental.stateless_fold_in(key_, tf.cast(data, tf.int32))


def uniform(key_, purpose, shape, minval=0, maxval=1, dtype=tf.float32):
  """Uniform draws in [minval, maxval) of `shape` and `dtype` (integer types: maxval exclusive)."""
  return tf.random.stateless_uniform(
      shape, fold(key_, purpose), minval=minval, maxval=maxval, dtype=dtype)


def normal(key_, purpose, shape, dtype=tf.float32):
  """Standard normal draws of `shape` and `dtype`."""
  return tf.random.stateless_normal(shape, fold(key_, purpose), dtype=dtype)


def rows(draw, offset, count):
  """Rows [offset, offset + count) of a global draw `[N, ...]`: what one replica needs of it."""
  return draw[offset:offset + count]
