"""Image files to pixels by TensorFlow ops alone: eagerly, in tf.data and within a SavedModel.

JPEG and PNG are decoded as Pillow does it, and GIF and BMP where TensorFlow's ops are right.
"""

from meta_pseudo_labels.data.images import facts, tf_bytes, tf_exif

import tensorflow as tf

CHANNELS = 3
UNKNOWN = 'it is neither a JPEG, PNG, GIF nor BMP file'
_NOT_RIGHT = 'it is a {} that TensorFlow would decode wrongly'
GIF_REFUSED = _NOT_RIGHT.format('GIF with transparency or a frame smaller than the image')
BMP_REFUSED = _NOT_RIGHT.format('BMP with a palette, 16 bits, masks or an old header')
_PNG, _GIF, _BMP = b'\x89PNG\r\n\x1a\n', b'GIF8', b'BM'
_MAX_CHUNKS = 64  # Of a PNG, before its pixels.
_MAX_BLOCKS = 1024  # Of a GIF, before its pixels: comments and XMP are cut into blocks.
_GRAYS = b''.join(bytes([value, value, value, 0]) for value in range(256))


def decode(content, side=None, background=facts.WHITE, depth=facts.HIGH_BITS):
  """Decodes one image file, upright, with its shorter side at most `side`.

  Gray becomes three equal channels and CMYK is converted. Transparent pixels are composed on a
  background, before anything is resized. The EXIF orientation of JPEG and PNG is carried out.
  Larger images are resized as Pillow's BILINEAR does it: a triangle as wide as two pixels of the
  result. JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves the shorter side at least `side`.

  Args:
    content: string [], a JPEG, PNG, GIF (its first frame) or BMP file.
    side: int, pixels; None for the full size. Smaller images keep their size.
    background: three int in 0..255.
    depth: what becomes of 16 bits: 'high_bits', the upper 8 of them; or (low, high), the values
      that become 0 and 255, those between in proportion and those beyond clipped. Alpha keeps its
      upper 8 bits. Files of 8 bits and less are not concerned.

  Returns:
    uint8 [H, W, 3] in 0..255. The longer side is rounded to whole pixels, and at least 1.

  Raises:
    tf.errors.InvalidArgumentError: it cannot be decoded, has no pixels, claims more than
      facts.MAX_PIXELS, or is a kind of GIF or BMP that TensorFlow's ops get wrong.
    ValueError: an option is out of range.
  """
  return decode_with_notes(content, side, background, depth)[0]


def decode_with_notes(content, side=None, background=facts.WHITE, depth=facts.HIGH_BITS):
  """Decodes as `decode` does, and notes what was found on the way.

  Args, Raises: as of `decode`.

  Returns:
    (uint8 [H, W, 3];
     int32 [4]: height and width of the full upright image in pixels, its orientation in 1..8, and
     1 if any pixel is not opaque, else 0).
  """
  facts.check_options(side, background, depth)
  content = tf.convert_to_tensor(content)

  @tf_bytes.called
  def of_others(content):
    content = _checked(content)
    return tf.cond(
      _starts(content, _PNG), lambda: _png(content, background, depth), lambda: _gif_or_bmp(content)
    )

  image, full, orientation, see_through = tf.cond(
    tf.io.is_jpeg(content), lambda: _jpeg(content, side), lambda: of_others(content)
  )
  if side is not None:
    image = resized(image, fitting(full, side))
  notes = tf.concat([full, [orientation, tf.cast(see_through, tf.int32)]], axis=0)
  return tf.ensure_shape(image, [None, None, CHANNELS]), notes


def largest_value(content):
  """Returns the largest value of the color channels of a PNG of 16 bits: int32 [] in 0..65535.

  Args:
    content: string [], a PNG file. Values of fewer bits are brought to 16 first.

  Raises:
    tf.errors.InvalidArgumentError: it cannot be decoded or claims more than facts.MAX_PIXELS.
  """
  values = tf.io.decode_png(_checked(tf.convert_to_tensor(content)), dtype=tf.uint16)
  channels = tf.shape(values)[-1]
  colors = channels - (1 - channels % 2)  # 2 and 4 channels: the last is alpha.
  return tf.cast(tf.reduce_max(values[..., :colors]), tf.int32)


