"""The orientation that EXIF notes in a photo, found and carried out by TensorFlow ops.

Format: EXIF 2.3, 4.5 (JPEG's segment APP1 holds 'Exif', two zeros and a TIFF file whose first
directory may have the tag 0x0112, a SHORT of 1 to 8). Whatever does not agree with it is upright.
"""

from meta_pseudo_labels.data.images import tf_bytes

import numpy as np
import tensorflow as tf

UPRIGHT = 1
_ORIENTATION, _SHORT = 0x0112, 3
# Segments that are passed on the way to the EXIF one; there may be an ICC profile in pieces.
_MAX_SEGMENTS = 32
_MAX_ENTRIES = 512  # Of the directory; cameras write about a dozen.
_EXIF = b'Exif\0\0'
# The start of a file, JFIF's segment APP0 of 16 bytes, and a table; what does not matter is 0.
_PLAIN = np.frombuffer(b'\xff\xd8\xff\xe0\0\x10' + bytes(14) + b'\xff\xdb', np.uint8)
_PLAIN_MASK = np.array([255] * 6 + [0] * 14 + [255] * 2, np.uint8)
# For orientations 1 to 8: whether rows and columns change places, then which are reversed.
_TRANSPOSED = [False, False, False, False, True, True, True, True]
_ROWS_REVERSED = [False, False, True, True, False, False, True, True]
_COLUMNS_REVERSED = [False, True, True, False, False, True, True, False]


def of_tiff(tiff):
  """Returns the orientation that a TIFF file's first directory has, 1 if none: int32 [] in 1..8.

  Args:
    tiff: string [], what EXIF data are behind their mark; anything at all.
  """
  head = tf_bytes.bytes_at(tiff, 0, 8)
  order = tf_bytes.text_at(tiff, 0, 4)
  little = tf.equal(order, b'II*\0')
  known = little | tf.equal(order, b'MM\0*')
  directory = tf_bytes.number(head[4:8], little)
  count = tf_bytes.number(tf_bytes.bytes_at(tiff, directory, 2), little)
  count = tf.cast(tf.clip_by_value(count, 1, _MAX_ENTRIES), tf.int32)
  entries = tf.reshape(tf_bytes.bytes_at(tiff, directory + 2, 12 * count), [-1, 12])
  found = tf.equal(tf_bytes.number(entries[:, 0:2], little), _ORIENTATION) & tf.equal(
    tf_bytes.number(entries[:, 2:4], little), _SHORT
  )
  values = tf_bytes.number(entries[:, 8:10], little)
  value = tf.reduce_max(tf.where(found, values, 0))
  return tf.cast(tf.where(known & (value >= 1) & (value <= 8), value, UPRIGHT), tf.int32)


def of_jpeg(content):
  """Returns the orientation that a JPEG file's EXIF data have, 1 if none: int32 [] in 1..8.

  Only application segments and comments are passed on the way to it, as EXIF has to come before
  tables and frames.

  Args:
    content: string [], a JPEG file.
  """

  def head_at(position):
    return tf_bytes.bytes_at(content, position, 4)

  def is_exif(position, head):
    return tf.equal(head[1], 0xE1) & tf.equal(tf_bytes.text_at(content, position + 4, 6), _EXIF)

  def goes_on(step, position, head):
    # The application segments APP0 to APP15, and comments.
    passed = ((head[1] >= 0xE0) & (head[1] <= 0xEF)) | tf.equal(head[1], 0xFE)
    return tf.equal(head[0], 0xFF) & passed & (step < _MAX_SEGMENTS) & ~is_exif(position, head)

  def advance(step, position, head):
    position += 2 + tf_bytes.number(head[2:4])
    return step + 1, position, head_at(position)

  start = tf.constant(2, tf.int64)
  _, position, head = tf.while_loop(goes_on, advance, (0, start, head_at(start)))
  return tf.cond(
    is_exif(position, head),
    lambda: of_tiff(
      tf_bytes.text_at(content, position + 10, tf.maximum(tf_bytes.number(head[2:4]) - 8, 0))
    ),
    lambda: tf.constant(UPRIGHT),
  )


def without_exif(content):
  """Returns whether a JPEG file begins as most without EXIF do: bool [].

  That is JFIF's own segment of 16 bytes and then a table. It costs next to nothing to know; where
  it is false, `of_jpeg` tells.

  Args:
    content: string [], a JPEG file.
  """
  head = tf.io.decode_raw(tf.strings.substr(content, 0, 22), tf.uint8, fixed_length=22)
  return tf.reduce_all(tf.equal(tf.bitwise.bitwise_and(head, _PLAIN_MASK), _PLAIN))


def upright(image, orientation):
  """Turns an image as its orientation says.

  Args:
    image: [H, W, C] of any type, as stored.
    orientation: int32 [] in 1..8.

  Returns:
    [H, W, C], or [W, H, C] for 5 to 8.
  """

  def turned():
    index = orientation - 1
    axes = tf.where(tf.gather(_TRANSPOSED, index), [1, 0, 2], [0, 1, 2])
    reverse = tf.stack([tf.gather(_ROWS_REVERSED, index), tf.gather(_COLUMNS_REVERSED, index), False])
    return tf.raw_ops.Reverse(tensor=tf.transpose(image, axes), dims=reverse)

  return tf.cond(tf.equal(orientation, UPRIGHT), lambda: tf.identity(image), turned)


def upright_size(size, orientation):
  """Returns height and width of the turned image: int32 [2].

  Args:
    size: int32 [2], height and width as stored.
    orientation: int32 [] in 1..8.
  """
  return tf.where(tf.gather(_TRANSPOSED, orientation - 1), tf.gather(size, [1, 0]), size)
