"""What features say of the images themselves: labels in doubt, images there twice, strangers."""

from typing import NamedTuple

import numpy as np

NEAR_DUPLICATE = 0.98  # The cosine of two images' directions from which on they are shown as the same.
_AT_ONCE = 2048  # Images that are compared with all others at once.
_SCALES = 2.0 ** np.arange(-4, 4.5, 0.5)  # Inverse temperatures.
FEW = 10  # Labeled images of a class, below which it is said to have few.
IMBALANCE = 3.0  # Times as many of one class as of another, from which on that is said.


class Doubt(NamedTuple):
  """A labeled image whose label is in doubt.

  Attributes:
    position: int, among the labeled images.
    given, predicted: ints, classes.
    probability: float, of the given class, by what has not seen the image's label.
  """

  position: int
  given: int
  predicted: int
  probability: float


class Mistake(NamedTuple):
  """An image that is classified wrongly.

  Attributes:
    position: int, among the images.
    given, predicted: ints, classes.
    probability: float, of the predicted class.
  """

  position: int
  given: int
  predicted: int
  probability: float


def _probabilities(logits):
  """Returns the softmax of logits: float64 `[n, K]`."""
  shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
  return np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)


def mistakes(logits, labels):
  """Returns the images that are classified wrongly, the most confident mistakes first: list of Mistake.

  Args:
    logits: float `[n, K]`, of each image by a classifier that has not seen it.
    labels: int `[n]`.
  """
  probabilities = _probabilities(logits)
  predicted, most = probabilities.argmax(axis=1), probabilities.max(axis=1)
  order = [i for i in np.argsort(-most, kind='stable') if predicted[i] != labels[i]]
  return [Mistake(int(i), int(labels[i]), int(predicted[i]), float(most[i])) for i in order]


def balanced_accuracy(right, labels):
  """Returns the mean over classes of the share of their images that is classified correctly: float.

  Args:
    right: bool `[n]`, n at least 1.
    labels: int `[n]`; classes without an image do not count.
  """
  right, labels = np.asarray(right), np.asarray(labels)
  return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def cross_entropy(logits, labels, weights=None):
  """Returns the mean cross entropy in nats, at the temperature at which it is the least: float.

  So it says how well a classifier ranks and grades its own doubts, however large its logits are.

  Args:
    logits: float `[n, K]`, of each image by a classifier that has not seen it.
    labels: int `[n]`.
    weights: float `[n]`, what each image counts, or None: the same.
  """
  own = lambda scale: _probabilities(scale * logits)[np.arange(len(labels)), labels]
  return min(
    float(np.average(-np.log(np.maximum(own(scale), 1e-12)), weights=weights)) for scale in _SCALES
  )


def label_errors(probabilities, labels):
  """Returns all labeled images, those first whose label is the most in doubt: list of Doubt.

  The order is that of the margin of logits: the log of the given label's probability, less that of the
  most probable other one.

  Args:
    probabilities: float `[n, K]`, of each image by others alone (`rungs.spread_held_out`).
    labels: int `[n]`, as given.
  """
  rows = np.arange(len(labels))
  logs = np.log(np.maximum(probabilities, 1e-6))
  others = logs.copy()
  others[rows, labels] = -np.inf
  order = np.argsort(logs[rows, labels] - others.max(axis=1), kind='stable')
  predicted = np.argmax(probabilities, axis=1)
  return [
    Doubt(int(i), int(labels[i]), int(predicted[i]), float(probabilities[i, labels[i]])) for i in order
  ]


def near_duplicates(directions, groups, least=NEAR_DUPLICATE):
  """Returns pairs of images in different groups that are nearly the same: (int, int, cosine).

  Each image of a later group is paired with the nearest one of an earlier group. The most alike are first.

  Args:
    directions: float `[N, D]`, rows of length 1.
    groups: int `[N]`, such as the split an image is in.
    least: float, the cosine from which on two images are nearly the same.
  """
  found = []
  for first in range(0, len(directions), _AT_ONCE):
    rows = slice(first, first + _AT_ONCE)
    cosines = directions[rows] @ directions.T
    cosines[groups[np.newaxis, :] >= groups[rows][:, np.newaxis]] = -1
    nearest = cosines.argmax(axis=1)
    value = cosines[np.arange(len(nearest)), nearest]
    found += [(int(nearest[i]), first + int(i), float(value[i])) for i in np.flatnonzero(value >= least)]
  return sorted(found, key=lambda pair: (-pair[2], pair[1]))


def strangers(directions, labeled, neighbors=5):
  """Returns how unlike the labeled images each image is: float `[M]`, from 0 (the same) on.

  It is one less the mean cosine to the nearest labeled images.

  Args:
    directions: float `[M, D]`, rows of length 1.
    labeled: float `[n, D]`, likewise, of the labeled images.
    neighbors: int, how many labeled images count.
  """
  near = min(neighbors, len(labeled))
  parts = []
  for first in range(0, len(directions), _AT_ONCE):
    cosines = directions[first : first + _AT_ONCE] @ labeled.T
    parts.append(np.partition(cosines, -near, axis=1)[:, -near:].mean(axis=1))
  return 1 - np.concatenate([*parts, np.empty(0)])


def class_notes(labels, class_names):
  """Returns lines about classes with few labeled images, and about imbalance.

  Args:
    labels: int `[n]`, of the labeled images.
    class_names: tuple of str.
  """
  counts = np.bincount(labels, minlength=len(class_names))
  lines = []
  few = [f'{name} ({count})' for name, count in zip(class_names, counts) if count < FEW]
  if few:
    shown = ', '.join(few[:10]) + (f' and {len(few) - 10} more' if len(few) > 10 else '')
    lines.append(f'fewer than {FEW} labeled images: {shown}')
  if counts.min() and counts.max() >= IMBALANCE * counts.min():
    lines.append(
      f'{class_names[counts.argmax()]} has {counts.max() / counts.min():.0f} times as many labeled images '
      f'as {class_names[counts.argmin()]}'
    )
  return lines
