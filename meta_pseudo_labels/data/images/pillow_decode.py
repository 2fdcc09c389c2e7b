"""Image files to pixels by Pillow: every kind that it knows, in the way of `tf_decode`."""

import contextlib
import io
import struct
import threading

from meta_pseudo_labels.data.images import facts, kinds
from meta_pseudo_labels.data.images.facts import CannotDecode

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

# Pillow knows more, but they run other programs (EPS), need Windows (WMF), are stubs or films, or
# begin as TGA does (CUR). TGA is last: it takes what has a head that makes sense.
_FORMATS = (
  'JPEG',
  'MPO',
  'PNG',
  'GIF',
  'BMP',
  'DIB',
  'WEBP',
  'TIFF',
  'AVIF',
  'HEIF',
  'JPEG2000',
  'PPM',
  'ICO',
  'ICNS',
  'QOI',
  'DDS',
  'PSD',
  'SGI',
  'PCX',
  'TGA',
)
_ORIENTATION = 0x0112
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_DEEP_MODES = ('I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N')
_DEEP_COLORS = 'it has {} bits per color, of which only the upper 8 can be read; save it as a PNG'
_NO_RANGE = 'its values are {}, with no known range; save it with 8 or 16 bits'


def decode(content, side=None, background=facts.WHITE, depth=facts.HIGH_BITS):
  """Decodes one image file, upright, with its shorter side at most `side`.

  Of animations and files of several pages the first is taken, of icons the largest. What becomes
  of gray, CMYK, transparency, EXIF orientation and size is told at `tf_decode.decode`.

  Args:
    content: bytes, a file of any kind that Pillow decodes.
    side: int, pixels; None for the full size. Smaller images keep their size.
    background: three int in 0..255.
    depth: what becomes of values of more than 8 bits: 'high_bits', the upper 8 of them; or (low,
      high), the values that become 0 and 255.

  Returns:
    uint8 [H, W, 3] in 0..255.

  Raises:
    CannotDecode: it is damaged, cut off, of no known kind or larger than facts.MAX_PIXELS; or
      depth does not suit it: 'high_bits' with floating point or numbers with a sign or of 32
      bits, or (low, high) with more than 8 bits of color, which Pillow cuts to 8.
    ValueError: an option is out of range.
  """
  return decode_with_facts(content, side, background, depth)[0]


def decode_with_facts(content, side=None, background=facts.WHITE, depth=facts.HIGH_BITS):
  """Decodes as `decode` does. Returns (uint8 [H, W, 3], a facts.Facts)."""
  facts.check_options(side, background, depth)
  try:
    with _without_pillows_limit():
      return _decoded(content, side, background, depth)
  except CannotDecode:
    raise
  except UnidentifiedImageError:
    raise CannotDecode(_unknown(content)) from None
  except MemoryError:
    raise CannotDecode('it does not fit into memory') from None
  except Exception as error:  # noqa: BLE001 - damaged files make Pillow raise nearly anything.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise CannotDecode(f'it cannot be decoded: {lines[0]}') from error


_limit = threading.Lock()
_users = 0
_kept = None


@contextlib.contextmanager
def _without_pillows_limit():
  """Pillow's own limit, below facts.MAX_PIXELS, warns and fails; it is one for all threads."""
  global _users, _kept
  with _limit:
    if not _users:
      _kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    _users += 1
  try:
    yield
  finally:
    with _limit:
      _users -= 1
      if not _users:
        Image.MAX_IMAGE_PIXELS = _kept


def _unknown(content):
  """Why bytes are no image, in a line."""
  if not content:
    return 'it is empty'
  kind = kinds.kind_of(content[: kinds.HEAD])
  if kind == 'text':
    return 'it is a text (HTML, XML, SVG or JSON), not an image'
  if kind == 'heic' and 'HEIF' not in Image.OPEN:
    return 'it is a HEIC file: install pillow-heif to read it'
  if kind:
    return f'it begins like a {kind} file, but is damaged or of a form that Pillow does not know'
  return 'it is no kind of image that is known'


def _opened(content):
  """The image, its pixels not yet decoded."""
  Image.init()
  if kinds.kind_of(content[: kinds.HEAD]) == 'heic' and 'HEIF' not in Image.OPEN:
    try:
      import pillow_heif

      pillow_heif.register_heif_opener()
    except ImportError:
      pass  # _unknown tells of it.
  image = Image.open(io.BytesIO(content), formats=[name for name in _FORMATS if name in Image.OPEN])
  if image.width * image.height > facts.MAX_PIXELS:
    raise CannotDecode(facts.TOO_LARGE)
  if not image.width or not image.height:
    raise CannotDecode(facts.NO_PIXELS)
  return image


