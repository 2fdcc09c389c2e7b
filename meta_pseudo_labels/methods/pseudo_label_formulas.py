"""The formulas of pseudo-labeling strategies: pure functions of probabilities and of running statistics.

Shapes: n unlabeled examples of a batch, N unlabeled examples in all, C classes. methods/
pseudo_label_strategies.py makes strategies of them.
"""

import tensorflow as tf


def sum_norm(values):
  """Returns `values` `[C]` divided by their sum; zeros where the sum is zero."""
  return tf.math.divide_no_nan(values, tf.reduce_sum(values))


def move(average, value, momentum):
  """Returns momentum * average + (1 - momentum) * value, of any shape and float dtype.

  An element that is not finite leaves its average as it is: it would stay there for good.
  """
  moved = momentum * average + (1.0 - momentum) * tf.cast(value, average.dtype)
  return tf.where(tf.math.is_finite(moved), moved, average)


def align(log_probs, target, model):
  """Aligns distributions: Normalize(p * target / model) (Berthelot et al. 2020, ReMixMatch, section 3.1).

  Args:
    log_probs: `[n, C]` float, log p.
    target: `[C]`, the marginal distribution that there should be.
    model: `[C]`, that of the network's predictions, a running mean.

  Returns:
    `[n, C]`, the logarithms of the aligned distributions.
  """
  return tf.nn.log_softmax(log_probs + tf.math.log(target) - tf.math.log(model))


def harden(log_probs):
  """Returns the most probable classes of `log_probs` `[n, C]` as one-hot `[n, C]`."""
  return tf.one_hot(tf.argmax(log_probs, axis=-1), log_probs.shape[-1], dtype=log_probs.dtype)


def pass_threshold(confidence, threshold):
  """Returns 1 where `confidence` `[n]` is at least `threshold` (scalar or `[n]`), else 0: `[n]`."""
  return tf.cast(confidence >= tf.cast(threshold, confidence.dtype), confidence.dtype)


def count_classes(classes, num_classes):
  """Counts classes: integers `[n]` -> float32 `[C]`; negative ones are left out."""
  return tf.math.unsorted_segment_sum(tf.ones_like(classes, tf.float32), classes, num_classes)


def curriculum_thresholds(counts, total, threshold):
  """Returns FlexMatch's thresholds of the classes (Zhang et al. 2021, curriculum pseudo labeling).

  beta(c) = sigma(c) / max(max sigma, N - sum sigma) is how well a class is learned. T(c) = M(beta(c)) *
  tau with the convex M(x) = x / (2 - x). As long as most examples have no confident prediction, these
  are in the denominator, so that the thresholds warm up.

  Args:
    counts: sigma, `[C]` float, how many examples have a confident prediction of each class.
    total: N, int or scalar.
    threshold: tau, of a confident prediction.

  Returns:
    `[C]`.
  """
  unused = tf.cast(total, counts.dtype) - tf.reduce_sum(counts)
  beta = counts / tf.maximum(tf.reduce_max(counts), unused)
  return threshold * beta / (2.0 - beta)


def update_status(status, positions, classes):
  """Returns the last confident prediction of every example after a batch.

  Args:
    status: `[N]` integers, the class before; -1: there was none.
    positions: `[n]` integers in [0, N), which examples the batch has. One that is there several times gets
      the last of its confident predictions.
    classes: `[n]` integers; -1: not confident, which changes nothing (algorithm 1 of the paper).

  Returns:
    `[N]` of the status' dtype.
  """
  row = tf.where(classes >= 0, tf.range(tf.shape(classes)[0]), -1)
  # In float32, exact up to 2^24 rows: GPUs keep int32 on the host.
  last = tf.math.unsorted_segment_max(tf.cast(row, tf.float32), positions, status.shape[0])
  found = tf.gather(classes, tf.cast(tf.maximum(last, 0.0), tf.int32))
  return tf.where(last >= 0.0, tf.cast(found, status.dtype), status)


def self_adaptive_thresholds(confidence, probs):
  """Returns FreeMatch's thresholds of the classes: p(c) / max p * tau (Wang et al. 2023).

  Args:
    confidence: tau, scalar, the running mean of the largest probabilities (the global threshold).
    probs: p, `[C]`, the running mean of the probabilities (by class, the local thresholds).

  Returns:
    `[C]`.
  """
  return probs / tf.reduce_max(probs) * confidence


def fairness(probs, counts, mean_probs, mean_counts):
  """Computes FreeMatch's self-adaptive fairness loss (Wang et al. 2023, equation 11).

  It is -H(SumNorm(p~ / h~), SumNorm(p / h)), H(a, b) = -sum_c a_c log b_c, so never above 0. The sign is
  the paper's: its authors confirm that the term is added to a loss that is minimized (USB's issue 182).
  Where p = h its derivative by p_c is (a_c - 1/C) / p_c, so a class that the model gives too little of
  is raised. A class that no example has (h_c = 0) is left out.

  Args:
    probs, counts: p and h, `[C]`: the sums over the augmented views that pass the thresholds, of their
      distributions and of their most probable classes, one-hot. Only their ratio matters.
    mean_probs, mean_counts: p~ and h~, `[C]`, the running means of those of the original views.

  Returns:
    scalar; 0 if no example passes.
  """
  target = sum_norm(tf.math.divide_no_nan(mean_probs, mean_counts))
  there = counts > 0
  shares = sum_norm(tf.math.divide_no_nan(probs, counts))
  return tf.reduce_sum(tf.where(there, target * tf.math.log(tf.where(there, shares, 1.0)), 0.0))


def truncated_gaussian(confidence, mean, variance, num_sigmas=2.0):
  """Returns SoftMatch's weights (Chen et al. 2023, with lambda_max = 1).

  They are exp(-(x - mu)^2 / (2 sigma^2 / k^2)) below the mean, and 1 from there on. k = 2 is that of the
  authors' experiments (USB).

  Args:
    confidence: x, `[n]`, largest probabilities.
    mean, variance: mu and sigma^2, scalars, their running mean and variance.
    num_sigmas: k.

  Returns:
    `[n]` in [0, 1].
  """
  below = tf.minimum(confidence - mean, 0.0)
  return tf.exp(-tf.square(below) * num_sigmas**2 / (2.0 * variance))
