"""What all replicas do together: a sum, an assignment, and counting the rows of a batch."""

from typing import NamedTuple, Union

import tensorflow as tf


def sum_over_replicas(tensors):
  """Sums a structure of tensors over replicas; call it in replica context."""
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return tensors

  @tf.custom_gradient
  def summed(*values):
    # all_reduce has the same gradient. For it TensorFlow searches for variables in everything that the
    # result depends on, each time the graphs of all replicas. stop_gradient ends that search.
    sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.stop_gradient(value) for value in values])
    return sums, lambda *cotangents: sum_over_replicas(list(cotangents))

  return tf.nest.pack_sequence_as(tensors, tf.nest.flatten(summed(*tf.nest.flatten(tensors))))


class Place(NamedTuple):
  """Where one replica's rows stand in the global batch.

  Attributes:
    first: int32 scalar, the position of its first row.
    count: int, or int32 scalar, how many rows it has.
    total: int, or int32 scalar, how many rows all replicas have.
  """

  first: tf.Tensor
  count: Union[int, tf.Tensor]
  total: Union[int, tf.Tensor]


def count_rows(values):
  """Returns the rows of `values` `[n, ...]`: int, or an int32 scalar where the shape does not say."""
  return tf.shape(values)[0] if values.shape[0] is None else values.shape[0]


def require_rows(values):
  """Returns `values` `[n, ...]`, or raises tf.errors.InvalidArgumentError when they have no rows.

  What is computed from the result waits for this check: some kernels fail for an empty batch with messages
  of their own, or make shapes that do not fit.
  """
  if values.shape[0] is not None:
    return values
  some = tf.debugging.assert_positive(
    tf.shape(values)[0],
    message='a replica got no examples of this batch; batch the dataset with drop_remainder=True, or use '
    'fewer replicas',
  )
  with tf.control_dependencies([some] if some is not None else []):
    return tf.identity(values)


def find_place(values):
  """Returns the `Place` of this replica's rows of `values` `[n, ...]`; call it in replica context.

  Where the shape says how many there are, all replicas have as many. Otherwise each may have another
  number of them, and they are counted.
  """
  context, count = tf.distribute.get_replica_context(), count_rows(values)
  replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
  if isinstance(count, int):
    return Place(replica * count, count, count * replicas)
  # As float32, which is exact up to 2^24: GPUs keep int32 on the host.
  own = tf.one_hot(replica, replicas) * tf.cast(count, tf.float32)
  counts = tf.cast(sum_over_replicas(own), tf.int32)
  return Place(tf.reduce_sum(counts[:replica]), count, tf.reduce_sum(counts))


def gather_rows(values):
  """Returns the rows of all replicas in the order of the global batch; call it in replica context.

  Args:
    values: `[n, k]` floats, all finite, this replica's.

  Returns:
    `[total, k]`.
  """
  replicas = tf.distribute.get_replica_context().num_replicas_in_sync
  if replicas == 1:
    return values
  place = find_place(values)
  # Each at its place among zeros. As a product where the shape is known: XLA wants constant paddings.
  if isinstance(place.count, int):
    there = tf.one_hot(place.first // place.count, replicas, dtype=values.dtype)
    placed = tf.reshape(there[:, None, None] * values[None], [place.total, values.shape[1]])
  else:
    placed = tf.pad(values, [[place.first, place.total - place.first - place.count], [0, 0]])
  return sum_over_replicas(placed)


def assign(variables, values):
  """Sets each variable to its value, which every replica must have computed to the same result.

  In replica context a mirrored variable can only be assigned through the strategy. One merge call
  serves all variables. Variables with one copy per replica (batch-norm averages) are set in place.
  """
  if not tf.distribute.has_strategy():
    for variable, value in zip(variables, values):
      variable.assign(value)
    return
  mirrored = []
  for variable, value in zip(variables, values):
    if variable.synchronization == tf.VariableSynchronization.ON_READ:
      variable.assign(value)
    else:
      mirrored.append((variable, value))

  def update(strategy, new_values):
    for (variable, _), value in zip(mirrored, new_values):
      strategy.extended.update(variable, lambda v, x: v.assign(x), args=(value,))

  if mirrored:
    tf.distribute.get_replica_context().merge_call(update, args=([x for _, x in mirrored],))
