"""The student's feedback to the teacher: what the teacher's pseudo labels did to the student.

Every estimator ends in the same thing, the feedback F `[N, C]`: a constant by which the teacher's
log probabilities on the augmented views are weighted in its loss,

    teacher loss = CE_labeled + weight * CE_unlabeled + sum_ic F_ic * log T_ic,

so that F is the derivative of (an estimate of) the student's labeled loss after its step by
log T. Here T `[N, C]` is the teacher's softmax, N this replica's share of the unlabeled views,
and `total` their number over all replicas (paper section 2; the derivation: docs/method.md).

The formulas are pure functions; `ESTIMATORS` has an object for each, with what a step of
`mpl.MetaPseudoLabels` asks of it. A new estimator is one more of these objects.
"""

from typing import NamedTuple

from meta_pseudo_labels import rng
from meta_pseudo_labels.distribution.collectives import find_place, sum_over_replicas

import tensorflow as tf


class Feedback(NamedTuple):
  """What an estimator found.

  Attributes:
    by_log_prob: F, `[N, C]`.
    loss: scalar, the student's labeled loss after its step.
    h: scalar, the dot product above its moving average; what that is, the estimator says.
    deviation: scalar, the standard deviation of the dot product around that average.
  """

  by_log_prob: tf.Tensor
  loss: tf.Tensor
  h: tf.Tensor
  deviation: tf.Tensor


def drawn_labels(log_probs, key, replica, replicas):
  """Returns hard labels drawn from a teacher's distributions: one-hot `[N, C]`.

  Args:
    log_probs: `[N, C]` float32, the teacher's.
    key: the step's key; the draws are those of the global batch (`rng.rows`).
    replica, replicas: this replica's index and how many there are.
  """
  count, classes = log_probs.shape
  if count is None:
    first, count, total = find_place(log_probs)
  else:
    first, total = replica * count, count * replicas
  # The largest of log p + Gumbel noise is a draw from p.
  draw = rng.uniform(key, 'pseudo_labels', [total, classes], minval=1e-20)
  gumbel = -tf.math.log(-tf.math.log(rng.rows(draw, first, count)))
  chosen = tf.argmax(log_probs + tf.cast(gumbel, log_probs.dtype), axis=-1)
  return tf.one_hot(chosen, classes, dtype=log_probs.dtype)


def release(*, h, log_probs, total):
  """Returns F of the release's h * mean CE(sg T, T), h = new loss - old loss - moving average.

  F = -h T / total. Its gradient by the teacher's logits is -h/total (T - T sum_c T_c), which is
  zero whatever h is (google-research issues 534, 541). Its sign is the opposite of the
  derivation's (google-research issue 602).

  Args:
    h: float32 scalar.
    log_probs: `[N, C]` float32, log T, a constant.
    total: int, augmented views over all replicas.

  Returns:
    `[N, C]` float32.
  """
  return -h * tf.exp(log_probs) / total


def sampled(*, h, labels, total):
  """Returns F of the score-function estimator h * mean CE(y, T) for hard labels y drawn from T.

  h = old loss - new loss - moving average. Its expectation over the draws is 1/total of the
  true gradient (the release's mean where the derivation has a sum): at true scale the noise of
  one draw destroys training (docs/method.md).

  Args:
    h: float32 scalar.
    labels: `[N, C]` one-hot float32: what the student learned from.
    total: int, augmented views over all replicas.

  Returns:
    `[N, C]` float32.
  """
  return -h * labels / total


def soft(*, log_probs, directional, total, label_smoothing):
  """Returns F of the exact derivative for a student that learns from T itself.

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
    `[N, C]` float32 (T_ic times the derivative by T_ic).
  """
  return -(1.0 - label_smoothing) / total * tf.exp(log_probs) * directional


def sampled_dot(*, labels, directional, total, label_smoothing):
  """Returns F of `soft` for hard labels y drawn from T.

  F_ic = y_ic times the derivative by the target, so its mean over draws is `soft`: one h per view,
  less noisy than `sampled`.

  Args and returns: as `soft`, with labels `[N, C]` one-hot float32.
  """
  return -(1.0 - label_smoothing) / total * labels * directional


class Estimator:
  """One way to tell the teacher what its pseudo labels did to the student.

  A step calls, in this order: `begin`, `targets`, `loss_before`, and after the student's move
  `feedback`.

  Attributes:
    moves_teacher_statistics: whether the teacher's batch-norm averages follow its batches. In the
      release they never move, so that its accuracy in inference mode would be chance.
    teacher_waits: whether the teacher's gradient depends on the feedback. If not, `begin` takes it.
    released_dot_product: whether the moving average of the dot product is the release's quantity,
      which its checkpoints hold.
  """

  moves_teacher_statistics = True
  teacher_waits = True
  released_dot_product = False

  def begin(self, teacher, batch):
    """Returns the batch that the student passes over.

    Args:
      teacher: `passes.TeacherPass` of this step.
      batch: Batch.
    """
    del teacher
    return batch

  def targets(self, log_probs, key, replica, replicas):
    """Returns what the student learns from, `[N, C]` distributions; arguments: `drawn_labels`."""
    raise NotImplementedError

  def loss_before(self, method, student, batch):
    """Returns the student's labeled loss before its step, a scalar; None if it is not needed.

    Args:
      method: `mpl.MetaPseudoLabels`.
      student: `passes.StudentPass` of this step.
      batch: Batch.
    """
    del method, student, batch

  def feedback(self, method, teacher, student, update, batch, before):
    """Returns the `Feedback` after the student's move.

    Args:
      method, teacher, student, batch: as above.
      update: `base.Update`, the student's.
      before: of `loss_before`.
    """
    raise NotImplementedError


