"""Features as data: equal to the network's own, kept, and the same after a kill."""

import dataclasses
import os
import types

from meta_pseudo_labels import rng
from meta_pseudo_labels.build import features
from meta_pseudo_labels.data.augment.views import Features, PadCrop
from meta_pseudo_labels.features import extract as extraction
from meta_pseudo_labels.features.extract import extract
from meta_pseudo_labels.features.feature_cache import FeatureCache
from meta_pseudo_labels.models.network_inputs import NetworkInputs

import numpy as np
import pytest
import tensorflow as tf

VIEWS = PadCrop(mean=(120.0,) * 3, std=(60.0,) * 3, flip=True, ops=('Invert', 'Rotate'))


@pytest.fixture(name='network', scope='module')
def fixture_network():
  inputs = tf.keras.Input([8, 8, 3])
  x = tf.keras.layers.Conv2D(5, 3, kernel_initializer=tf.keras.initializers.RandomNormal(seed=1))(inputs)
  return tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x))


def images(count, seed=0):
  return np.random.RandomState(seed).randint(0, 256, [count, 8, 8, 3]).astype(np.uint8)


def taken(folder, network, inputs, num_views=2, lines=None):
  cache = FeatureCache(str(folder), {'views': num_views}, (lines if lines is not None else []).append)
  return extract(network, inputs, VIEWS, cache, num_views=num_views, seed=3, say=print)


def test_features_are_what_the_network_says_of_each_view(tmp_path, network):
  inputs = images(7)
  found = taken(tmp_path, network, inputs)
  plain = taken(tmp_path / 'plain', network, inputs, num_views=0)
  assert plain.shape == (7, 1, 5) and found.shape == (7, 4, 5) and found.dtype == np.float16
  np.testing.assert_allclose(plain[:, 0], network(VIEWS.plain(inputs)), atol=2e-3)
  for view in range(2):
    key = rng.fold(rng.key(3, 0), view)
    # The first 7 of the 256 of a chunk.
    original, augmented = VIEWS.unlabeled(inputs, key, 0, extraction.CHUNK)
    np.testing.assert_allclose(found[:, view], network(original), atol=2e-3)
    np.testing.assert_allclose(found[:, 2 + view], network(augmented), atol=2e-3)
  assert abs(found[:, 0] - found[:, 1]).max() > 0.01  # The views differ.


def test_a_kill_and_more_images_change_no_feature(tmp_path, network, monkeypatch):
  monkeypatch.setattr(extraction, 'CHUNK', 8)
  monkeypatch.setattr(extraction, '_BATCH', 4)
  inputs = images(21)
  whole = taken(tmp_path / 'whole', network, inputs)
  add, calls = FeatureCache.add, []

  def killed(self, *args):
    if len(calls) == 1:
      raise KeyboardInterrupt
    calls.append(args)
    add(self, *args)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(FeatureCache, 'add', killed)
    taken(tmp_path / 'killed', network, inputs)
  np.testing.assert_array_equal(taken(tmp_path / 'killed', network, inputs), whole)
  # Nothing is computed again, whatever the order; new images come to those that are there.
  order = np.random.RandomState(0).permutation(21)
  with monkeypatch.context() as patch:
    patch.setattr(FeatureCache, 'add', lambda *args: pytest.fail('computed again'))
    np.testing.assert_array_equal(taken(tmp_path / 'whole', network, inputs[order]), whole[order])
  grown = taken(tmp_path / 'whole', network, np.concatenate([images(3, seed=5), inputs]))
  np.testing.assert_array_equal(grown[3:], whole)


def test_damaged_chunks_are_computed_again(tmp_path, network):
  inputs = images(7)
  whole = taken(tmp_path, network, inputs, num_views=0)  # Random views are of the new chunk.
  (folder,) = tmp_path.iterdir()
  path = folder / 'features-000000.npz'
  path.write_bytes(path.read_bytes()[:100])
  lines = []
  again = taken(tmp_path, network, inputs, num_views=0, lines=lines)
  assert len(lines) == 1 and 'damaged' in lines[0] and str(path) in lines[0]
  np.testing.assert_array_equal(again, whole)
  assert os.listdir(folder).count('features-000001.npz') == 1


