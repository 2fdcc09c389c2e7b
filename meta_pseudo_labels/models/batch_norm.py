"""Batch normalization with the release's statistics, and with derivatives in few kernels."""

import contextlib
import contextvars
from typing import NamedTuple

from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.errors import UserError

import tensorflow as tf

# {batch norm's name: Statistics}: a first pass fills it, and the second pass reads it.
_KEPT = contextvars.ContextVar('kept', default=None)
_AGAIN = contextvars.ContextVar('again', default=None)
_OWN = contextvars.ContextVar('own', default=False)


@contextlib.contextmanager
def record_statistics():
  """Records the statistics of the pass made in this context; yields them for `reuse_statistics`."""
  kept = {}
  token = _KEPT.set(kept)
  try:
    yield kept
  finally:
    _KEPT.reset(token)


@contextlib.contextmanager
def reuse_statistics(kept):
  """Repeats in this context the pass that was made under `record_statistics`.

  The batch-norm averages do not move, and the fused batch norm does not compute its statistics again.
  `kept` is the value that `record_statistics` yielded.
  """
  token = _AGAIN.set(kept)
  try:
    yield
  finally:
    _AGAIN.reset(token)


def repeated():
  """Returns a context in which the moving averages do not move, as in a pass that was made before."""
  return reuse_statistics({})


@contextlib.contextmanager
def own_statistics():
  """Makes each replica normalize by the statistics of its own batch in this context."""
  token = _OWN.set(True)
  try:
    yield
  finally:
    _OWN.reset(token)


def average_over_replicas(model):
  """Averages the moving statistics of a model over replicas, after passes under `own_statistics`.

  Then all replicas hold the same values again. Call it in replica context.
  """
  replicas = tf.distribute.get_replica_context().num_replicas_in_sync
  moving = [
    v for v in model.non_trainable_variables if v.synchronization == tf.VariableSynchronization.ON_READ
  ]
  if replicas > 1 and moving:
    collectives.assign(moving, collectives.sum_over_replicas([v / replicas for v in moving]))


class Statistics(NamedTuple):
  """Statistics of a batch as the fused batch norm computes them.

  Attributes:
    mean, variance: float32 `[C]`; the variance is the biased one.
    reserved: tensors that the kernel of its gradient needs.
  """

  mean: tf.Tensor
  variance: tf.Tensor
  reserved: tuple


def _normalize_batch(inputs, gamma, beta, epsilon):
  """Normalizes by the batch's own statistics; returns (normalized values, their `Statistics`)."""
  outputs = tf.raw_ops.FusedBatchNormV3(
    x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
  )
  # The fused op normalizes by the biased variance but reports the unbiased one.
  count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
  return outputs.y, Statistics(
    outputs.batch_mean,
    outputs.batch_variance * ((count - 1) / count),
    (outputs.reserve_space_1, outputs.reserve_space_2, outputs.reserve_space_3),
  )


def _normalize_by(inputs, gamma, beta, statistics, epsilon):
  """Returns `inputs` normalized by known `Statistics`."""
  return tf.raw_ops.FusedBatchNormV3(
    x=inputs,
    scale=gamma,
    offset=beta,
    mean=statistics.mean,
    variance=statistics.variance,
    epsilon=epsilon,
    is_training=False,
  ).y


def fused_batch_norm(inputs, gamma, beta, epsilon, known=None):
  """Normalizes by the batch's own statistics in one kernel, with derivatives in few.

  TensorFlow derives the derivative of the fused op's gradient from a formula of many separate
  operations, each a pass over memory. The feedback `soft` (methods/mpl.py) only needs the transpose
  of the gradient as a linear function of the cotangent. With respect to the inputs that is the
  gradient's own kernel again, since the Jacobian, gamma / deviation * (1 - mean - projection on the
  normalized values), is symmetric. With respect to gamma and beta it is a normalization with other
  scales.

  Args:
    inputs: `[N, H, W, C]` float32, bfloat16 or float16.
    gamma, beta: float32 `[C]`.
    epsilon: float.
    known: `Statistics` of the same inputs, which are then not computed again.

  Returns:
    (normalized `[N, H, W, C]` of the inputs' dtype, its `Statistics`); no gradient flows through the
    statistics.
  """
  found = []  # A list, because values returned through a custom gradient would become its outputs.

  def gradient_op(cotangent, inputs, gamma):
    return tf.raw_ops.FusedBatchNormGradV3(
      y_backprop=cotangent,
      x=inputs,
      scale=gamma,
      epsilon=epsilon,
      is_training=True,
      **{f'reserve_space_{number}': value for number, value in enumerate(found[0].reserved, 1)},
    )[:3]

  @tf.custom_gradient
  def normalized(inputs, gamma, beta):
    if known is None:
      values, statistics = _normalize_batch(inputs, gamma, beta, epsilon)
    else:
      values, statistics = _normalize_by(inputs, gamma, beta, known, epsilon), known
    found.append(statistics)

    @tf.custom_gradient
    def gradient(cotangent, inputs, gamma):

      def transposed(by_inputs, by_gamma, by_beta):
        direct, _, _ = gradient_op(by_inputs, inputs, gamma)
        scaled = _normalize_by(inputs, by_gamma, by_beta, statistics, epsilon)
        # The true second derivatives; TensorFlow prunes them from a graph that does not use them.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
          tape.watch([inputs, gamma])
          results = gradient_op(cotangent, inputs, gamma)
        return (
          direct + scaled,
          *tape.gradient(results, [inputs, gamma], output_gradients=[by_inputs, by_gamma, by_beta]),
        )

      return gradient_op(cotangent, inputs, gamma), transposed

    return values, lambda cotangent: tuple(gradient(cotangent, inputs, gamma))

  return normalized(inputs, gamma, beta), found[0]


