"""Losses: pure functions of logits and targets.

They return one value per example. The caller sums these and divides by the GLOBAL number of examples.
"""

import tensorflow as tf


def smooth(labels, label_smoothing):
  """Returns `labels * (1 - s) + s / C`: label distributions `[N, C]` float32, s in [0, 1]."""
  if not label_smoothing:
    return labels
  return labels * (1.0 - label_smoothing) + label_smoothing / labels.shape[-1]


def cross_entropy(*, labels, logits, label_smoothing=0.0):
  """Computes the cross entropy of each example, in nats.

  Args:
    labels: `[N, C]` float32 distributions (one-hot or soft).
    logits: `[N, C]` float32.
    label_smoothing: float in [0, 1], spread over all classes.

  Returns:
    `[N]` float32.
  """
  return -tf.reduce_sum(smooth(labels, label_smoothing) * tf.nn.log_softmax(logits), axis=-1)


def annealing_mask(*, labels, logits, progress):
  """Computes training signal annealing's mask of labeled examples, which the release only logs.

  Args:
    labels: `[N, C]` one-hot float32.
    logits: `[N, C]` float32.
    progress: scalar in [0, 1], step / num_train_steps.

  Returns:
    `[N]` float32: 1 where the probability of the right class is at most
    1/C + progress * (1 - 1/C).
  """
  floor = 1.0 / labels.shape[-1]
  correct = tf.reduce_sum(labels * tf.nn.softmax(logits), axis=-1)
  return tf.cast(correct <= progress * (1.0 - floor) + floor, logits.dtype)
