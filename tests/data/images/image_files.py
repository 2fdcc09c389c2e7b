"""Image files of one small picture, made by Pillow and by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 16, 24
ORIENTATION = 0x0112

# --- Pixels ---


def picture(height=HEIGHT, width=WIDTH):
  """uint8 [height, width, 3]: four flat quarters, none like another, whose edges JPEG keeps."""
  image = np.zeros([height, width, 3], np.uint8)
  top, left = height // 2, width // 2
  image[:top, :left], image[:top, left:] = (200, 60, 40), (40, 160, 90)
  image[top:, :left], image[top:, left:] = (230, 220, 120), (30, 50, 120)
  return image


def grays(values):
  """uint8 [H, W, 3] of [H, W]."""
  return np.repeat(np.asarray(values, np.uint8)[..., np.newaxis], 3, axis=2)


def on(pixels, alpha, ground=255):
  """uint8 [H, W, 3] composed on a background by hand: in fractions, rounded."""
  part = np.asarray(alpha)[..., np.newaxis] / 255
  return np.floor(pixels * part + ground * (1 - part) + 0.5).astype(np.uint8)


RGB = picture()
GRAY = RGB[..., 0]
RAMP = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)  # 0 to 383
ALPHA = (RAMP * 255 // RAMP.max()).astype(np.uint8)
RGBA = np.concatenate([RGB, ALPHA[..., np.newaxis]], axis=2)
INDICES = np.zeros([HEIGHT, WIDTH], np.uint8)
INDICES[:8, 12:], INDICES[8:, :12], INDICES[8:, 12:] = 1, 2, 3
COLORS = [tuple(int(value) for value in RGB[y, x]) for y, x in ((0, 0), (0, 12), (8, 0), (8, 12))]
# What a camera stores so that turning by the orientation shows RGB again.
STORED = {
  1: RGB,
  2: RGB[:, ::-1],
  3: RGB[::-1, ::-1],
  4: RGB[::-1],
  5: RGB.transpose(1, 0, 2),
  6: np.rot90(RGB),
  7: np.rot90(RGB, 2).transpose(1, 0, 2),
  8: np.rot90(RGB, -1),
}


# --- Files by Pillow ---


def saved(pixels, kind, mode=None, **options):
  """A file of pixels (an array or a Pillow image), converted to a mode first: bytes."""
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
  stream = io.BytesIO()
  (image.convert(mode) if mode else image).save(stream, kind, **options)
  return stream.getvalue()


def shown(content, mode='RGB'):
  """The pixels that Pillow itself finds: uint8 [H, W, 3]."""
  return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


def palette_image():
  """A Pillow image of mode P that shows RGB."""
  image = Image.fromarray(INDICES)
  image.putpalette([value for color in COLORS for value in color])
  return image


def exif(value, order='<', kind=3, offset=8):
  """EXIF data with the mark before them: bytes. Two entries, the second is the orientation."""
  head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(order + 'I', offset)
  entries = struct.pack(order + 'HHI', 0x0100, 4, 1) + struct.pack(order + 'I', 640)
  number = struct.pack(order + ('H' if kind == 3 else 'I'), value).ljust(4, b'\0')
  entries += struct.pack(order + 'HHI', ORIENTATION, kind, 1) + number
  return b'Exif\0\0' + head + struct.pack(order + 'H', 2) + entries + bytes(4)


def jpeg(pixels=RGB, **options):
  return saved(pixels, 'JPEG', **{'quality': 95, 'subsampling': 0, **options})


def with_segments(content, *segments):
  """A JPEG with segments (marker, bytes) behind its first two bytes."""
  new = b''.join(
    bytes([0xFF, marker]) + struct.pack('>H', len(data) + 2) + data for marker, data in segments
  )
  return content[:2] + new + content[2:]


def without_segment(content, marker):
  start = content.index(bytes([0xFF, marker]))
  return content[:start] + content[start + 2 + struct.unpack_from('>H', content, start + 2)[0] :]


def claiming(content, position, form, *numbers):
  """A file with other numbers at a position."""
  numbers = struct.pack(form, *numbers)
  return content[:position] + numbers + content[position + len(numbers) :]


def animated(kind, **options):
  return saved(RGB, kind, save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())], **options)


# --- Files by hand ---


def chunk(name, data):
  return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(bits, color_type, rows, width=WIDTH, before=b'', after=b'', interlaced=0, height=None):
  """A PNG of rows (list of bytes, without their filter), with further chunks."""
  head = struct.pack(
    '>IIBBBBB', width, len(rows) if height is None else height, bits, color_type, 0, 0, interlaced
  )
  pixels = zlib.compress(b''.join(b'\0' + row for row in rows))
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', head)
    + before
    + chunk(b'IDAT', pixels)
    + after
    + chunk(b'IEND', b'')
  )


def packed(values, bits):
  """Rows of 1, 2 or 4 bits for every value: list of bytes."""
  flags = (np.asarray(values)[..., np.newaxis] >> np.arange(bits)[::-1]) & 1
  return [row.tobytes() for row in np.packbits(flags.reshape(len(values), -1), axis=1)]


def deep(values):
  """Rows of 16 bits, the upper 8 first: list of bytes."""
  return [row.astype('>u2').tobytes() for row in np.asarray(values)]


def adam7(pixels):
  """The rows of an interlaced PNG: list of bytes."""
  passes = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
  )
  return [row.tobytes() for y, x, down, right in passes for row in pixels[y::down, x::right]]


PLTE = chunk(b'PLTE', bytes(value for color in COLORS for value in color))


def bmp(bits, rows, width=WIDTH, height=HEIGHT, compression=0, palette=b'', masks=b''):
  """A BMP of rows (list of bytes, the lowest first unless height < 0)."""
  rows = b''.join(row.ljust((len(row) + 3) // 4 * 4, b'\0') for row in rows)
  start = 54 + len(masks) + len(palette)
  return (
    b'BM'
    + struct.pack('<IHHI', start + len(rows), 0, 0, start)
    + struct.pack(
      '<IiiHHIIiiII', 40, width, height, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0
    )
    + masks
    + palette
    + rows
  )


def old_bmp():
  """A BMP with the header of OS/2, 12 bytes."""
  rows = RGB[::-1, :, ::-1].tobytes()
  return (
    b'BM'
    + struct.pack('<IHHI', 26 + len(rows), 0, 0, 26)
    + struct.pack('<IHHHH', 12, WIDTH, HEIGHT, 1, 24)
    + rows
  )


def tiff(values, tags, order='<'):
  """A TIFF of one strip of raw values, with tags {number: (type, value)} beside those of size."""
  data = np.ascontiguousarray(values).tobytes()
  tags = {
    256: (3, WIDTH),
    257: (3, HEIGHT),
    259: (3, 1),
    262: (3, 1),
    273: (4, 8),
    277: (3, 1),
    278: (3, HEIGHT),
    279: (4, len(data)),
    **tags,
  }
  entries = b''.join(
    struct.pack(order + 'HHI', tag, kind, 1)
    + struct.pack(order + ('H' if kind == 3 else 'I'), value).ljust(4, b'\0')
    for tag, (kind, value) in sorted(tags.items())
  )
  head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(order + 'I', 8 + len(data))
  return head + data + struct.pack(order + 'H', len(tags)) + entries + bytes(4)


def gif(frame_size=(WIDTH, HEIGHT), extensions=b''):
  """A GIF whose frame need not have the size of the image (which Pillow writes always)."""
  content = saved(palette_image().crop((0, 0, *frame_size)), 'GIF')
  position = 13 + 3 * 2 ** (content[10] % 8 + 1)
  return claiming(content[:position] + extensions + content[position:], 6, '<HH', WIDTH, HEIGHT)
