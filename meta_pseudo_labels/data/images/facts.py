"""What decoding an image finds out about its file, and how it fails."""

import dataclasses
from typing import Optional, Union

# A few bytes can claim any size, and decoding asks for the memory of all of it.
MAX_PIXELS = 200_000_000
TOO_LARGE = f'it has more than {MAX_PIXELS:,} pixels'
NO_PIXELS = 'it has no pixels'

WHITE = (255, 255, 255)
HIGH_BITS = 'high_bits'


class CannotDecode(ValueError):
  """A file that cannot be decoded; its message is one short line."""


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of an image file once it has been decoded.

  kind: what `kinds.kind_of` says, or Pillow's name for the format in lower case.
  height, width: pixels of the full image, upright.
  more_frames: whether it has further frames, pages or pictures; the first was taken. Of a JPEG it
    means that an index of further pictures (MPF) is there: previews and gain maps count too.
  bits: of a color channel in the file.
  largest: the largest value of a color channel if there are more than 8 bits, else None.
  see_through: whether any pixel was not opaque, so that the background shows.
  turned: whether the image was turned or mirrored, as its EXIF orientation says.
  decoder: 'tensorflow' or 'pillow'.
  """

  kind: str
  height: int
  width: int
  more_frames: bool = False
  bits: int = 8
  largest: Optional[Union[int, float]] = None
  see_through: bool = False
  turned: bool = False
  decoder: str = 'pillow'


def check_options(side, background, depth):
  """Checks the options that every decoder takes.

  Args:
    side: int >= 1 in pixels, or None.
    background: three int in 0..255.
    depth: HIGH_BITS, or a pair of numbers (low, high) with low < high.

  Raises:
    ValueError: one of them is out of range.
  """
  if side is not None and side < 1:
    raise ValueError(f'side={side} is out of range: give 1 pixel or more')
  if len(background) != 3 or not all(0 <= value <= 255 for value in background):
    raise ValueError(f'background={background} is out of range: give three values in 0..255')
  if depth != HIGH_BITS and (isinstance(depth, str) or len(depth) != 2 or not depth[0] < depth[1]):
    raise ValueError(f'depth={depth!r} is neither {HIGH_BITS!r} nor a pair (low, high)')
