"""95 % intervals hold the truth about as often as they say."""

from meta_pseudo_labels.features import linear
from meta_pseudo_labels.ladder import folds, intervals

import numpy as np
import pytest

DRAWS = 200


def test_wilson_s_interval_by_hand():
  # 8 of 10: (0.8 + z^2/20 +- z sqrt(0.016 + z^2/400)) / (1 + z^2/10).
  share, lower, upper = intervals.accuracy(np.arange(10) < 8)
  assert (share, round(lower, 4), round(upper, 4)) == (0.8, 0.4902, 0.9433)
  assert intervals.accuracy(np.ones(5, bool))[2] == pytest.approx(1)


def test_a_difference_is_of_the_same_images():
  right, base = np.arange(100) < 60, np.arange(100) < 50
  difference, lower, upper = intervals.difference(right, base)
  assert difference == pytest.approx(0.1) and 0.02 < lower < 0.07 and 0.13 < upper < 0.19
  same = intervals.difference(right, right)
  assert same[0] == 0 and -0.04 < same[1] < 0 < same[2] < 0.04


def test_intervals_of_differences_hold_the_truth():
  random, held = np.random.RandomState(0), 0
  for draw in range(DRAWS):
    hard = random.rand(120)  # Images that are hard for one method are hard for the other.
    base, right = hard + 0.2 * random.randn(120) < 0.5, hard + 0.2 * random.randn(120) < 0.55
    _, lower, upper = intervals.difference(right, base, seed=draw)
    held += lower <= 0.0493 <= upper
  assert 0.90 <= held / DRAWS <= 0.98


def test_balanced_intervals_by_hand():
  # Two of four images and one of one: the mean is 0.75, as sure as of 4 / (1/4 + 1/1) = 3.2 images.
  right, labels = np.array([True, True, False, False, True]), np.array([0, 0, 0, 0, 2])
  share, lower, upper = intervals.accuracy(right, labels)
  z, count = 1.959964, 3.2
  half = z * np.sqrt(0.1875 / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
  assert (share, (upper - lower) / 2) == (0.75, pytest.approx(half))
  # One of class 0 is lost, and the one of class 2 gained: (-1/4 + 1) / 2.
  base = np.array([True, True, True, False, False])
  difference, lower, upper = intervals.difference(right, base, labels=labels)
  assert difference == 0.375 and lower < 0.375 < upper
  same = intervals.difference(right, right, labels=labels)
  assert same[0] == 0 and same[1] < 0 < same[2]


@pytest.mark.parametrize(
  'sizes, base, gain, noise',
  [
    ((200, 20), (0.9, 0.6), (0.0, 0.15), (0.2, 0.2)),
    ((200, 20), (0.95, 0.5), (0.0, 0.1), (0.02, 0.4)),  # They differ in the rare class alone.
    ((60, 30, 10, 5), (0.8, 0.7, 0.6, 0.5), (0.0, 0.05, 0.1, 0.1), (0.15,) * 4),
    ((5,) * 20, (0.5,) * 20, (0.05,) * 20, (0.2,) * 20),
  ],
)
def test_balanced_intervals_hold_the_truth(sizes, base, gain, noise):
  labels, random = np.repeat(np.arange(len(sizes)), sizes), np.random.RandomState(1)

  def draw(labels):
    """Outcomes of two methods: images that are hard for one are hard for the other."""
    of_image = lambda values: np.array(values)[labels]
    hard, unlike = random.rand(len(labels)), of_image(noise)
    first = hard + unlike * random.randn(len(labels)) < of_image(base)
    return first, hard + unlike * random.randn(len(labels)) < of_image(base) + of_image(gain)

  means = [values.mean() for values in draw(np.repeat(np.arange(len(sizes)), 100000))]
  held = np.zeros(2)
  for number in range(DRAWS):
    first, second = draw(labels)
    found = intervals.accuracy(second, labels), intervals.difference(second, first, number, labels)
    truths = means[1], means[1] - means[0]
    held += [lower <= truth <= upper for truth, (_, lower, upper) in zip(truths, found)]
  assert (held >= 0.90 * DRAWS).all() and (held <= 0.98 * DRAWS).all(), held / DRAWS


def test_intervals_of_cross_validation_hold_the_accuracy_on_new_images():
  """Features of four classes; the truth is the accuracy of the classifier of all labels on many others."""
  random = np.random.RandomState(0)
  centers, scale = random.randn(4, 5) * 0.8, np.ones(5, np.float32)
  draw_images = lambda count: (np.arange(count) % 4, random.randn(count, 5))
  labels_of_many, noise = draw_images(4000)
  many = centers[labels_of_many] + noise
  fit = lambda x, y: linear.logistic_regression(x, y, 4, scale=scale, c=0.1)
  held = 0
  for draw in range(DRAWS):
    labels, noise = draw_images(80)
    features = centers[labels] + noise
    fold, right = folds.assign(labels, draw), np.zeros(80, bool)
    for number in range(5):
      out = fold == number
      right[out] = fit(features[~out], labels[~out]).logits(features[out]).argmax(axis=1) == labels[out]
    truth = np.mean(fit(features, labels).logits(many).argmax(axis=1) == labels_of_many)
    _, lower, upper = intervals.accuracy(right)
    held += lower <= truth <= upper
  assert 0.90 <= held / DRAWS <= 0.98


def test_folds_are_even_in_every_class():
  labels = np.repeat([0, 1, 2], [5, 9, 12])
  found = folds.assign(labels)
  counts = np.array(
    [[np.sum((found == fold) & (labels == label)) for label in range(3)] for fold in range(5)]
  )
  assert counts.sum() == 26 and (np.ptp(counts, axis=0) <= 1).all() and np.ptp(counts.sum(axis=1)) <= 1
  assert folds.assign(np.array([0, 0, 0, 1, 1])).max() == 1
  assert (folds.assign(np.array([0, 0, 1])) == -1).all()
