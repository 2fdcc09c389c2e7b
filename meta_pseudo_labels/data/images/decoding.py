"""How a run's image files become pixels: one decoding for training, prediction and export."""

import dataclasses
import functools
import struct
from typing import Optional, Tuple, Union

from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.images import decode, facts, kinds, tf_decode
from meta_pseudo_labels.data.store import layout

import tensorflow as tf

VERSION = 1  # Of the pixels: another one makes stores of before be prepared anew.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


@dataclasses.dataclass(frozen=True)
class Decoding:
  """Upright RGB of a file's first image, its shorter side at most `side`.

  Attributes:
    side: int, pixels.
    square: whether the central square of side x side is cut out, smaller images being enlarged.
    background: three int in 0..255, on which transparent pixels are composed.
    depth: what becomes of more than 8 bits; see `images.decode.decode`.
  """

  side: int
  square: bool = False
  background: Tuple[int, int, int] = facts.WHITE
  depth: Union[str, Tuple[float, float]] = facts.HIGH_BITS

  @property
  def parameters(self):
    """All that the pixels depend on besides the file: a dict of JSON values."""
    depth = self.depth if isinstance(self.depth, str) else list(self.depth)
    return {
      'version': VERSION,
      'side': self.side,
      'square': self.square,
      'background': list(self.background),
      'depth': depth,
    }

  @property
  def fixed_side(self) -> Optional[int]:
    """The height and width of all images, or None where they differ."""
    return self.side if self.square else None

  def _cut(self, pixels):
    return crops.fit(pixels, self.side) if self.square else pixels

  def in_graph(self, content):
    """Returns (pixels uint8 [h, w, 3], int64 [4] as store.layout.FACTS) of a string []; as `tf_decode`."""
    return self._noted(*tf_decode.decode_with_notes(content, self.side, self.background, self.depth))

  def plain_in_graph(self, content):
    """Returns what `in_graph` does, of a file of which `is_plain_jpeg` holds."""
    return self._noted(*tf_decode.plain_jpeg(content, self.side))

  def _noted(self, pixels, notes):
    flags = layout.ALPHA * notes[3] + layout.TURNED * tf.cast(notes[2] != 1, tf.int32)
    found = tf.stack([notes[0], notes[1], flags, tf.zeros_like(flags)])
    return self._cut(pixels), tf.cast(found, tf.int64)

  def in_python(self, content):
    """Returns (pixels uint8 [h, w, 3], ints [4] as store.layout.FACTS) of a file's bytes.

    Raises:
      facts.CannotDecode: one line says why.
    """
    known = kinds.kind_of(content[: kinds.HEAD]) in ('jpeg', 'png')
    # The others come at their full size: Pillow resizes a little differently, and one picture is to
    # become the same pixels whatever its format is, here and in an exported model.
    image = decode.decode(content, self.side if known else None, self.background, self.depth)
    found = image.facts
    flags = (
      layout.ANIMATED * (found.more_frames and found.kind != 'jpeg')
      + layout.DEEP * (found.bits > 8)
      + layout.ALPHA * found.see_through
      + layout.TURNED * found.turned
    )
    pixels = image.pixels
    if self.square or not known:
      with tf.device('CPU:0'):
        pixels = _of_pixels(self.side, self.square)(tf.constant(pixels)).numpy()
    largest = min(max(int(found.largest or 0), 0), 2**16 - 1)  # As layout.ENTRY holds it.
    return pixels, (found.height, found.width, flags, largest)

  def of_pixels(self, image):
    """Returns decoded pixels, uint8 [H, W, 3] of any size, as `in_graph` leaves those of a file."""
    height_width = tf.shape(image)[:2]
    resized = tf_decode.resized(image, tf_decode.fitting(height_width, self.side))
    return self._cut(tf.ensure_shape(resized, [None, None, 3]))


@functools.cache
def _of_pixels(side, square):
  """`Decoding.of_pixels` as a graph, which threads run side by side."""
  return tf.function(
    Decoding(side, square).of_pixels,
    input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    autograph=False,
  )


def takes_in_graph(head):
  """Returns whether a file that starts with these bytes is decoded by TensorFlow's own operations.

  PNG of 16 bits and animated PNG go through Python, which tells how far their values and frames go.
  """
  kind = kinds.kind_of(head[: kinds.HEAD])
  if kind == 'png':
    return len(head) > 24 and head[24] <= 8 and b'acTL' not in head[:4096]
  return kind == 'jpeg'


def is_plain_jpeg(head):
  """Returns whether a file that starts with these bytes is a JPEG that is not turned, as far as they tell.

  It is one whose frame header is among them, without EXIF data or with an orientation of 1 before it.
  """
  if not head.startswith(b'\xff\xd8\xff'):
    return False
  position = 2
  while position + 10 <= len(head) and head[position] == 0xFF:
    marker, (length,) = head[position + 1], struct.unpack_from('>H', head, position + 2)
    if marker in _FRAMES:
      return True
    if marker == 0xE1 and head[position + 4 : position + 10] == b'Exif\0\0':
      if position + 2 + length > len(head) or not _is_upright(head[position + 10 : position + 2 + length]):
        return False
    position += 2 + length
  return False


def _is_upright(tiff):
  """Returns whether EXIF data, without their mark, have an orientation of 1 or none."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(tiff[:4])
  if order is None:
    return True
  try:
    (place,) = struct.unpack_from(order + 'I', tiff, 4)
    (count,) = struct.unpack_from(order + 'H', tiff, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
      if struct.unpack_from(order + 'H', tiff, entry)[0] == 0x0112:
        return struct.unpack_from(order + 'H', tiff, entry + 8)[0] == 1
  except struct.error:
    return False  # Whoever looks closer decides.
  return True


def claimed_pixels(head):
  """Returns height * width as the first bytes of a file say it: int, 0 where they do not."""
  kind = kinds.kind_of(head[: kinds.HEAD])
  try:
    if kind == 'png':
      height, width = struct.unpack_from('>2I', head, 16)
    elif kind == 'gif':
      height, width = struct.unpack_from('<2H', head, 6)
    elif kind == 'bmp':
      height, width = struct.unpack_from('<2i', head, 18)
    elif kind == 'jpeg':
      height, width = _jpeg_size(head)
    else:
      return 0
  except (struct.error, IndexError):
    return 0
  return abs(height) * abs(width)


def _jpeg_size(head):
  """(height, width) from a JPEG's frame header; (0, 0) if it is not among these bytes."""
  position = 2
  while position + 9 <= len(head) and head[position] == 0xFF:
    marker = head[position + 1]
    if marker in _FRAMES:
      return struct.unpack_from('>2H', head, position + 5)
    position += 2 + struct.unpack_from('>H', head, position + 2)[0]
  return 0, 0