# Up to this many replicas share their batch norms' statistics; more are divided into groups (release).
ONE_GROUP = 8


def group_size(replicas, examples, batch_size=None):
  """Returns how many replicas share a batch norm's statistics: int (release: sync_batch_norm).

  Args:
    replicas: int, number of replicas of all workers.
    examples: int, number of examples in one replica's batch at that batch norm, over all views; None:
      not known.
    batch_size: `--batch_norm_batch_size`, the approximate number of examples of a group. If None, a
      group is an eighth of the replicas, at least 8.

  Raises:
    UserError: the replicas cannot be divided into groups of that size, or that size is not known.
  """
  if replicas <= ONE_GROUP:
    return replicas
  if batch_size is not None and examples is None:
    raise UserError(
      f'--batch_norm_batch_size={batch_size}: needs batches of a known size; batch the dataset with '
      'drop_remainder=True'
    )
  wanted = max(8, replicas // 8) if batch_size is None else min(replicas, batch_size // examples)
  size = 2 ** max(1, wanted.bit_length() - 1)
  if replicas % size:
    raise UserError(
      f'--batch_norm_batch_size={batch_size}: {replicas} replicas cannot be divided into '
      f'groups of {size}; give another size, or use a power of two of replicas'
    )
  return size


def couples_examples(model):
  """Returns whether a training pass of `model` mixes its examples: whether a batch norm takes statistics.

  Otherwise what the model says about an example does not depend on the others in its batch: bool. A layer
  that mixes examples in another way is not recognized.

  Args:
    model: Keras model, with batch norms of this file, or Keras' own (which take no statistics once they
      are not trainable).
  """
  return any(map(_takes_statistics, model.submodules))


def _takes_statistics(layer):
  """Returns whether a layer is a batch norm that normalizes by the batch in training: bool."""
  if isinstance(layer, BatchNorm):
    return not layer.inference
  names = [kind.__name__ for kind in type(layer).__mro__]
  return any('BatchNormalization' in name for name in names) and layer.trainable


def _replicas():
  """Returns how many replicas share their statistics here, in one group or several: int."""
  return 1 if _OWN.get() else tf.distribute.get_replica_context().num_replicas_in_sync


class BatchNorm(tf.keras.layers.Layer):
  """Batch normalization over `[N, H, W, C]` (or `[N, C]`), with statistics over the global batch.

  As in the release:
    It is always computed in float32.
    The variance is the biased one, without N/(N-1), in the normalization and in its moving average.
    Over several replicas, mean = average of their means and variance = average of E[x^2], minus
    mean^2, within a group of replicas (`group_size`). The moving averages use the mean over groups.
    Moving averages are updated by m += (1 - decay) * (statistic - m). They start at 0 and 1.
  """

  def __init__(
    self,
    name=None,
    decay=0.99,
    epsilon=1e-3,
    batch_size=None,
    inference=False,
    scale=True,
    center=True,
    **kwargs,
  ):
    """Creates the layer.

    Args:
      name, **kwargs: as of every Keras layer.
      decay, epsilon: floats, see above.
      batch_size: see `group_size`.
      inference: bool, whether it normalizes by its moving averages in training too, and does not move
        them. Then examples do not depend on one another.
      scale, center: bools, whether it has gamma and beta; networks made elsewhere may have none.
    """
    super().__init__(name=name, **kwargs)
    self.decay = decay
    self.epsilon = epsilon
    self.batch_size = batch_size
    self.inference = inference
    self.scale = scale
    self.center = center

  def build(self, input_shape):
    shape = [input_shape[-1]]
    # Every replica holds the same statistics. So a read outside of the replicas, which averages them,
    # returns that same value, and an update needs no communication.
    # Without autocast: a mixed policy would read them in bfloat16, which the fused op rejects.
    exact = dict(dtype=self._statistics_dtype(self.dtype), experimental_autocast=False)
    local = dict(
      exact,
      trainable=False,
      synchronization=tf.VariableSynchronization.ON_READ,
      aggregation=tf.VariableAggregation.MEAN,
    )
    if self.scale:
      self.gamma = self.add_weight('gamma', shape, initializer='ones', **exact)
    if self.center:
      self.beta = self.add_weight('beta', shape, initializer='zeros', **exact)
    self.moving_mean = self.add_weight('moving_mean', shape, initializer='zeros', **local)
    self.moving_variance = self.add_weight('moving_variance', shape, initializer='ones', **local)
    super().build(input_shape)

  @staticmethod
  def _statistics_dtype(dtype):
    return tf.float64 if dtype == tf.float64 else tf.float32

  def _scale_and_center(self):
    """Returns gamma and beta `[C]`, ones and zeros where there are none."""
    ones = tf.ones_like(self.moving_mean)
    gamma = tf.convert_to_tensor(self.gamma) if self.scale else ones
    beta = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(ones)
    return gamma, beta

  def call(self, inputs, training=False):
    """Normalizes `[N, H, W, C]` of the compute dtype, in training by the statistics of the batch."""
    gamma, beta = self._scale_and_center()
    # The fused op has no float64, and takes images alone.
    fused = inputs.dtype != tf.float64 and inputs.shape.rank == 4
    if not training or self.inference:
      if not fused or self.inference and training:
        return self._normalize(inputs, gamma, beta, self.moving_mean, self.moving_variance)
      outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
        inputs,
        gamma,
        beta,
        self.moving_mean,
        self.moving_variance,
        epsilon=self.epsilon,
        is_training=False,
      )
      return outputs
    if _replicas() == 1 and fused:
      outputs, statistics = fused_batch_norm(
        inputs,
        gamma,
        beta,
        self.epsilon,
        known=(_AGAIN.get() or {}).get(self.name),
      )
      mean, variance, _ = statistics
      if _KEPT.get() is not None:
        _KEPT.get()[self.name] = statistics
    else:
      # [groups, C] each; this replica uses the row of its own group.
      means, variances, group = self._statistics(inputs)
      outputs = self._normalize(inputs, gamma, beta, means[group], variances[group])
      mean, variance = tf.reduce_mean(means, axis=0), tf.reduce_mean(variances, axis=0)
    self._move(self.moving_mean, mean)
    self._move(self.moving_variance, variance)
    return outputs

  def _statistics(self, inputs):
    """Computes the statistics of each group of replicas over its batches.

    Returns:
      (means `[G, C]`, biased variances `[G, C]`, index of this replica's group: int32 scalar).
    """
    values, axes = tf.cast(inputs, self.moving_mean.dtype), list(range(inputs.shape.rank - 1))
    context = tf.distribute.get_replica_context()
    replicas, group = _replicas(), tf.constant(0)
    size = group_size(replicas, inputs.shape[0], self.batch_size)
    # The replicas' shares may differ where the shape does not say how large this one is.
    uneven = inputs.shape[0] is None and replicas > 1
    reduce = tf.reduce_sum if uneven else tf.reduce_mean
    moments = [reduce(values, axis=axes), reduce(tf.square(values), axis=axes)]
    if uneven:
      rows = tf.cast(tf.size(values) // values.shape[-1], values.dtype)
      moments.append(tf.fill(values.shape[-1:], rows))
    moments = tf.stack(moments)[tf.newaxis]
    if size < replicas:
      # Each replica puts its moments into its group's row; the sum over all replicas gives all groups.
      group = context.replica_id_in_sync_group // size
      row = tf.one_hot(group, replicas // size, dtype=moments.dtype)
      moments *= row[:, tf.newaxis, tf.newaxis]
    if replicas > 1:
      moments = collectives.sum_over_replicas(moments if uneven else moments / size)
    if uneven:
      moments = moments[:, :2] / moments[:, 2:]
    means, mean_squares = tf.unstack(moments, axis=1)
    return means, mean_squares - tf.square(means), group

  def _normalize(self, inputs, gamma, beta, mean, variance):
    """Returns `inputs` normalized by `[C]` statistics."""
    scale = gamma * tf.math.rsqrt(variance + self.epsilon)
    values = tf.cast(inputs, gamma.dtype) * scale + (beta - mean * scale)
    return tf.cast(values, inputs.dtype)

  def _move(self, average, statistic):
    """Moves a moving average towards a statistic; does nothing in a repeated pass."""
    if _AGAIN.get() is not None:
      return
    # A batch that is not finite is skipped for the weights. In an average it would stay forever.
    moved = average + (1 - self.decay) * (tf.stop_gradient(statistic) - average)
    average.assign(tf.where(tf.math.is_finite(moved), moved, average))

  def get_config(self):
    return {
      **super().get_config(),
      'decay': self.decay,
      'epsilon': self.epsilon,
      'batch_size': self.batch_size,
      'inference': self.inference,
      'scale': self.scale,
      'center': self.center,
    }
