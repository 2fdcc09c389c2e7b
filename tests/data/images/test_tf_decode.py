"""TensorFlow's decoder against its own bare ops, Pillow's resizing, in tf.data and exported."""

import io

from meta_pseudo_labels.data.images import tf_decode, tf_exif

import image_files
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image


def noise(height, width):
  """uint8 [height, width, 3]: noise upon a slope, the same every time."""
  rows, columns = np.mgrid[0:height, 0:width]
  slopes = np.stack([rows * 200 / height, columns * 200 / width, (rows + columns) % 200], -1)
  return (slopes + np.random.RandomState(height + width).randint(0, 56, slopes.shape)).astype(np.uint8)


def encoded(pixels, kind, **options):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind, **options)
  return stream.getvalue()


@pytest.mark.parametrize(
  'height, width, side, size',
  [
    (400, 500, 110, (110, 138)),
    (500, 400, 110, (138, 110)),
    (97, 61, 60, (95, 60)),
    (30, 900, 7, (7, 210)),
    (33, 45, 1, (1, 1)),
    (64, 64, 64, (64, 64)),
    (20, 30, 64, (20, 30)),
  ],
)
def test_resizing_is_pillows(height, width, side, size):
  pixels = noise(height, width)
  found = tf_decode.decode(encoded(pixels, 'PNG', compress_level=1), side).numpy()
  assert found.dtype == np.uint8 and found.shape == (*size, 3)
  expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
  difference = np.abs(found.astype(int) - expected)
  # Pillow rounds after the rows and again after the columns.
  assert difference.max() <= 1 and np.mean(difference > 0) < 0.25


@pytest.mark.parametrize(
  'side, ratio', [(None, 1), (201, 1), (200, 2), (110, 2), (101, 2), (100, 4), (51, 4), (50, 8), (3, 8)]
)
def test_a_jpeg_is_decoded_at_the_least_size_that_suffices(side, ratio):
  content = encoded(noise(400, 500), 'JPEG', quality=90)
  expected = tf.io.decode_jpeg(content, 3, ratio=ratio, dct_method='INTEGER_ACCURATE')
  size = (400, 500) if side is None else (side, (500 * side + 200) // 400)
  if tuple(expected.shape[:2]) != size:
    expected = np.asarray(Image.fromarray(expected.numpy()).resize(size[::-1], Image.Resampling.BILINEAR))
  found = tf_decode.decode(content, side).numpy().astype(int)
  assert np.max(np.abs(found - expected)) <= (1 if side else 0)


def test_alpha_is_composed_before_the_image_is_resized():
  # Every second column is transparent, and of a color that would show if it were resized.
  pixels = np.zeros([8, 64, 4], np.uint8)
  pixels[:, ::2] = (255, 0, 0, 255)
  pixels[:, 1::2] = (0, 255, 0, 0)
  found = tf_decode.decode(encoded(pixels, 'PNG'), 2, background=(0, 0, 0)).numpy()
  assert found[..., 1].max() == 0
  np.testing.assert_allclose(found[:, 2:-2, 0], 127.5, atol=2)


@pytest.mark.parametrize('alpha', range(0, 256, 15))
def test_composing_equals_pillows_to_the_bit(alpha):
  pixels = np.zeros([1, 256, 4], np.uint8)
  pixels[..., 0], pixels[..., 1], pixels[..., 3] = np.arange(256), 255 - np.arange(256), alpha
  for background in ((255, 255, 255), (3, 90, 250)):
    ground = Image.new('RGB', (256, 1), background)
    ground.paste(Image.fromarray(pixels), mask=Image.fromarray(pixels[..., 3]))
    assert np.array_equal(tf_decode.composed(pixels, background), np.asarray(ground))


@pytest.mark.parametrize('value', range(1, 9))
def test_turning_is_pillows_transposition(value):
  pixels = noise(5, 8)
  image = Image.fromarray(pixels)
  expected = np.asarray(
    image if value == 1 else image.transpose({2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[value])
  )
  assert np.array_equal(tf_exif.upright(tf.constant(pixels), tf.constant(value)), expected)
  assert tuple(tf_exif.upright_size(tf.constant([5, 8]), tf.constant(value))) == expected.shape[:2]


def test_notes_tell_size_orientation_and_transparency():
  files = {
    image_files.jpeg(image_files.STORED[6], exif=image_files.exif(6)): [16, 24, 6, 0],
    image_files.saved(image_files.RGBA, 'PNG'): [16, 24, 1, 1],
    image_files.saved(image_files.RGB, 'BMP'): [16, 24, 1, 0],
  }
  for content, expected in files.items():
    assert tf_decode.decode_with_notes(content, 5)[1].numpy().tolist() == expected


def test_no_cut_makes_anything_but_an_error_of_the_argument():
  for content in (
    image_files.jpeg(image_files.STORED[6], exif=image_files.exif(6)),
    image_files.saved(image_files.RGBA, 'PNG', exif=image_files.exif(6)),
    image_files.gif(extensions=b'!\xfe\3abc\0'),
  ):
    decode = tf.function(
      lambda text: tf_decode.decode(text, 5), input_signature=[tf.TensorSpec([], tf.string)]
    )
    for end in range(0, len(content) - 12, 7):
      with pytest.raises(tf.errors.InvalidArgumentError):
        decode(content[:end])


def test_it_runs_in_tf_data_and_in_an_exported_model(tmp_path):
  files = [
    image_files.jpeg(image_files.STORED[8], exif=image_files.exif(8)),
    image_files.saved(image_files.RGBA, 'PNG'),
    image_files.gif(),
    image_files.saved(image_files.RGB, 'BMP'),
  ]
  expected = [tf_decode.decode(content, 8).numpy() for content in files]
  dataset = tf.data.Dataset.from_tensor_slices(files).map(
    lambda content: tf_decode.decode(content, 8), num_parallel_calls=2
  )
  assert dataset.element_spec.shape.as_list() == [None, None, 3]
  for found, image in zip(dataset, expected):
    assert np.array_equal(found, image)

  class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, contents):
      return tf.map_fn(
        lambda content: tf_decode.decode(content, 8),
        contents,
        fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
      )

  tf.saved_model.save(Model(), str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  assert np.array_equal(loaded(tf.constant(files)), np.stack(expected))
  with pytest.raises(tf.errors.InvalidArgumentError, match='neither a JPEG'):
    loaded(tf.constant([b'no image']))
