"""The image operations of the release's RandAugment, for batches.

Every operation takes images `[N, H, W, C]` uint8 (C is 1 or 3; H, W and C are known when the graph is
built) and one argument per image (`[N]`, or a scalar for all). It returns images of the same shape and
type. Its result for an image does not depend on the other images of the batch.

Two families of operations take one kernel each for any mixture of their operations in a batch:
- Point operations are lookup tables. `*_tables` make uint8 `[N, 256]` (one table for all channels) or
  `[N, C, 256]`, and `apply_tables` looks the pixels up.
- Geometric operations are transforms. `*_transforms` make float32 `[N, 8]` in the convention of
  ImageProjectiveTransformV3 (output pixel -> input pixel), and `transform` applies them.

The results equal those of the release pixel by pixel (tests/golden/case9.npz), except where its cast
from float to uint8 is undefined: here it saturates. Source: the behaviour of the release's augment.py.
"""

import math

import numpy as np
import tensorflow as tf

GREY = 128  # The release's value of pixels outside the image in geometric operations, cutout and crops.


def as_images(images):
  """Returns `images` as a tensor.

  Raises:
    ValueError: they are not uint8 `[N, H, W, C]` with static H, W, C and C 1 or 3.
  """
  images = tf.convert_to_tensor(images)
  shape = images.shape
  if images.dtype != tf.uint8 or shape.rank != 4 or None in shape[1:].as_list() or shape[3] not in (1, 3):
    raise ValueError(
      f'images: must be uint8 [N, H, W, C] with H, W, C known and C 1 or 3, got '
      f'{images.dtype.name} {shape}; batch, resize or ensure_shape them first'
    )
  return images


def _per_image(images, argument, dtype):
  """Returns `argument` (scalar or `[N]`) as `[N]` of `dtype`."""
  return tf.broadcast_to(tf.cast(argument, dtype), tf.shape(images)[:1])


def _column(argument, dtype):
  """Returns `argument` (scalar or `[N]`) as `[N, 1]` of `dtype`."""
  return tf.reshape(tf.cast(argument, dtype), [-1, 1])


def blend(first, second, factor):
  """Computes first + factor * (second - first) of uint8 tensors, saturated to uint8.

  Values are scaled as in tf.image.convert_image_dtype (by 1/255, then by 255.5 and truncated) like in
  the release. Another rounding would differ from it by one in some pixels. `factor` is float32, 0 or
  more, and broadcasts with the images.
  """
  first = tf.cast(first, tf.float32) * (1.0 / 255.0)
  second = tf.cast(second, tf.float32) * (1.0 / 255.0)
  mixed = tf.maximum(first + factor * (second - first), 0.0) * 255.5
  return tf.cast(tf.minimum(mixed, 255.0), tf.uint8)


# ---- point operations -----------------------------------------------------------------------


def apply_tables(images, tables):
  """Replaces pixel v of image n by `tables[n, v]` (or `tables[n, channel, v]`), uint8."""
  height, width, channels = images.shape[1:]
  index = tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.int32)
  entries = 256
  if tables.shape.rank == 3:
    index += np.tile(np.arange(channels, dtype=np.int32) * 256, height * width)
    entries = 256 * channels
  index += entries * tf.range(tf.shape(images)[0])[:, None]
  # gather_nd needs two thirds of the time of gather for scalars.
  pixels = tf.gather_nd(tf.reshape(tables, [-1]), index[:, :, None])
  return tf.reshape(pixels, [-1, height, width, channels])


def invert_tables():
  """Builds tables of v -> 255 - v: uint8 `[1, 256]`."""
  return tf.constant(np.arange(255, -1, -1, dtype=np.uint8)[None])


def posterize_tables(bits):
  """Builds tables that keep the upper `bits` bits: uint8 `[N, 256]`.

  The release's shift is a uint8 limited to 7. So 0 bits act as 1, and more than 8 act as 1 too.
  """
  shift = tf.minimum(tf.bitwise.bitwise_and(8 - _column(bits, tf.int32), 255), 7)
  values = tf.bitwise.right_shift(tf.range(256)[None], shift)
  return tf.cast(tf.bitwise.left_shift(values, shift), tf.uint8)


def solarize_tables(threshold):
  """Builds tables that invert values of at least `threshold`: uint8 `[N, 256]`.

  The threshold is taken modulo 256, as by the release's uint8 cast.
  """
  threshold = tf.bitwise.bitwise_and(_column(threshold, tf.int32), 255)
  values = tf.range(256)[None]
  return tf.cast(tf.where(values < threshold, values, 255 - values), tf.uint8)


def solarize_add_tables(addition, threshold=128):
  """Builds tables that add `addition`, saturating, to values below `threshold`: uint8 `[N, 256]`."""
  values = tf.range(256)[None]
  added = tf.clip_by_value(values + _column(addition, tf.int32), 0, 255)
  return tf.cast(tf.where(values < threshold, added, values), tf.uint8)


def brightness_tables(factor):
  """Builds tables that blend black (factor 0) and the image (1): uint8 `[N, 256]`.

  Factors above 1 brighten the image.
  """
  return blend(tf.zeros([256], tf.uint8), tf.range(256), _column(factor, tf.float32))


