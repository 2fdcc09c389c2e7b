"""Crops of single images: cut out and resized, eagerly or inside tf.data.

An image is decoded already, uint8 `[H, W, 3]`, or its bytes (JPEG, PNG, BMP, GIF) are given, a string
scalar, as ImageNet's records hold them.
Source: the release's data_utils.py for ImageNet.
"""

import tensorflow as tf

CHANNELS = 3
HEADS = JPEG, PNG, GIF, BMP = b'\xff\xd8\xff', b'\x89PNG', b'GIF8', b'BM'
NO_IMAGE = b'neither JPEG, PNG, GIF nor BMP'
# A few bytes can claim any size, and decoding asks for the memory of all of it.
MAX_PIXELS = 200_000_000
TOO_LARGE = f'it has more than {MAX_PIXELS:,} pixels'


def _starts(content, text):
  """Whether a string scalar starts with some bytes: bool []."""
  return tf.equal(tf.strings.substr(content, 0, len(text)), text)


def _product(height, width):
  """height * width of non-negative int64, kept from overflowing."""
  return tf.minimum(height, 2**31 - 1) * tf.minimum(width, 2**31 - 1)


def _claimed_pixels(encoded):
  """int64 []: the pixels that the head of a PNG, GIF, BMP or JPEG file claims; 0 of other files.

  Raises:
    tf.errors.InvalidArgumentError: a JPEG without a head.
  """
  head = tf.strings.substr(tf.strings.substr(encoded, 0, 26) + '\0' * 26, 0, 26)
  values = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int64)

  def number(start, count, big_endian=False):
    powers = [256 ** (count - 1 - i if big_endian else i) for i in range(count)]
    return tf.reduce_sum(values[start : start + count] * tf.constant(powers, tf.int64))

  def of_jpeg():
    return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64))

  def of_others():
    # A BMP's height may be negative: its rows begin at the top.
    height = number(22, 4)
    height = tf.minimum(height, 2**32 - height)
    return tf.where(
      _starts(head, PNG),
      _product(number(16, 4, True), number(20, 4, True)),
      tf.where(
        _starts(head, GIF),
        _product(number(6, 2), number(8, 2)),
        tf.where(_starts(head, BMP), _product(number(18, 4), height), 0),
      ),
    )

  return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_others)


def _of_bearable_size(encoded):
  """The image's bytes; NO_IMAGE for other kinds of file, some of which newer decoders would take.

  Raises:
    tf.errors.InvalidArgumentError: it claims to be huge.
  """
  check = tf.debugging.Assert(_claimed_pixels(encoded) <= MAX_PIXELS, [TOO_LARGE])
  with tf.control_dependencies([] if check is None else [check]):
    known = tf.reduce_any([_starts(encoded, text) for text in HEADS])
    known |= tf.equal(tf.strings.length(encoded), 0)  # The decoder says it in better words.
    return tf.cond(known, lambda: tf.identity(encoded), lambda: tf.constant(NO_IMAGE))


def decode(encoded):
  """The pixels of one encoded image, eagerly or in a graph.

  Gray becomes three equal channels, alpha is dropped, CMYK is converted, and of an animation the
  first frame is taken. Deeper colors keep their upper 8 bits. The turn that a camera notes in a
  photo (EXIF) is not carried out.

  Args:
    encoded: string [], a JPEG, PNG, BMP or GIF file.

  Returns:
    uint8 [H, W, 3] in 0..255.

  Raises:
    tf.errors.InvalidArgumentError: it cannot be decoded, or claims more than MAX_PIXELS.
  """
  image = tf.io.decode_image(_of_bearable_size(encoded), channels=CHANNELS, expand_animations=False)
  return tf.ensure_shape(image, [None, None, CHANNELS])


def _shape(image):
  """int32 `[3]`: height, width, and the channels that are stored in a JPEG (else 3)."""
  if image.dtype != tf.string:
    return tf.shape(image)
  encoded = image
  return tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: tf.io.extract_jpeg_shape(_of_bearable_size(encoded)),
    lambda: tf.shape(decode(encoded)),
  )


def _window(image, begin, size):
  """Pixels uint8 `[size[0], size[1], 3]` from row and column `begin` on.

  Of a JPEG only those are decoded.
  """
  if image.dtype != tf.string:
    return tf.slice(image, tf.pad(begin, [[0, 1]]), tf.concat([size, [CHANNELS]], 0))
  encoded = image

  def of_jpeg():
    return tf.io.decode_and_crop_jpeg(encoded, tf.concat([begin, size], 0), channels=CHANNELS)

  def of_others():
    end = begin + size
    return decode(encoded)[begin[0] : end[0], begin[1] : end[1]]

  return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_others)