def fitting(sizes, side):
  """Returns height and width once the shorter one is at most `side`: int32 [2], at least 1.

  Args:
    sizes: int32 [2] in pixels, positive.
    side: int in pixels.
  """
  sizes = tf.cast(sizes, tf.int64)  # int32 would overflow in what follows.
  shorter = tf.maximum(tf.reduce_min(sizes), 1)
  smaller = tf.maximum((sizes * side + shorter // 2) // shorter, 1)
  return tf.cast(tf.where(shorter > side, smaller, sizes), tf.int32)


def _starts(content, text):
  """bool []: whether a string [] starts with some bytes."""
  return tf.equal(tf.strings.substr(content, 0, len(text)), text)


def _asserting(good, message, content):
  """The content, once `good` (bool []) holds; message: str or string []."""
  check = tf.debugging.Assert(good, [message])
  with tf.control_dependencies([] if check is None else [check]):
    return tf.identity(content)


def _checked(content):
  """The bytes of a PNG, GIF or BMP file, string [], once its claimed size was found bearable."""
  values = tf_bytes.bytes_at(content, 0, 26)

  def little(start, count):
    return tf_bytes.number(values[start : start + count], little_endian=True)

  def of_bmp():
    height = little(22, 4)
    # It may be negative: the rows begin at the top then.
    return tf.stack([tf.minimum(height, 2**32 - height), little(18, 4)])

  sizes = tf.case(
    [
      (
        _starts(content, _PNG),
        lambda: tf.stack([tf_bytes.number(values[20:24]), tf_bytes.number(values[16:20])]),
      ),
      (_starts(content, _GIF), lambda: tf.stack([little(8, 2), little(6, 2)])),
      (_starts(content, _BMP), of_bmp),
    ],
    default=lambda: tf.constant([-1, -1], tf.int64),
  )
  sizes = tf.minimum(sizes, 2**31 - 1)  # The product shall not overflow.
  some = tf.reduce_min(sizes) > 0
  message = tf.where(sizes[0] < 0, UNKNOWN, tf.where(some, facts.TOO_LARGE, facts.NO_PIXELS))
  return _asserting(some & (sizes[0] * sizes[1] <= facts.MAX_PIXELS), message, content)


def _jpeg(content, side):
  """(uint8 [h, w, 3] upright and no smaller than asked for, full upright size int32 [2],
  orientation, False)."""
  full = tf.io.extract_jpeg_shape(content)[:2]

  @tf_bytes.called
  def refused(content):
    return tf.io.decode_jpeg(_asserting(False, facts.TOO_LARGE, content), channels=CHANNELS)

  @tf_bytes.called
  def turned(content, image, full):
    orientation = tf_exif.of_jpeg(content)
    return (tf_exif.upright(image, orientation), tf_exif.upright_size(full, orientation), orientation)

  pixels = tf.reduce_prod(tf.cast(full, tf.int64))
  image = _scaled_jpeg(content, full, side, pixels > facts.MAX_PIXELS, lambda: refused(content))
  # Anything that is done on the common way shows in the speed.
  image, full, orientation = tf.cond(
    tf_exif.without_exif(content),
    lambda: (tf.identity(image), tf.identity(full), tf.constant(tf_exif.UPRIGHT)),
    lambda: turned(content, image, full),
  )
  return image, full, orientation, tf.constant(False)


def _scaled_jpeg(content, full, side, refuses, refused):
  """Decodes a JPEG at the ratio that leaves its shorter side at least `side`: uint8 [h, w, 3].

  Args:
    content: string [].
    full: int32 [2], its height and width.
    side: int or None.
    refuses: bool [], whether `refused` is called instead.
    refused: function -> uint8 [h, w, 3].
  """

  def at(ratio):
    # The exact DCT, which Pillow uses too; it is the fastest of them where there is SIMD.
    return tf.io.decode_jpeg(content, channels=CHANNELS, ratio=ratio, dct_method='INTEGER_ACCURATE')

  ratios = [1] if side is None else [1, 2, 4, 8]
  # Those after one that makes it too small are too small as well.
  least = tf.constant([ratio * ((side or 1) - 1) for ratio in ratios[1:]], tf.int32)
  index = tf.reduce_sum(tf.cast(tf.reduce_min(full) > least, tf.int32))
  index = tf.where(refuses, len(ratios), index)
  return tf.switch_case(index, [*(lambda ratio=ratio: at(ratio) for ratio in ratios), refused])


def plain_jpeg(content, side=None):
  """Decodes a JPEG without EXIF orientation as `decode_with_notes` does, in fewer operations.

  TensorFlow takes as long for the other kinds' operations, which it visits and does not need, as for
  decoding a small image.

  Args:
    content: string [], a JPEG of at most facts.MAX_PIXELS pixels.
    side: as of `decode`.

  Returns, Raises: as of `decode_with_notes`.
  """
  full = tf.io.extract_jpeg_shape(content)[:2]
  image = _scaled_jpeg(content, full, side, False, lambda: tf.zeros([0, 0, CHANNELS], tf.uint8))
  if side is not None:
    image = resized(image, fitting(full, side))
  notes = tf.concat([full, [tf_exif.UPRIGHT, 0]], axis=0)
  return tf.ensure_shape(image, [None, None, CHANNELS]), notes


def _png(content, background, depth):
  """(uint8 [H, W, 3] upright, its size int32 [2], orientation, whether any is not opaque)."""
  head = tf_bytes.bytes_at(content, 24, 2)
  bits, color_type = head[0], head[1]
  transparent_color, exif = _png_chunks(content)

  def pixels(channels):
    def shallow():
      return tf.io.decode_png(content, channels)

    def deep():
      values = tf.io.decode_png(content, channels, tf.uint16)
      colors = in_range(tf.cast(values[..., :CHANNELS], tf.float32), depth)
      rest = tf.bitwise.right_shift(values[..., CHANNELS:], tf.constant(8, tf.uint16))
      return tf.concat([colors, tf.cast(rest, tf.uint8)], axis=-1)

    return shallow() if depth == facts.HIGH_BITS else tf.cond(tf.equal(bits, 16), deep, shallow)

  def composed_pixels():
    values = tf.ensure_shape(pixels(4), [None, None, 4])
    see_through = tf.reduce_min(values[..., 3]) < 255
    image = tf.cond(see_through, lambda: composed(values, background), lambda: values[..., :CHANNELS])
    return image, see_through

  # Only where there is alpha: libpng fills it with too little in files of 1, 2 and 4 bits.
  has_alpha = tf.equal(color_type, 4) | tf.equal(color_type, 6) | transparent_color
  image, see_through = tf.cond(has_alpha, composed_pixels, lambda: (pixels(CHANNELS), tf.constant(False)))
  orientation = tf_exif.of_tiff(exif)
  image = tf_exif.upright(image, orientation)
  return image, tf.shape(image)[:2], orientation, see_through


def _png_chunks(content):
  """(bool []: whether there is a chunk tRNS; string []: what eXIf has), of those before IDAT."""

  def goes_on(step, position, *_):
    return (
      (step < _MAX_CHUNKS)
      & (position + 8 < tf.cast(tf.strings.length(content), tf.int64))
      & tf.not_equal(tf_bytes.text_at(content, position + 4, 4), b'IDAT')
    )

  def advance(step, position, transparent_color, exif):
    length = tf_bytes.number(tf_bytes.bytes_at(content, position, 4))
    name = tf_bytes.text_at(content, position + 4, 4)
    # Longer EXIF data than a JPEG can have are not read whole.
    exif = tf.cond(
      tf.equal(name, b'eXIf'),
      lambda: tf_bytes.text_at(content, position + 8, tf.minimum(length, 2**16)),
      lambda: exif,
    )
    return step + 1, position + 12 + length, transparent_color | tf.equal(name, b'tRNS'), exif

  return tf.while_loop(
    goes_on, advance, (0, tf.constant(len(_PNG), tf.int64), tf.constant(False), tf.constant(b''))
  )[2:]


def in_range(values, depth):
  """Returns values scaled from a range to 0..255, rounded and clipped: uint8 of the same shape.

  Args:
    values: float32 [...].
    depth: (low, high), what becomes 0 and 255.
  """
  low, high = depth
  scaled = (values - low) * (255 / (high - low))
  return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)


def composed(image, background):
  """Composes pixels on a background of one color: uint8 [H, W, 3], to the bit as Pillow pastes.

  Args:
    image: uint8 [H, W, 4]; the last channel is alpha.
    background: three int in 0..255.
  """
  values = tf.cast(image, tf.uint16)
  alpha = values[..., 3:]
  # Division by 255, rounded; nothing exceeds 16 bits.
  total = (
    values[..., :CHANNELS] * alpha
    + tf.constant(background, tf.uint16) * (255 - alpha)
    + tf.constant(128, tf.uint16)
  )
  eight = tf.constant(8, tf.uint16)
  return tf.cast(tf.bitwise.right_shift(total + tf.bitwise.right_shift(total, eight), eight), tf.uint8)


def _gif_or_bmp(content):
  """What `_png` returns, of the others."""
  image = tf.cond(_starts(content, _GIF), lambda: _gif(content), lambda: _bmp(content))
  return image, tf.shape(image)[:2], tf.constant(tf_exif.UPRIGHT), tf.constant(False)


def _gif(content):
  """uint8 [H, W, 3]: the first frame of a GIF without transparency that fills the image."""
  head = tf_bytes.bytes_at(content, 0, 13)
  # A palette of 2 to 256 colors follows if the highest bit says so.
  colors = tf.where(head[10] >= 128, 2 ** (head[10] % 8 + 1), tf.zeros([], tf.int64))

  def goes_on(step, _, block, *rest):
    return (step < _MAX_BLOCKS) & (tf.equal(block[0], 0x21) | rest[0])

  def advance(step, position, block, in_blocks, transparent):
    # In an extension: blocks, each with its length before it, up to one of length 0.
    starts = tf.equal(block[0], 0x21) & ~in_blocks
    is_control = starts & tf.equal(block[1], 0xF9)
    transparent |= is_control & tf.equal(block[3] % 2, 1)
    in_blocks = starts | tf.not_equal(block[0], 0)
    position += tf.where(starts, tf.constant(2, tf.int64), block[0] + 1)
    return step + 1, position, tf_bytes.bytes_at(content, position, 10), in_blocks, transparent

  position = 13 + 3 * colors
  _, _, block, _, transparent = tf.while_loop(
    goes_on,
    advance,
    (0, position, tf_bytes.bytes_at(content, position, 10), tf.constant(False), tf.constant(False)),
  )
  fills = (
    tf.equal(block[0], 0x2C)
    & tf.reduce_all(tf.equal(block[1:5], 0))
    & tf.reduce_all(tf.equal(block[5:9], head[6:10]))
  )
  content = _asserting(fills & ~transparent, GIF_REFUSED, content)
  return tf.io.decode_image(content, CHANNELS, expand_animations=False)


def _bmp(content):
  """uint8 [H, W, 3]: a BMP of 24 or 32 bits without masks, or of 8 bits that are gray levels."""
  values = tf_bytes.bytes_at(content, 0, 54)

  def little(start, count):
    return tf_bytes.number(values[start : start + count], little_endian=True)

  header, bits, compression, colors = little(14, 4), little(28, 2), little(30, 4), little(46, 4)
  grays = tf.equal(tf_bytes.text_at(content, 14 + header, len(_GRAYS)), _GRAYS)
  grays &= tf.equal(bits, 8) & (tf.equal(colors, 0) | tf.equal(colors, 256))
  known = (header >= 40) & tf.equal(compression, 0)
  known &= tf.equal(bits, 24) | tf.equal(bits, 32) | grays
  content = _asserting(known, BMP_REFUSED, content)
  return tf.io.decode_image(content, CHANNELS, expand_animations=False)


def resized(image, size):
  """uint8 [size[0], size[1], 3] of uint8 [H, W, 3]; nothing is resampled if that is its size."""

  def resample():
    scale = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    smaller = tf.raw_ops.ScaleAndTranslate(
      images=image[tf.newaxis],
      size=size,
      scale=scale,
      translation=[0.0, 0.0],
      kernel_type='triangle',
      antialias=True,
    )[0]
    # Weights sum to 1 except for their last bits.
    return tf.cast(tf.clip_by_value(tf.round(smaller), 0.0, 255.0), tf.uint8)

  return tf.cond(tf.reduce_all(tf.equal(tf.shape(image)[:2], size)), lambda: tf.identity(image), resample)