def _decoded(content, side, background, depth):
  """What `decode_with_facts` returns. Raises whatever Pillow does."""
  image = _opened(content)
  more_frames = bool(getattr(image, 'is_animated', False))
  stored, bits = image.size, _bits(image, content)
  orientation = _orientation(image)
  if image.format in ('JPEG', 'MPO') and side is not None:
    _draft(image, side)
  image.load()  # TIFF turns itself meanwhile.
  if image.format != 'TIFF':
    orientation = _orientation(image)  # PNG may have it behind the pixels.
  if image.mode in _DEEP_MODES:
    pixels, largest, see_through = _of_deep(image, bits, background, depth)
  else:
    if bits > 8 and depth != facts.HIGH_BITS:
      raise CannotDecode(_DEEP_COLORS.format(bits))
    largest = None
    pixels, see_through = _of_shallow(image, background)
  if image.format != 'TIFF' and orientation in _TURNS:
    pixels = pixels.transpose(_TURNS[orientation])
  if image.size == stored or image.format == 'TIFF':
    width, height = pixels.size
  else:  # A JPEG of which a part of the resolution was decoded.
    width, height = stored[::-1] if orientation >= 5 else stored
  found = facts.Facts(
    kind=kinds.kind_of(content[: kinds.HEAD]) or image.format.lower(),
    height=height,
    width=width,
    more_frames=more_frames,
    bits=bits,
    largest=largest,
    see_through=see_through,
    turned=orientation != 1,
  )
  if side is not None:
    size = _fitting(width, height, side)
    if size != pixels.size:
      pixels = pixels.resize(size, Image.Resampling.BILINEAR)
  return np.array(pixels), found


def _fitting(width, height, side):
  """(width, height) with the shorter one at most `side`, the longer one in proportion."""
  shorter = min(width, height)
  if shorter <= side:
    return width, height
  return tuple(max((length * side + shorter // 2) // shorter, 1) for length in (width, height))


def _draft(image, side):
  """Has a JPEG decoded at 1/2, 1/4 or 1/8 where that leaves the shorter side at least `side`."""
  ratio = max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or -(-min(image.size) // ratio) >= side)
  if ratio > 1:
    image.draft(None, tuple(max(length // ratio, 1) for length in image.size))


def _orientation(image):
  """1 to 8; 1 where nothing says otherwise or it is damaged."""
  try:
    value = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # noqa: BLE001 - as Pillow's own errors; a damaged note turns nothing.
    return 1
  return value if value in _TURNS else 1


def _bits(image, content):
  """The bits of a color channel in the file."""
  if image.format == 'TIFF':
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
  if image.format == 'PNG':
    return content[24]
  if image.mode == 'F':
    return 32
  if image.mode in _DEEP_MODES:
    return 16  # PGM and JPEG 2000; Pillow brings fewer to 16.
  tile = image.tile[0].args if getattr(image, 'tile', None) else ()
  mode = next((value for value in tile if isinstance(value, str)), '') if tile else ''
  return 16 if ';16' in mode else 1 if image.mode == '1' else 8


def _of_deep(image, bits, background, depth):
  """(RGB image, largest value, whether any pixel is not opaque) of one with deep gray levels."""
  values = np.asarray(image)
  if image.mode != 'F':
    values = values.astype(np.int64)
  largest = values.max().item()
  if image.format == 'TIFF' and bits <= 16 and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
    values = 2**bits - 1 - values  # Pillow does that with 8 bits only.
  if depth != facts.HIGH_BITS:
    low, high = depth
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    gray = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255)
  elif image.mode == 'F':
    raise CannotDecode(_NO_RANGE.format('floating point numbers'))
  elif bits > 16 or values.min() < 0:
    raise CannotDecode(_NO_RANGE.format(f'numbers of {bits} bits, or have a sign'))
  else:
    gray = values >> (bits - 8)
  gray = Image.fromarray(gray.astype(np.uint8)).convert('RGB')
  transparent = image.info.get('transparency')
  if not isinstance(transparent, int):
    return gray, largest, False
  hidden = np.asarray(image) == transparent
  gray.paste(tuple(background), mask=Image.fromarray(hidden))
  return gray, largest, bool(hidden.any())


def _of_shallow(image, background):
  """(RGB image, whether any pixel is not opaque) of one with 8 bits or fewer."""
  if not image.has_transparency_data:
    return _rgb(image), False
  image = image.convert('LA') if image.mode == 'La' else image
  image = image.convert('RGBA')
  alpha = image.getchannel('A')
  if alpha.getextrema()[0] == 255:
    return image.convert('RGB'), False
  ground = Image.new('RGB', image.size, tuple(background))
  ground.paste(image, mask=alpha)
  return ground, True


def _rgb(image):
  """An opaque image's colors; Lab ones as a screen (sRGB) shows them."""
  if image.mode != 'LAB':
    return image.convert('RGB')
  lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
  return ImageCms.profileToProfile(image, lab, srgb, outputMode='RGB')


def largest_value(content):
  """Returns the largest value of a file with more than 8 bits of gray, else None.

  Args:
    content: bytes.

  Returns:
    int or float; None for files that Pillow cuts to 8 bits when it reads them, and for what is no
    image.

  Raises:
    CannotDecode: the pixels are damaged.
  """
  return decode_with_facts(content, depth=(0, 1))[1].largest if _is_deep(content) else None


def _is_deep(content):
  try:
    with _without_pillows_limit():
      return _opened(content).mode in _DEEP_MODES
  except (OSError, struct.error, ValueError, SyntaxError):
    return False
