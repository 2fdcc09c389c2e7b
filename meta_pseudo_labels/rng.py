"""Randomness as a pure function of (seed, step, purpose, position).

Nothing here keeps state. A run resumed at a step draws the same numbers as an uninterrupted run.
A replica that needs rows [offset, offset + n) of the global batch draws the numbers of the global
batch and slices them. So N replicas draw the same numbers as one.
"""

import zlib

import tensorflow as tf

# The counter-based generator of Salmon et al. 2011. TensorFlow's functions that take a seed derive key
# and counter from it in one way on a CPU and in another under XLA. The same holds for the conversion of
# bits to fractions. So everything here is computed from the generator's integers.
PHILOX = 1


def key(seed, step):
  """Returns the key of one step: int32 `[2]` tensor from two scalars (ints or integer tensors)."""
  return tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])


def _bits(key_, purpose, shape, dtype=tf.uint32):
  """Returns random integers over the full range of `dtype`, the same on every device, compiled or not.

  `key_` is the generator's key; the purpose (int scalar) is part of its counter.
  """
  low, high = tf.unstack(tf.bitwise.bitwise_and(tf.cast(key_, tf.int64), 0xFFFFFFFF))
  packed = tf.bitwise.bitwise_or(low, tf.bitwise.left_shift(high, tf.constant(32, tf.int64)))
  counter = tf.stack([tf.zeros([], tf.int64), tf.cast(purpose, tf.int64)])
  return tf.raw_ops.StatelessRandomUniformFullIntV2(
    shape=shape,
    key=tf.bitcast(packed, tf.uint64)[tf.newaxis],
    counter=tf.bitcast(counter, tf.uint64),
    alg=PHILOX,
    dtype=dtype,
  )


def number(purpose):
  """Returns the int in [0, 2^31) that stands for a purpose (str)."""
  return zlib.crc32(purpose.encode()) & 0x7FFFFFFF


def fold(key_, purpose):
  """Returns a key for one purpose (str or int scalar): independent streams from one step's key."""
  return _bits(key_, number(purpose) if isinstance(purpose, str) else purpose, [2], tf.int32)


def _fractions(key_, purpose, shape, count, dtype):
  """Returns multiples of 2^-count in [0, 1), exact in float32 and float64; `count` is at most 24."""
  bits = _bits(fold(key_, purpose), 0, shape)
  whole = tf.bitwise.right_shift(bits, tf.constant(32 - count, tf.uint32))
  return tf.cast(tf.cast(whole, tf.int32), dtype) * tf.constant(2.0**-count, dtype)


def uniform(key_, purpose, shape, minval=0, maxval=1, dtype=tf.float32):
  """Returns uniform draws in [minval, maxval) of `shape`.

  `dtype` is float32, float64 or an integer type. In float32 a range that does not start at 0 can
  reach maxval by rounding.
  """
  if dtype.is_integer:
    span = tf.cast(maxval, tf.uint32) - tf.cast(minval, tf.uint32)
    draw = tf.cast(_bits(fold(key_, purpose), 0, shape) % span, dtype)
    return draw + tf.cast(minval, dtype)
  draw = _fractions(key_, purpose, shape, 24, dtype)
  return draw * tf.cast(maxval - minval, dtype) + tf.cast(minval, dtype)


def normal(key_, purpose, shape, dtype=tf.float32):
  """Returns standard normal draws of `shape` and `dtype` (float32, float64), at most 5.3 from zero."""
  fractions = _fractions(key_, purpose, shape, 23, dtype)
  return tf.math.ndtri(fractions + tf.constant(2.0**-24, dtype))


def rows(draw, offset, count):
  """Returns rows [offset, offset + count) of a global draw `[N, ...]`, those that one replica needs."""
  return draw[offset : offset + count]
