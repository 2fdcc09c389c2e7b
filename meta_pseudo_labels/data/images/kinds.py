"""What kind of image a file is: by its first bytes, and whether its name looks like one."""

import importlib.util

HEAD = 64  # Bytes that kind_of looks at.

SUFFIXES = (
  '.jpg',
  '.jpeg',
  '.jpe',
  '.jfif',
  '.mpo',
  '.png',
  '.apng',
  '.gif',
  '.bmp',
  '.dib',
  '.webp',
  '.tif',
  '.tiff',
  '.avif',
  '.avifs',
  '.heic',
  '.heif',
  '.hif',
  '.jp2',
  '.j2k',
  '.j2c',
  '.jpc',
  '.jpf',
  '.jpx',
  '.ppm',
  '.pgm',
  '.pbm',
  '.pnm',
  '.pfm',
  '.ico',
  '.icns',
  '.tga',
  '.pcx',
  '.sgi',
  '.qoi',
  '.dds',
  '.psd',
)

_STARTS = (
  (b'\xff\xd8\xff', 'jpeg'),
  (b'\x89PNG\r\n\x1a\n', 'png'),
  (b'GIF87a', 'gif'),
  (b'GIF89a', 'gif'),
  (b'BM', 'bmp'),
  (b'II*\0', 'tiff'),
  (b'MM\0*', 'tiff'),
  (b'II+\0', 'tiff'),
  (b'MM\0+', 'tiff'),
  (b'\xff\x4f\xff\x51', 'jpeg2000'),
  (b'\0\0\0\x0cjP  \r\n\x87\n', 'jpeg2000'),
  (b'\0\0\1\0', 'ico'),
  (b'icns', 'icns'),
  (b'qoif', 'qoi'),
  (b'DDS ', 'dds'),
  (b'8BPS', 'psd'),
  (b'\x01\xda', 'sgi'),
  (b'\xff\x0a', 'jpegxl'),
  (b'\0\0\0\x0cJXL \r\n\x87\n', 'jpegxl'),
)
# The brands of files that are built of boxes, as AVIF and HEIC are.
_BRANDS = {
  b'avif': 'avif',
  b'avis': 'avif',
  **dict.fromkeys((b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis'), 'heic'),
}
_TEXTS = (b'<!doctype', b'<html', b'<?xml', b'<svg', b'<head', b'<body', b'{')


def kind_of(head):
  """Returns what kind of file starts with some bytes.

  Args:
    head: bytes, the first of a file; HEAD of them suffice. Fewer may be all there are.

  Returns:
    'jpeg', 'png', 'gif', 'bmp', 'webp', 'tiff', 'avif', 'heic', 'jpeg2000', 'ico', 'icns',
    'ppm', 'qoi', 'dds', 'psd', 'sgi', 'jpegxl', 'text' (HTML, XML, SVG, JSON), or None. TGA and
    PCX files are None: nothing sure marks their start. That a kind is named does not say that it
    can be decoded.
  """
  for start, kind in _STARTS:
    if head.startswith(start):
      return kind
  if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
    return 'webp'
  if head[4:8] == b'ftyp':
    # The main brand, then a version, then the others that the file agrees with.
    for brand in (head[8:12], *(head[i : i + 4] for i in range(16, HEAD, 4))):
      if brand in _BRANDS:
        return _BRANDS[brand]
  # P1 to P6, and floating point as Pf and PF; a digit alone does not make a picture of a text.
  if head[:1] == b'P' and head[1:2] in b'123456fF' and head[2:3] in b' \t\r\n' and len(head) > 2:
    return 'ppm'
  if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith(_TEXTS):
    return 'text'
  return None


def looks_like_an_image(name):
  """Returns whether a file's name has one of SUFFIXES, in upper or lower case, and is not hidden.

  Args:
    name: str, without its folder.
  """
  return name.lower().endswith(SUFFIXES) and not name.startswith('.')


# Kinds that `images.decode` decodes; HEIC with an optional package.
DECODED = (
  'jpeg', 'png', 'gif', 'bmp', 'webp', 'tiff', 'avif', 'heic', 'jpeg2000', 'ico', 'icns', 'ppm', 'qoi',
  'dds', 'psd', 'sgi', 'tga', 'pcx')  # fmt: skip
# Images by their names that nothing here decodes.
_FOREIGN = (
  '.svg', '.svgz', '.raw', '.cr2', '.cr3', '.nef', '.arw', '.dng', '.orf', '.rw2', '.raf', '.jxl', '.eps',
  '.ai', '.xcf', '.exr', '.hdr', '.dcm')  # fmt: skip


def foreign_kind(name):
  """Returns the kind of image that a name says and that cannot be decoded, such as 'SVG'; '' else."""
  suffix = next((end for end in _FOREIGN if name.lower().endswith(end)), '')
  return suffix[1:].upper()


def heic_is_there():
  """Returns whether the optional package for HEIC can be imported."""
  return importlib.util.find_spec('pillow_heif') is not None
