"""The image operations of the release's RandAugment, for whole batches.

Every operation takes images `[N, H, W, C]` uint8 (C is 1 or 3; H, W and C known when the graph
is built) and one argument an image (`[N]`, or a scalar for all), and returns images of the same
shape and type. Its result for an image does not depend on the other images of the batch.

Two families cost one kernel whatever mixture of operations a batch needs:
- point operations are lookup tables: `*_tables` make uint8 `[N, 256]` (one table for all
  channels) or `[N, C, 256]`, `apply_tables` looks the pixels up;
- geometric operations are transforms: `*_transforms` make float32 `[N, 8]` in the convention of
  ImageProjectiveTransformV3 (output pixel -> input pixel), `transform` applies them.

Pixel for pixel the release's results (tests/golden/case9.npz), except where its float to uint8
cast is undefined: there these saturate. Source: the behaviour of the release's augment.py.
"""

import math

import numpy as np
import tensorflow as tf

GREY = 128  # what geometric operations, cutout and crops show outside the image


def as_images(images):
  """`images` as a tensor; ValueError unless uint8 `[N, H, W, C]`, H, W, C static, C 1 or 3."""
  images = tf.convert_to_tensor(images)
  shape = images.shape
  if images.dtype != tf.uint8 or shape.rank != 4 or None in shape[1:].as_list() or shape[3] not in (1, 3):
    raise ValueError(
      f'images must be uint8 [N, H, W, C] with H, W, C known and C 1 or 3, got '
      f'{images.dtype.name} {shape}: batch, resize or ensure_shape them first'
    )
  return images


def _per_image(images, argument, dtype):
  """`argument` (scalar or `[N]`) as `[N]` of `dtype`."""
  return tf.broadcast_to(tf.cast(argument, dtype), tf.shape(images)[:1])


def _column(argument, dtype):
  """`argument` (scalar or `[N]`) as `[N, 1]` of `dtype`."""
  return tf.reshape(tf.cast(argument, dtype), [-1, 1])


def blend(first, second, factor):
  """first + factor * (second - first) of uint8 tensors, factor 0 and up, saturated to uint8.

  Values scale as in tf.image.convert_image_dtype (1/255 in, 255.5 out, cut off), because the
  release blends so and another rounding would differ from it by one here and there. `factor`
  is float32 and broadcasts with the images.
  """
  first = tf.cast(first, tf.float32) * (1.0 / 255.0)
  second = tf.cast(second, tf.float32) * (1.0 / 255.0)
  mixed = tf.maximum(first + factor * (second - first), 0.0) * 255.5
  return tf.cast(tf.minimum(mixed, 255.0), tf.uint8)


# ---- point operations -----------------------------------------------------------------------


def apply_tables(images, tables):
  """Pixel v of image n becomes `tables[n, v]` (or `tables[n, channel, v]`), uint8."""
  height, width, channels = images.shape[1:]
  index = tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.int32)
  entries = 256
  if tables.shape.rank == 3:
    index += np.tile(np.arange(channels, dtype=np.int32) * 256, height * width)
    entries = 256 * channels
  index += entries * tf.range(tf.shape(images)[0])[:, None]
  # gather_nd: its kernel takes a scalar in two thirds of the time that gather's takes.
  pixels = tf.gather_nd(tf.reshape(tables, [-1]), index[:, :, None])
  return tf.reshape(pixels, [-1, height, width, channels])


def invert_tables():
  """v -> 255 - v: uint8 `[1, 256]`."""
  return tf.constant(np.arange(255, -1, -1, dtype=np.uint8)[None])


def posterize_tables(bits):
  """Keeps the upper `bits` bits: uint8 `[N, 256]`.

  As in the release, whose shift is a uint8 limited to 7: 0 bits act as 1, and so do more than 8.
  """
  shift = tf.minimum(tf.bitwise.bitwise_and(8 - _column(bits, tf.int32), 255), 7)
  values = tf.bitwise.right_shift(tf.range(256)[None], shift)
  return tf.cast(tf.bitwise.left_shift(values, shift), tf.uint8)


def solarize_tables(threshold):
  """Inverts values at or above `threshold` modulo 256 (the release's uint8 cast): `[N, 256]`."""
  threshold = tf.bitwise.bitwise_and(_column(threshold, tf.int32), 255)
  values = tf.range(256)[None]
  return tf.cast(tf.where(values < threshold, values, 255 - values), tf.uint8)


def solarize_add_tables(addition, threshold=128):
  """Adds `addition`, saturating, to values below `threshold`: uint8 `[N, 256]`."""
  values = tf.range(256)[None]
  added = tf.clip_by_value(values + _column(addition, tf.int32), 0, 255)
  return tf.cast(tf.where(values < threshold, added, values), tf.uint8)


def brightness_tables(factor):
  """Blends black (factor 0) with the image (1), beyond it above 1: uint8 `[N, 256]`."""
  return blend(tf.zeros([256], tf.uint8), tf.range(256), _column(factor, tf.float32))


