"""What the ladder says of the unlabeled images, from outcomes made up for it."""

from meta_pseudo_labels.ladder import climb, rungs

import numpy as np
import pytest

LABELS = np.zeros(200, np.int32)


def measured(number, right):
  """A rung that classifies the first `right` of 200 images as class 0, the others as class 1."""
  logits = np.zeros([200, 2], np.float32)
  logits[np.arange(200), (np.arange(200) >= right).astype(int)] = 1
  return climb.Measured(rungs.RUNGS[number], logits, 1.0)


def said(*found, left_out=(), labels=LABELS, balanced=False):
  """The sentence of a ladder with these rungs, by number and right images."""
  one = object.__new__(climb.Climb)
  one.measured, one.left_out = [measured(*rung) for rung in found], list(left_out)
  one.labels, one.balanced = labels, balanced
  return climb.sentence(one)


@pytest.mark.parametrize(
  'found, words',
  [
    (((0, 100), (1, 120)), 'added +10.0 points [+6'),
    (((0, 100), (1, 102)), ', which may be chance, by label spreading'),
    (((0, 100), (1, 100)), 'added nothing: +0.0 points ['),
    (((0, 100), (1, 99), (3, 98)), 'added nothing: -0.5 points ['),
    (((0, 100), (1, 70)), 'did harm: -15.0 points ['),
    # Labels alone can be better than both; then that is what unlabeled images are compared with.
    (((0, 100), (1, 110), (5, 130)), 'did harm: -10.0 points ['),
    (((0, 100), (5, 130)), 'there was nothing unlabeled to learn from; the best is finetuning'),
    ((), 'nothing could be measured'),
  ],
)
def test_what_unlabeled_images_are_worth(found, words):
  assert words in said(*found)


def test_what_they_are_compared_with():
  assert 'over labels alone (logistic regression on the same features), by UDA' in said((0, 100), (3, 120))
  assert 'over labels alone (finetuning)' in said((0, 90), (3, 100), (5, 95))


def test_each_class_counts_as_much_where_that_is_asked_for():
  # 160 images of class 0, then 40 of class 1: right are all and none of them, or 120 and all.
  labels = np.repeat([0, 1], [160, 40]).astype(np.int32)
  one, other = (0, 200), (1, 120)
  words = said(one, other, labels=labels, balanced=True)
  assert words.startswith('your unlabeled images added +37.5 points [+')
  assert '] of balanced accuracy over labels alone' in words and words.endswith(', by label spreading')
  assert 'added nothing: +0.0 points [' in said(one, other, labels=labels)
  alone = (one, (5, 120))
  assert said(*alone, labels=labels, balanced=True).endswith('the best is finetuning')
  assert said(*alone, labels=labels).endswith('the best is logistic regression')


def test_without_time_nothing_is_claimed():
  assert said((0, 100), left_out=[('UDA', 9.0)]).startswith('there was no time to measure')


def test_the_best_is_never_below_the_best_of_labels_alone():
  one = object.__new__(climb.Climb)
  one.labels, one.balanced = LABELS, False
  one.measured = [measured(0, 100), measured(1, 100), measured(3, 99)]
  assert one.best().rung.name == 'logistic regression'
  one.measured.append(measured(4, 101))
  assert one.best().rung.name == 'MPL'


def test_of_equals_the_one_that_is_surer_of_what_is_right():
  one = object.__new__(climb.Climb)
  one.labels, one.balanced, one.left_out = LABELS, False, []
  logits = measured(1, 100).logits.copy()
  logits[100:, 1] = 0.1  # As often wrong, but less sure then.
  one.measured = [measured(0, 100), climb.Measured(rungs.RUNGS[1], logits, 1.0), measured(3, 100)]
  assert one.best().rung.name == 'label spreading'
  assert climb.sentence(one).startswith('your unlabeled images added +0.0 points [')
  assert climb.sentence(one).endswith('but made the classifier surer of what is right, by label spreading')
  one.measured[0] = measured(0, 101)
  assert one.best().rung.name == 'logistic regression'
  assert climb.sentence(one).endswith('they are left out')
