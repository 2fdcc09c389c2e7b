"""Sums over replicas: by hand, with both derivatives, and without links between replicas' graphs."""

from meta_pseudo_labels.distribution import collectives, devices

import numpy as np
import tensorflow as tf


def test_a_sum_over_replicas_and_both_derivatives():
  strategy = devices.create_mirrored(['CPU:0', 'CPU:1'])

  def replica():
    value = tf.constant([1.0, 2.0]) * tf.cast(
      tf.distribute.get_replica_context().replica_id_in_sync_group + 1, tf.float32
    )
    with tf.GradientTape() as second:
      second.watch(value)
      with tf.GradientTape() as first:
        first.watch(value)
        outputs = {'cubes': collectives.sum_over_replicas({'x': value})['x'] ** 3}
      gradient = first.gradient(outputs['cubes'], value)
    return outputs['cubes'], gradient, second.gradient(gradient, value)

  # The sum s is 1 + 2 and 2 + 4. Every replica has s^3, so s has 2 * 3 s^2; and again.
  run = tf.function(
    lambda: [strategy.experimental_local_results(value) for value in strategy.run(replica)],
    autograph=False,
  )
  for values, expected in zip(run(), ([27.0, 216.0], [54.0, 216.0], [72.0, 144.0])):
    for value in values:
      np.testing.assert_allclose(value, expected)


def test_a_replica_s_graph_ends_where_another_one_s_values_come_in():
  """TensorFlow walks back from every sum; through all replicas' graphs that takes minutes."""
  strategy = devices.create_mirrored(['CPU:0', 'CPU:1'])
  replica = lambda: collectives.sum_over_replicas(tf.sin(tf.random.stateless_uniform([2], [0, 1])))
  step = tf.function(lambda: strategy.experimental_local_results(strategy.run(replica)), autograph=False)
  sums = [op for op in step.get_concrete_function().graph.get_operations() if op.type == 'AddN']
  assert sums and {tensor.op.type for op in sums for tensor in op.inputs} == {'StopGradient'}