def contrast_tables(factor, pixels):
  """Blends one grey with the image: uint8 `[N, 256]`.

  The grey is the release's: it means the average but sums the histogram's counts, so it is
  (`pixels` of the image) / 256, at most 255, whatever the image shows.
  """
  grey = tf.fill([256], tf.constant(min(pixels // 256, 255), tf.uint8))
  return blend(grey, tf.range(256), _column(factor, tf.float32))


def autocontrast_tables(images):
  """Stretches each channel to 0..255; a flat channel stays: uint8 `[N, C, 256]`."""
  low = tf.cast(tf.reduce_min(images, [1, 2]), tf.float32)[:, :, None]
  high = tf.cast(tf.reduce_max(images, [1, 2]), tf.float32)[:, :, None]
  values = tf.range(256, dtype=tf.float32)
  scale = 255.0 / tf.maximum(high - low, 1.0)
  stretched = tf.clip_by_value(values * scale - low * scale, 0.0, 255.0)
  return tf.cast(tf.where(high > low, stretched, values), tf.uint8)


def equalize_tables(images):
  """Evens out each channel's histogram as Pillow does: uint8 `[N, C, 256]`."""
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


def identity(images):
  """The images as they are."""
  return as_images(images)


def autocontrast(images):
  """Each channel of each image stretched to 0..255."""
  images = as_images(images)
  return apply_tables(images, autocontrast_tables(images))


def equalize(images):
  """Each channel of each image with its histogram evened out."""
  images = as_images(images)
  return apply_tables(images, equalize_tables(images))


def invert(images):
  """255 - pixel."""
  return 255 - as_images(images)


def posterize(images, bits):
  """The upper `bits` (int) bits of each pixel; see `posterize_tables` for the ends."""
  images = as_images(images)
  return apply_tables(images, posterize_tables(_per_image(images, bits, tf.int32)))


def solarize(images, threshold):
  """255 - pixel where the pixel is at or above `threshold` (int) modulo 256."""
  images = as_images(images)
  return apply_tables(images, solarize_tables(_per_image(images, threshold, tf.int32)))


def solarize_add(images, addition, threshold=128):
  """pixel + `addition` (int), saturating, where the pixel is below `threshold` (one int)."""
  images = as_images(images)
  addition = _per_image(images, addition, tf.int32)
  return apply_tables(images, solarize_add_tables(addition, threshold))


def brightness(images, factor):
  """Black at `factor` (float) 0, the image at 1, brighter above."""
  images = as_images(images)
  return apply_tables(images, brightness_tables(_per_image(images, factor, tf.float32)))


def contrast(images, factor):
  """One grey (see `contrast_tables`) at `factor` (float) 0, the image at 1."""
  images = as_images(images)
  factor = _per_image(images, factor, tf.float32)
  return apply_tables(images, contrast_tables(factor, images.shape[1] * images.shape[2]))


# ---- operations that mix channels or neighbours ---------------------------------------------


def color(images, factor):
  """Greyscale at `factor` (float) 0, the image at 1, more colorful above; C = 1 stays."""
  images = as_images(images)
  if images.shape[3] == 1:
    return images
  factor = _per_image(images, factor, tf.float32)[:, None, None, None]
  return blend(tf.image.rgb_to_grayscale(images), images, factor)


def _smooth_interior(images):
  """3x3 mean, the centre weighted 5, of all but the border: uint8 `[N, H-2, W-2, C]`."""
  height, width, channels = images.shape[1:]
  # Rows of W * C values: slices of a 4-D tensor with an innermost 3 are slow.
  pixels = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])
  minus_side = pixels * -(np.float32(1) / np.float32(13))
  minus_centre = pixels * -(np.float32(5) / np.float32(13))
  # Spelled out, not a convolution: where the weighted sum is a multiple of 13 the cut-off to
  # uint8 hangs on the order of the sum, and convolution kernels differ in theirs. Negated and
  # subtracted, because graph optimizers reorder additions (add_n too), not subtractions.
  total = 0.0
  for row in range(3):
    for column in range(3):
      term = minus_centre if (row, column) == (1, 1) else minus_side
      left, right = channels * column, channels * (width - 2 + column)
      total -= term[:, row : height - 2 + row, left:right]
  smooth = tf.cast(tf.minimum(total, 255.0), tf.uint8)
  return tf.reshape(smooth, [-1, height - 2, width - 2, channels])


def sharpness(images, factor):
  """A smoothed image at `factor` (float) 0, the image at 1, sharper above; the border stays."""
  images = as_images(images)
  if min(images.shape[1:3]) < 3:
    return images
  factor = _per_image(images, factor, tf.float32)[:, None, None, None]
  inside = blend(_smooth_interior(images), images[:, 1:-1, 1:-1], factor)
  middle = tf.concat([images[:, 1:-1, :1], inside, images[:, 1:-1, -1:]], 2)
  return tf.concat([images[:, :1], middle, images[:, -1:]], 1)


# ---- geometric operations -------------------------------------------------------------------


def transform(images, transforms):
  """Nearest-neighbour projective transforms `[N, 8]` float32; grey 128 from outside."""
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=images,
    transforms=transforms,
    output_shape=images.shape[1:3],
    interpolation='NEAREST',
    fill_mode='CONSTANT',
    fill_value=float(GREY),
  )


