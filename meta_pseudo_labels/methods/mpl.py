"""Meta Pseudo Labels (Pham et al., CVPR 2021): the teacher learns from the student's progress."""

from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from meta_pseudo_labels import losses, rng
from meta_pseudo_labels.config.choices import TARGET_VIEWS
from meta_pseudo_labels.distribution.collectives import sum_over_replicas
from meta_pseudo_labels.methods import diagnostics, passes, uda
from meta_pseudo_labels.methods.batch import Batch
from meta_pseudo_labels.methods.feedback import ESTIMATORS, Estimator

import tensorflow as tf


class MetaPseudoLabels(uda.ConsistencyMethod):
  """A teacher and a student that train together.

  The teacher trains as UDA does, plus the student's feedback; the student learns from the
  teacher's pseudo labels alone, on the augmented views. `student` is the classifier to keep.

  Example:
    >>> network = lambda: mpl.models.build('mlp-16x1', num_classes=3, input_shape=(4,))
    >>> method = mpl.MetaPseudoLabels(teacher=network(), student=network(), mpl_feedback='soft')
    >>> method.compile(
    ...   teacher_optimizer=mpl.optimizers.Momentum(0.1), student_optimizer=mpl.optimizers.Momentum(0.1)
    ... )
    >>> inputs = np.ones([6, 4], 'float32')
    >>> batch = inputs[:2], np.array([0, 2]), inputs, 0.9 * inputs
    >>> history = method.fit(tf.data.Dataset.from_tensors(batch).repeat(3), verbose=0)
    >>> method.student.predict(batch[0], verbose=0).shape
    (2, 3)
  """

  large_teacher = True  # One that `remat` is for.

  def __init__(
    self,
    teacher: tf.keras.Model,
    student: tf.keras.Model,
    *,
    mpl_feedback: Union[str, Estimator] = 'soft',
    mpl_weight: Union[float, Callable[[tf.Tensor], tf.Tensor]] = 1.0,
    student_targets_from: str = 'augmented',
    **kwargs: Any,
  ):
    """Wraps two built Keras classifiers of the same classes.

    Args:
      teacher, student: Keras models, inputs -> logits `[N, C]`.
      mpl_feedback: `soft`, `sampled`, `sampled_dot`, `argmax` or `release` (`release` has no
        gradient, as in the release), or a `feedback.Estimator`.
      mpl_weight: factor of the feedback in the teacher's loss: a number, or a function of the step
        (integer scalar) to one; not used by `release`.
      student_targets_from: `augmented` or `original`, the views that the teacher labels for the student,
        which learns on the augmented ones.
      **kwargs: `ConsistencyMethod`'s and `Method`'s.

    Raises:
      ValueError: an unknown feedback or view, or a model without weights.
    """
    estimator = mpl_feedback if isinstance(mpl_feedback, Estimator) else ESTIMATORS.get(mpl_feedback)
    if estimator is None:
      raise ValueError(f'mpl_feedback={mpl_feedback}: use one of {", ".join(ESTIMATORS)}')
    if student_targets_from not in TARGET_VIEWS:
      raise ValueError(
        f'student_targets_from={student_targets_from}: use one of {", ".join(TARGET_VIEWS)}'
      )
    super().__init__(student, **kwargs)
    if not teacher.built:
      raise ValueError(f'{teacher.name} has no weights yet: build it, or call it on one batch')
    self.teacher = teacher
    if self.large_teacher:
      self._passes.prepare(teacher)
    self.estimator = estimator
    self.mpl_weight = mpl_weight
    self.student_targets_from = student_targets_from
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

  def set_optimizers(self, teacher_optimizer: Any = None, student_optimizer: Any = None) -> None:
    """Takes the optimizers and makes their slots; under the strategy's scope."""
    if student_optimizer is not None:
      super().set_optimizers(student_optimizer=student_optimizer)
    if teacher_optimizer is not None:
      self.teacher_optimizer = self._build_optimizer(teacher_optimizer, self.teacher)

  @property
  def evaluates_teacher(self) -> bool:
    """Whether the teacher's accuracy means something: its batch-norm averages follow its batches."""
    return self.large_teacher and self.estimator.moves_teacher_statistics

  def train_step(self, data: Any) -> Dict[str, tf.Tensor]:
    """Makes one step: the paper's Algorithm 1, with UDA's loss for the teacher.

    Args:
      data: what `Batch.of` takes: this replica's share of the global batch.

    Returns:
      The release's logs, and those of `diagnostics`: {name: float32 scalar}.
    """
    batch, rates = self.batch_of(data), self.rates()

    # 1. The teacher sees all views, and labels the unlabeled examples.
    teacher = self.teacher_passes(batch)
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
    pulls = diagnostics.compare_gradients(teacher.pulls(feedback.by_log_prob))
    teacher_update = self.apply_update(self.teacher, self.teacher_optimizer, gradients)
    thresholds = self.pseudo_labeling.logs(self.read_state())
    self.move_state(teacher.sums, teacher.found, batch.positions)
    self.count_step(update, teacher_update)

    return self.logs(
      self.shares(teacher, student, batch.truth),
      {
        **rates,
        **pulls,
        **thresholds,
        'cross_entropy/student_on_l': feedback.loss,
        'grad_norm/student': update.norm,
        'grad_norm/teacher': teacher_update.norm,
        'mpl/dot_product': feedback.h,
        'mpl/moving_dot_product': self.moving_dot_product,
        'mpl/dot_product_std': feedback.deviation,
        'uda/weight': teacher.weight,
      },
    )

  def rates(self) -> Dict[str, tf.Tensor]:
    """Returns both learning rates at this step: {log name: float32 scalar}."""
    return {
      'lr/student': self.student_optimizer.rate(self.step),
      'lr/teacher': self.teacher_optimizer.rate(self.step),
    }

  def shares(self, teacher: Any, student: Any, truth: Optional[tf.Tensor]) -> Dict[str, tf.Tensor]:
    """Returns what is logged of the passes: {name: scalar}, this replica's shares of global values."""
    total = self.global_size(student.logits)
    return {
      'cross_entropy/student_on_u': student.loss,
      **teacher.shares,
      **(diagnostics.measure_targets(teacher.found, truth, total) if teacher.found else {}),
      **diagnostics.measure_pseudo_labels(teacher.log_probs, student.logits, truth, self.replicas, total),
    }

  def teacher_passes(self, batch: Batch) -> Any:
    """Makes the teacher's pass over a batch, whole or in parts: a `passes.TeacherPass`."""
    return (passes.TeacherPass if self.micro_batches == 1 else passes.TeacherInParts)(self, batch)

  def teacher_pass(self, batch: Batch, ahead: Optional[Dict[str, tf.Tensor]] = None) -> uda.Pass:
    """Makes the teacher's pass over a batch or a part of one, with its own losses: a `uda.Pass`.

    `ahead` is of `sums_ahead`.
    """
    if self.estimator.moves_teacher_statistics:
      return self.uda_pass(self.teacher, batch, ahead)
    with self.frozen_statistics(self.teacher):
      return self.uda_pass(self.teacher, batch, ahead)

  def pseudo_labels(self, log_probs: tf.Tensor) -> tf.Tensor:
    """Returns the student's targets `[n, C]`, constants, from the teacher's log probabilities."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return self.estimator.targets(
      tf.stop_gradient(log_probs), rng.key(self.seed, self.step), replica, self.replicas
    )

  def student_pass(self, batch: Batch, targets: tf.Tensor) -> passes.StudentPass:
    """Makes the student's pass over a Batch with targets `[n, C]`, constants: a `passes.StudentPass`."""
    whole = self.micro_batches == 1
    return (passes.pass_student if whole else passes.pass_student_in_parts)(self, batch, targets)

  def labeled_share(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the labeled cross entropy, without smoothing: scalar."""
    labels = self.one_hot(labels, logits)
    return self.global_mean(losses.cross_entropy(labels=labels, logits=logits))

  def labeled_pass(self, batch: Batch, with_gradients: bool) -> Tuple[tf.Tensor, Any]:
    """Makes the student's pass over the labeled examples alone, with its present weights.

    Args:
      batch: Batch.
      with_gradients: bool.

    Returns:
      (this replica's share of `labeled_share`, list of its gradients by the student's variables or None).
    """

    def one_pass(part):
      with tf.GradientTape() as tape:
        logits = self.forward(self.student, 'student', {'labeled': part.labeled})['labeled']
        share = self.labeled_share(logits, part.labels)
      return (share, self.gradient(tape, share, variables) if with_gradients else ()), ()

    variables, labeled = self.student.trainable_variables, Batch(batch.labeled, batch.labels)
    with self.frozen_statistics(self.student):
      return self.in_parts(one_pass, labeled, most=self.rows_of_student(batch))[0]

  def rows_of_student(self, batch: Batch) -> Optional[int]:
    """Returns the largest number of labeled examples that pass together: those of a part; None: all."""
    if self.micro_batches == 1:
      return None
    views = [view for view in (batch.labeled, batch.augmented) if view is not None]
    return max(1, sum(view.shape[0] for view in views) // self.micro_batches)

  def labeled_loss_now(self, batch: Batch) -> tf.Tensor:
    """Returns the student's global labeled cross entropy, with its present weights: scalar."""
    return sum_over_replicas(self.labeled_pass(batch, with_gradients=False)[0])

  def labeled_gradients(self, batch: Batch) -> Tuple[tf.Tensor, List[tf.Tensor]]:
    """Returns (`labeled_loss_now`, its gradients by the student's variables, summed over replicas)."""
    share, gradients = self.labeled_pass(batch, with_gradients=True)
    return sum_over_replicas(share), sum_over_replicas(gradients)

  def above_average(self, dot_product: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
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

  def feedback_weight(self) -> Union[float, tf.Tensor]:
    """Returns `mpl_weight` at this step: scalar."""
    return self.mpl_weight(self.step) if callable(self.mpl_weight) else self.mpl_weight
