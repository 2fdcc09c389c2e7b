"""Label spreading over the nearest neighbors of features (Zhou et al. 2004), with sparse matrices alone.

For 50,000 images of 20 neighbors each the graph has two million entries; nothing has 50,000 x 50,000.
"""

import numpy as np

DIMENSIONS = 256  # Of the principal components that neighbors are found in.
NEIGHBORS = 20
ALPHA = 0.9  # What comes from the neighbors; the rest from the example's own label.
STEPS = 30
_SHARPNESS = 3  # A neighbor's weight is its cosine to this power.


def embed(features):
  """Returns directions in which neighbors are alike: float32 `[N, d]`, rows of length 1.

  The square root keeps a few strong features from outweighing the rest. The principal components are
  divided by the square root of their deviation.

  Args:
    features: `[N, D]`.
  """
  roots = np.sign(features) * np.sqrt(np.abs(np.asarray(features, np.float32)))
  roots = roots - roots.mean(axis=0)
  # Of the matrix of covariances: the images are many, the dimensions are not.
  variances, components = np.linalg.eigh(roots.T @ roots / max(len(roots) - 1, 1))
  count = min(DIMENSIONS, *roots.shape)
  variances, components = variances[-count:], components[:, -count:]
  kept = variances > 1e-6 * variances[-1]  # Of few images the rest is rounding.
  directions = roots @ components[:, kept] / variances[kept] ** 0.25
  return directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)


def graph(directions):
  """Returns the symmetric, normalized weights between neighbors: scipy.sparse `[N, N]`.

  Args:
    directions: float32 `[N, d]`, of `embed`.
  """
  import scipy.sparse
  from sklearn.neighbors import NearestNeighbors

  count = len(directions)
  near = min(NEIGHBORS, count - 1)
  # The first neighbor is the example itself, or an image that is the same.
  distances, found = NearestNeighbors(n_neighbors=near + 1).fit(directions).kneighbors(directions)
  weights = np.maximum(1 - distances[:, 1:] ** 2 / 2, 0) ** _SHARPNESS
  rows = np.repeat(np.arange(count), near)
  matrix = scipy.sparse.csr_matrix((weights.ravel(), (rows, found[:, 1:].ravel())), (count, count))
  matrix = matrix + matrix.T
  scale = scipy.sparse.diags(1 / np.sqrt(np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1e-12)))
  return scale @ matrix @ scale


def spread(weights, labels, num_classes):
  """Returns how probable each class is for each example: float64 `[N, K]`, rows of sum 1.

  Each class gets the same mass in total, so that one of many neighbors does not swallow the others.

  Args:
    weights: of `graph`.
    labels: int `[N]`, -1 where unknown.
    num_classes: int K.
  """
  given = np.zeros([len(labels), num_classes])
  known = np.flatnonzero(np.asarray(labels) >= 0)
  given[known, labels[known]] = 1
  found = given
  for _ in range(STEPS):
    found = ALPHA * (weights @ found) + (1 - ALPHA) * given
  found = found / np.maximum(found.sum(axis=0, keepdims=True), 1e-12)
  total = found.sum(axis=1, keepdims=True)
  return np.where(total > 0, found / np.maximum(total, 1e-12), 1 / num_classes)


def margins(probabilities):
  """Returns how far the most probable class is ahead of the next one: float64 `[N]` in [0, 1].

  An image of no class has neighbors of several, so its margin is small. It is 1 where there is one class.

  Args:
    probabilities: `[N, K]`, of `spread`.
  """
  if probabilities.shape[1] < 2:
    return np.ones(len(probabilities))
  ordered = np.partition(probabilities, -2, axis=1)
  return ordered[:, -1] - ordered[:, -2]
