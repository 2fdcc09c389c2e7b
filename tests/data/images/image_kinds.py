"""The kinds of image files that are tested: how each is made and what has to become of it.

KINDS is a list of Kind; `python tests/data/images/image_kinds.py FOLDER` writes them as files.
"""

# fmt: off
import dataclasses
import pathlib
import struct
import sys
from typing import Any, Callable, Dict, Tuple, Union

import numpy as np
from PIL import Image, ImageChops

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from image_files import (  # noqa: E402
  ALPHA,
  COLORS,
  GRAY,
  HEIGHT,
  INDICES,
  ORIENTATION,
  PLTE,
  RAMP,
  RGB,
  RGBA,
  STORED,
  WIDTH,
  adam7,
  animated,
  bmp,
  chunk,
  claiming,
  deep,
  exif,
  gif,
  grays,
  jpeg,
  old_bmp,
  on,
  packed,
  palette_image,
  picture,
  png,
  saved,
  shown,
  tiff,
  with_segments,
  without_segment,
)

SAME, REFUSED = 'same', 'refused'
UNKNOWN = 'no kind of image'
CUT = 'truncated|cut|damaged|EOF|Truncated|end of|not identify|reading image data|decoder object'


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of file.

  name: what it is, with the suffix that its file would have.
  make: () -> bytes.
  expected: uint8 [H, W, 3], or a regular expression for the message of CannotDecode.
  in_graph: SAME, REFUSED, or how TensorFlow's pixels differ.
  within: how far off values of 0 to 255 may be.
  facts: what `Facts` has to say.
  depth: the option.
  """
  name: str
  make: Callable[[], bytes]
  expected: Union[np.ndarray, str]
  in_graph: str = SAME
  within: int = 0
  facts: Dict[str, Any] = dataclasses.field(default_factory=dict)
  depth: Union[str, Tuple[int, int]] = 'high_bits'


DEEP12 = RAMP * 10  # 0 to 3830: 12 of 16 bits
SOLID = {'see_through': False}
CLEAR = {'see_through': True}
TURNED = {'turned': True, 'height': HEIGHT, 'width': WIDTH}
MORE = {'more_frames': True}


def jpeg_kinds():
  cmyk = jpeg(Image.fromarray(RGB).convert('CMYK'))
  # Pillow writes all inverted, with Adobe's segment, and takes all for inverted.
  inverted = ImageChops.invert(Image.fromarray(RGB).convert('CMYK'))
  plain_cmyk = without_segment(jpeg(inverted), 0xee)
  start = jpeg().index(b'\xff\xc0') + 5
  yield Kind('RGB.jpg', jpeg, RGB, within=6, facts={'kind': 'jpeg', **SOLID, 'bits': 8})
  yield Kind('subsampled.jpeg', lambda: jpeg(subsampling=2, quality=90),
             shown(jpeg(subsampling=2, quality=90)), within=2)
  yield Kind('gray.jpg', lambda: jpeg(GRAY), grays(GRAY), within=6)
  yield Kind('progressive.jpg', lambda: jpeg(progressive=True), RGB, within=6)
  yield Kind('CMYK, inverted (Adobe).jpg', lambda: cmyk, RGB, within=8)
  yield Kind('CMYK, not inverted.jpg', lambda: plain_cmyk, RGB, within=8)
  yield Kind('several pictures.mpo', lambda: animated('MPO', quality=95, subsampling=0), RGB,
             within=6, facts=MORE)
  for value, stored in STORED.items():
    yield Kind(f'orientation {value}.jpg', lambda value=value, stored=stored: jpeg(
        stored, exif=exif(value)), RGB, within=6, facts={**TURNED, 'turned': value > 1})
  yield Kind('orientation 6, high byte first.jpg', lambda: jpeg(STORED[6], exif=exif(6, '>')), RGB,
             within=6, facts=TURNED)
  late = with_segments(jpeg(STORED[8]), (0xfe, b'a comment'), (0xe2, b'ICC_PROFILE\0' + bytes(999)),
                       (0xe1, b'http://ns.adobe.com/xap/1.0/\0<x/>'), (0xe1, exif(8)))
  yield Kind('orientation 8 behind other segments.jpg', lambda: late, RGB, within=6, facts=TURNED)
  for name, data in (('value 0', exif(0)), ('value 99', exif(99)),
                     ('directory beyond the end', exif(6, offset=2 ** 31 + 5)),
                     ('of another type', exif(6, kind=5)), ('cut off', exif(6)[:30]),
                     ('no TIFF', b'Exif\0\0XX*\0' + exif(6)[10:])):
    yield Kind(f'EXIF {name}.jpg', lambda data=data: with_segments(jpeg(), (0xe1, data)), RGB,
               within=6, facts={'turned': False})
  yield Kind('1 x 1.jpg', lambda: jpeg(RGB[:1, :1]), RGB[:1, :1], within=3)
  yield Kind('1 x 20000.jpg', lambda: jpeg(picture(1, 20000)), picture(1, 20000), within=6)
  yield Kind('20000 x 1.jpg', lambda: jpeg(picture(20000, 1)), picture(20000, 1), within=6)
  yield Kind('cut off.jpg', lambda: jpeg()[:-30], CUT, REFUSED)
  yield Kind('without end.jpg', lambda: jpeg()[:-1], CUT, REFUSED)
  yield Kind('head only.jpg', lambda: jpeg()[:60], CUT, REFUSED)
  yield Kind('claims 60000 x 60000.jpg', lambda: claiming(jpeg(), start, '>HH', 60000, 60000),
             'more than 200,000,000 pixels', REFUSED)


def png_kinds():
  two, sixteen = RAMP % 4, RAMP % 16
  line = np.zeros([HEIGHT, WIDTH, 4], np.uint8)
  line[5, :, 3] = 255  # A black line on transparent black.
  rgb_rows, gray_rows = [row.tobytes() for row in RGB], [row.tobytes() for row in GRAY]
  index_rows = packed(INDICES, 4)
  yield Kind('RGB.png', lambda: saved(RGB, 'PNG'), RGB, facts={'kind': 'png', **SOLID, 'bits': 8})
  yield Kind('RGBA.png', lambda: saved(RGBA, 'PNG'), on(RGB, ALPHA), facts=CLEAR)
  yield Kind('RGBA, a line on nothing.png', lambda: saved(line, 'PNG'), grays(
      np.where(line[..., 3], 0, 255)), facts=CLEAR)
  yield Kind('RGBA, all opaque.png', lambda: saved(RGB, 'PNG', 'RGBA'), RGB, facts=SOLID)
  yield Kind('gray.png', lambda: saved(GRAY, 'PNG'), grays(GRAY))
  yield Kind('gray and alpha.png', lambda: saved(RGBA[..., ::3], 'PNG'), on(grays(GRAY), ALPHA),
             facts=CLEAR)
  yield Kind('1 bit.png', lambda: png(1, 0, packed(RAMP % 2, 1)), grays(RAMP % 2 * 255))
  yield Kind('2 bits.png', lambda: png(2, 0, packed(two, 2)), grays(two * 85))
  yield Kind('4 bits.png', lambda: png(4, 0, packed(sixteen, 4)), grays(sixteen * 17))
  yield Kind('2 bits, one transparent.png', lambda: png(
      2, 0, packed(two, 2), before=chunk(b'tRNS', b'\0\1')), grays(np.where(two == 1, 255, two * 85)),
             facts=CLEAR)
  yield Kind('gray, one transparent.png', lambda: png(
      8, 0, gray_rows, before=chunk(b'tRNS', struct.pack('>H', 40))),
             grays(np.where(GRAY == 40, 255, GRAY)), facts=CLEAR)
  yield Kind('RGB, one transparent.png', lambda: png(
      8, 2, rgb_rows, before=chunk(b'tRNS', struct.pack('>HHH', *COLORS[1]))),
             np.where((INDICES == 1)[..., np.newaxis], 255, RGB), facts=CLEAR)
  yield Kind('palette.png', lambda: saved(palette_image(), 'PNG', bits=8), RGB, facts=SOLID)
  yield Kind('palette of 4 bits.png', lambda: png(4, 3, index_rows, before=PLTE), RGB, facts=SOLID)
  yield Kind('palette with alpha.png', lambda: png(
      4, 3, index_rows, before=PLTE + chunk(b'tRNS', bytes([0, 128]))),
             on(RGB, np.array([0, 128, 255, 255])[INDICES]), facts=CLEAR)
  yield Kind('interlaced.png', lambda: png(8, 2, adam7(RGB), interlaced=1, height=HEIGHT), RGB)
  yield Kind('orientation 6.png', lambda: saved(STORED[6], 'PNG', exif=exif(6)), RGB, facts=TURNED)
  yield Kind('animated.png', lambda: animated('PNG'), RGB, facts={**MORE, 'kind': 'png'})
  yield Kind('1 x 1.png', lambda: saved(RGB[:1, :1], 'PNG'), RGB[:1, :1])
  yield Kind('1 x 20000.png', lambda: saved(picture(1, 20000), 'PNG'), picture(1, 20000))
  yield Kind('20000 x 1.png', lambda: saved(picture(20000, 1), 'PNG'), picture(20000, 1))
  yield Kind('no pixels.png', lambda: png(8, 2, [], width=0), 'no pixels|damaged|decoded', REFUSED)
  yield Kind('cut off.png', lambda: saved(RGB, 'PNG')[:-60], CUT, REFUSED)
  yield Kind('claims 60000 x 60000.png', lambda: png(8, 2, rgb_rows, 60000, height=60000),
             'more than 200,000,000 pixels', REFUSED)


def deep_png_kinds():
  deep_rgb = RGB.astype(int) * 257 - 3 * (RGB > 0)  # The upper 8 bits differ from rounding.
  deep_alpha = np.stack([DEEP12 * 16, ALPHA.astype(int) * 257], axis=-1)
  deep_high = (DEEP12 * 16 >> 8).astype(np.uint8)
  said = np.rint(RGB.astype(int) * 16 * 255 / 4095).astype(np.uint8)
  two_alike = deep(np.where(RAMP % 2, 0x1234, 0x1235))
  yield Kind('16 bits gray.png', lambda: png(16, 0, deep(RAMP * 171)), grays(RAMP * 171 >> 8),
             facts={'bits': 16, 'largest': 383 * 171})
  yield Kind('16 bits gray, 12 used.png', lambda: png(16, 0, deep(DEEP12)), grays(DEEP12 >> 8),
             facts={'bits': 16, 'largest': 3830})
  yield Kind('16 bits gray, 12 used and said.png', lambda: png(16, 0, deep(DEEP12)),
             grays(np.rint(DEEP12 * 255 / 4095)), depth=(0, 4095), within=1)
  yield Kind('16 bits gray, clipped.png', lambda: png(16, 0, deep(DEEP12)),
             grays(np.rint(np.clip((DEEP12 - 500) * 255 / 1000, 0, 255))), depth=(500, 1500), within=1)
  yield Kind('16 bits gray and alpha.png', lambda: png(16, 4, deep(deep_alpha)),
             on(grays(deep_high), ALPHA), facts={**CLEAR, 'largest': 61280})
  yield Kind('16 bits gray, one transparent.png', lambda: png(
      16, 0, two_alike, before=chunk(b'tRNS', b'\x12\x34')), grays(np.where(RAMP % 2, 255, 0x12)),
             facts=CLEAR)
  yield Kind('16 bits RGB.png', lambda: png(16, 2, deep(deep_rgb)), (deep_rgb >> 8).astype(np.uint8))
  yield Kind('16 bits RGB, range said.png', lambda: png(16, 2, deep(RGB.astype(int) * 16)),
             said, depth=(0, 4095), within=1, facts={'largest': 230 * 16})
  yield Kind('16 bits RGBA, range said.png', lambda: png(16, 6, deep(np.concatenate(
      [RGB.astype(int) * 16, ALPHA[..., np.newaxis].astype(int) * 257], axis=2))), on(said, ALPHA),
             depth=(0, 4095), within=1, facts=CLEAR)


def gif_and_bmp_kinds():
  palette = b''.join(bytes([*color[::-1], 0]) for color in COLORS)
  up = RGB[::-1]
  bits5 = (RGB >> 3).astype(np.uint16)
  rows555 = [row.tobytes() for row in (bits5[..., 0] << 10 | bits5[..., 1] << 5 | bits5[..., 2])[::-1]]
  # 0, B, G, R, where TensorFlow expects B, G, R first.
  masked = np.concatenate([up[..., :1] * 0, up[..., ::-1]], axis=2)
  gray_palette = b''.join(bytes([value] * 3 + [0]) for value in range(256))
  yield Kind('palette.gif', lambda: saved(palette_image(), 'GIF'), RGB, facts={'kind': 'gif'})
  yield Kind('interlaced.gif', lambda: saved(palette_image(), 'GIF', interlace=1), RGB)
  yield Kind('with a comment.gif', lambda: gif(extensions=b'!\xfe\3abc\2de\0'), RGB)
  yield Kind('transparent.gif', lambda: saved(palette_image(), 'GIF', transparency=0),
             np.where((INDICES == 0)[..., np.newaxis], 255, RGB), REFUSED, facts=CLEAR)
  yield Kind('animated.gif', lambda: animated('GIF'), RGB, facts=MORE)
  yield Kind('frame smaller than the image.gif', lambda: gif((18, 12)), shown(gif((18, 12))),
             REFUSED)
  yield Kind('cut off.gif', lambda: saved(palette_image(), 'GIF')[:-12], CUT, REFUSED)
  yield Kind('claims 60000 x 60000.gif', lambda: claiming(gif(), 6, '<HH', 60000, 60000),
             'more than 200,000,000 pixels', REFUSED)
  yield Kind('24 bits.bmp', lambda: saved(RGB, 'BMP'), RGB, facts={'kind': 'bmp'})
  yield Kind('top-down.bmp', lambda: bmp(24, [row.tobytes() for row in RGB[..., ::-1]],
                                         height=-HEIGHT), RGB)
  yield Kind('32 bits.bmp', lambda: bmp(32, [row.tobytes() for row in np.concatenate(
      [up[..., ::-1], up[..., :1]], axis=2)]), RGB)
  yield Kind('32 bits with masks.bmp', lambda: bmp(
      32, [row.tobytes() for row in masked], compression=3,
      masks=struct.pack('<III', 0xff000000, 0xff0000, 0xff00)), RGB, REFUSED)
  yield Kind('16 bits.bmp', lambda: bmp(16, rows555), (bits5 * 255 // 31).astype(np.uint8), REFUSED,
             within=1)
  yield Kind('8 bits, gray.bmp', lambda: bmp(8, [row.tobytes() for row in GRAY[::-1]],
                                             palette=gray_palette), grays(GRAY))
  yield Kind('8 bits, palette.bmp', lambda: bmp(8, [row.tobytes() for row in INDICES[::-1]],
                                                palette=palette), RGB, REFUSED)
  yield Kind('4 bits.bmp', lambda: bmp(4, packed(INDICES[::-1], 4), palette=palette), RGB, REFUSED)
  yield Kind('1 bit.bmp', lambda: saved(Image.fromarray(RAMP % 2 == 1), 'BMP'),
             grays(RAMP % 2 * 255), REFUSED)
  yield Kind('old header.bmp', old_bmp, RGB, REFUSED)
  yield Kind('cut off.bmp', lambda: saved(RGB, 'BMP')[:-100], CUT, REFUSED)
  yield Kind('claims 60000 x 60000.bmp', lambda: claiming(saved(RGB, 'BMP'), 18, '<ii', 60000, -60000),
             'more than 200,000,000 pixels', REFUSED)


def tiff_kinds():
  lab = Image.fromarray(np.full([HEIGHT, WIDTH, 3], (128, 0, 0), np.uint8), 'RGB')
  lab = Image.frombytes('LAB', (WIDTH, HEIGHT), lab.tobytes())
  bits = {258: (3, 16)}
  deep_gray = (RAMP * 171).astype('<u2')
  yield Kind('RGB.tif', lambda: saved(RGB, 'TIFF'), RGB, REFUSED, facts={'kind': 'tiff', 'bits': 8})
  yield Kind('RGBA, LZW.tiff', lambda: saved(RGBA, 'TIFF', compression='tiff_lzw'), on(RGB, ALPHA),
             REFUSED, facts=CLEAR)
  yield Kind('CMYK.tif', lambda: saved(RGB, 'TIFF', 'CMYK'), RGB, REFUSED, within=1)
  yield Kind('Lab.tif', lambda: saved(lab, 'TIFF'), grays(np.full([HEIGHT, WIDTH], 119)), REFUSED,
             within=3)
  yield Kind('palette.tif', lambda: saved(palette_image(), 'TIFF'), RGB, REFUSED)
  yield Kind('1 bit.tif', lambda: saved(Image.fromarray(RAMP % 2 == 1), 'TIFF'),
             grays(RAMP % 2 * 255), REFUSED)
  yield Kind('several pages.tif', lambda: animated('TIFF'), RGB, REFUSED, facts=MORE)
  for value in (6, 7):
    yield Kind(f'orientation {value}.tif', lambda value=value: saved(
        STORED[value], 'TIFF', tiffinfo={ORIENTATION: value}), RGB, REFUSED, facts=TURNED)
  yield Kind('16 bits.tif', lambda: tiff(deep_gray, bits), grays(RAMP * 171 >> 8), REFUSED,
             facts={'bits': 16, 'largest': 383 * 171})
  yield Kind('16 bits, high byte first.tif', lambda: tiff(deep_gray.astype('>u2'), bits, '>'),
             grays(RAMP * 171 >> 8), REFUSED)
  yield Kind('16 bits, white is 0.tif', lambda: tiff(deep_gray, {**bits, 262: (3, 0)}),
             grays((65535 - RAMP * 171) >> 8), REFUSED)
  yield Kind('16 bits, 12 used and said.tif', lambda: tiff(DEEP12.astype('<u2'), bits),
             grays(np.rint(DEEP12 * 255 / 4095)), REFUSED, depth=(0, 4095), within=1)
  yield Kind('32 bits.tif', lambda: tiff(RAMP.astype('<u4'), {258: (3, 32)}), 'range', REFUSED)
  yield Kind('floating point.tif', lambda: saved(Image.fromarray((RAMP / 383).astype(np.float32)),
                                                 'TIFF'), 'floating point.*range', REFUSED)
  yield Kind('floating point, range said.tif', lambda: saved(Image.fromarray(
      (RAMP / 383).astype(np.float32)), 'TIFF'), grays(np.rint(RAMP * 255 / 383)), REFUSED,
             depth=(0, 1), within=1, facts={'bits': 32, 'largest': 1.0})
  yield Kind('cut off.tif', lambda: saved(RGB, 'TIFF')[:-500], CUT, REFUSED)


def other_kinds():
  yield Kind('lossy.webp', lambda: saved(RGB, 'WEBP', quality=95),
             shown(saved(RGB, 'WEBP', quality=95)), REFUSED, facts={'kind': 'webp', **SOLID})
  yield Kind('alpha.webp', lambda: saved(RGBA, 'WEBP', lossless=True, exact=True), on(RGB, ALPHA),
             REFUSED, facts=CLEAR)
  yield Kind('animated.webp', lambda: animated('WEBP', lossless=True), RGB, REFUSED, facts=MORE)
  yield Kind('orientation 6.webp', lambda: saved(STORED[6], 'WEBP', lossless=True, exif=exif(6)),
             RGB, REFUSED, facts=TURNED)
  yield Kind('cut off.webp', lambda: saved(RGB, 'WEBP', lossless=True)[:-10], CUT, REFUSED)
  yield Kind('lossy.avif', lambda: saved(RGB, 'AVIF', quality=90),
             shown(saved(RGB, 'AVIF', quality=90)), REFUSED, facts={'kind': 'avif'})
  yield Kind('orientation 6.avif', lambda: saved(STORED[6], 'AVIF', quality=100, subsampling='4:4:4',
                                            exif=exif(6)), RGB,
             REFUSED, facts=TURNED, within=8)
  yield Kind('lossless.jp2', lambda: saved(RGB, 'JPEG2000'), RGB, REFUSED,
             facts={'kind': 'jpeg2000'})
  yield Kind('16 bits gray.j2k', lambda: saved(Image.fromarray((RAMP * 171).astype(np.uint16)),
                                               'JPEG2000', no_jp2=True), grays(RAMP * 171 >> 8),
             REFUSED, facts={'bits': 16})
  yield Kind('icon.ico', lambda: saved(RGB[:, :16], 'ICO', sizes=[(16, 16)]), RGB[:, :16], REFUSED,
             facts={'kind': 'ico'})
  yield Kind('RGBA.tga', lambda: saved(RGBA, 'TGA'), on(RGB, ALPHA), REFUSED,
             facts={'kind': 'tga', **CLEAR})
  yield Kind('RGB.ppm', lambda: saved(RGB, 'PPM'), RGB, REFUSED, facts={'kind': 'ppm'})
  yield Kind('in digits.pgm', lambda: b'P2 2 1 9\n0 9\n', grays([[0, 255]]), REFUSED)
  yield Kind('16 bits.pgm', lambda: b'P5 24 16 65535\n' + b''.join(deep(RAMP * 171)),
             grays(RAMP * 171 >> 8), REFUSED, facts={'bits': 16, 'largest': 383 * 171})
  yield Kind('1 bit.pbm', lambda: b'P4 24 16\n' + b''.join(packed(RAMP % 2, 1)),
             grays(255 - RAMP % 2 * 255), REFUSED)
  yield Kind('RGB.pcx', lambda: saved(RGB, 'PCX'), RGB, REFUSED)
  yield Kind('RGB.sgi', lambda: saved(RGB, 'SGI'), RGB, REFUSED)
  yield Kind('RGBA.dds', lambda: saved(RGBA, 'DDS'), on(RGB, ALPHA), REFUSED, facts=CLEAR)
  yield Kind('a JPEG by the name of.png', jpeg, RGB, within=6, facts={'kind': 'jpeg'})
  yield Kind('a WebP by the name of.jpg', lambda: saved(RGB, 'WEBP', lossless=True), RGB, REFUSED)
  yield Kind('empty.jpg', lambda: b'', 'empty', REFUSED)
  yield Kind('one byte.jpg', lambda: b'\xff', UNKNOWN, REFUSED)
  yield Kind('text.png', lambda: b'these are my notes\n' * 20, UNKNOWN, REFUSED)
  yield Kind('an HTML page.jpg', lambda: b'\n<!DOCTYPE html><title>404</title>', 'text', REFUSED)
  yield Kind('a drawing in SVG.png', lambda: b'<svg width="9" height="9"/>', 'text', REFUSED)
  yield Kind('noise.jpg', lambda: bytes(RAMP.ravel() * 7 % 251), UNKNOWN, REFUSED)
  yield Kind('head of a HEIC.heic', lambda: b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(40),
             'HEIC|heic|decoded', REFUSED)


KINDS = [*jpeg_kinds(), *png_kinds(), *deep_png_kinds(), *gif_and_bmp_kinds(), *tiff_kinds(),
         *other_kinds()]


if __name__ == '__main__':
  for one in KINDS:
    (pathlib.Path(sys.argv[1]) / one.name).write_bytes(one.make())
