"""Cross-validation over the labeled images: which of them each fold holds out, and its Problem."""

import dataclasses

from meta_pseudo_labels.data import splits, storage

import numpy as np

MOST = 5


def assign(labels, seed=0):
  """Returns the fold of each labeled example: int64 `[n]`, every class spread evenly over the folds.

  There are as many folds as the smallest class has examples, `MOST` at most. With a class of one example
  nothing can be held out: then all are -1.

  Args:
    labels: int `[n]`.
    seed: int.
  """
  counts = np.unique(labels, return_counts=True)[1]
  number = min(MOST, counts.min())
  found = np.full(len(labels), -1, np.int64)
  if number < 2:
    return found
  start = 0
  for label in np.unique(labels):
    places = np.random.RandomState([seed, label]).permutation(np.flatnonzero(labels == label))
    # Each class begins where the one before ended, so that the folds are of one size.
    found[places] = (start + np.arange(len(places))) % number
    start += len(places)
  return found


def hold_out(problem, held):
  """Returns the Problem without some labeled examples, which it is validated on.

  Args:
    problem: Problem.
    held: bool `[n]`, of the labeled examples `problem.split.labeled`.
  """
  split = problem.split
  out = split.labeled[held]
  changes = {}
  if _is_of_training_split(problem):
    # Their images are not to be seen at all, as those of the test split are not.
    kept = ~np.isin(split.unlabeled, out)
    changes = dict(
      unlabeled=problem.unlabeled[kept],
      truth=problem.truth[kept],
      unlabeled_names=None if problem.unlabeled_names is None else problem.unlabeled_names[kept],
    )
  images = problem.images and hold_out(problem.images, held)
  return dataclasses.replace(
    problem,
    split=splits.Split(
      labeled=split.labeled[~held],
      unlabeled=split.unlabeled[~np.isin(split.unlabeled, out)],
      validation=np.sort(np.concatenate([split.validation, out])),
    ),
    evaluated={'validation': storage.Examples(problem.inputs[out], problem.labels[out])},
    images=images,
    **changes,
  )


def without_labels(problem):
  """Returns the inputs that have no label: those of the training split besides labeled ones, or all."""
  if _is_of_training_split(problem):
    return problem.inputs[np.setdiff1d(problem.split.unlabeled, problem.split.labeled)]
  return problem.unlabeled


def _is_of_training_split(problem):
  """Returns whether the unlabeled examples are those of the training split."""
  names = problem.unlabeled_names
  if names is None or problem.names is None:
    return len(problem.unlabeled) == len(problem.split.unlabeled)
  return np.array_equal(names, problem.names[problem.split.unlabeled])
