"""Meta Pseudo Labels (Pham et al., CVPR 2021): the teacher learns from the student's progress."""

import dataclasses
import functools
from typing import Any, Callable, Union

from meta_pseudo_labels import losses, rng
from meta_pseudo_labels.distribution.collectives import sum_over_replicas
from meta_pseudo_labels.methods import diagnostics, uda
from meta_pseudo_labels.methods.batch import Batch
from meta_pseudo_labels.methods.feedback import ESTIMATORS, Estimator

import tensorflow as tf


class TeacherPass:
  """The teacher's pass over a batch, and its gradient once the feedback is known.

  Attributes:
    out: `uda.Pass`.
    log_probs: `[n, C]` float32, of the augmented views.
    weight: scalar, of the unlabeled loss at this step.
    loss, loss_u: scalars, the whole loss and the weighted unlabeled loss; this replica's shares.
  """

  def __init__(self, method, batch):
    """Makes the pass; `method` is a MetaPseudoLabels."""
    self.variables, self.weight = method.teacher.trainable_variables, method.consistency_weight()
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
      tape.watch(self.variables)
      self.out = method.teacher_pass(batch)
      self.loss_u = tf.cast(self.weight, self.out.labels.dtype) * self.out.cross_entropy_u
      self.loss = self.out.cross_entropy_l + self.loss_u
      self.log_probs = tf.nn.log_softmax(self.out.logits['augmented'])
    self.gradient = functools.partial(method.gradient, tape)
    self._finished = None

  def finish(self):
    """Returns the gradients of the teacher's own losses; `gradients` adds no feedback then."""
    self._finished = self.gradient([self.loss], self.variables, [tf.ones_like(self.loss)])
    return self._finished

  def gradients(self, by_log_prob):
    """Returns the gradients of its own losses and of the feedback F `[n, C]` on `log_probs`."""
    if self._finished is not None:
      return self._finished
    return self.gradient(
      [self.loss, self.log_probs], self.variables, [tf.ones_like(self.loss), by_log_prob]
    )

  def pulls(self, by_log_prob):
    """Returns how strongly each loss pulls: the logs of `diagnostics.measure_gradients`."""
    return diagnostics.measure_gradients(
      self.gradient,
      self.variables,
      feedback=(self.log_probs, by_log_prob),
      labeled=(self.out.cross_entropy_l, None),
      unlabeled=(self.loss_u, None),
    )


