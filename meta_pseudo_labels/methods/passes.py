"""The passes of a step of Meta Pseudo Labels: the teacher's and the student's, whole or in parts.

In parts (`Method.micro_batches`) only the results of a pass are kept. What needs more of it, such as the
teacher's gradient once the feedback is known, makes the pass again, part by part.
"""

import contextlib
import dataclasses
import functools
from typing import Callable

from meta_pseudo_labels import losses
from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.methods import diagnostics
from meta_pseudo_labels.models import batch_norm

import tensorflow as tf


class TeacherPass:
  """The teacher's pass over a batch, and its gradient once the feedback is known.

  Attributes:
    log_probs: `[n, C]` float32, of the views that the student's targets come from.
    weight: scalar, of the unlabeled loss at this step.
    shares: {log name: scalar}, this replica's shares of what is logged of the pass.
    sums, found: of `uda.Pass`.
  """

  def __init__(self, method, batch, ahead=None):
    """Makes the pass; `method` is a MetaPseudoLabels, `ahead` of `sums_ahead`."""
    self.variables, self.weight = method.teacher.trainable_variables, method.consistency_weight()
    # `last` records the last layer alone: a loop of the graph would also run what nobody asks for.
    with (
      tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape,
      tf.GradientTape(persistent=True, watch_accessed_variables=False) as last,
    ):
      tape.watch(self.variables)
      last.watch(diagnostics.get_last_layer(self.variables))
      out = method.teacher_pass(batch, ahead)
      self._loss_l, self._loss_u = (
        out.cross_entropy_l,
        tf.cast(self.weight, out.labels.dtype) * out.loss_u,
      )
      self._loss = self._loss_l + self._loss_u
      self.log_probs = tf.nn.log_softmax(out.logits[method.student_targets_from])
    self.shares = {
      'cross_entropy/teacher_on_u': out.cross_entropy_u,
      'cross_entropy/teacher_on_l': out.cross_entropy_l,
      **method.unlabeled_shares(out),
    }
    self.sums, self.found = out.sums, out.found
    self._gradient = functools.partial(method.gradient, tape)
    self._gradient_of_last_layer = functools.partial(method.gradient, last)
    self._finished = None

  def finish(self):
    """Returns the gradients of the teacher's own losses; `gradients` adds no feedback then."""
    self._finished = self._gradient([self._loss], self.variables, [tf.ones_like(self._loss)])
    return self._finished

  def gradients(self, by_log_prob):
    """Returns the gradients of its own losses and of the feedback F `[n, C]` on `log_probs`."""
    if self._finished is not None:
      return self._finished
    return self._gradient(
      [self._loss, self.log_probs], self.variables, [tf.ones_like(self._loss), by_log_prob]
    )

  def pulls(self, by_log_prob):
    """Returns how strongly each loss pulls: {name: vector}, see `diagnostics.flatten_gradients`."""
    return diagnostics.flatten_gradients(
      self._gradient_of_last_layer,
      self.variables,
      feedback=(self.log_probs, by_log_prob),
      labeled=(self._loss_l, None),
      unlabeled=(self._loss_u, None),
    )


class TeacherInParts:
  """A TeacherPass in parts: one loop for the labels that it gives, and one for its gradient.

  The first loop serves for both where the gradient does not wait for the feedback
  (`Estimator.teacher_waits`).
  """

  def __init__(self, method, batch):
    """Makes the pass; `method` is a MetaPseudoLabels."""
    self._method, self._batch = method, batch
    self.weight, self._finished = method.consistency_weight(), None
    self._ahead = method.sums_ahead(method.teacher, batch)
    if not method.estimator.teacher_waits:
      self.finish()
      return

    def log_probs(part):
      logits = method.teacher_pass(part, self._ahead).logits
      return (), tf.nn.log_softmax(logits[method.student_targets_from])

    with method.frozen_statistics(method.teacher), batch_norm.repeated():
      _, self.log_probs = method.in_parts(log_probs, batch)

  def finish(self):
    """Returns the gradients of the teacher's own losses; `gradients` adds no feedback then."""
    if self._finished is not None:
      return self._finished

    def own_losses(part):
      teacher = TeacherPass(self._method, part, self._ahead)
      # The gradient of the feedback is counted as the zero that it is.
      pulls = teacher.pulls(tf.zeros_like(teacher.log_probs))
      sums = teacher.shares, teacher.finish(), pulls, teacher.sums
      return sums, (teacher.log_probs, teacher.found)

    sums, (self.log_probs, self.found) = self._method.in_parts(own_losses, self._batch)
    self.shares, self._finished, self._pulls, self.sums = sums
    return self._finished

  def gradients(self, by_log_prob):
    """Returns the gradients of its own losses and of the feedback F `[n, C]` on `log_probs`."""
    if self._finished is not None:
      return self._finished

    def all_losses(part, by_log_prob):
      teacher = TeacherPass(self._method, part, self._ahead)
      gradients, pulls = teacher.gradients(by_log_prob), teacher.pulls(by_log_prob)
      return (teacher.shares, gradients, pulls, teacher.sums), teacher.found

    sums, self.found = self._method.in_parts(all_losses, self._batch, by_log_prob)
    self.shares, gradients, self._pulls, self.sums = sums
    return gradients

  def pulls(self, by_log_prob):
    """Returns how strongly each loss pulled in `gradients`, as of `TeacherPass`."""
    del by_log_prob
    return self._pulls


