"""Leaky ReLU against its definition, with its gradients, by TensorFlow's loops and by XLA's."""

from meta_pseudo_labels.models import activations

import numpy as np
import pytest
import tensorflow as tf

INPUTS = [-2.0, -1.0, -0.5, 0.0, 0.5, 3.0]


@pytest.mark.parametrize('in_xla', (False, True))
@pytest.mark.parametrize('dtype', (tf.float32, tf.bfloat16, tf.float16))
def test_values_and_both_gradients(in_xla, dtype):
  inputs, cotangent = tf.constant(INPUTS, dtype), tf.constant([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype)
  with tf.GradientTape() as second:
    second.watch(cotangent)
    with tf.GradientTape() as first:
      first.watch(inputs)
      outputs = activations.leaky_relu(inputs, 0.25, in_xla)
    gradient = first.gradient(outputs, inputs, output_gradients=cotangent)
  assert outputs.dtype == gradient.dtype == dtype
  np.testing.assert_array_equal(tf.cast(outputs, tf.float32), [-0.5, -0.25, -0.125, 0, 0.5, 3])
  np.testing.assert_array_equal(tf.cast(gradient, tf.float32), [0.25, 0.5, 1, 2, 16, 32])
  # The gradient is linear in the cotangent: `soft` takes its transpose (methods/mpl.py).
  transposed = second.gradient(gradient, cotangent, output_gradients=tf.ones_like(cotangent))
  np.testing.assert_array_equal(tf.cast(transposed, tf.float32), [0.25, 0.25, 0.25, 0.25, 1, 1])


def test_xla_rounds_as_tensorflow_does():
  inputs = tf.cast(tf.random.stateless_normal([4096], [0, 1]), tf.bfloat16)
  np.testing.assert_array_equal(
    *(tf.cast(activations.leaky_relu(inputs, 0.2, in_xla), tf.float32) for in_xla in (False, True))
  )


def test_xla_makes_the_training_pass_in_bfloat16_alone():
  layer = activations.LeakyReLU(0.2, dtype='bfloat16')

  def has_xla(layer, dtype, training):
    call = tf.function(lambda inputs: layer(inputs, training=training))
    definition = call.get_concrete_function(tf.TensorSpec([3], dtype)).graph.as_graph_def()
    return '_XlaMustCompile' in str(definition)

  assert has_xla(layer, tf.bfloat16, training=True)
  assert not has_xla(layer, tf.bfloat16, training=False)  # An export needs no XLA.
  assert not has_xla(activations.LeakyReLU(0.2), tf.float32, training=True)
