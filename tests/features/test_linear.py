"""Logistic regression and label spreading, against scikit-learn, dense algebra, and by hand."""

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.features import linear, spreading
from meta_pseudo_labels.models import heads

import numpy as np
import pytest
from sklearn import linear_model


def clouds(count, num_classes=3, seed=0, apart=2.0, dimensions=6):
  """Features float32 `[count, dimensions]` in clouds, one for each class, and their labels."""
  random = np.random.RandomState(seed)
  centers = np.random.RandomState(1).randn(num_classes, dimensions) * apart
  labels = np.arange(count) % num_classes
  return (centers[labels] + random.randn(count, dimensions)).astype(np.float32), labels


@pytest.mark.parametrize('num_classes', [2, 3])
def test_logistic_regression_is_scikit_learn_s_on_scaled_features(num_classes):
  features, labels = clouds(60, num_classes)
  features = features * [1, 10, 0.1, 1, 1, 1] + 5
  scale = linear.deviations(features)
  found = linear.logistic_regression(features, labels, num_classes, scale=scale, c=0.1)
  scaled = features / scale - (features / scale).mean(axis=0)
  model = linear_model.LogisticRegression(C=0.1, max_iter=1000, tol=1e-6).fit(scaled, labels)
  logits = found.logits(features)
  probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(probabilities, model.predict_proba(scaled), atol=5e-3)


def test_weights_by_which_classes_count_as_much():
  labels = np.array([0, 0, 0, 2])
  np.testing.assert_allclose(linear.class_weights(labels, 3), [2 / 3, 2 / 3, 2 / 3, 2])
  # 1 + 3 and 2 become 3 each, as they were within a class.
  np.testing.assert_allclose(linear.class_weights(labels[1:], 3, [1, 3, 2]), [0.75, 2.25, 3])
  np.testing.assert_allclose(linear.class_weights([0, 1, 1, 2], 3, [0, 1, 2, 1]), [0, 2 / 3, 4 / 3, 2])


def test_a_class_of_equal_weight_is_as_if_it_had_as_many_examples():
  features, labels = clouds(40, 2, apart=0.5)
  kept = np.flatnonzero((labels == 0) | (np.arange(40) < 10))  # 20 and 5.
  features, labels = features[kept], labels[kept]
  repeated = np.repeat(np.arange(25), np.where(labels == 1, 4, 1))
  weighted, plain = (
    linear.logistic_regression(features, labels, 2, scale=np.ones(6, np.float32), c=0.1, weights=weights)
    for weights in (linear.class_weights(labels, 2), None)
  )
  many = linear.logistic_regression(
    features[repeated], labels[repeated], 2, scale=np.ones(6, np.float32), c=0.1 * 25 / 40
  )
  np.testing.assert_allclose(weighted.logits(features), many.logits(features), atol=0.02)
  assert abs(plain.logits(features) - many.logits(features)).max() > 0.2


def test_a_class_without_examples_is_the_least_probable():
  features, labels = clouds(40, 3)
  kept = labels != 1
  found = linear.logistic_regression(
    features[kept], labels[kept], 3, scale=linear.deviations(features), c=0.1
  )
  assert set(found.logits(features[kept]).argmax(axis=1)) == {0, 2}


def test_c_is_chosen_where_it_can_be():
  features, labels = clouds(60, 3)
  by_chance = np.random.RandomState(0).permutation(labels)
  assert linear.choose_c(features, by_chance) < linear.choose_c(features, labels)
  assert linear.choose_c(features[:3], labels[:3]) == linear.DEFAULT_C


