"""Normalized images, and the noise of points."""

from meta_pseudo_labels import rng
from meta_pseudo_labels.data.augment import rand_augment

import numpy as np
import pytest
import tensorflow as tf


@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_normalize(dtype):
  images = np.random.RandomState(0).randint(0, 256, [6, 5, 4, 3]).astype(np.uint8)
  mean, std = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]
  result = rand_augment.normalize(images, mean, std, dtype)
  assert result.dtype == dtype and result.shape == images.shape
  expected = (images.astype(np.float64) - mean) / std
  tolerance = 1e-6 if dtype == tf.float32 else 2**-8
  np.testing.assert_allclose(tf.cast(result, tf.float32), expected, rtol=tolerance, atol=1e-6)


def test_jitter():
  points = np.arange(4000, dtype=np.float32).reshape(2000, 2)
  key = rng.key(3, 3)
  noise = rand_augment.jitter(points, key, 0.5).numpy() - points
  np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.5], atol=0.03)
  np.testing.assert_array_equal(
    rand_augment.jitter(points[7:9], key, 0.5, offset=7, total=2000),
    rand_augment.jitter(points, key, 0.5)[7:9],
  )
  other = rand_augment.jitter(points, key, 0.5, purpose='other').numpy() - points
  assert abs(np.mean(noise * other)) < 0.02
  np.testing.assert_array_equal(rand_augment.jitter(points, key, 0.0), points)