@dataclasses.dataclass
class StudentPass:
  """What the student's pass over the augmented views leaves behind.

  Attributes:
    targets: `[n, C]`, what it learns from.
    logits: `[n, C]` on the augmented views.
    labeled_logits: `[b, C]` of the labeled examples, which were in its batch.
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
  labeled_logits: tf.Tensor
  loss: tf.Tensor
  gradients: list
  jvp: Callable


class MetaPseudoLabels(uda.ConsistencyMethod):
  """A teacher and a student that train together.

  The teacher trains as UDA does, plus the student's feedback; the student learns from the
  teacher's pseudo labels on the augmented views alone. `student` is the classifier to keep.
  """

  large_teacher = True  # One that `remat` is for.

  def __init__(
    self,
    teacher: tf.keras.Model,
    student: tf.keras.Model,
    *,
    mpl_feedback: Union[str, Estimator] = 'soft',
    mpl_weight: Union[float, Callable[[tf.Tensor], tf.Tensor]] = 1.0,
    **kwargs: Any,
  ):
    """Wraps two built Keras classifiers of the same classes.

    Args:
      teacher, student: Keras models, inputs -> logits `[N, C]`.
      mpl_feedback: `soft`, `sampled`, `sampled_dot`, `argmax` or `release` (`release` has no
        gradient, as in the release), or a `feedback.Estimator`.
      mpl_weight: factor of the feedback in the teacher's loss: a number, or a function of the step
        (integer scalar) to one; not used by `release`.
      **kwargs: `ConsistencyMethod`'s and `Method`'s.

    Raises:
      ValueError: an unknown feedback, or a model without weights.
    """
    if not isinstance(mpl_feedback, Estimator) and mpl_feedback not in ESTIMATORS:
      raise ValueError(f'mpl_feedback={mpl_feedback}: use one of {", ".join(ESTIMATORS)}')
    super().__init__(student, **kwargs)
    if not teacher.built:
      raise ValueError(f'{teacher.name} has no weights yet: build it, or call it on one batch')
    self.teacher = teacher
    if self.large_teacher:
      self._passes.prepare(teacher)
    self.estimator = ESTIMATORS.get(mpl_feedback, mpl_feedback)
    self.mpl_weight = mpl_weight
    average = lambda name: tf.Variable(
      0.0, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
    )
    self.moving_dot_product = average('moving_dot_product')
    self.moving_dot_product_square = average('moving_dot_product_square')

  def compile(self, teacher_optimizer: Any, student_optimizer: Any, **kwargs: Any) -> None:
    """Compiles with both optimizers: of `optimizers`, or Keras' SGD or Adam.

    Raises:
      TypeError: an optimizer of another kind.
    """
    super(uda.ConsistencyMethod, self).compile(student_optimizer, **kwargs)
    self.teacher_optimizer = self._build_optimizer(teacher_optimizer, self.teacher)

  def set_optimizers(self, teacher_optimizer=None, student_optimizer=None):
    """Takes the optimizers and makes their slots; under the strategy's scope."""
    if student_optimizer is not None:
      super().set_optimizers(student_optimizer=student_optimizer)
    if teacher_optimizer is not None:
      self.teacher_optimizer = self._build_optimizer(teacher_optimizer, self.teacher)

  @property
  def evaluates_teacher(self):
    """Whether the teacher's accuracy means something: its batch-norm averages follow its batches."""
    return self.large_teacher and self.estimator.moves_teacher_statistics

  def train_step(self, data):
    """Makes one step: the paper's Algorithm 1, with UDA's loss for the teacher.

    Args:
      data: what `Batch.of` takes: this replica's share of the global batch.

    Returns:
      The release's logs, and those of `diagnostics`: {name: float32 scalar}.
    """
    batch, rates = Batch.of(data), self.rates()

    # 1. The teacher sees all views, and labels the augmented ones.
    teacher = TeacherPass(self, batch)
    targets = self.pseudo_labels(teacher.log_probs)
    batch = self.estimator.begin(teacher, batch)

    # 2. The student learns from these pseudo labels ...
    student = self.student_pass(batch, targets)
    before = self.estimator.loss_before(self, student, batch)

    # 3. ... and moves, and so does its average.
    update = self.apply_update(self.student, self.student_optimizer, student.gradients)
    self.average.update(self.step)

    # 4. What the move did to the student on the labeled examples is the feedback.
    feedback = self.estimator.feedback(self, teacher, student, update, batch, before)

    # 5. The teacher moves by its own losses and by the feedback.
    gradients = teacher.gradients(feedback.by_log_prob)
    # Before the update: a rematerialized pass is made with the weights as they are then.
    pulls = teacher.pulls(feedback.by_log_prob)
    teacher_update = self.apply_update(self.teacher, self.teacher_optimizer, gradients)
    self.count_step(update, teacher_update)

    return self.logs(
      self.shares(teacher, student, batch.truth),
      {
        **rates,
        **pulls,
        'cross_entropy/student_on_l': feedback.loss,
        'grad_norm/student': update.norm,
        'grad_norm/teacher': teacher_update.norm,
        'mpl/dot_product': feedback.h,
        'mpl/moving_dot_product': self.moving_dot_product,
        'mpl/dot_product_std': feedback.deviation,
        'uda/weight': teacher.weight,
      },
    )

  def rates(self):
    """Returns both learning rates at this step: {log name: float32 scalar}."""
    return {
      'lr/student': self.student_optimizer.rate(self.step),
      'lr/teacher': self.teacher_optimizer.rate(self.step),
    }

  def shares(self, teacher, student, truth):
    """Returns what is logged of the passes: {name: scalar}, this replica's shares of global values."""
    out = teacher.out
    return {
      'cross_entropy/student_on_u': student.loss,
      'cross_entropy/teacher_on_u': out.cross_entropy_u,
      'cross_entropy/teacher_on_l': out.cross_entropy_l,
      'uda/u_ratio': self.global_mean(out.mask_u),
      'uda/l_ratio': self.global_mean(out.mask_l),
      **diagnostics.measure_pseudo_labels(teacher.log_probs, student.logits, truth, self.replicas),
    }

  def teacher_pass(self, batch):
    """Makes the teacher's pass over a batch, with its losses on its own: a `uda.Pass`."""
    if self.estimator.moves_teacher_statistics:
      return self.uda_pass(self.teacher, batch)
    with self.frozen_statistics(self.teacher):
      return self.uda_pass(self.teacher, batch)

  def pseudo_labels(self, log_probs):
    """Returns the student's targets `[n, C]`, constants, from the teacher's log probabilities."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return self.estimator.targets(
      tf.stop_gradient(log_probs), rng.key(self.seed, self.step), replica, self.replicas
    )

  def student_pass(self, batch, targets):
    """Makes the student's pass over augmented and labeled examples, and its gradients on the former.

    Args:
      batch: Batch.
      targets: `[n, C]`, constants.

    Returns:
      StudentPass.
    """
    variables = self.student.trainable_variables
    labels = losses.smooth(targets, self.label_smoothing)
    # By the log probabilities: a constant, of which the gradients are a linear function.
    cotangents = -labels / self.global_size(targets)
    with tf.GradientTape(watch_accessed_variables=False) as linear_tape:
      with tf.GradientTape() as tape:
        logits = self.forward(
          self.student, 'student', {'augmented': batch.augmented, 'labeled': batch.labeled}
        )
        log_probs = tf.nn.log_softmax(logits['augmented'])
      linear_tape.watch(cotangents)
      gradients = self.gradient(tape, [log_probs], variables, [cotangents])

    def jvp(direction):
      # What comes back is as small as a gradient is.
      factor = 1.0 if self.loss_scale is None else tf.convert_to_tensor(self.loss_scale.factor) ** 2
      return linear_tape.gradient(
        gradients, cotangents, output_gradients=[d * tf.cast(factor, d.dtype) for d in direction]
      ) / tf.cast(factor, cotangents.dtype)

    return StudentPass(
      targets,
      logits['augmented'],
      logits['labeled'],
      tf.reduce_sum(cotangents * log_probs),
      gradients,
      jvp,
    )

  def labeled_loss(self, logits, labels):
    """Returns the cross entropy on the global labeled batch, without smoothing: scalar."""
    labels = self.one_hot(labels, logits)
    return sum_over_replicas(self.global_mean(losses.cross_entropy(labels=labels, logits=logits)))

  def labeled_loss_now(self, batch):
    """Returns it from a pass over the labeled examples alone, with the student's present weights."""
    with self.frozen_statistics(self.student):
      logits = self.forward(self.student, 'student', {'labeled': batch.labeled})['labeled']
    return self.labeled_loss(logits, batch.labels)

  def labeled_gradients(self, batch):
    """Returns (`labeled_loss_now`, its gradients by the student's variables, summed over replicas)."""
    variables = self.student.trainable_variables
    with self.frozen_statistics(self.student):
      with tf.GradientTape() as tape:
        logits = self.forward(self.student, 'student', {'labeled': batch.labeled})['labeled']
        share = self.global_mean(
          losses.cross_entropy(labels=self.one_hot(batch.labels, logits), logits=logits)
        )
    gradients = sum_over_replicas(self.gradient(tape, share, variables))
    return sum_over_replicas(share), gradients

  def above_average(self, dot_product):
    """Moves the average of the dot product by a hundredth, and compares with it.

    Returns:
      (h: the dot product minus its moved average; the standard deviation around that average,
      corrected for its start at zero): scalars.
    """
    # One value that is not finite would stay in the averages, and in all later feedback.
    moved = lambda average, value: tf.where(
      tf.math.is_finite(value), average - 0.01 * (average - tf.cast(value, tf.float32)), average
    )
    mean = moved(self.moving_dot_product, dot_product)
    square = moved(self.moving_dot_product_square, tf.square(dot_product))
    self.moving_dot_product.assign(mean)
    self.moving_dot_product_square.assign(square)
    weight = 1 - 0.99 ** tf.cast(self.step + 1, tf.float32)
    variance = square / weight - tf.square(mean / weight)
    return (dot_product - tf.cast(mean, dot_product.dtype), tf.sqrt(tf.maximum(variance, 0.0)))

  def feedback_weight(self):
    """Returns `mpl_weight` at this step: scalar."""
    return self.mpl_weight(self.step) if callable(self.mpl_weight) else self.mpl_weight
