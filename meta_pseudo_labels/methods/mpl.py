"""Meta Pseudo Labels (Pham et al., CVPR 2021): the teacher learns from the student's progress."""
import tensorflow as tf

from meta_pseudo_labels import distribute
from meta_pseudo_labels import losses
from meta_pseudo_labels import rng
from meta_pseudo_labels.methods import feedback
from meta_pseudo_labels.methods import uda
from meta_pseudo_labels.models import layers


class MetaPseudoLabels(uda.ConsistencyMethod):
  """A teacher and a student that train together.

  The teacher trains as UDA does, plus the student's feedback; the student learns from the
  teacher's pseudo labels on the augmented views alone. `student` is the classifier to keep.
  """

  def __init__(self, teacher, student, *, mpl_feedback='soft', mpl_weight=1., **kwargs):
    """Wraps two built Keras classifiers of the same classes.

    Args:
      teacher, student: Keras models, inputs -> logits `[N, C]`.
      mpl_feedback: `soft`, `sampled`, `sampled_dot`, `argmax` or `release`
        (methods/feedback.py; `release` has no gradient, as in the release).
      mpl_weight: of the feedback in the teacher's loss; not used by `release`.
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
    self.mpl_feedback = mpl_feedback
    self.mpl_weight = mpl_weight
    self.moving_dot_product = tf.Variable(
        0., trainable=False, name='moving_dot_product',
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

  def compile(self, teacher_optimizer='momentum', student_optimizer='momentum', **kwargs):
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
        `[b*U, ...]`, augmented views `[b*U, ...]`): this replica's share of the global batch.

    Returns:
      The release's logs: {name: float32 scalar}.
    """
    labeled, _, _, augmented = data
    weight = self.consistency_weight()
    rates = {'lr/student': self.student_optimizer.rate(self.step),
             'lr/teacher': self.teacher_optimizer.rate(self.step)}

    # 1. The teacher on all views. Its batch-norm averages never move in the release.
    with tf.GradientTape(watch_accessed_variables=False) as teacher_tape:
      teacher_tape.watch(self.teacher.trainable_variables)
      with self.statistics_kept(self.teacher, keep=self.mpl_feedback == 'release'):
        out = self.uda_pass(self.teacher, data)
      loss = out.cross_entropy_l + tf.cast(weight, out.labels.dtype) * out.cross_entropy_u
      log_probs = tf.nn.log_softmax(out.logits['augmented'])

    # 2. The student learns from the teacher's labels on the augmented views ...
    targets = self.pseudo_labels(log_probs)
    old = self.labeled_loss_before(labeled, out.labels)
    with tf.GradientTape() as student_tape:
      student = self.forward(self.student, 'student',
                             {'augmented': augmented, 'labeled': labeled})
      student_loss = tf.reduce_sum(losses.cross_entropy(
          labels=targets, logits=student['augmented'],
          label_smoothing=self.label_smoothing)) / (targets.shape[0] * self.replicas)
    gradients = student_tape.gradient(student_loss, self.student.trainable_variables)
    if self.mpl_feedback == 'release':
      old = self.labeled_loss(student['labeled'], out.labels)

    # 3. ... and moves, and so does its average.
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    self.average.update(self.step)

    # 4. - 5. What the move did to the student on the labeled examples.
    if self.mpl_feedback in feedback.BY_DIFFERENCE:
      new = self.labeled_loss_now(labeled, out.labels)
      h = self.above_average(new - old if self.mpl_feedback == 'release' else old - new)
      teacher_feedback = self.feedback_by_difference(h, targets, log_probs)
    else:
      new, teacher_feedback, h = self.feedback_by_derivative(
          update, augmented, labeled, out.labels, targets, log_probs)

    # 6. The teacher moves: its own losses, and the feedback on its log probabilities.
    gradients = teacher_tape.gradient(
        [loss, log_probs], self.teacher.trainable_variables,
        output_gradients=[tf.ones_like(loss), teacher_feedback])
    teacher_update = self.apply_update(self.teacher, self.teacher_optimizer, gradients)
    self.step.assign_add(1)

    return self.logs(
        {'cross_entropy/student_on_u': student_loss,
         'cross_entropy/teacher_on_u': out.cross_entropy_u,
         'cross_entropy/teacher_on_l': out.cross_entropy_l,
         'uda/u_ratio': tf.reduce_mean(out.mask_u) / self.replicas,
         'uda/l_ratio': tf.reduce_mean(out.mask_l) / self.replicas},
        {'cross_entropy/student_on_l': new, **rates,
         'grad_norm/student': update.norm, 'grad_norm/teacher': teacher_update.norm,
         'mpl/dot_product': h, 'mpl/moving_dot_product': self.moving_dot_product,
         'uda/weight': weight})

  def pseudo_labels(self, log_probs):
    """The student's targets `[n, C]`, constants, from the teacher's log probabilities."""
    context = tf.distribute.get_replica_context()
    return feedback.targets(self.mpl_feedback, tf.stop_gradient(log_probs),
                            rng.key(self.seed, self.step),
                            context.replica_id_in_sync_group, self.replicas)

  def labeled_loss(self, logits, labels):
    """The student's cross entropy on the global labeled batch, without smoothing: scalar."""
    share = tf.reduce_sum(losses.cross_entropy(labels=labels, logits=logits))
    return distribute.sum_over_replicas(share) / (logits.shape[0] * self.replicas)

  def labeled_loss_now(self, labeled, labels):
    """The same from a pass over the labeled examples alone, with the weights as they are."""
    with self.statistics_kept(self.student):
      logits = self.forward(self.student, 'student', {'labeled': labeled})['labeled']
    return self.labeled_loss(logits, labels)

  def labeled_loss_before(self, labeled, labels):
    """The loss before the step, in a batch of the same composition as the one after it.

    The release takes it from the pass of step 2, where batch norm sees the augmented views
    too, so that its h is not zero even at rate 0; `release` alone does so here.
    """
    if self.mpl_feedback in feedback.BY_DIFFERENCE and self.mpl_feedback != 'release':
      return self.labeled_loss_now(labeled, labels)
    return None

  def above_average(self, dot_product):
    """h: the dot product minus its moving average, which moves first, by a hundredth."""
    moving = self.moving_dot_product - .01 * (
        self.moving_dot_product - tf.cast(dot_product, tf.float32))
    self.moving_dot_product.assign(moving)
    return dot_product - tf.cast(moving, dot_product.dtype)

  def feedback_by_difference(self, h, targets, log_probs):
    """F `[n, C]` of the estimators that measure the labeled loss before and after."""
    total = targets.shape[0] * self.replicas
    if self.mpl_feedback == 'release':
      return feedback.release(h=h, log_probs=log_probs, total=total)
    return self.mpl_weight * feedback.sampled(h=h, labels=targets, total=total)

  def feedback_by_derivative(self, update, augmented, labeled, labels, targets, log_probs):
    """(labeled loss after the step, F `[n, C]`, sum of F) of `soft` and `sampled_dot`.

    The gradient of the labeled loss at the new weights, carried back through the update, is a
    direction in weight space; one forward-mode pass at the old weights, over the batch that the
    student learned from, tells how each log probability changes along it.
    """
    variables = self.student.trainable_variables
    with self.statistics_kept(self.student):
      with tf.GradientTape() as tape:
        logits = self.forward(self.student, 'student', {'labeled': labeled})['labeled']
        share = tf.reduce_sum(losses.cross_entropy(labels=labels, logits=logits)) / (
            labeled.shape[0] * self.replicas)
      gradients = distribute.sum_over_replicas(tape.gradient(share, variables))
      direction = update.pullback(gradients)
      distribute.assign(variables, update.before)
      with layers.forward_mode(variables, direction) as accumulator:
        views = {'augmented': augmented, 'labeled': labeled}
        student = self.forward(self.student, 'student', views)['augmented']
        student_log_probs = tf.nn.log_softmax(student)
      directional = accumulator.jvp(student_log_probs)
      distribute.assign(variables, update.after)
    arguments = dict(directional=directional, total=augmented.shape[0] * self.replicas,
                     label_smoothing=self.label_smoothing)
    if self.mpl_feedback == 'soft':
      teacher_feedback = feedback.soft(log_probs=log_probs, **arguments)
    else:
      teacher_feedback = feedback.sampled_dot(labels=targets, **arguments)
    h = distribute.sum_over_replicas(tf.reduce_sum(teacher_feedback))
    return (distribute.sum_over_replicas(share),
            self.mpl_weight * tf.stop_gradient(teacher_feedback), h)