class ByDifference(Estimator):
  """Estimators that measure the labeled loss before and after the student's step.

  The dot product is old loss - new loss: what the loss falls by.
  """

  def loss_before(self, method, student, batch):
    # In a batch of the same composition as the one after the step. The release takes the loss from
    # the pass over the augmented views, so that its h is not zero even at rate 0.
    return method.labeled_loss_now(batch)

  def feedback(self, method, teacher, student, update, batch, before):
    loss = method.labeled_loss_now(batch)
    h, deviation = method.above_average(before - loss)
    found = sampled(h=h, labels=student.targets, total=method.global_size(student.targets))
    return Feedback(method.feedback_weight() * found, loss, h, deviation)


class ByDerivative(Estimator):
  """Estimators that take the derivative of the labeled loss after the student's step.

  The gradient of the labeled loss at the new weights, carried back through the update, is a
  direction in weight space; the student's jvp tells how each of its log probabilities changes
  along it at the old weights, in the batch that it learned from. The dot product is what the
  labeled loss falls by, to first order, for the part of the student's move that the targets of this
  step make (momentum, weight decay and smoothing left out).
  """

  def formula(self, teacher, student, **arguments):
    """Returns F, `[N, C]`; arguments as of `soft`."""
    raise NotImplementedError

  def feedback(self, method, teacher, student, update, batch, before):
    del before
    loss, gradients = method.labeled_gradients(batch)
    found = self.formula(
      teacher,
      student,
      directional=student.jvp(update.vjp(gradients)),
      total=method.global_size(student.targets),
      label_smoothing=method.label_smoothing,
    )
    h, deviation = method.above_average(-sum_over_replicas(tf.reduce_sum(found)))
    return Feedback(method.feedback_weight() * tf.stop_gradient(found), loss, h, deviation)


class Release(ByDifference):
  """What the release computes: soft targets, and a term whose gradient is zero.

  The dot product is new loss - old loss. The teacher's gradient does not wait for the feedback: it
  is taken before the student's pass, so that what the teacher's pass keeps in memory can go.
  """

  moves_teacher_statistics = False
  teacher_waits = False
  released_dot_product = True

  def begin(self, teacher, batch):
    with tf.control_dependencies(teacher.finish()):
      return batch._replace(augmented=tf.identity(batch.augmented), labeled=tf.identity(batch.labeled))

  def targets(self, log_probs, key, replica, replicas):
    return tf.exp(log_probs)

  def loss_before(self, method, student, batch):
    return sum_over_replicas(student.labeled_loss)

  def feedback(self, method, teacher, student, update, batch, before):
    loss = method.labeled_loss_now(batch)
    h, deviation = method.above_average(loss - before)
    found = release(h=h, log_probs=teacher.log_probs, total=method.global_size(student.targets))
    return Feedback(found, loss, h, deviation)


class Soft(ByDerivative):
  """The student learns from the teacher's probabilities; the derivative by them is exact."""

  def targets(self, log_probs, key, replica, replicas):
    return tf.exp(log_probs)

  def formula(self, teacher, student, **arguments):
    return soft(log_probs=teacher.log_probs, **arguments)


class Sampled(ByDifference):
  """The student learns from drawn labels; the score function tells the teacher how they did."""

  def targets(self, log_probs, key, replica, replicas):
    return drawn_labels(log_probs, key, replica, replicas)


class SampledDot(ByDerivative):
  """The student learns from drawn labels; the derivative is taken at them."""

  def targets(self, log_probs, key, replica, replicas):
    return drawn_labels(log_probs, key, replica, replicas)

  def formula(self, teacher, student, **arguments):
    return sampled_dot(labels=student.targets, **arguments)


class Argmax(ByDifference):
  """The student learns from the most probable class, as in the PyTorch port; no identity behind it."""

  def targets(self, log_probs, key, replica, replicas):
    return tf.one_hot(tf.argmax(log_probs, axis=-1), log_probs.shape[-1], dtype=log_probs.dtype)


ESTIMATORS = {  # By `--mpl_feedback`.
  'release': Release(),
  'soft': Soft(),
  'sampled': Sampled(),
  'sampled_dot': SampledDot(),
  'argmax': Argmax(),
}
