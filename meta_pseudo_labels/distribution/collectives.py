"""The two operations that all replicas carry out together: a sum, and an assignment."""

import tensorflow as tf


def sum_over_replicas(tensors):
  """The sum over replicas of a structure of tensors; to be called in replica context."""
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return tensors

  @tf.custom_gradient
  def summed(*values):
    # all_reduce has the same gradient, for which TensorFlow looks for variables in all that its result
    # comes from: the graphs of all replicas, each time. That search ends at stop_gradient.
    sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [tf.stop_gradient(value) for value in values])
    return sums, lambda *cotangents: sum_over_replicas(list(cotangents))

  return tf.nest.pack_sequence_as(tensors, tf.nest.flatten(summed(*tf.nest.flatten(tensors))))


def assign(variables, values):
  """Sets each variable to the value that every replica has computed alike.

  In replica context a mirrored variable takes assignments only by way of the strategy; one
  visit there serves all variables. Variables that each replica keeps for itself (batch-norm
  averages) are set in place.
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
