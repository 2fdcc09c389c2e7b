"""Pillow's decoder where the table of kinds does not reach: modes, threads, limits, and names."""

import concurrent.futures
import io
import warnings

from meta_pseudo_labels.data.images import decode, facts, kinds, pillow_decode

import image_kinds
import numpy as np
import pytest
from PIL import Image

KINDS = {kind.name: kind for kind in image_kinds.KINDS}


@pytest.mark.parametrize(
  'name',
  [
    kind.name
    for kind in image_kinds.png_kinds()
    if not isinstance(kind.expected, str) and kind.name != '2 bits, one transparent.png'
  ],
)
def test_png_is_alike_by_pillow(name):
  # Pillow compares the transparent level of 2 and 4 bits with levels of 8.
  kind = KINDS[name]
  if 'RGB' in name and '16 bits' in name and kind.depth != facts.HIGH_BITS:
    with pytest.raises(pillow_decode.CannotDecode, match='16 bits per color'):
      pillow_decode.decode(kind.make(), depth=kind.depth)
    return
  found, about = pillow_decode.decode_with_facts(kind.make(), depth=kind.depth)
  assert np.max(np.abs(found.astype(int) - kind.expected)) <= kind.within
  by_tensorflow = decode.decode(kind.make(), depth=kind.depth).facts
  assert (about.turned, about.see_through, about.more_frames, about.bits) == (
    by_tensorflow.turned,
    by_tensorflow.see_through,
    by_tensorflow.more_frames,
    by_tensorflow.bits,
  )


@pytest.mark.parametrize(
  'mode', ['1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'HSV', 'LAB']
)
def test_every_mode_becomes_rgb(mode):
  """What files of rare modes hold reaches Pillow in these; gray 200 stays gray 200."""
  image = Image.new('RGB', (3, 2), (200, 200, 200))
  if mode == 'LAB':
    image = Image.frombytes('LAB', (3, 2), bytes([204, 0, 0]) * 6)
  elif mode in ('La', 'RGBa'):
    image = image.convert({'La': 'LA', 'RGBa': 'RGBA'}[mode]).convert(mode)
  elif mode == 'PA':
    image = image.convert('L').convert('PA')
  else:
    image = image.convert(mode)
  assert image.mode == mode
  pixels, see_through = pillow_decode._of_shallow(image, facts.WHITE)
  assert pixels.mode == 'RGB' and not see_through
  expected = 255 if mode == '1' else 200
  corner = np.asarray(pixels)[0, 0].astype(int)
  if mode != '1':
    assert np.max(np.abs(corner - expected)) <= 4  # Pillow's palette has 204.
  else:
    assert set(corner) <= {0, 255}


def test_pillows_own_limit_neither_warns_nor_stays_changed(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for name in ('RGB.tif', 'animated.gif', 'icon.ico', 'animated.webp', 'cut off.tif'):
      try:
        pillow_decode.decode(KINDS[name].make())
      except pillow_decode.CannotDecode:
        assert 'cut' in name
  assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_is_checked_before_pixels_are_decoded(monkeypatch):
  monkeypatch.setattr(facts, 'MAX_PIXELS', 16 * 24 - 1)
  files = [KINDS[name].make() for name in ('RGB.tif', 'lossless.jp2', 'RGB.ppm', 'lossy.avif')]
  monkeypatch.setattr(Image.Image, 'load', None)
  for content in files:
    with pytest.raises(pillow_decode.CannotDecode, match='pixels'):
      pillow_decode.decode(content)


def test_threads_decode_side_by_side():
  names = ['RGB.jpg', 'RGBA.png', 'animated.gif', 'orientation 6.tif', 'alpha.webp'] * 8
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda name: decode.decode(KINDS[name].make(), 7).pixels, names))
  for name, pixels in zip(names, found):
    assert np.array_equal(pixels, decode.decode(KINDS[name].make(), 7).pixels)
  assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize('side', [9, 40, 70])
def test_a_large_jpeg_is_nearly_the_same_by_both(side):
  rows, columns = np.mgrid[0:300, 0:410]
  smooth = np.stack([rows * 0.8, columns * 0.6, 127 + 99 * np.sin((rows + columns) / 19)], -1)
  stream = io.BytesIO()
  Image.fromarray(smooth.astype(np.uint8)).save(stream, 'JPEG', quality=95)
  by_pillow, about = pillow_decode.decode_with_facts(stream.getvalue(), side)
  assert (about.height, about.width) == (300, 410)
  by_tensorflow = decode.decode(stream.getvalue(), side)
  assert by_tensorflow.facts.decoder == 'tensorflow'
  assert np.max(np.abs(by_pillow.astype(int) - by_tensorflow.pixels)) <= 3


@pytest.mark.parametrize('name', KINDS)
def test_the_first_bytes_tell_the_kind(name):
  if isinstance(KINDS[name].expected, str):
    return
  kind = kinds.kind_of(KINDS[name].make()[: kinds.HEAD])
  suffix = name.rsplit('.', 1)[1]
  known = {
    'jpg': 'jpeg',
    'mpo': 'jpeg',
    'tif': 'tiff',
    'jp2': 'jpeg2000',
    'j2k': 'jpeg2000',
    'pgm': 'ppm',
    'pbm': 'ppm',
    'tga': None,
    'pcx': None,
  }
  if 'by the name of' not in name:
    assert kind == known.get(suffix, suffix)
  assert kinds.looks_like_an_image(name)


def test_names_that_look_like_images():
  for name in ('a.JPG', 'b.heic', 'c.tiff', 'd.e.webp', 'f.jfif'):
    assert kinds.looks_like_an_image(name)
  for name in ('a.txt', '.hidden.jpg', 'jpg', 'a.jpg.part', 'Thumbs.db', 'a.svg'):
    assert not kinds.looks_like_an_image(name)
  for head in (b'', b'P', b'P5', b'PNG', b'hello', b'Po 1', b'\0' * 64):
    assert kinds.kind_of(head) is None
  assert kinds.kind_of(b'\0\0\0\x1cftypmif1\0\0\0\0mif1avif') == 'avif'
