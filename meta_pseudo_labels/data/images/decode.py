"""Image files to pixels, with what is to be known of them.

JPEG and PNG go through `tf_decode`, so that an exported model, which has nothing else, sees the
same pixels; the other kinds go through Pillow.
"""

import dataclasses
import functools
import struct

from meta_pseudo_labels.data.images import facts, kinds, pillow_decode, tf_decode
from meta_pseudo_labels.data.images.facts import CannotDecode

import numpy as np
import tensorflow as tf

_LARGEST_JPEG_HEAD = 1 << 20  # Bytes that are looked through for an index of further pictures.


@dataclasses.dataclass(frozen=True)
class Image:
  """A decoded image.

  pixels: uint8 [H, W, 3] in 0..255.
  facts: facts.Facts.
  """

  pixels: np.ndarray
  facts: facts.Facts


def decode(content, side=None, background=facts.WHITE, depth=facts.HIGH_BITS):
  """Decodes one image file, upright, with its shorter side at most `side`.

  A JPEG that TensorFlow refuses is tried with Pillow: it knows arithmetic coding, for example.

  Args:
    content: bytes, a file of any kind that Pillow decodes.
    side: int, pixels; None for the full size. Smaller images keep their size.
    background: three int in 0..255, on which transparent pixels are composed.
    depth: what becomes of more than 8 bits: 'high_bits', the upper 8 of them; or (low, high), the
      values that become 0 and 255.

  Returns:
    An Image. With facts.decoder 'tensorflow' its pixels equal those of `tf_decode.decode`.

  Raises:
    CannotDecode: see `pillow_decode.decode`; one short line says why.
    ValueError: an option is out of range.
  """
  facts.check_options(side, background, depth)
  kind = kinds.kind_of(content[: kinds.HEAD])
  if kind not in ('jpeg', 'png'):
    return Image(*pillow_decode.decode_with_facts(content, side, background, depth))
  try:
    run = _function(side, tuple(background), depth if isinstance(depth, str) else tuple(depth))
    with tf.device('CPU:0'):
      pixels, notes = run(tf.constant(content))
      height, width, orientation, see_through = notes.numpy().tolist()
      deep = kind == 'png' and content[24] == 16
      largest = int(tf_decode.largest_value(content)) if deep else None
  except tf.errors.OpError as error:
    if facts.TOO_LARGE in error.message:
      raise CannotDecode(facts.TOO_LARGE) from None
    if kind == 'jpeg':
      return Image(*pillow_decode.decode_with_facts(content, side, background, depth))
    raise CannotDecode(_reason_of_png(content, side, background, depth)) from None
  return Image(
    pixels.numpy(),
    facts.Facts(
      kind=kind,
      height=height,
      width=width,
      more_frames=_jpeg_has_index(content) if kind == 'jpeg' else _png_is_animated(content),
      bits=content[24] if kind == 'png' else 8,
      largest=largest,
      see_through=bool(see_through),
      turned=orientation != 1,
      decoder='tensorflow',
    ),
  )


def largest_value(content):
  """Returns the largest value of the color channels of a file with more than 8 bits, else None.

  It serves to choose `depth`: values up to 4095 fill 12 of 16 bits, and their upper 8 are dark.

  Args:
    content: bytes, an image file.

  Returns:
    int, or float of floating point files; None also for color files of kinds other than PNG,
    which Pillow cuts to 8 bits.

  Raises:
    CannotDecode: its pixels are damaged.
  """
  if kinds.kind_of(content[: kinds.HEAD]) != 'png':
    return pillow_decode.largest_value(content)
  return decode(content).facts.largest


@functools.cache
def _function(side, background, depth):
  """`tf_decode.decode_with_notes` as a graph, which threads run side by side."""
  return tf.function(
    lambda content: tf_decode.decode_with_notes(content, side, background, depth),
    input_signature=[tf.TensorSpec([], tf.string)],
    autograph=False,
  )


def _reason_of_png(content, side, background, depth):
  """Why a PNG cannot be decoded, in Pillow's words if it cannot either."""
  try:
    pillow_decode.decode(content, side, background, depth)
  except CannotDecode as error:
    return str(error)
  return 'it is a PNG file that is damaged'


def _jpeg_has_index(content):
  """Whether one of a JPEG's application segments is an index of further pictures (MPF)."""
  position, end = 2, min(len(content) - 8, _LARGEST_JPEG_HEAD)
  while position < end and content[position] == 0xFF and 0xE0 <= content[position + 1] <= 0xEF:
    if content[position + 1] == 0xE2 and content[position + 4 : position + 8] == b'MPF\0':
      return True
    position += 2 + struct.unpack_from('>H', content, position + 2)[0]
  return False


def _png_is_animated(content):
  """Whether a PNG has a chunk acTL of two frames or more before its pixels."""
  position = 8
  while position + 12 <= len(content):
    length, name = struct.unpack_from('>I4s', content, position)
    if name == b'IDAT':
      return False
    if name == b'acTL':
      return struct.unpack_from('>I', content, position + 8)[0] > 1
    position += 12 + length
  return False
