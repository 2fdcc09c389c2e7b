"""The student's feedback to the teacher: what the teacher's pseudo labels did to the student.

Every estimator returns the same thing, the feedback F `[N, C]`: a constant by which the
teacher's log probabilities on the augmented views are weighted in its loss,

    teacher loss = CE_labeled + weight * CE_unlabeled + sum_ic F_ic * log T_ic,

so that F is the derivative of (an estimate of) the student's labeled loss after its step by
log T. Here T `[N, C]` is the teacher's softmax, N this replica's share of the unlabeled views,
and `total` their number over all replicas (paper section 2; the derivation: docs/method.md).
"""
from meta_pseudo_labels import rng

import tensorflow as tf

# Name -> does the student learn from hard labels drawn from the teacher, its most probable
# class, or its probabilities.
TARGETS = {'release': 'soft', 'soft': 'soft', 'sampled': 'sampled', 'sampled_dot': 'sampled',
           'argmax': 'argmax'}
# Estimators that need h, the change of the labeled loss over the student's step; the others
# need its derivative by the student's weights.
BY_DIFFERENCE = ('release', 'sampled', 'argmax')


def targets(name, log_probs, key, replica, replicas):
  """What the student learns from, on this replica's augmented views.

  Args:
    name: the estimator (`--mpl_feedback`).
    log_probs: `[N, C]` float32, the teacher's, a constant.
    key: the step's key; the draws are those of the global batch (`rng.rows`).
    replica, replicas: this replica's index and how many there are.

  Returns:
    `[N, C]` float32 distributions: the teacher's own, one-hot draws from them, or the one-hot
    of their most probable class.
  """
  count, classes = log_probs.shape
  if TARGETS[name] == 'soft':
    return tf.exp(log_probs)
  if TARGETS[name] == 'argmax':
    return tf.one_hot(tf.argmax(log_probs, axis=-1), classes)
  # The largest of log p + Gumbel noise is a draw from p.
  draw = rng.uniform(key, 'pseudo_labels', [count * replicas, classes], minval=1e-20)
  gumbel = -tf.math.log(-tf.math.log(rng.rows(draw, replica * count, count)))
  return tf.one_hot(tf.argmax(log_probs + gumbel, axis=-1), classes)


def release(*, h, log_probs, total):
  """The release's h * mean CE(sg T, T), with h = new loss - old loss - moving average.

  F = -h T / total: its gradient by the teacher's logits is -h/total (T - T sum_c T_c), which is
  zero whatever h is (google-research issues 534, 541). Its sign is the opposite of the
  derivation's (issue 602).

  Args:
    h: float32 scalar.
    log_probs: `[N, C]` float32, log T, a constant.
    total: int, augmented views over all replicas.

  Returns:
    F, `[N, C]` float32.
  """
  return -h * tf.exp(log_probs) / total


def sampled(*, h, labels, total):
  """The score-function estimator h * mean CE(y, T) for hard labels y drawn from T.

  h = old loss - new loss - moving average. Its expectation over the draws is 1/total of the
  true gradient (the release's mean where the derivation has a sum): at true scale the noise of
  one draw destroys training (docs/method.md).

  Args:
    h: float32 scalar.
    labels: `[N, C]` one-hot float32: what the student learned from.
    total: int, augmented views over all replicas.

  Returns:
    F, `[N, C]` float32.
  """
  return -h * labels / total


def soft(*, log_probs, directional, total, label_smoothing):
  """The exact derivative for a student that learns from T itself.

  The student's gradient g is -(1/total) sum_ic T_ic dlog S_ic/dtheta, so the derivative of its
  labeled loss after the update by T_ic is -(1 - s)/total times the change of log S_ic along
  p = (d update/d g)^T grad loss(theta'). For SGD of rate eta p is -eta grad loss(theta'), for
  other updates whatever the transposed derivative of the update makes of it: weight decay,
  Nesterov's factor and clipping are inside it.

  Args:
    log_probs: `[N, C]` float32, log T, a constant.
    directional: `[N, C]` float32, the change of log S along p, at the weights before the step.
    total: int, augmented views over all replicas.
    label_smoothing: s, of the student's targets.

  Returns:
    F, `[N, C]` float32 (T_ic times the derivative by T_ic).
  """
  return -(1. - label_smoothing) / total * tf.exp(log_probs) * directional


def sampled_dot(*, labels, directional, total, label_smoothing):
  """`soft` for hard labels y drawn from T: one h a view, of the same mean, less noisy than
  `sampled`: F_ic = y_ic times the derivative by the target, so the mean over draws is `soft`.

  Args and returns: as `soft`, with labels `[N, C]` one-hot float32.
  """
  return -(1. - label_smoothing) / total * labels * directional
