"""Linear classifiers of features: logistic regression, alone and after label spreading."""

import os
from typing import NamedTuple

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import atomic_write

import numpy as np
from threadpoolctl import threadpool_limits  # scikit-learn needs it.

CHOICES_OF_C = (1e-4, 1e-3, 1e-2, 1e-1)
DEFAULT_C = 1e-2  # Where there are too few examples to choose by.
FOLDS = 3
_SMALL = 10**7  # Numbers, up to which several threads wait for each other longer than they compute.


class Linear(NamedTuple):
  """Logits of features x `[N, D]`: x @ kernel + bias.

  Attributes:
    kernel: float32 `[D, K]`.
    bias: float32 `[K]`.
  """

  kernel: np.ndarray
  bias: np.ndarray

  def logits(self, features):
    """Returns float32 `[N, K]` of features `[N, D]`."""
    return np.asarray(features, np.float32) @ self.kernel + self.bias

  def write(self, path):
    """Writes a .npz file for `read`. Raises OSError."""
    with atomic_write(path, 'wb') as file:
      np.savez(file, kernel=self.kernel, bias=self.bias)


def read(path, num_features, num_classes):
  """Reads the Linear in a file of `Linear.write`, for this many features and classes. Raises UserError."""
  where = f'--head_weights={path}'
  try:
    with np.load(os.path.expanduser(path), allow_pickle=False) as file:
      found = Linear(file['kernel'], file['bias'])
  except Exception as error:  # numpy and zipfile raise many kinds of errors for a damaged file.
    reason = getattr(error, 'strerror', None) or 'not an intact file of a last layer'
    raise UserError(f'{where}: {reason}; make it with --task_mode=ladder') from error
  if found.kernel.shape != (num_features, num_classes) or found.bias.shape != (num_classes,):
    raise UserError(
      f'{where}: is for {found.kernel.shape} features and classes, but here are '
      f'{(num_features, num_classes)}; make it again with --task_mode=ladder'
    )
  return found


def deviations(features):
  """Returns the standard deviations of features `[N, D]`, float32 `[D]`; 1 where nothing changes."""
  found = np.asarray(features, np.float32).std(axis=0)
  return np.where(found > 1e-6, found, 1.0).astype(np.float32)


def logistic_regression(features, labels, num_classes, *, scale, c=None, weights=None):
  """Fits scikit-learn's logistic regression.

  Args:
    features: `[n, D]`.
    labels: int `[n]`; classes may be missing, their bias is then as low as that of the rarest.
    num_classes: int K.
    scale: float `[D]`, by which features are divided before the weights are kept small.
    c: float, how far weights may grow (scikit-learn's C); None: `choose_c`.
    weights: float `[n]`, of the examples, or None.

  Returns:
    Linear.
  """
  from sklearn.linear_model import LogisticRegression

  scaled = np.asarray(features, np.float32) / scale
  center = scaled.mean(axis=0)
  # The solution is a sum of the examples: with fewer of them than dimensions it is found in their space.
  reduced, basis = _in_own_space(scaled - center)
  if c is None:
    c = choose_c(reduced, labels)
  present = np.unique(labels)
  kernel, bias = np.zeros([scaled.shape[1], num_classes], np.float32), np.zeros(num_classes, np.float32)
  if len(present) > 1:
    model = LogisticRegression(C=c, max_iter=300, tol=1e-3)
    with threadpool_limits(1 if reduced.size < _SMALL else None):
      model.fit(reduced, labels, sample_weight=weights)
    found, offsets = model.coef_ @ basis, model.intercept_
    if len(present) == 2:  # scikit-learn keeps their difference alone.
      found, offsets = np.concatenate([-found, found]) / 2, np.concatenate([-offsets, offsets]) / 2
    kernel[:, present] = found.T
    bias[:] = offsets.min() - 5
    bias[present] = offsets
  kernel = kernel / scale[:, np.newaxis]
  return Linear(kernel, bias - (center * scale) @ kernel)


def class_weights(labels, num_classes, weights=None):
  """Returns weights of examples by which every class that has some counts as much: float64 `[n]`.

  Args:
    labels: int `[n]`.
    num_classes: int K.
    weights: float `[n]`, what the examples of a class count beside each other, or None: the same. Their
      sum stays, so that the classifier's weights are kept as small as before.
  """
  weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
  masses = np.bincount(labels, weights, num_classes)
  share = masses.sum() / np.count_nonzero(masses)
  return share * weights / np.where(masses > 0, masses, 1)[labels]


def _in_own_space(values):
  """Returns (values `[n, d]` with d at most n, basis `[d, D]`) whose product is values `[n, D]`."""
  if len(values) >= values.shape[1]:
    return values, np.eye(values.shape[1], dtype=values.dtype)
  left, sizes, basis = np.linalg.svd(values, full_matrices=False)
  return left * sizes, basis


def choose_c(features, labels):
  """Returns the C of the least cross entropy in cross-validation: float; features `[n, D]` standardized.

  Where a class has fewer than two examples, it is DEFAULT_C.
  """
  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import GridSearchCV, StratifiedKFold

  least = np.unique(labels, return_counts=True)[1].min()
  if least < 2 or len(np.unique(labels)) < 2:
    return DEFAULT_C
  search = GridSearchCV(
    LogisticRegression(max_iter=300, tol=1e-3),
    {'C': list(CHOICES_OF_C)},
    cv=StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=0),
    scoring='neg_log_loss',
  )
  with threadpool_limits(1 if np.size(features) < _SMALL else None):
    return float(search.fit(features, labels).best_params_['C'])