def _resized(image, size):
  """float32 `[size, size, 3]` in about 0..255: bicubic as in TF 1, which overshoots a little."""
  image = tf.cast(image, tf.float32)[tf.newaxis]
  image = tf.raw_ops.ResizeBicubic(
    images=image, size=[size, size], align_corners=False, half_pixel_centers=False
  )[0]
  return tf.ensure_shape(image, [size, size, CHANNELS])


def _center(shape):
  """(first row and column, height and width) of the central square of 7/8 of the shorter side."""
  side = tf.cast(224 / 256 * tf.cast(tf.reduce_min(shape), tf.float32), tf.int32)
  side = tf.maximum(side, 1)  # An image of one pixel.
  return (shape - side + 1) // 2, tf.stack([side, side])


def central_crop(image, size):
  """The central square of 7/8 of the shorter side: float32 `[size, size, 3]` in about 0..255.

  Args:
    image: uint8 `[H, W, 3]`, or string [], the bytes of an encoded image.
    size: int, pixels.
  """
  return _resized(_window(image, *_center(_shape(image)[:2])), size)


def whole(image, size):
  """The whole image, squeezed to a square: float32 `[size, size, 3]` in 0..255, bicubic, antialiased.

  Args:
    image: uint8 `[H, W, 3]`, or string [], the bytes of an encoded image.
    size: int, pixels.
  """
  pixels = image if image.dtype != tf.string else decode(image)
  resized = tf.image.resize(pixels, [size, size], 'bicubic', antialias=True)
  return tf.ensure_shape(tf.clip_by_value(resized, 0.0, 255.0), [size, size, CHANNELS])


def random_crop(image, size, seed, least_area=0.08, otherwise=central_crop):
  """A random window (ratio 3/4 to 4/3): float32 `[size, size, 3]` in about 0..255.

  Where ten draws find no such window, or find the whole image, it is what `otherwise` makes.

  Args:
    image: uint8 `[H, W, 3]`, or string [], the bytes of an encoded image.
    size: int, pixels.
    seed: int32 `[2]`.
    least_area: float, the least part of the image's area; the release has .08.
    otherwise: `central_crop`, as in the release, or `whole`.
  """
  shape = _shape(image)
  begin, window, _ = tf.image.stateless_sample_distorted_bounding_box(
    shape,
    tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    seed,
    min_object_covered=0.1,
    aspect_ratio_range=(3 / 4, 4 / 3),
    area_range=(least_area, 1.0),
    max_attempts=10,
    use_image_if_no_bounding_boxes=True,
  )
  window = tf.concat([window[:2], [CHANNELS]], 0)
  all_of_it = tf.reduce_all(tf.equal(shape, window))
  return tf.cond(
    all_of_it,
    lambda: otherwise(image, size),
    lambda: _resized(_window(image, begin[:2], window[:2]), size),
  )


def fit(image, size):
  """The central square of an image whose shorter side was brought to `size`.

  Bicubic, antialiased, rounded and clipped; the longer side is rounded to whole pixels before the
  square is cut. Nothing is resampled if the shorter side is `size` already.

  Args:
    image: uint8 [H, W, 3], H and W at least 1.
    size: int, in pixels.

  Returns:
    uint8 [size, size, 3].
  """
  image = tf.convert_to_tensor(image)
  sides = tf.cast(tf.shape(image)[:2], tf.int64)  # int32 would overflow in what follows
  shorter = tf.reduce_min(sides)
  resized = (sides * size + shorter // 2) // shorter
  corner = (resized - size) // 2

  def cut():
    return tf.slice(image, tf.pad(corner, [[0, 1]]), [size, size, CHANNELS])

  def resample():
    # What tf.image.resize does, but only where the square is: of an image that is a thousand
    # times as wide as high, the whole might not fit into memory.
    square = tf.raw_ops.ScaleAndTranslate(
      images=image[tf.newaxis],
      size=[size, size],
      scale=tf.cast(resized, tf.float32) / tf.cast(sides, tf.float32),
      translation=-tf.cast(corner, tf.float32),
      kernel_type='keyscubic',
      antialias=True,
    )[0]
    return tf.cast(tf.clip_by_value(tf.round(square), 0.0, 255.0), tf.uint8)

  return tf.ensure_shape(tf.cond(tf.equal(shorter, size), cut, resample), [size, size, CHANNELS])


def stretch_all(images, size):
  """Returns images uint8 `[N, H, W, C]` at size x size, bicubic; unchanged if they have that size."""
  if images.shape[1:3] == (size, size):
    return images
  resized = tf.image.resize(images, [size, size], 'bicubic')
  return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def stretch(image, size):
  """Returns one image uint8 `[H, W, C]` at size x size, as `stretch_all`."""
  return stretch_all(tf.convert_to_tensor(image)[tf.newaxis], size)[0]