def test_a_head_takes_and_gives_the_same_logits(tmp_path):
  features, labels = clouds(60, 3)
  found = linear.logistic_regression(features, labels, 3, scale=linear.deviations(features), c=0.1)
  found.write(str(tmp_path / 'head.npz'))
  again = linear.read(str(tmp_path / 'head.npz'), 6, 3)
  model = heads.head('linear', num_classes=3, num_features=6, standardized_by=features)
  heads.set_linear(model, *again)
  np.testing.assert_allclose(model(features), found.logits(features), atol=1e-4)
  np.testing.assert_allclose(heads.get_linear(model)[0], found.kernel, atol=1e-5)
  np.testing.assert_allclose(heads.get_linear(model)[1], found.bias, atol=1e-4)
  with pytest.raises(UserError, match='is for .*6, 3.* but here are .*6, 4'):
    linear.read(str(tmp_path / 'head.npz'), 6, 4)
  (tmp_path / 'head.npz').write_bytes(b'PK')
  with pytest.raises(UserError, match='not an intact file'):
    linear.read(str(tmp_path / 'head.npz'), 6, 3)


def test_spreading_is_what_dense_matrices_give(monkeypatch):
  monkeypatch.setattr(spreading, 'NEIGHBORS', 3)
  features, truth = clouds(20, 2, seed=3)
  directions = features / np.linalg.norm(features, axis=1, keepdims=True)
  labels = np.full(20, -1)
  labels[:4] = truth[:4]
  found = spreading.spread(spreading.graph(directions), labels, 2)
  # By hand: the three nearest others by cosine, weights cos^3, made symmetric.
  cosines = directions @ directions.T
  dense = np.zeros([20, 20])
  for row in range(20):
    others = [other for other in np.argsort(-cosines[row]) if other != row][:3]
    dense[row, others] = np.maximum(cosines[row, others], 0) ** 3
  dense = dense + dense.T
  degree = dense.sum(axis=1)
  dense = dense / np.sqrt(degree[:, np.newaxis] * degree)
  given = np.zeros([20, 2])
  given[np.arange(4), labels[:4]] = 1
  value = given
  for _ in range(spreading.STEPS):
    value = spreading.ALPHA * dense @ value + (1 - spreading.ALPHA) * given
  value = value / value.sum(axis=0)
  np.testing.assert_allclose(found, value / value.sum(axis=1, keepdims=True), atol=1e-5)
  np.testing.assert_allclose(found.sum(axis=1), 1)


def test_few_labels_reach_their_clouds():
  features, truth = clouds(300, 3, apart=1.5, dimensions=20)
  labels = np.where(np.arange(300) < 6, truth, -1)
  found = spreading.spread(spreading.graph(spreading.embed(features)), labels, 3)
  alone = linear.logistic_regression(
    features[:6], truth[:6], 3, scale=linear.deviations(features), c=0.1
  ).logits(features)
  spread_right, alone_right = (np.mean(v.argmax(axis=1) == truth) for v in (found, alone))
  assert spread_right > 0.95 and spread_right >= alone_right


def test_the_margin_is_what_the_first_is_ahead_of_the_second():
  found = spreading.margins(np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]]))
  np.testing.assert_allclose(found, [0.2, 0.7, 0.0])
  np.testing.assert_array_equal(spreading.margins(np.ones([2, 1])), 1)


def test_strangers_have_small_margins():
  """A cloud of no class, as far from each class as the classes are from each other."""
  features, truth = clouds(400, 4, apart=1.5, dimensions=20)
  labels = np.where((np.arange(400) < 24) & (truth < 3), truth, -1)
  found = spreading.margins(spreading.spread(spreading.graph(spreading.embed(features)), labels, 3))
  own, strangers = found[(labels < 0) & (truth < 3)], found[truth == 3]
  assert len(strangers) == 100 and np.median(strangers) < 0.5 * np.median(own)


def test_one_example_and_examples_that_are_the_same_do_not_break_it():
  features = np.repeat(clouds(4, 2)[0], 3, axis=0)
  labels = np.array([0] + [-1] * 5 + [1] + [-1] * 5)
  found = spreading.spread(spreading.graph(spreading.embed(features)), labels, 2)
  assert np.isfinite(found).all() and found[1].argmax() == 0