def _affine(argument, *entries):
  """Input x = a*x + b*y + c, y = d*x + e*y + f of the output's (x, y): `[N, 8]` float32.

  `argument` is the operation's `[N]` float32; a to f are numbers or `[N]`.
  """
  zeros = tf.zeros_like(argument)
  return tf.stack([zeros + entry for entry in entries] + [zeros, zeros], axis=1)


def rotate_transforms(degrees, height, width):
  """Counter-clockwise about the centre by `degrees` (float32 `[N]`): `[N, 8]`."""
  radians = tf.cast(degrees * (math.pi / 180.0), tf.float64)
  # In float64: the float32 kernels give an angle another last bit elsewhere in a batch.
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
  """Row y moves left by `level` (float32 `[N]`) * y pixels: `[N, 8]`."""
  return _affine(level, 1.0, level, 0.0, 0.0, 1.0, 0.0)


def shear_y_transforms(level):
  """Column x moves up by `level` (float32 `[N]`) * x pixels: `[N, 8]`."""
  return _affine(level, 1.0, 0.0, 0.0, level, 1.0, 0.0)


def translate_x_transforms(pixels):
  """Left by `pixels` (float32 `[N]`, rounded to whole pixels): `[N, 8]`."""
  return _affine(pixels, 1.0, 0.0, pixels, 0.0, 1.0, 0.0)


def translate_y_transforms(pixels):
  """Up by `pixels` (float32 `[N]`, rounded to whole pixels): `[N, 8]`."""
  return _affine(pixels, 1.0, 0.0, 0.0, 0.0, 1.0, pixels)


def rotate(images, degrees):
  """Turned counter-clockwise about the centre by `degrees` (float)."""
  images = as_images(images)
  degrees = _per_image(images, degrees, tf.float32)
  return transform(images, rotate_transforms(degrees, *images.shape[1:3]))


def shear_x(images, level):
  """Row y moved left by `level` (float) * y pixels."""
  images = as_images(images)
  return transform(images, shear_x_transforms(_per_image(images, level, tf.float32)))


def shear_y(images, level):
  """Column x moved up by `level` (float) * x pixels."""
  images = as_images(images)
  return transform(images, shear_y_transforms(_per_image(images, level, tf.float32)))


def translate_x(images, pixels):
  """Moved left by `pixels` (float, rounded), right if negative."""
  images = as_images(images)
  return transform(images, translate_x_transforms(_per_image(images, pixels, tf.float32)))


def translate_y(images, pixels):
  """Moved up by `pixels` (float, rounded), down if negative."""
  images = as_images(images)
  return transform(images, translate_y_transforms(_per_image(images, pixels, tf.float32)))


def cutout(images, pad, centers, replace=GREY):
  """A box of `replace` (int) over rows and columns [center - pad, center + pad), clipped.

  `pad` is int pixels (`[N]` or scalar), `centers` int `[N, 2]`: row, column.
  """
  images = as_images(images)
  height, width, channels = images.shape[1:]
  pad = _column(_per_image(images, pad, tf.int32), tf.int32)
  centers = tf.cast(centers, tf.int32)
  columns = np.repeat(np.arange(width, dtype=np.int32), channels)
  in_rows = _within(np.arange(height, dtype=np.int32), centers[:, :1], pad)
  in_columns = _within(columns, centers[:, 1:], pad)
  # Each image row takes a row of this table (its image's columns, or the last: keep all), so
  # that the mask is copied row by row; broadcasting to [N, H, W, 1] costs several times more.
  table = tf.concat([tf.where(in_columns, 0, 255), tf.fill([1, width * channels], 255)], 0)
  count = tf.shape(images)[0]
  keep = tf.gather(tf.cast(table, tf.uint8), tf.where(in_rows, tf.range(count)[:, None], count))
  rows = tf.reshape(images, [-1, height, width * channels])
  # Bits of `rows` where `keep` is 255, of `replace` where it is 0: faster than tf.where.
  xor, replace = tf.bitwise.bitwise_xor, tf.constant(replace, tf.uint8)
  rows = xor(tf.bitwise.bitwise_and(xor(rows, replace), keep), replace)
  return tf.reshape(rows, [-1, height, width, channels])


def _within(positions, center, pad):
  return tf.logical_and(positions >= center - pad, positions < center + pad)


def flip_and_shift(images, flip, shift, fill=GREY):
  """Mirrored left to right where `flip` (bool `[N]`), then shown from `shift` on.

  Output pixel (row, column) is pixel (row + shift[n, 0], column + shift[n, 1]) of the mirrored
  image, `fill` (int) outside of it; `shift` is int `[N, 2]`. One gather of whole pixels.
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
  # Pixel number `outside` is the fill; one term out of the image lifts the sum to it or over.
  index = tf.minimum(row_start[:, :, None] + source[:, None, :], outside)
  fill = tf.fill([1, channels], tf.constant(fill, tf.uint8))
  pixels = tf.concat([tf.reshape(images, [-1, channels]), fill], 0)
  return tf.gather_nd(pixels, index[..., None])  # as in apply_tables
