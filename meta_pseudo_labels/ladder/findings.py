"""What features say of the images themselves: labels in doubt, images there twice, strangers."""

from typing import NamedTuple

import numpy as np

# From which on two images are shown as the same: the cosine of their features' directions, the correlation
# of their thumbnails. Encoding an image anew can turn its features far, and hardly changes its thumbnail.
SAME_FEATURES, SAME_THUMBNAIL = 0.98, 0.99
THUMBNAIL = 16  # Pixels a side.
_COLOR = 0.4  # What color counts beside brightness in a thumbnail: files keep less of it.
_AT_ONCE = 256  # Images that are compared with all others at once.
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


class Pair(NamedTuple):
  """Two images of different groups that are nearly the same.

  Attributes:
    first, second: ints, positions; the first is of the earlier group.
    cosine: float, of their features' directions.
    correlation: float, of their thumbnails.
  """

  first: int
  second: int
  cosine: float
  correlation: float


def thumbnail_directions(thumbnails):
  """Returns directions whose cosine is the correlation of thumbnails: float32 `[N, D]`, rows of length 1.

  Those of a single gray have length 0, so they are like no other.

  Args:
    thumbnails: float `[N, S, S, C]`, C 1 or 3.
  """
  brightness = thumbnails.mean(axis=3, keepdims=True)
  color = thumbnails - brightness
  brightness = brightness - brightness.mean(axis=(1, 2), keepdims=True)
  parts = [thumbnails.shape[3] ** 0.5 * brightness, _COLOR * color]
  found = np.concatenate(parts, axis=3).astype(np.float32).reshape(len(thumbnails), -1)
  return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-3)


def near_duplicates(directions, thumbnails, groups):
  """Returns the images that are nearly the same as one of another group: list of Pair, most alike first.

  Each image is paired with the one of another group that it is the most like. So no image is left out, and
  a hundred equal images are not ten thousand pairs.

  Args:
    directions: float32 `[N, D]`, rows of length 1, of the features.
    thumbnails: float32 `[N, T]`, of `thumbnail_directions`.
    groups: int `[N]`, such as the split an image is in.
  """
  most, partner = np.full(len(groups), -np.inf, np.float32), np.zeros(len(groups), np.int64)

  def compare(rows, others, excess):
    nearest = excess.argmax(axis=1)
    value = excess[np.arange(len(rows)), nearest]
    better = value > most[rows]
    most[rows[better]], partner[rows[better]] = value[better], others[nearest[better]]

  for group in np.unique(groups)[1:]:
    own, earlier = np.flatnonzero(groups == group), np.flatnonzero(groups < group)
    near, alike = directions[earlier].T, thumbnails[earlier].T
    for first in range(0, len(own), _AT_ONCE):
      rows = own[first : first + _AT_ONCE]
      excess = directions[rows] @ near - np.float32(SAME_FEATURES)
      np.maximum(excess, thumbnails[rows] @ alike - np.float32(SAME_THUMBNAIL), out=excess)
      compare(rows, earlier, excess)
      compare(earlier, rows, excess.T)
  found = {}
  for position in np.flatnonzero(most >= 0):
    ends = tuple(sorted((int(position), int(partner[position])), key=lambda end: groups[end]))
    likeness = (float(values[ends[0]] @ values[ends[1]]) for values in (directions, thumbnails))
    found[ends] = (-float(most[position]), ends[1], Pair(*ends, *likeness))
  return [pair for *_, pair in sorted(found.values())]


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
