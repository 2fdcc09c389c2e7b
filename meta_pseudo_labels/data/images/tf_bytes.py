"""Reading numbers out of a string scalar by TensorFlow ops, never beyond its end."""

import functools

import tensorflow as tf


def called(function):
  """Wraps a function of tensors that is rarely needed, as in a branch of a graph.

  It stays one operation there. TensorFlow lays out branches flat else, and visits all of their
  operations in every run, whether they are taken or not. Eagerly it is the function itself.
  """
  graph = tf.function(function, autograph=False, experimental_attributes={'_noinline': True})

  @functools.wraps(function)
  def call(*args):
    return function(*args) if tf.executing_eagerly() else graph(*args)

  return call


def text_at(content, position, count):
  """Returns up to `count` bytes from a position on: string [], shorter at the end, '' beyond it.

  Args:
    content: string [].
    position: int64 [] or int, at least 0.
    count: int64 [] or int, at least 0.
  """
  length = tf.cast(tf.strings.length(content), tf.int64)
  return tf.strings.substr(
    content, tf.minimum(tf.cast(position, tf.int64), length), tf.cast(count, tf.int64)
  )


def bytes_at(content, position, count):
  """Returns `count` bytes from a position on, 0 beyond the end: int64 [count] in 0..255.

  Args:
    content: string [].
    position: int64 [] or int, at least 0.
    count: int or int32 [], at least 1.
  """
  text = text_at(content, position, count)
  return tf.cast(tf.io.decode_raw(text, tf.uint8, fixed_length=count), tf.int64)


def number(values, little_endian=False):
  """Returns the numbers that bytes make: int64 [...], unsigned.

  Args:
    values: int64 [..., N] in 0..255, N static.
    little_endian: bool or bool [], whether the lowest byte comes first.
  """
  count = values.shape[-1]
  upwards = tf.constant([256**i for i in range(count)], tf.int64)
  if isinstance(little_endian, bool):
    powers = upwards if little_endian else tf.reverse(upwards, [0])
  else:
    powers = tf.where(little_endian, upwards, tf.reverse(upwards, [0]))
  return tf.reduce_sum(values * powers, axis=-1)
