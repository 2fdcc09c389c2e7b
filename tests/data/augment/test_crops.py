"""Decoding and cropping against Pillow, NumPy and TensorFlow's own one-shot functions."""

import io

from meta_pseudo_labels.data.augment import crops

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

# Else colours at the edge of a window are interpolated otherwise than within the image.
WITHOUT_SUBSAMPLING = {'JPEG': {'subsampling': 0}, 'PNG': {}}


def smooth(height, width):
  """uint8 `[height, width, 3]` that JPEG keeps well."""
  rows, columns = np.mgrid[0:height, 0:width]
  return np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 64 + 90], -1).astype(
    np.uint8
  )


def written(pixels, kind, **options):
  stream = io.BytesIO()
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  image.save(stream, kind, **options)
  return stream.getvalue()


def noise(*shape):
  """uint8 of that shape, the same every time."""
  return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


def forms():
  """{name: (bytes, the pixels they stand for, how far off a decoder may be)}."""
  rgba = noise(5, 7, 4)
  rgb, gray = rgba[..., :3], rgba[..., 0]
  grays = np.repeat(gray[..., np.newaxis], 3, axis=2)
  palette = Image.fromarray(rgb).quantize(4)
  colors = np.asarray(palette.convert('RGB'))
  turned = palette.transpose(Image.Transpose.ROTATE_180)
  smooth = np.asarray(Image.fromarray(np.full([8, 9, 3], [200, 90, 30], np.uint8)))
  cmyk = Image.fromarray(smooth).convert('CMYK')
  return {
    'png': (written(rgb, 'PNG'), rgb, 0),
    'png gray': (written(gray, 'PNG'), grays, 0),
    'png gray and alpha': (written(rgba[..., ::3].copy(), 'PNG'), grays, 0),
    'png alpha': (written(rgba, 'PNG'), rgb, 0),
    'png palette': (written(palette, 'PNG'), colors, 0),
    'png palette and alpha': (written(palette, 'PNG', transparency=1), colors, 0),
    'png 16 bits': (written(gray * np.uint16(257), 'PNG'), grays, 0),
    'png 1 pixel': (written(rgb[:1, :1], 'PNG'), rgb[:1, :1], 0),
    'jpeg': (written(smooth, 'JPEG'), smooth, 4),
    'jpeg gray': (written(smooth[..., 0], 'JPEG'), np.full_like(smooth, 200), 4),
    'jpeg progressive': (written(smooth, 'JPEG', progressive=True), smooth, 4),
    'jpeg cmyk': (written(cmyk, 'JPEG'), smooth, 4),
    'gif': (written(palette, 'GIF'), colors, 0),
    'gif animated': (written(palette, 'GIF', save_all=True, append_images=[turned]), colors, 0),
    'bmp 8 bits': (written(gray, 'BMP'), grays, 0),
    'bmp 24 bits': (written(rgb, 'BMP'), rgb, 0),
    'bmp 32 bits': (written(rgba, 'BMP'), rgb, 0),
    'bmp 1 pixel': (written(gray[:1, :1], 'BMP'), grays[:1, :1], 0),
  }


@pytest.mark.parametrize('name', forms())
def test_every_form_is_decoded_alike_eagerly_and_in_tf_data(name):
  content, expected, tolerance = forms()[name]
  assert getattr(Image.open(io.BytesIO(content)), 'n_frames', 1) == 1 + ('animated' in name)
  image = crops.decode(content)
  assert image.dtype == tf.uint8 and image.shape == expected.shape
  np.testing.assert_allclose(image.numpy().astype(int), expected, rtol=0, atol=tolerance)
  dataset = tf.data.Dataset.from_tensors(tf.constant(content)).map(crops.decode)
  assert dataset.element_spec.shape.as_list() == [None, None, 3]
  assert np.array_equal(dataset.get_single_element(), image)
  squares = dataset.map(lambda image: crops.fit(image, 4))
  assert squares.element_spec.shape == (4, 4, 3)
  assert np.array_equal(squares.get_single_element(), crops.fit(image, 4))


@pytest.mark.parametrize(
  'height, width, rows, columns', [(6, 6, (0, 6), (0, 6)), (6, 9, (0, 6), (1, 7)), (10, 6, (2, 8), (0, 6))]
)
def test_without_resizing_the_center_is_cut_out(height, width, rows, columns):
  image = noise(height, width, 3)
  assert np.array_equal(crops.fit(image, 6), image[slice(*rows), slice(*columns)])


