"""95 % intervals of accuracies and of differences between two, from single outcomes.

An accuracy's is Wilson's. A difference's is by the bootstrap over images: both methods are measured on
the same ones, so what is hard for both counts for neither.
"""

import numpy as np

Z = 1.959964  # The normal distribution has 95 % of its mass within so many standard deviations.
RESAMPLES = 4000


def accuracy(right):
  """Returns (accuracy, lower, upper), floats in [0, 1], of outcomes bool `[n]`, n at least 1.

  Wilson (1927): the accuracies p for which the observed one lies within Z deviations of p.
  """
  count, share = len(right), float(np.mean(right))
  center = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
  half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
  return share, float(center - half), float(center + half)


def difference(right, base, seed=0):
  """Returns (difference, lower, upper) of the accuracies of two methods on the same n images.

  Args:
    right, base: bool `[n]`: whether the method, and what it is compared with, were right.
    seed: int, of the resamples.

  Returns:
    floats in [-1, 1].
  """
  per_image = np.asarray(right, np.float64) - np.asarray(base, np.float64)
  # A resample of images that differ in three ways alone is a draw of how many there are of each.
  counts = [np.count_nonzero(per_image == value) for value in (-1, 0, 1)]
  # One image of each kind more (Agresti and Min 2005): without, few images that differ promise too much.
  shares = (np.array(counts) + 0.5) / (len(per_image) + 1.5)
  draws = np.random.RandomState(seed).multinomial(len(per_image), shares, RESAMPLES)
  found = (draws[:, 2] - draws[:, 0]) / len(per_image)
  lower, upper = np.percentile(found, [2.5, 97.5])
  return float(per_image.mean()), float(lower), float(upper)
