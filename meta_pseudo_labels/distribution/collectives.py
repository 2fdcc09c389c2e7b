"""The two operations that all replicas do together: a sum and an assignment."""

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