@pytest.mark.parametrize(
  'height, width', [(13, 13), (5, 5), (9, 20), (31, 8), (3, 4), (2, 11), (1, 1), (1, 3), (64, 65)]
)
@pytest.mark.parametrize('size', [8, 11])
def test_fit_is_tensorflows_resizing_and_then_a_cut(height, width, size):
  image = noise(height, width, 3)
  # To the nearest whole pixel, halves up.
  full = [int(np.floor(side * size / min(height, width) + 0.5)) for side in (height, width)]
  resized = tf.image.resize(image, full, 'bicubic', antialias=True).numpy()
  top, left = ((side - size) // 2 for side in full)
  expected = np.clip(np.round(resized[top : top + size, left : left + size]), 0, 255)
  found = crops.fit(image, size).numpy()
  assert found.dtype == np.uint8
  # Before they are rounded they differ in the last bits: positions are computed in another order.
  np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=1)
  assert np.mean(found == expected) > 0.95


def test_fit_keeps_flat_colors_and_both_halves_in_place():
  for height, width in ((1, 1), (3, 7), (90, 31), (1, 3000)):
    assert np.all(crops.fit(np.full((height, width, 3), 201, np.uint8), 6) == 201)
  # 24 x 40: black to the left of the middle, white to the right; so it is in the square of 6.
  image = np.zeros((24, 40, 3), np.uint8)
  image[:, 20:] = 255
  square = crops.fit(image, 6).numpy()
  assert np.all(square[:, :2] == 0) and np.all(square[:, 4:] == 255)
  assert np.all(square[:, 2] < 40) and np.all(square[:, 3] > 215)
  # One column of white in a hundred of black shows as gray: nothing is left out between samples.
  image = np.zeros((100, 100, 3), np.uint8)
  image[:, 50] = 255
  assert np.all(crops.fit(image, 5).numpy()[:, 2] > 8)


def test_decode_refuses_what_is_no_image():
  for content in (b'', b'nothing', written(smooth(30, 30), 'JPEG')[:60]):
    with pytest.raises(tf.errors.InvalidArgumentError):
      crops.decode(tf.constant(content))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_the_central_crop_is_seven_eighths_of_the_shorter_side(kind):
  content = written(smooth(40, 65), kind, **WITHOUT_SUBSAMPLING[kind])
  pixels = crops.decode(tf.constant(content)).numpy()
  # int(.875 * 40) = 35; begins at (40 - 35 + 1) // 2 and (65 - 35 + 1) // 2.
  window = pixels[3:38, 15:50].astype(np.float32)
  expected = tf.compat.v1.image.resize_bicubic(window[None], [20, 20])[0]
  found = crops.central_crop(tf.constant(content), 20)
  np.testing.assert_allclose(found, expected, atol=1e-3)
  # Of the same size, nothing is interpolated.
  same = crops.central_crop(tf.constant(content), 35)
  np.testing.assert_allclose(same, window, atol=1e-3)


def test_an_image_of_one_pixel_has_crops():
  content = tf.constant(written(np.full([1, 1, 3], 77, np.uint8), 'PNG'))
  assert (crops.central_crop(content, 4).numpy() == 77).all()
  assert (crops.random_crop(content, 4, [1, 2]).numpy() == 77).all()