def test_images_that_are_there_twice_share_their_features(tmp_path, network):
  inputs = images(5)
  found = taken(tmp_path, network, inputs[[0, 1, 0, 4, 1]])
  np.testing.assert_array_equal(found[[0, 1]], found[[2, 4]])


def test_training_draws_among_the_views():
  features = np.arange(5, dtype=np.float16)[np.newaxis, :, np.newaxis] + 10 * np.arange(400)[:, None, None]
  features, views = features.astype(np.float32), Features(2)
  place = lambda found: (found.numpy()[:, 0] - 10 * np.arange(400)).astype(int)
  assert set(place(views.plain(features))) == {0}
  key = rng.key(0, 1)
  labeled = place(views.labeled(features, key, 0, 400))
  original, augmented = map(place, views.unlabeled(features, key, 0, 400))
  for drawn, among in ((labeled, (0, 1, 2)), (original, (0, 1, 2)), (augmented, (3, 4))):
    counts = np.bincount(drawn, minlength=5)
    assert set(np.flatnonzero(counts)) == set(among)
    assert counts[list(among)].min() > 400 / len(among) - 60
  # A replica draws what one device would for its rows.
  of_replica = views.labeled(features[100:], key, 100, 400).numpy()[:, 0] - 10 * np.arange(100, 400)
  np.testing.assert_array_equal(of_replica, labeled[100:])


def test_without_random_views_all_are_the_plain_one():
  features, views = np.random.RandomState(0).rand(4, 1, 3).astype(np.float16), Features(0)
  key = rng.key(0, 1)
  for found in (views.labeled(features, key, 0, 4), *views.unlabeled(features, key, 0, 4)):
    np.testing.assert_array_equal(found, features[:, 0].astype(np.float32))


def test_two_processes_share_what_each_of_them_adds(tmp_path, network, monkeypatch):
  """Both look before either has computed anything: the second one computes what is left."""
  caches = [FeatureCache(str(tmp_path), {'views': 0}, print) for _ in range(2)]
  take = lambda cache, inputs: extract(network, inputs, VIEWS, cache, num_views=0, seed=3, say=print)
  first = take(caches[0], images(5))
  with monkeypatch.context() as patch:
    patch.setattr(FeatureCache, 'add', lambda *args: pytest.fail('computed again'))
    np.testing.assert_array_equal(take(caches[1], images(5)), first)
  take(caches[1], images(3, seed=9))
  (folder,) = tmp_path.iterdir()
  assert len([name for name in os.listdir(folder) if name.endswith('.npz')]) == 2


def test_features_of_other_inputs_are_others():
  """The same weights behind another scale give other features, whatever the layers are called."""

  def network(kind):
    layers = [NetworkInputs(kind), tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(2)]
    layers[-1].kernel_initializer = 'ones'
    return tf.keras.Sequential([tf.keras.Input([4, 4, 3]), *layers])

  first, again, other = (features._sha256(network(kind)) for kind in ('0_1', '0_1', '-1_1'))
  assert first == again != other


def test_features_of_before_there_was_a_fill_are_found(tmp_path, network):
  """The cache's key is what it was, where pixels are filled as they were."""

  def key(fill):
    problem = types.SimpleNamespace(
      images=None,
      info=types.SimpleNamespace(class_names=('a', 'b'), fit='center'),
      input_shape=(8, 8, 3),
      views=dataclasses.replace(VIEWS, fill=fill),
      decoding=None,
    )
    config = types.SimpleNamespace(cache_dir=str(tmp_path), seed=0)
    return features._caches(config, problem, network, 2, print)[1].parameters

  assert 'fill' not in key(128)['views'] and key(250)['views'] == {**key(128)['views'], 'fill': 250}