def contrast_tables(factor, pixels):
  """Builds tables that blend one grey (factor 0) and the image (1): uint8 `[N, 256]`.

  The grey is that of the release. Its average sums the counts of the histogram, so the grey is (number
  of `pixels`) / 256, at most 255, for every image.
  """
  grey = tf.fill([256], tf.constant(min(pixels // 256, 255), tf.uint8))
  return blend(grey, tf.range(256), _column(factor, tf.float32))


def autocontrast_tables(images):
  """Builds tables that stretch each channel to 0..255: uint8 `[N, C, 256]`.

  A channel of one value is unchanged.
  """
  low = tf.cast(tf.reduce_min(images, [1, 2]), tf.float32)[:, :, None]
  high = tf.cast(tf.reduce_max(images, [1, 2]), tf.float32)[:, :, None]
  values = tf.range(256, dtype=tf.float32)
  scale = 255.0 / tf.maximum(high - low, 1.0)
  stretched = tf.clip_by_value(values * scale - low * scale, 0.0, 255.0)
  return tf.cast(tf.where(high > low, stretched, values), tf.uint8)


def equalize_tables(images):
  """Builds tables that equalize each channel's histogram as Pillow does: uint8 `[N, C, 256]`."""
  height, width, channels = images.shape[1:]
  histograms = tf.shape(images)[0] * channels
  bins = tf.cast(tf.reshape(images, [-1, height * width, channels]), tf.int32)
  bins += 256 * tf.reshape(tf.range(histograms), [-1, 1, channels])
  counts = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, 256 * histograms)
  counts = tf.reshape(counts, [-1, channels, 256])
  highest = tf.cast(tf.reduce_max(images, [1, 2]), tf.int32)
  in_last_bin = tf.gather(counts, highest, batch_dims=2)
  step = ((height * width - in_last_bin) // 255)[:, :, None]
  below = tf.cumsum(counts, axis=2, exclusive=True)
  evened = tf.clip_by_value((below + step // 2) // tf.maximum(step, 1), 0, 255)
  return tf.cast(tf.where(step > 0, evened, tf.range(256)), tf.uint8)


def autocontrast(images):
  """Stretches each channel of each image to 0..255."""
  images = as_images(images)
  return apply_tables(images, autocontrast_tables(images))


def equalize(images):
  """Equalizes the histogram of each channel of each image."""
  images = as_images(images)
  return apply_tables(images, equalize_tables(images))


# ---- operations that mix channels or neighbours ---------------------------------------------


def color(images, factor):
  """Blends the greyscale image (`factor` 0) and the image (1), more colorful above 1.

  Images of one channel are unchanged.
  """
  images = as_images(images)
  if images.shape[3] == 1:
    return images
  factor = _per_image(images, factor, tf.float32)[:, None, None, None]
  return blend(tf.image.rgb_to_grayscale(images), images, factor)


def _smooth_interior(images):
  """Computes the 3x3 mean, with weight 5 for the centre, without the border: uint8 `[N, H-2, W-2, C]`."""
  height, width, channels = images.shape[1:]
  # Rows of W * C values: slices of a 4-D tensor with an innermost 3 are slow.
  pixels = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])
  minus_side = pixels * -(np.float32(1) / np.float32(13))
  minus_centre = pixels * -(np.float32(5) / np.float32(13))
  # An explicit sum, not a convolution. If the weighted sum is a multiple of 13, the truncation to uint8
  # depends on the order of the summation, which differs between convolution kernels. The terms are
  # negated and subtracted, since graph optimizers reorder additions (also add_n), but not subtractions.
  total = 0.0
  for row in range(3):
    for column in range(3):
      term = minus_centre if (row, column) == (1, 1) else minus_side
      left, right = channels * column, channels * (width - 2 + column)
      total -= term[:, row : height - 2 + row, left:right]
  smooth = tf.cast(tf.minimum(total, 255.0), tf.uint8)
  return tf.reshape(smooth, [-1, height - 2, width - 2, channels])


def sharpness(images, factor):
  """Blends a smoothed image (`factor` 0) and the image (1), sharper above 1; the border is unchanged."""
  images = as_images(images)
  if min(images.shape[1:3]) < 3:
    return images
  factor = _per_image(images, factor, tf.float32)[:, None, None, None]
  inside = blend(_smooth_interior(images), images[:, 1:-1, 1:-1], factor)
  middle = tf.concat([images[:, 1:-1, :1], inside, images[:, 1:-1, -1:]], 2)
  return tf.concat([images[:, :1], middle, images[:, -1:]], 1)


# ---- geometric operations -------------------------------------------------------------------


def transform(images, transforms, fill=GREY):
  """Applies projective transforms `[N, 8]` float32, nearest neighbour, with `fill` (int) outside."""
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=images,
    transforms=transforms,
    output_shape=images.shape[1:3],
    interpolation='NEAREST',
    fill_mode='CONSTANT',
    fill_value=float(fill),
  )


def _affine(argument, *entries):
  """Builds the transforms from output (x, y) to input (a*x + b*y + c, d*x + e*y + f): `[N, 8]` float32.

  `argument` is the operation's `[N]` float32. The entries a to f are numbers or `[N]`.
  """
  zeros = tf.zeros_like(argument)
  return tf.stack([zeros + entry for entry in entries] + [zeros, zeros], axis=1)


def rotate_transforms(degrees, height, width):
  """Builds rotations by `degrees` (float32 `[N]`), counter-clockwise about the centre: `[N, 8]`."""
  radians = tf.cast(degrees * (math.pi / 180.0), tf.float64)
  # In float64, since the last bit of the float32 kernels depends on the position in the batch.
  cos = tf.cast(tf.cos(radians), tf.float32)
  sin = tf.cast(tf.sin(radians), tf.float32)
  right, bottom = width - 1.0, height - 1.0
  return _affine(
    degrees,
    cos,
    -sin,
    (right - (cos * right - sin * bottom)) / 2.0,
    sin,
    cos,
    (bottom - (sin * right + cos * bottom)) / 2.0,
  )


def shear_x_transforms(level):
  """Builds shears that move row y left by `level` (float32 `[N]`) * y pixels: `[N, 8]`."""
  return _affine(level, 1.0, level, 0.0, 0.0, 1.0, 0.0)


def shear_y_transforms(level):
  """Builds shears that move column x up by `level` (float32 `[N]`) * x pixels: `[N, 8]`."""
  return _affine(level, 1.0, 0.0, 0.0, level, 1.0, 0.0)


def translate_x_transforms(pixels):
  """Builds translations to the left by `pixels` (float32 `[N]`, rounded to integers): `[N, 8]`."""
  return _affine(pixels, 1.0, 0.0, pixels, 0.0, 1.0, 0.0)


def translate_y_transforms(pixels):
  """Builds translations upwards by `pixels` (float32 `[N]`, rounded to integers): `[N, 8]`."""
  return _affine(pixels, 1.0, 0.0, 0.0, 0.0, 1.0, pixels)


def cutout(images, pad, centers, replace=GREY):
  """Sets the rows and columns [center - pad, center + pad), clipped, to `replace` (int).

  `pad` is in pixels (int, `[N]` or scalar), `centers` is int `[N, 2]`: row, column.
  """
  images = as_images(images)
  height, width, channels = images.shape[1:]
  pad = _column(_per_image(images, pad, tf.int32), tf.int32)
  centers = tf.cast(centers, tf.int32)
  columns = np.repeat(np.arange(width, dtype=np.int32), channels)
  in_rows = _within(np.arange(height, dtype=np.int32), centers[:, :1], pad)
  in_columns = _within(columns, centers[:, 1:], pad)
  # The mask is gathered row by row from this table, since broadcasting to [N, H, W, 1] takes several
  # times as long. Its row n masks the columns of image n, and its last row keeps all columns.
  table = tf.concat([tf.where(in_columns, 0, 255), tf.fill([1, width * channels], 255)], 0)
  count = tf.shape(images)[0]
  keep = tf.gather(tf.cast(table, tf.uint8), tf.where(in_rows, tf.range(count)[:, None], count))
  rows = tf.reshape(images, [-1, height, width * channels])
  # The bits of `rows` where `keep` is 255 and of `replace` where it is 0. This is faster than tf.where.
  xor, replace = tf.bitwise.bitwise_xor, tf.constant(replace, tf.uint8)
  rows = xor(tf.bitwise.bitwise_and(xor(rows, replace), keep), replace)
  return tf.reshape(rows, [-1, height, width, channels])


def _within(positions, center, pad):
  """Returns whether positions are in [center - pad, center + pad): bool."""
  return tf.logical_and(positions >= center - pad, positions < center + pad)


def flip_and_shift(images, flip, shift, fill=GREY):
  """Mirrors images left to right where `flip` (bool `[N]`), then shifts them by `shift` (int `[N, 2]`).

  Output pixel (row, column) is pixel (row + shift[n, 0], column + shift[n, 1]) of the mirrored image,
  or `fill` (int) outside of it. It is one gather of pixels with all their channels.
  """
  images = as_images(images)
  height, width, channels = images.shape[1:]
  count = tf.shape(images)[0]
  outside = count * height * width
  row = tf.range(height) + shift[:, :1]
  first = tf.range(count)[:, None] * height
  row_start = tf.where((row >= 0) & (row < height), (first + row) * width, outside)
  column = tf.range(width) + shift[:, 1:]
  source = tf.where(flip[:, None], width - 1 - column, column)
  source = tf.where((column >= 0) & (column < width), source, outside)
  # Pixel number `outside` is the fill. If the row or the column is outside, the sum is at least that.
  index = tf.minimum(row_start[:, :, None] + source[:, None, :], outside)
  fill = tf.fill([1, channels], tf.constant(fill, tf.uint8))
  pixels = tf.concat([tf.reshape(images, [-1, channels]), fill], 0)
  return tf.gather_nd(pixels, index[..., None])  # Faster than gather, as in apply_tables.
