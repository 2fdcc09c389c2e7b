"""Meta Pseudo Labels (Pham et al., CVPR 2021): the teacher learns from the student's progress."""
import dataclasses
import functools
from typing import Any, Callable, Union

from meta_pseudo_labels import losses, rng
from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.methods import diagnostics, feedback, uda

import tensorflow as tf


@dataclasses.dataclass
class StudentPass:
  """What the student's pass in step 2 leaves behind.

  Attributes:
    logits: `[n, C]` on the augmented views.
    labeled_logits: `[b, C]` of the labeled examples, which were in its batch.
    loss: scalar, this replica's share of its loss on the pseudo labels.
    gradients: of it, by the student's variables; this replica's share.
    along: function of a direction, one tensor a variable: the change `[n, C]` of the log
      probabilities on the augmented views along it. The gradients are a linear function of the
      loss's derivative by the log probabilities; the transpose of that function is the
      derivative along a direction. Taken through the backward pass it reuses the forward pass,
      and goes over sums over replicas, which tf.autodiff.ForwardAccumulator takes for constants.
  """
  logits: tf.Tensor
  labeled_logits: tf.Tensor
  loss: tf.Tensor
  gradients: list
  along: Callable


class MetaPseudoLabels(uda.ConsistencyMethod):
  """A teacher and a student that train together.

  The teacher trains as UDA does, plus the student's feedback; the student learns from the
  teacher's pseudo labels on the augmented views alone. `student` is the classifier to keep.
  """

  large_teacher = True  # One that `remat` is for.

  def __init__(self, teacher: tf.keras.Model, student: tf.keras.Model, *, mpl_feedback: str = 'soft',
               mpl_weight: Union[float, Callable[[tf.Tensor], tf.Tensor]] = 1., **kwargs: Any):
    """Wraps two built Keras classifiers of the same classes.

    Args:
      teacher, student: Keras models, inputs -> logits `[N, C]`.
      mpl_feedback: `soft`, `sampled`, `sampled_dot`, `argmax` or `release`
        (methods/feedback.py; `release` has no gradient, as in the release).
      mpl_weight: of the feedback in the teacher's loss: a number, or a function of the step
        (integer scalar) to one; not used by `release`.
      **kwargs: `ConsistencyMethod`'s and `Method`'s.

    Raises:
      ValueError: an unknown feedback, or a model without weights.
    """
    if mpl_feedback not in feedback.TARGETS:
      raise ValueError(f'mpl_feedback={mpl_feedback}: use one of {", ".join(feedback.TARGETS)}')
    super().__init__(student, **kwargs)
    if not teacher.built:
      raise ValueError(f'{teacher.name} has no weights yet: build it, or call it on one batch')
    self.teacher = teacher
    if self.large_teacher:
      self._passes.prepare(teacher)
    self.mpl_feedback = mpl_feedback
    self.mpl_weight = mpl_weight
    average = lambda name: tf.Variable(
        0., trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    self.moving_dot_product = average('moving_dot_product')
    self.moving_dot_product_square = average('moving_dot_product_square')

  def compile(self, teacher_optimizer: Any, student_optimizer: Any, **kwargs: Any) -> None:
    """Keras' compile with both optimizers: of `optimizers`, or Keras' SGD or Adam.

    Raises:
      TypeError: an optimizer of another kind.
    """
    super(uda.ConsistencyMethod, self).compile(student_optimizer, **kwargs)
    self.teacher_optimizer = self._build_optimizer(teacher_optimizer, self.teacher)

  def set_optimizers(self, student_optimizer, teacher_optimizer=None):
    """Takes the optimizers and makes their slots; under the strategy's scope."""
    super().set_optimizers(student_optimizer)
    if teacher_optimizer is not None:
      self.teacher_optimizer = self._build_optimizer(teacher_optimizer, self.teacher)

  def train_step(self, data):
    """One step: the six of official-release.md, in their order.

    Args:
      data: (labeled inputs `[b, ...]`, labels `[b]` integers or `[b, C]`, original views
        `[b*U, ...]`, augmented views `[b*U, ...]`[, the unlabeled examples' labels `[b*U]` int32
        where known, else -1: for the logs alone]): this replica's share of the global batch.

    Returns:
      The release's logs, and those of `diagnostics`: {name: float32 scalar}.
    """
    labeled, augmented = data[0], data[3]
    weight, rates = self.consistency_weight(), self.rates()

    # 1. The teacher on all views. Its batch-norm averages never move in the release.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as teacher_tape:
      teacher_tape.watch(self.teacher.trainable_variables)
      with self.statistics_kept(self.teacher, keep=self.mpl_feedback == 'release'):
        out = self.teacher_pass(data)
      loss_u = tf.cast(weight, out.labels.dtype) * out.cross_entropy_u
      loss = out.cross_entropy_l + loss_u
      log_probs = tf.nn.log_softmax(out.logits['augmented'])

    variables = self.teacher.trainable_variables
    gradient = functools.partial(self.gradient, teacher_tape)
    if self.mpl_feedback == 'release':
      # Its feedback adds none: what the teacher's pass keeps can go before the student's pass is made.
      gradients = gradient([loss], variables, [tf.ones_like(loss)])
      with tf.control_dependencies(gradients):
        augmented, labeled = tf.identity(augmented), tf.identity(labeled)

    # 2. The student learns from the teacher's labels on the augmented views ...
    targets = self.pseudo_labels(log_probs)
    student = self.student_pass(augmented, labeled, targets)
    old = self.labeled_loss_before(student, labeled, out.labels)

    # 3. ... and moves, and so does its average.
    update = self.apply_update(self.student, self.student_optimizer, student.gradients)
    self.average.update(self.step)

    # 4. - 5. What the move did to the student on the labeled examples.
    new, teacher_feedback, h, deviation = self.progress(
        old, update, student, labeled, out.labels, targets, log_probs)

    # 6. The teacher moves: its own losses, and the feedback on its log probabilities.
    if self.mpl_feedback != 'release':
      gradients = gradient([loss, log_probs], variables, [tf.ones_like(loss), teacher_feedback])
    # Before the update: a rematerialized pass is made with the weights as they are then.
    pulls = diagnostics.gradients(
        gradient, variables, feedback=(log_probs, teacher_feedback),
        labeled=(out.cross_entropy_l, None), unlabeled=(loss_u, None))
    teacher_update = self.apply_update(self.teacher, self.teacher_optimizer, gradients)
    self.count_step(update, teacher_update)

    return self.logs(
        self.shares(out, student, log_probs, data[4] if len(data) > 4 else None),
        {'cross_entropy/student_on_l': new, **rates,
         'grad_norm/student': update.norm, 'grad_norm/teacher': teacher_update.norm,
         'mpl/dot_product': h, 'mpl/moving_dot_product': self.moving_dot_product,
         'mpl/dot_product_std': deviation, 'uda/weight': weight, **pulls})

  def rates(self):
    """Both learning rates at this step: {log name: float32 scalar}."""
    return {'lr/student': self.student_optimizer.rate(self.step),
            'lr/teacher': self.teacher_optimizer.rate(self.step)}

  def shares(self, out, student, log_probs, truth):
    """What is logged of the passes: {name: scalar}, this replica's shares of global values."""
    return {
        'cross_entropy/student_on_u': student.loss,
        'cross_entropy/teacher_on_u': out.cross_entropy_u,
        'cross_entropy/teacher_on_l': out.cross_entropy_l,
        'uda/u_ratio': tf.reduce_mean(out.mask_u) / self.replicas,
        'uda/l_ratio': tf.reduce_mean(out.mask_l) / self.replicas,
        **diagnostics.pseudo_labels(log_probs, student.logits, truth, self.replicas)}

  def teacher_pass(self, data):
    """The teacher's pass over a batch, with its losses on its own: a `uda.Pass`."""
    return self.uda_pass(self.teacher, data)

  def pseudo_labels(self, log_probs):
    """The student's targets `[n, C]`, constants, from the teacher's log probabilities."""
    context = tf.distribute.get_replica_context()
    return feedback.targets(self.mpl_feedback, tf.stop_gradient(log_probs),
                            rng.key(self.seed, self.step),
                            context.replica_id_in_sync_group, self.replicas)

  def labeled_loss(self, logits, labels):
    """The student's cross entropy on the global labeled batch, without smoothing: scalar."""
    share = tf.reduce_sum(losses.cross_entropy(labels=labels, logits=logits))
    return collectives.sum_over_replicas(share) / (logits.shape[0] * self.replicas)

  def labeled_loss_now(self, labeled, labels):
    """The same from a pass over the labeled examples alone, with the weights as they are."""
    with self.statistics_kept(self.student):
      logits = self.forward(self.student, 'student', {'labeled': labeled})['labeled']
    return self.labeled_loss(logits, labels)

  def labeled_loss_before(self, student, labeled, labels):
    """The loss before the step, in a batch of the same composition as the one after it; None where
    it is not asked for.

    The release takes it from the pass of step 2, a StudentPass, where batch norm sees the augmented
    views too, so that its h is not zero even at rate 0; `release` alone does so here.
    """
    if self.mpl_feedback == 'release':
      return self.labeled_loss(student.labeled_logits, labels)
    return self.labeled_loss_now(labeled, labels) if (
        self.mpl_feedback in feedback.BY_DIFFERENCE) else None

  def progress(self, old, update, student, labeled, labels, targets, log_probs):
    """What the student's move did to it on the labeled examples, in the way of `mpl_feedback`.

    Args:
      old: their loss before it, of `labeled_loss_before`.
      update, student: the move, an `Update`, and the `StudentPass` it came from.
      labeled, labels: `[b, ...]` and `[b, C]`.
      targets, log_probs: `[n, C]`, what the student learned from and the teacher's log probabilities.

    Returns:
      (their loss after it, the feedback F `[n, C]`, h, the standard deviation of what h is above the
      average of: `above_average`).
    """
    if self.mpl_feedback in feedback.BY_DIFFERENCE:
      new = self.labeled_loss_now(labeled, labels)
      h, deviation = self.above_average(
          new - old if self.mpl_feedback == 'release' else old - new)
      return new, self.feedback_by_difference(h, targets, log_probs), h, deviation
    new, teacher_feedback, dot_product = self.feedback_by_derivative(
        update, student.along, labeled, labels, targets, log_probs)
    return (new, teacher_feedback, *self.above_average(dot_product))

  def above_average(self, dot_product):
    """(h: the dot product minus its moving average, which moves first, by a hundredth; the
    standard deviation around that average, corrected for its start at zero): scalars."""
    # One value that is not finite would stay in the averages, and in all later feedback.
    moved = lambda average, value: tf.where(
        tf.math.is_finite(value), average - .01 * (average - tf.cast(value, tf.float32)), average)
    mean = moved(self.moving_dot_product, dot_product)
    square = moved(self.moving_dot_product_square, tf.square(dot_product))
    self.moving_dot_product.assign(mean)
    self.moving_dot_product_square.assign(square)
    weight = 1 - .99 ** tf.cast(self.step + 1, tf.float32)
    variance = square / weight - tf.square(mean / weight)
    return (dot_product - tf.cast(mean, dot_product.dtype),
            tf.sqrt(tf.maximum(variance, 0.)))

  def feedback_by_difference(self, h, targets, log_probs):
    """F `[n, C]` of the estimators that measure the labeled loss before and after."""
    total = targets.shape[0] * self.replicas
    if self.mpl_feedback == 'release':
      return feedback.release(h=h, log_probs=log_probs, total=total)
    return self.feedback_weight() * feedback.sampled(h=h, labels=targets, total=total)

  def feedback_weight(self):
    """`mpl_weight` at this step: scalar."""
    return self.mpl_weight(self.step) if callable(self.mpl_weight) else self.mpl_weight

  def student_pass(self, augmented, labeled, targets):
    """The student's pass over (augmented, labeled) and its gradients on the former: StudentPass."""
    variables = self.student.trainable_variables
    labels = losses.smooth(targets, self.label_smoothing)
    # By the log probabilities: a constant, of which the gradients are a linear function.
    cotangents = -labels / (targets.shape[0] * self.replicas)
    with tf.GradientTape(watch_accessed_variables=False) as linear_tape:
      with tf.GradientTape() as tape:
        logits = self.forward(self.student, 'student',
                              {'augmented': augmented, 'labeled': labeled})
        log_probs = tf.nn.log_softmax(logits['augmented'])
      linear_tape.watch(cotangents)
      gradients = self.gradient(tape, [log_probs], variables, [cotangents])

    def along(direction):
      # What comes back is as small as a gradient is.
      factor = 1. if self.loss_scale is None else tf.convert_to_tensor(self.loss_scale.factor)**2
      return linear_tape.gradient(gradients, cotangents, output_gradients=[
          d * tf.cast(factor, d.dtype) for d in direction]) / tf.cast(factor, cotangents.dtype)

    return StudentPass(logits['augmented'], logits['labeled'],
                       tf.reduce_sum(cotangents * log_probs), gradients, along)

  def feedback_by_derivative(self, update, along, labeled, labels, targets, log_probs):
    """(labeled loss after the step, F `[n, C]`, dot product) of `soft` and `sampled_dot`.

    The gradient of the labeled loss at the new weights, carried back through the update, is a
    direction in weight space; `along` tells how each log probability of the student changes
    along it at the old weights, in the batch that the student learned from. The dot product
    is what the labeled loss falls by, to first order, for the part of the student's move that the
    targets of this step make (momentum, weight decay and smoothing left out).
    """
    variables = self.student.trainable_variables
    with self.statistics_kept(self.student):
      with tf.GradientTape() as tape:
        logits = self.forward(self.student, 'student', {'labeled': labeled})['labeled']
        share = tf.reduce_sum(losses.cross_entropy(labels=labels, logits=logits)) / (
            labeled.shape[0] * self.replicas)
    gradients = collectives.sum_over_replicas(self.gradient(tape, share, variables))
    arguments = dict(directional=along(update.pullback(gradients)),
                     total=targets.shape[0] * self.replicas, label_smoothing=self.label_smoothing)
    if self.mpl_feedback == 'soft':
      teacher_feedback = feedback.soft(log_probs=log_probs, **arguments)
    else:
      teacher_feedback = feedback.sampled_dot(labels=targets, **arguments)
    dot_product = -collectives.sum_over_replicas(tf.reduce_sum(teacher_feedback))
    return (collectives.sum_over_replicas(share),
            self.feedback_weight() * tf.stop_gradient(teacher_feedback), dot_product)
