"""Views of encoded images: the release's for ImageNet (those of arrays: test_augment.py)."""

import io

from meta_pseudo_labels import rng
from meta_pseudo_labels.data.augment import crops, rand_augment
from meta_pseudo_labels.data.augment.views import ResizedCrop

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def jpeg(seed):
  pixels = np.kron(np.random.RandomState(seed).randint(0, 256, [4, 5, 3]), np.ones([9, 9, 1]))
  stream = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(stream, 'JPEG')
  return stream.getvalue()


INPUTS = tf.constant([jpeg(seed) for seed in range(6)])
KEY = rng.key(3, 4)


def views(**settings):
  """Not normalized unless asked for, so that pixels stay exactly what they are."""
  return ResizedCrop(
    size=16, eval_size=20, **{'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0), 'magnitude': 9, **settings}
  )


def test_evaluation_sees_the_central_crop_at_its_own_size():
  found = views(mean=MEAN, std=STD).plain(INPUTS)
  assert found.shape == (6, 20, 20, 3)
  for number in range(6):
    expected = (crops.central_crop(INPUTS[number], 20).numpy() - MEAN) / STD
    np.testing.assert_allclose(found[number], expected, atol=1e-5)


def test_original_and_augmented_share_a_crop_and_are_mirrored_each_on_its_own():
  original, augmented = views(ops=('Identity',)).unlabeled(INPUTS, KEY, 0, 6)
  whole = np.clip(original, 0, 255).astype(np.uint8)  # RandAugment works on whole numbers.
  same = [np.array_equal(a, b) for a, b in zip(whole, augmented)]
  mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(whole, augmented)]
  assert all(np.logical_xor(same, mirrored)) and any(same) and any(mirrored)


@pytest.mark.parametrize('fill', [128, 250])
def test_the_augmented_view_is_the_original_crop_through_rand_augment(fill):
  original, augmented = views(flip=False, fill=fill).unlabeled(INPUTS, KEY, 0, 6)
  expected = rand_augment.rand_augment(
    np.clip(original, 0, 255).astype(np.uint8),
    rng.fold(KEY, 'unlabeled'),
    magnitude=9,
    cutout_const=40,
    translate_const=100,
    fill=fill,
  )
  np.testing.assert_array_equal(augmented, expected)


def test_labeled_images_are_cropped_and_mirrored_and_augmented_only_if_asked():
  weak = views().labeled(INPUTS, KEY, 0, 6).numpy()
  again = views().labeled(INPUTS, KEY, 0, 6).numpy()
  np.testing.assert_array_equal(weak, again)
  plain = views(flip=False).labeled(INPUTS, KEY, 0, 6).numpy()
  mirrored = [not np.allclose(a, b) for a, b in zip(weak, plain)]
  for is_mirrored, a, b in zip(mirrored, weak, plain):
    np.testing.assert_allclose(a[:, ::-1] if is_mirrored else a, b, atol=1e-3)
  assert 0 < sum(mirrored) < 6
  strong = views(strong_labeled=True).labeled(INPUTS, KEY, 0, 6)
  assert not np.allclose(strong, weak)
  other = views().labeled(INPUTS, rng.key(3, 5), 0, 6)
  assert not np.allclose(other, weak)


@pytest.mark.parametrize('replicas', [2, 3])
def test_replicas_share_the_views_of_one(replicas):
  share = 6 // replicas
  whole = (views().labeled(INPUTS, KEY, 0, 6), *views().unlabeled(INPUTS, KEY, 0, 6))
  parts = [
    (
      views().labeled(INPUTS[first : first + share], KEY, first, 6),
      *views().unlabeled(INPUTS[first : first + share], KEY, first, 6),
    )
    for first in range(0, 6, share)
  ]
  for one, many in zip(whole, zip(*parts)):
    np.testing.assert_allclose(one, tf.concat(many, 0), atol=1e-5)


def test_bfloat16_is_rounded_once():
  exact = views(mean=MEAN, std=STD).plain(INPUTS)
  rounded = views(mean=MEAN, std=STD, dtype=tf.bfloat16).plain(INPUTS)
  assert rounded.dtype == tf.bfloat16
  np.testing.assert_array_equal(rounded, tf.cast(exact, tf.bfloat16))
