"""Every kind of file in image_kinds.KINDS, by `decode` and by TensorFlow's ops in a graph."""

import functools
import re

from meta_pseudo_labels.data.images import decode, facts, tf_decode

import image_files
import image_kinds
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

SIDE = 7
KINDS = {kind.name: kind for kind in image_kinds.KINDS}
DECODED = [name for name, kind in KINDS.items() if not isinstance(kind.expected, str)]


@functools.cache
def in_graph(side, depth):
  return tf.function(
    lambda content: tf_decode.decode(content, side, depth=depth),
    input_signature=[tf.TensorSpec([], tf.string)],
  )


def differ(found, expected):
  """By how much uint8 arrays differ at most; those of other shapes by 999."""
  if found.shape != expected.shape:
    return 999
  return np.max(np.abs(found.astype(int) - expected))


def test_there_are_kinds_enough():
  assert len(KINDS) == len(image_kinds.KINDS) >= 100


@pytest.mark.parametrize('name', KINDS)
def test_a_kind_of_file(name):
  kind = KINDS[name]
  content = kind.make()
  if isinstance(kind.expected, str):
    with pytest.raises(decode.CannotDecode) as caught:
      decode.decode(content, depth=kind.depth)
    assert re.search(kind.expected, str(caught.value)), caught.value
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 110
  else:
    image = decode.decode(content, depth=kind.depth)
    assert image.pixels.dtype == np.uint8
    assert differ(image.pixels, kind.expected) <= kind.within
    assert (image.facts.height, image.facts.width) == kind.expected.shape[:2]
    assert {key: getattr(image.facts, key) for key in kind.facts} == kind.facts


@pytest.mark.parametrize('name', KINDS)
def test_a_kind_of_file_in_a_graph(name):
  kind = KINDS[name]
  content = tf.constant(kind.make())
  if kind.in_graph == image_kinds.REFUSED:
    with pytest.raises(tf.errors.InvalidArgumentError):
      in_graph(None, facts.HIGH_BITS)(content)
  else:
    assert kind.in_graph == image_kinds.SAME
    found = in_graph(None, kind.depth)(content).numpy()
    assert np.array_equal(found, decode.decode(kind.make(), depth=kind.depth).pixels)


@pytest.mark.parametrize('name', DECODED)
def test_a_kind_of_file_is_resized_as_by_pillow(name):
  kind = KINDS[name]
  content = kind.make()
  image = decode.decode(content, SIDE, depth=kind.depth)
  height, width = kind.expected.shape[:2]
  assert (image.facts.height, image.facts.width) == (height, width)
  scale = min(SIDE / min(height, width), 1)
  size = (int(height * scale + 0.5), int(width * scale + 0.5))
  assert image.pixels.shape[:2] == size
  full = Image.fromarray(decode.decode(content, depth=kind.depth).pixels)
  resized = np.asarray(full.resize(size[::-1], Image.Resampling.BILINEAR))
  # A JPEG is decoded at half its size before: 8 x 12.
  assert differ(image.pixels, resized) <= (22 if image.facts.kind == 'jpeg' else 1)
  if kind.in_graph == image_kinds.SAME:
    found = in_graph(SIDE, kind.depth)(tf.constant(content)).numpy()
    within = 0 if image.facts.decoder == 'tensorflow' else 1
    assert differ(found, image.pixels) <= within


def test_the_background_is_what_shows_through():
  content = KINDS['RGBA.png'].make()
  found = decode.decode(content, background=(0, 90, 255)).pixels
  expected = image_files.on(image_files.RGB, image_files.ALPHA, np.array([0, 90, 255]))
  assert differ(found, expected) == 0
  found = decode.decode(KINDS['transparent.gif'].make(), background=(0, 90, 255)).pixels
  assert tuple(found[0, 0]) == (0, 90, 255)
  found = decode.decode(KINDS['RGBA.tga'].make(), background=(0, 90, 255)).pixels
  assert differ(found, expected) == 0


def test_the_largest_value_tells_how_many_bits_are_used():
  for name, largest in {
    '16 bits gray, 12 used.png': 3830,
    '16 bits RGB, range said.png': 3680,
    '16 bits.tif': 65493,
    '16 bits.pgm': 65493,
    'RGB.jpg': None,
    'RGB.tif': None,
    'gray.png': None,
    'floating point.tif': 1.0,
  }.items():
    assert decode.largest_value(KINDS[name].make()) == largest, name


def test_a_jpeg_that_tensorflow_refuses_is_tried_with_pillow(monkeypatch):
  def refuse(*_):
    raise tf.errors.InvalidArgumentError(None, None, 'no')

  monkeypatch.setattr(decode, '_function', lambda *_: refuse)
  image = decode.decode(KINDS['orientation 6.jpg'].make(), SIDE)
  assert image.facts == facts.Facts('jpeg', 16, 24, turned=True, decoder='pillow')
  assert image.pixels.shape == (7, 11, 3)
  with pytest.raises(decode.CannotDecode):
    decode.decode(KINDS['RGB.png'].make())


@pytest.mark.parametrize(
  'option',
  [
    {'side': 0},
    {'background': (0, 0)},
    {'background': (0, 0, 256)},
    {'depth': 'low_bits'},
    {'depth': (5, 5)},
  ],
)
def test_options_out_of_range_are_refused(option):
  with pytest.raises(ValueError, match=next(iter(option))):
    decode.decode(KINDS['RGB.png'].make(), **option)