def test_random_crops_are_windows_of_the_sizes_and_shapes_asked_for():
  """The picture's colours are its coordinates, so a crop tells where it comes from."""
  rows, columns = np.mgrid[0:200, 0:250]
  content = tf.constant(written(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8), 'PNG'))
  crop = tf.function(lambda seed: crops.random_crop(content, 50, seed))
  areas, ratios = [], []
  for seed in range(200):
    pixels = crop(tf.constant([seed, 7])).numpy()
    height = (pixels[49, 0, 0] - pixels[0, 0, 0]) * 50 / 49  # TF 1's grid: no half pixels.
    width = (pixels[0, 49, 1] - pixels[0, 0, 1]) * 50 / 49
    areas.append(height * width / 50000)
    ratios.append(width / height)
  assert 0.07 < min(areas) < 0.15 and 0.7 < max(areas) < 1.02
  assert 0.7 < min(ratios) < 0.85 and 1.2 < max(ratios) < 1.4
  np.testing.assert_array_equal(crop(tf.constant([3, 7])), crop(tf.constant([3, 7])))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_a_random_crop_is_the_window_that_tensorflow_draws(kind):
  content = written(smooth(60, 80), kind, **WITHOUT_SUBSAMPLING[kind])
  pixels = crops.decode(tf.constant(content))
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    [60, 80, 3],
    [[[0.0, 0.0, 1.0, 1.0]]],
    [5, 6],
    min_object_covered=0.1,
    aspect_ratio_range=(0.75, 4 / 3),
    area_range=(0.08, 1),
    max_attempts=10,
  )
  window = tf.cast(tf.slice(pixels, begin, size), tf.float32)
  expected = tf.compat.v1.image.resize_bicubic(window[None], [32, 32])[0]
  found = crops.random_crop(tf.constant(content), 32, tf.constant([5, 6]))
  np.testing.assert_allclose(found, expected, atol=1e-3)


def _claiming(kind, width, height):
  """The bytes of a small image whose head claims another size."""
  image = tf.zeros([4, 4, 3], tf.uint8)
  if kind == 'png':
    content = bytearray(tf.io.encode_png(image).numpy())
    content[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
  elif kind == 'jpeg':
    content = bytearray(tf.io.encode_jpeg(image).numpy())
    start = content.index(b'\xff\xc0') + 5
    content[start : start + 4] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
  elif kind == 'gif':
    content = bytearray(b'GIF89a' + width.to_bytes(2, 'little') + height.to_bytes(2, 'little'))
  else:
    content = bytearray(
      b'BM' + bytes(16) + width.to_bytes(4, 'little') + (2**32 - height).to_bytes(4, 'little') + bytes(60)
    )
  return bytes(content)


@pytest.mark.parametrize('content', [b'\x89', b'RIFF\x1a\0\0\0WEBPVP8L', b'\xff\x0a', b'no image'])
def test_other_kinds_of_file_are_not_decoded(content):
  """Newer decoders take WebP and JPEG XL, whatever the suffix says; their sizes are not checked."""
  with pytest.raises(tf.errors.InvalidArgumentError, match='Unknown image file format'):
    crops.decode(content)


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'gif', 'bmp'])
def test_a_head_that_claims_a_huge_image_is_refused_before_it_is_decoded(kind):
  with pytest.raises(tf.errors.InvalidArgumentError) as caught:
    crops.decode(_claiming(kind, 20000, 20000))
  assert crops.TOO_LARGE in str(caught.value)
  in_graph = tf.function(crops.central_crop).get_concrete_function(tf.TensorSpec([], tf.string), 8)
  with pytest.raises(tf.errors.InvalidArgumentError, match='pixels'):
    in_graph(tf.constant(_claiming(kind, 60000, 60000)))


def test_the_whole_image_is_squeezed():
  pixels = smooth(60, 90)
  found = crops.whole(tf.constant(pixels), 20)
  expected = tf.image.resize(pixels, [20, 20], 'bicubic', antialias=True)
  np.testing.assert_allclose(found, tf.clip_by_value(expected, 0, 255), atol=1e-3)
  np.testing.assert_array_equal(crops.whole(tf.constant(written(pixels, 'PNG')), 20), found)
  # Its borders are there, which the central crop cuts off.
  framed = np.zeros([60, 90, 3], np.uint8)
  framed[:4] = 255
  assert crops.whole(tf.constant(framed), 20).numpy().max() > 200
  assert crops.central_crop(tf.constant(framed), 20).numpy().max() == 0


def test_crops_that_must_show_nearly_everything():
  rows, columns = np.mgrid[0:100, 0:100]
  content = tf.constant(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8))
  crop = tf.function(lambda seed: crops.random_crop(content, 50, seed, 0.6, crops.whole))
  for seed in range(40):
    pixels = crop(tf.constant([seed, 7])).numpy()
    assert np.ptp(pixels[:, 0, 0]) * np.ptp(pixels[0, :, 1]) > 0.55 * 100 * 100 * (49 / 50) ** 2
  # Where no window is large enough it is the whole image.
  everything = crops.random_crop(content, 50, tf.constant([1, 2]), 1.0, crops.whole)
  np.testing.assert_array_equal(everything, crops.whole(content, 50))
