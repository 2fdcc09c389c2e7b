"""What a fold holds out is seen nowhere else."""

from meta_pseudo_labels import build
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.ladder import folds

import numpy as np
import pytest


@pytest.fixture(name='problem', scope='module')
def fixture_problem():
  return build.problem(Config(dataset_name='digits_50_uda', label_seed=1, image_size=8))


def rows(inputs):
  return {image.tobytes() for image in inputs}


def test_held_out_images_are_neither_labeled_nor_unlabeled(problem):
  held = folds.assign(problem.labeled[1]) == 2
  fold = folds.hold_out(problem, held)
  out = problem.labeled[0][held]
  assert len(fold.labeled[0]) == 40 and len(out) == 10
  np.testing.assert_array_equal(fold.evaluated['validation'].inputs, out)
  np.testing.assert_array_equal(fold.evaluated['validation'].labels, problem.labeled[1][held])
  assert set(fold.evaluated) == {'validation'}  # The test images wait for the end.
  for seen in (fold.labeled[0], fold.unlabeled, folds.without_labels(fold)):
    assert not rows(seen) & rows(out)
  assert len(fold.unlabeled) == len(problem.unlabeled) - 10 == len(fold.truth)


def test_what_has_no_label(problem):
  found = folds.without_labels(problem)
  assert len(found) == len(problem.unlabeled) - 50
  assert not rows(found) & rows(problem.labeled[0])
