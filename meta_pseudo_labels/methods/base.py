"""The base of all methods: the student and its average, a forward pass, one update, the logs."""

import contextlib
import dataclasses
import inspect
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from meta_pseudo_labels import rng
from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.methods import parts
from meta_pseudo_labels.methods.batch import LABELED, Batch
from meta_pseudo_labels.models import batch_norm, layers
from meta_pseudo_labels.models.remat import Passes
from meta_pseudo_labels.optim import ema, loss_scale, optimizers
from meta_pseudo_labels.optim.updates import NORM_WORDS

import tensorflow as tf

Names = Tuple[str, ...]
Tensors = List[tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Update:
  """An optimizer step of a model that has been applied.

  Attributes:
    norm: float scalar, the norm of the gradient with weight decay, before clipping.
    vjp: function from a list of gradients with respect to the new weights to a list of gradients with
      respect to the summed gradients; see `Method.apply_update`.
  """

  norm: tf.Tensor
  vjp: Callable[[Tensors], Tensors]


@contextlib.contextmanager
def _told_plainly():
  """Raises a UserError that a step raised while it was traced as it is, not as what became of it."""
  try:
    yield
  except Exception as error:
    cause = error
    while cause is not None and not isinstance(cause, UserError):
      cause = cause.__cause__ or cause.__context__
    if cause is None:
      raise
    raise cause.with_traceback(None) from None


class Method(tf.keras.Model):
  """Base class of the training methods: a Keras model that trains a student.

  `train_step(data)` works in replica context, under `fit` and in this project's own loop. Every batch
  that it gets is the share of one replica. Every loss is divided by the size of the GLOBAL batch. So
  sums over replicas are the global values.
  """

  def __init__(
    self,
    student: tf.keras.Model,
    *,
    weight_decay: float = 0.0,
    grad_bound: float = 1e9,
    label_smoothing: float = 0.0,
    ema_decay: float = 0.0,
    ema_start: int = 0,
    num_train_steps: int = 1,
    seed: int = 0,
    remat: bool = False,
    loss_scaling: bool = False,
    micro_batches: int = 1,
    name: Optional[str] = None,
  ):
    """Wraps a built Keras classifier.

    Args:
      student: Keras model, inputs -> logits `[N, C]`.
      weight_decay: float; weight_decay * w is added to the gradients, except for batch norms.
      grad_bound: float, the maximum of the gradients' global norm; clipping is after weight decay.
      label_smoothing: float in [0, 1], see `losses.smooth`.
      ema_decay, ema_start: of the student's moving average, see `ema.decay`.
      num_train_steps: int, the planned number of steps; only a logged mask depends on it.
      seed: int; with the step it determines every random draw.
      remat: bool, whether to recompute activations in the backward pass (models/remat.py).
      loss_scaling: bool, for networks that compute in float16, see `loss_scale.LossScale`.
      micro_batches: int, parts of a replica's batch, one after the other (methods/parts.py).
      name: str, of this Keras model.

    Raises:
      ValueError: the student has no weights yet, or `remat` does not support it.
    """
    super().__init__(name=name)
    if not student.built:
      raise ValueError(f'{student.name}: has no weights yet; build it, or call it on one batch')
    self.distribute_reduction_method = 'first'  # Logs are those of all replicas; `fit` would add them up.
    self.student = student
    self.weight_decay = weight_decay
    self.grad_bound = grad_bound
    self.label_smoothing = label_smoothing
    self.num_train_steps = num_train_steps
    self.seed, self.micro_batches = seed, micro_batches
    self._passes = Passes(remat)
    self._passes.prepare(student)
    counter = lambda name: tf.Variable(
      0, trainable=False, dtype=tf.int64, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
    )
    self.step = counter('global_step')
    self.skipped = counter('skipped')
    self.skipped_in_a_row = counter('skipped_in_a_row')
    self.loss_scale = loss_scale.LossScale() if loss_scaling else None
    self.average = ema.MovingAverage(student.variables, ema_decay, ema_start)
    self.accuracy = tf.keras.metrics.SparseCategoricalAccuracy(name='accuracy')

  def compile(self, student_optimizer: Any, **kwargs: Any) -> None:
    """Compiles the model with the student's optimizer: one of `optimizers`, or a Keras SGD, Adam or AdamW.

    Raises:
      TypeError: the optimizer is of another kind.
    """
    super().compile(**kwargs)
    self.set_optimizers(student_optimizer=student_optimizer)

  def set_optimizers(self, student_optimizer: Any) -> None:
    """Sets the optimizer and creates its slots; call it under the strategy's scope."""
    self.student_optimizer = self._build_optimizer(student_optimizer, self.student)

  @staticmethod
  def _build_optimizer(optimizer, model):
    """Returns an `Optimizer` whose slots are those of a model's trainable variables."""
    optimizer = optimizers.get(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer

  evaluates_teacher = False  # Whether there is a teacher whose accuracy is meaningful.
  needs: Names = LABELED  # The parts of a batch that a step reads.

  def batch_of(self, data: Any) -> Batch:
    """Returns the `Batch` of what a dataset yields. Raises UserError: see `Batch.of`."""
    checked = lambda values: None if values is None else collectives.require_rows(values)
    return tf.nest.map_structure(checked, Batch.of(data, self.needs))

  def fit(self, *args: Any, **kwargs: Any) -> tf.keras.callbacks.History:
    """Trains as Keras' `fit` does, on a dataset whose elements `Batch.of` takes.

    Args:
      *args, **kwargs: as of Keras' `fit`: dataset, epochs, steps_per_epoch, callbacks, validation_data
        of (inputs `[N, ...]`, labels `[N]`), ...

    Returns:
      tf.keras.callbacks.History, with the logs by their names.

    Raises:
      UserError: the batches are not as `Batch.of` expects, or there are class or sample weights.
    """
    given = inspect.signature(super().fit).bind(*args, **kwargs).arguments
    for name in ('class_weight', 'sample_weight'):
      if given.get(name) is not None:
        raise UserError(
          f'{name}: the methods do not weight examples, as labeled and unlabeled ones share a batch; let '
          'the dataset repeat the examples that should count more'
        )
    with _told_plainly():
      return super().fit(*args, **kwargs)

  def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
    """Returns the student's logits `[N, C]`."""
    return self.student(inputs, training=training)

  @property
  def metrics(self) -> List[tf.keras.metrics.Metric]:
    return [self.accuracy]

  def test_step(self, data: Any) -> Dict[str, tf.Tensor]:
    """Evaluates the student for Keras on labeled examples.

    Args:
      data: what `Batch.of` takes; (inputs, labels) are enough.

    Returns:
      {'accuracy': scalar}.
    """
    found = Batch.of(data)
    labels = found.labels if found.labels.dtype.is_integer else tf.argmax(found.labels, axis=-1)
    self.accuracy.update_state(labels, self.student(found.labeled, training=False))
    return {'accuracy': self.accuracy.result()}

  @property
  def replicas(self) -> int:
    """The number of replicas: int."""
    return tf.distribute.get_replica_context().num_replicas_in_sync

  def forward(self, model: tf.keras.Model, role: str, views: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
    """Makes one training-mode pass over several views in one batch, so that batch norm mixes them.

    Args:
      model: Keras model.
      role: str; with a view's name it determines the dropout masks of the pass.
      views: {name: inputs `[n, ...]`}.

    Returns:
      {name: logits `[n, C]`}, float32 (or float64 from a float64 model).
    """
    sizes = [collectives.count_rows(inputs) for inputs in views.values()]
    sections = [parts.section(f'{role}/{view}', view, inputs) for view, inputs in views.items()]
    inputs = list(views.values())
    inputs = inputs[0] if len(inputs) == 1 else tf.concat(inputs, axis=0)
    with layers.noise(rng.key(self.seed, self.step), sections):
      logits = self._passes(model, inputs)
    if logits.dtype != tf.float64:
      logits = tf.cast(logits, tf.float32)
    return dict(zip(views, tf.split(logits, sizes)))

  def gradient(
    self,
    tape: tf.GradientTape,
    targets: Union[tf.Tensor, Tensors],
    sources: Sequence[tf.Variable],
    output_gradients: Optional[Tensors] = None,
  ) -> Tensors:
    """Computes the gradient with respect to a list of variables, with loss scaling if it is enabled.

    Args:
      tape: tf.GradientTape.
      targets: a scalar, or a list of tensors of any shapes if there are `output_gradients`.
      sources: list of variables.
      output_gradients: list of tensors, one per target; None for the scalar's own gradient.

    Returns:
      list of tensors, zeros for variables that no target depends on.
    """
    if output_gradients is None:
      targets, output_gradients = [targets], [tf.ones_like(targets)]
    if self.loss_scale is None:
      return tape.gradient(
        targets,
        sources,
        output_gradients=output_gradients,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
      )
    return self.loss_scale.gradient(tape, targets, sources, output_gradients)

  @contextlib.contextmanager
  def frozen_statistics(self, model: tf.keras.Model) -> Iterator[None]:
    """Restores the model's batch-norm averages at the end of this context."""
    variables = model.non_trainable_variables
    before = [tf.convert_to_tensor(v) for v in variables]
    yield
    if variables:
      collectives.assign(variables, before)

  def global_size(self, values: tf.Tensor) -> Union[int, tf.Tensor]:
    """Returns the number of rows of `values` `[n, ...]` over all replicas and parts: int.

    Where the shape does not say it, the result is a scalar of the values' dtype.
    """
    if values.shape[0] is None:
      return tf.cast(collectives.find_place(values).total, values.dtype)
    return values.shape[0] * self.replicas * parts.count()

  def global_mean(self, values: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of the mean of `values` `[n]` over the global batch: scalar.

    Of a part's values it is the part's share.
    """
    return tf.reduce_sum(values) / self.global_size(values)

  def in_parts(
    self, function: Callable, batch: Batch, *rows: tf.Tensor, most: Optional[int] = None
  ) -> Tuple[Any, Any]:
    """Adds up a function over the parts of a batch, with `micro_batches` 1 over the whole batch.

    Args:
      function, batch, *rows: see `parts.add_up`.
      most: int, the rows that a part of labeled examples alone may have; None: as `micro_batches` says.

    Returns:
      See `parts.add_up`.

    Raises:
      UserError: `micro_batches` does not divide the unlabeled examples, or the batch's size is unknown.
    """
    count, labeled = self.micro_batches, batch.labeled.shape[0]
    if count == 1:
      return function(batch, *rows)
    if labeled is None:
      parts.check(count, None)
    if batch.augmented is not None:
      parts.check(count, batch.augmented.shape[0])
    else:
      count = parts.fewest(labeled, most or -(-labeled // count))
    return parts.add_up(function, batch, count, *rows)

  @property
  def steps_made(self) -> int:
    """The number of steps made so far: int, under any strategy, outside of replica context."""
    return int(self.step.numpy())

  def apply_update(
    self, model: tf.keras.Model, optimizer: optimizers.Optimizer, gradients: Tensors
  ) -> Update:
    """Applies an optimizer step: sum over replicas, weight decay, clipping, optimizer.

    This is the release's order in MPL. A step whose gradient norm is not finite does not change weights
    and slots (the release does so in Supervised only).

    Args:
      model: Keras model whose trainable variables are updated.
      optimizer: one of `optimizers`.
      gradients: list of tensors, this replica's share.

    Returns:
      Update. Its `vjp(cotangents)` maps a gradient with respect to the new weights to one with respect
      to the summed gradients. It is the transposed derivative of the whole update.
    """
    if self.micro_batches > 1:
      batch_norm.average_over_replicas(model)
    variables = model.trainable_variables
    names = [v.name for v in variables]
    gradients = collectives.sum_over_replicas(gradients)
    before = [tf.convert_to_tensor(v) for v in variables]
    slots = optimizer.slot_values()

    def update(gradients):
      decayed = optimizers.add_weight_decay(gradients, before, names, self.weight_decay)
      clipped, norm = optimizers.clip(decayed, self.grad_bound)
      return *optimizer.update(clipped, before, slots, self.step), norm

    def vjp(cotangents):
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(gradients)
        values, _, _ = update(gradients)
      return tape.gradient(
        values, gradients, output_gradients=cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO
      )

    after, new_slots, norm = update(gradients)
    finite = tf.math.is_finite(norm)
    after = [tf.where(finite, new, old) for new, old in zip(after, before)]
    collectives.assign(variables, after)
    optimizer.assign_slots(
      {
        slot: [tf.where(finite, new, old) for new, old in zip(tensors, slots[slot])]
        for slot, tensors in new_slots.items()
      }
    )
    return Update(norm, vjp)

  def count_step(self, *updates: Update) -> None:
    """Counts a step, and counts it as skipped if one of its updates was not finite."""
    finite = tf.reduce_all([tf.math.is_finite(update.norm) for update in updates])
    skipped = 1 - tf.cast(finite, tf.int64)
    self.skipped.assign_add(skipped)
    if self.loss_scale is not None:
      self.loss_scale.update(finite)
    self.skipped_in_a_row.assign(skipped * (self.skipped_in_a_row + 1))
    self.step.assign_add(1)

  def one_hot(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns labels `[N, C]` in the logits' dtype, from integers `[N]` or distributions `[N, C]`."""
    classes = logits.shape[-1]
    if labels.dtype.is_integer:
      return tf.one_hot(labels, classes, dtype=logits.dtype)
    if labels.shape[-1] is None:
      labels = tf.ensure_shape(labels, [None, classes])
    if labels.shape[-1] != classes:
      raise UserError(
        f'labels are distributions over {labels.shape[-1]} classes, but the network has {classes}'
      )
    return tf.cast(labels, logits.dtype)

  def logs(self, shares: Dict[str, tf.Tensor], common: Dict[str, tf.Tensor]) -> Dict[str, tf.Tensor]:
    """Returns the step's scalars: `shares` are summed over replicas, `common` are equal on all."""
    summed = collectives.sum_over_replicas(
      tf.stack([tf.cast(value, tf.float32) for value in shares.values()])
    )
    logs = dict(zip(shares, tf.unstack(summed)))
    logs.update({name: tf.cast(value, tf.float32) for name, value in common.items()})
    logs['skipped_steps'] = tf.cast(self.skipped, tf.float32)
    logs['global_step'] = tf.cast(self.step, tf.float32)
    return logs

  def l2(self, model: tf.keras.Model) -> tf.Tensor:
    """Computes the sum of |w|^2 / 2 over variables with weight decay: float32 scalar (release's logs)."""
    return tf.add_n(
      [
        tf.nn.l2_loss(v)
        for v in model.trainable_variables
        if not any(word in v.name.lower() for word in NORM_WORDS)
      ]
    )
