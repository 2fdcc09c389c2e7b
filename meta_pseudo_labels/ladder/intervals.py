"""95 % intervals of accuracies and of differences between two, from single outcomes.

An accuracy's is Wilson's. A difference's is by the bootstrap over images: both methods are measured on
the same ones, so what is hard for both counts for neither. With labels both are of the balanced accuracy,
the mean over the classes.
"""

from meta_pseudo_labels.ladder import findings

import numpy as np

Z = 1.959964  # The normal distribution has 95 % of its mass within so many standard deviations.
RESAMPLES = 4000
BORROWED = 6.0  # Images of all classes in a class's resamples, besides its own; chosen by trials.


def accuracy(right, labels=None):
  """Returns (accuracy, lower, upper), floats in [0, 1], of outcomes bool `[n]`, n at least 1.

  Wilson (1927): the accuracies p for which the observed one lies within Z deviations of p. The balanced
  accuracy is as sure as that of fewer images, all of one class: see `effective_count`.

  Args:
    right: bool `[n]`.
    labels: int `[n]`, for the balanced accuracy; None: for the accuracy.
  """
  count, share = len(right), float(np.mean(right))
  if labels is not None:
    count = effective_count(np.unique(labels, return_counts=True)[1])
    share = findings.balanced_accuracy(right, labels)
  center = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
  half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
  return share, float(center - half), float(center + half)


def effective_count(counts):
  """Returns of how many equally weighted images a mean over K classes is as sure (Kish 1965): float.

  An image of a class weighs 1 / (K n), so it is the square of the weights' sum, 1, over the sum of their
  squares.

  Args:
    counts: int `[K]`, the images n of each class, 1 or more.
  """
  return float(len(counts) ** 2 / np.sum(1 / np.asarray(counts, np.float64)))


def difference(right, base, seed=0, labels=None):
  """Returns (difference, lower, upper) of the accuracies of two methods on the same n images.

  Args:
    right, base: bool `[n]`: whether the method, and what it is compared with, were right.
    seed: int, of the resamples.
    labels: int `[n]`, for the balanced accuracy; None: for the accuracy.

  Returns:
    floats in [-1, 1].
  """
  per_image = np.asarray(right, np.float64) - np.asarray(base, np.float64)
  if labels is not None:
    return _balanced_difference(per_image, np.asarray(labels), seed)
  # A resample of images that differ in three ways alone is a draw of how many there are of each.
  counts = [np.count_nonzero(per_image == value) for value in (-1, 0, 1)]
  # One image of each kind more (Agresti and Min 2005): without, few images that differ promise too much.
  shares = (np.array(counts) + 0.5) / (len(per_image) + 1.5)
  draws = np.random.RandomState(seed).multinomial(len(per_image), shares, RESAMPLES)
  found = (draws[:, 2] - draws[:, 0]) / len(per_image)
  lower, upper = np.percentile(found, [2.5, 97.5])
  return float(per_image.mean()), float(lower), float(upper)


def _balanced_difference(per_image, labels, seed):
  """Returns what `difference` does, of values -1, 0 and 1 `[n]`: resamples within each class."""
  classes, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
  kinds = np.zeros([len(classes), 3])
  np.add.at(kinds, (places, per_image.astype(int) + 1), 1)
  shares = kinds / counts[:, np.newaxis]
  found = float(np.mean(shares[:, 2] - shares[:, 0]))
  # Few images of a class say little of how much it varies, so it borrows from all of them; and all have,
  # as for the accuracy, half an image of each kind more.
  effective = effective_count(counts)
  pooled = (effective * shares.mean(axis=0) + 0.5) / (effective + 1.5)
  shares = (kinds + BORROWED * pooled) / (counts[:, np.newaxis] + BORROWED)
  random, drawn = np.random.RandomState(seed), np.zeros(RESAMPLES)
  for count, of_class in zip(counts, shares):
    draws = random.multinomial(count, of_class, RESAMPLES)
    drawn += (draws[:, 2] - draws[:, 0]) / (count * len(classes))
  lower, upper = np.percentile(drawn, [2.5, 97.5])
  return round(found, 12), float(lower), float(upper)  # Rounded: what cancels out is zero.