@dataclasses.dataclass
class StudentPass:
  """What the student's pass over the augmented views leaves behind.

  Attributes:
    targets: `[n, C]`, what it learns from.
    logits: `[n, C]` on the augmented views.
    labeled_loss: scalar, this replica's share of its cross entropy on the labeled examples, which were in
      its batch.
    loss: scalar, this replica's share of its loss on the pseudo labels.
    gradients: of it, by the student's variables; this replica's share.
    jvp: function of a direction, one tensor per variable: the change `[n, C]` of the log
      probabilities on the augmented views along it. The gradients are a linear function of the
      loss's derivative by the log probabilities; the transpose of that function is the
      derivative along a direction. Taken through the backward pass it reuses the forward pass,
      and goes over sums over replicas, which tf.autodiff.ForwardAccumulator takes for constants.
  """

  targets: tf.Tensor
  logits: tf.Tensor
  labeled_loss: tf.Tensor
  loss: tf.Tensor
  gradients: list
  jvp: Callable


def pass_student(method, batch, targets):
  """Makes the student's pass over augmented and labeled examples, and its gradients on the former.

  Args:
    method: MetaPseudoLabels.
    batch: Batch.
    targets: `[n, C]`, constants.

  Returns:
    StudentPass.
  """
  variables = method.student.trainable_variables
  labels = losses.smooth(targets, method.label_smoothing)
  # By the log probabilities: a constant, of which the gradients are a linear function.
  cotangents = -labels / method.global_size(targets)
  with tf.GradientTape(watch_accessed_variables=False) as linear_tape:
    with tf.GradientTape() as tape:
      logits = method.forward(
        method.student, 'student', {'augmented': batch.augmented, 'labeled': batch.labeled}
      )
      log_probs = tf.nn.log_softmax(logits['augmented'])
    linear_tape.watch(cotangents)
    gradients = method.gradient(tape, [log_probs], variables, [cotangents])

  def jvp(direction):
    # What comes back is as small as a gradient is.
    factor = 1.0 if method.loss_scale is None else tf.convert_to_tensor(method.loss_scale.factor) ** 2
    return linear_tape.gradient(
      gradients, cotangents, output_gradients=[d * tf.cast(factor, d.dtype) for d in direction]
    ) / tf.cast(factor, cotangents.dtype)

  return StudentPass(
    targets,
    logits['augmented'],
    method.labeled_share(logits['labeled'], batch.labels),
    tf.reduce_sum(cotangents * log_probs),
    gradients,
    jvp,
  )


def pass_student_in_parts(method, batch, targets):
  """Makes a StudentPass in parts; for arguments and result see `pass_student`.

  Its jvp makes the pass once more, with the weights that it was made with.
  """
  variables = method.student.trainable_variables
  before = [tf.convert_to_tensor(v) for v in variables]

  def gradients(part, targets):
    one = pass_student(method, part, targets)
    return (one.labeled_loss, one.loss, one.gradients), one.logits

  sums, logits = method.in_parts(gradients, batch, targets)

  def jvp(direction):
    changes = lambda part, targets: ((), pass_student(method, part, targets).jvp(direction))
    with (
      _at_weights(variables, before),
      method.frozen_statistics(method.student),
      batch_norm.repeated(),
    ):
      return method.in_parts(changes, batch, targets)[1]

  return StudentPass(targets, logits, *sums, jvp)


@contextlib.contextmanager
def _at_weights(variables, values):
  """Gives variables these values in this context, and their own ones back at its end."""
  now = [tf.convert_to_tensor(v) for v in variables]
  collectives.assign(variables, values)
  yield
  collectives.assign(variables, now)
