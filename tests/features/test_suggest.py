"""Suggestions by hand: one of each kind, none where a label is near, the unsure ones first."""

from meta_pseudo_labels.features import suggest

import numpy as np
import pytest

NONE = np.zeros([0, 4], np.float32)


def around(axis, angles):
  """Directions that lie some angles (radians) off an axis: float32 `[n, 4]`."""
  found = np.zeros([len(angles), 4], np.float32)
  found[:, axis], found[:, axis + 1] = np.cos(angles), np.sin(angles)
  return found


# Two kinds of images: three and five, the middle one of each most like the others.
TWO_KINDS = np.concatenate([around(0, [-0.2, 0, 0.2]), around(2, [-0.4, -0.2, 0, 0.2, 0.4])])
SURE, UNSURE = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])


def test_uncertainty_by_hand():
  found = suggest.uncertainty([[0.5, 0.5, 0], [0.1, 0.3, 0.6], [0, 1, 0]])
  np.testing.assert_allclose(found, [1, 0.7**2, 0], atol=1e-6)


def test_two_kinds_give_the_middle_of_each_the_larger_first():
  found = suggest.suggest(TWO_KINDS, NONE, np.ones(8), 2)
  assert found.positions.tolist() == [5, 1]
  assert found.stands_for.tolist() == [5, 3]


def test_a_kind_with_a_label_waits():
  found = suggest.suggest(TWO_KINDS, around(2, [0.01]), np.ones(8), 2)
  assert found.positions[0] == 1
  # The second is of the other kind, beside the label; those at the label are the label's.
  assert found.positions[1] in (3, 4, 6, 7) and found.stands_for[1] < 3


def test_an_unsure_kind_comes_first():
  weights = suggest.uncertainty(np.concatenate([np.repeat(UNSURE, 3, 0), np.repeat(SURE, 5, 0)]))
  assert suggest.suggest(TWO_KINDS, NONE, weights, 1).positions.tolist() == [1]


@pytest.mark.parametrize('count', [8, 9, 100])
def test_more_than_there_are_gives_each_once(count):
  found = suggest.suggest(TWO_KINDS, NONE, np.ones(8), count)
  assert sorted(found.positions) == list(range(8))
  assert found.stands_for.tolist() == [1] * 8


def test_copies_are_given_once_each_and_stand_for_themselves():
  copies = np.repeat(around(0, [0.0]), 4, axis=0)
  found = suggest.suggest(copies, copies[:1], np.zeros(4), 2)
  assert len(set(found.positions.tolist())) == 2 and found.stands_for.tolist() == [1, 1]


def test_nothing_unlabeled_gives_nothing():
  found = suggest.suggest(NONE, TWO_KINDS, np.zeros(0), 5)
  assert found.positions.tolist() == [] and found.stands_for.tolist() == []


def test_the_quick_way_is_the_greedy_one():
  """Brute force: of all images the one with which the sum is the largest, again and again."""
  random = np.random.RandomState(0)
  directions, labeled = (random.randn(count, 5).astype(np.float32) for count in (60, 4))
  directions, labeled = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in (directions, labeled))
  weights, chosen = random.rand(60), []

  def total(positions):
    near = np.concatenate([labeled, directions[positions]])
    return weights @ np.maximum(directions @ near.T, 0).max(axis=1)

  for _ in range(20):
    left = [i for i in range(60) if i not in chosen]
    chosen.append(max(left, key=lambda i: total([*chosen, i])))
  assert suggest.suggest(directions, labeled, weights, 20).positions.tolist() == chosen


def test_of_very_many_images_some_are_looked_at(monkeypatch):
  monkeypatch.setattr(suggest, 'MOST', 50)
  random = np.random.RandomState(0)
  directions = random.randn(300, 4).astype(np.float32)
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  found = suggest.suggest(directions, NONE, np.ones(300), 10, seed=1)
  again = suggest.suggest(directions, NONE, np.ones(300), 10, seed=1)
  assert len(set(found.positions.tolist())) == 10 and found.positions.max() >= 50
  assert found.positions.tolist() == again.positions.tolist()
  assert found.stands_for.sum() == 300  # All images are counted, also those that were not looked at.
