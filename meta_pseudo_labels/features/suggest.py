"""Which unlabeled images a person should label next: representative, uncertain, and unlike one another.

The images are chosen one after the other. Each is the one that adds most to a sum over all unlabeled
images: how unsure the classifier is of an image, times the cosine to the nearest image with a label, given
or suggested. (The sum is the facility location function. Choosing greedily comes within 1 - 1/e of
its largest value: Nemhauser, Wolsey and Fisher 1978.)
"""

from typing import NamedTuple

import numpy as np

MOST = 6000  # Unlabeled images that are compared with one another; of more, so many are drawn.


class Suggestions(NamedTuple):
  """Images to label, the most useful first.

  Attributes:
    positions: int64 `[k]`, among the unlabeled images.
    stands_for: int64 `[k]`, how many unlabeled images, itself among them, are more like this one than like
      any other suggested or labeled one.
  """

  positions: np.ndarray
  stands_for: np.ndarray


def uncertainty(probabilities):
  """Returns how unsure a classifier is: float32 `[n]`, from 0 on, 1 where two classes are as probable.

  It is one less the margin between the two most probable classes, squared.

  Args:
    probabilities: float `[n, K]`, K at least 2.
  """
  ordered = np.sort(np.asarray(probabilities, np.float32), axis=1)
  return (1 - (ordered[:, -1] - ordered[:, -2])) ** 2


def suggest(directions, labeled, weights, count, seed=0):
  """Chooses unlabeled images to label: Suggestions, of fewer than `count` where there are fewer.

  Args:
    directions: float32 `[n, d]`, of the unlabeled images, rows of length 1 (`spreading.embed`).
    labeled: float32 `[m, d]`, likewise, of the labeled images.
    weights: float `[n]`, how much it matters that an image has a like one with a label (`uncertainty`).
    count: int.
    seed: int, which images are looked at where there are more than `MOST`.
  """
  seen = np.arange(len(directions))
  if len(seen) > MOST:
    seen = np.sort(np.random.RandomState(seed).permutation(seen)[:MOST])
  chosen = seen[_greedy(directions[seen], labeled, np.asarray(weights, np.float32)[seen], count)]
  return Suggestions(chosen, _stands_for(directions, labeled, chosen))


def _likeness(first, second):
  """Returns how alike images are: float32 `[a, b]` of directions `[a, d]` and `[b, d]`."""
  return np.maximum(first @ second.T, 0)


def _greedy(directions, labeled, weights, count):
  """Returns the positions of the images that add most, one after the other: int64 `[k]`."""
  alike = _likeness(directions, directions)
  reached = _likeness(directions, labeled).max(axis=1, initial=0)
  gain = lambda position: weights @ np.maximum(alike[position] - reached, 0)
  # What an image adds never grows. So only those that may still be the best are computed anew.
  gains = np.array([gain(position) for position in range(len(directions))])
  chosen = []
  while len(chosen) < min(count, len(directions)):
    best = gains.argmax()
    gains[best] = gain(best)
    if gains.argmax() != best:
      continue
    chosen.append(best)
    gains[best] = -1
    reached = np.maximum(reached, alike[best])
  return np.array(chosen, np.int64)


def _stands_for(directions, labeled, chosen):
  """Returns how many images each chosen one is nearest to: int64 `[k]`; see `Suggestions`."""
  if not len(chosen):
    return np.zeros(0, np.int64)
  nearest = directions @ directions[chosen].T
  mine = nearest.max(axis=1) > (directions @ labeled.T).max(axis=1, initial=-1)
  mine[chosen] = True  # A copy of a labeled image still stands for itself.
  owner = nearest.argmax(axis=1)
  owner[chosen] = np.arange(len(chosen))  # Nor does one of two copies stand for both.
  return np.bincount(owner[mine], minlength=len(chosen))
