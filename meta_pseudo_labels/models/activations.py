"""Leaky ReLU, the wide resnets' activation."""

import functools

import tensorflow as tf


def leaky_relu(inputs, slope, in_xla=False):
  """max(x, slope * x) of any shape; slope in (0, 1).

  Its gradient is taken by the output, which has the input's sign and which the next convolution
  keeps anyway: the input, a tensor as large, can go.

  Args:
    inputs: float tensor.
    slope: float.
    in_xla: have XLA make the loops over the elements, the same numbers.
  """
  forward, by_inputs = _loops(slope, in_xla)

  @tf.custom_gradient
  def activated(inputs):
    outputs = forward(inputs)
    return outputs, lambda cotangent: by_inputs(cotangent, outputs)

  return activated(inputs)


@functools.cache  # What XLA has compiled is used by all layers of a shape.
def _loops(slope, in_xla):
  forward = lambda inputs: tf.nn.leaky_relu(inputs, slope)
  by_inputs = lambda cotangent, outputs: tf.raw_ops.LeakyReluGrad(
    gradients=cotangent, features=outputs, alpha=slope
  )
  if not in_xla:
    return forward, by_inputs
  return tuple(tf.function(f, jit_compile=True, autograph=False) for f in (forward, by_inputs))


def xla_is_faster(dtype):
  """Whether loops over elements of a dtype are XLA's to make where this process runs: bool.

  TensorFlow's own go through 16-bit numbers one by one on a CPU: in bfloat16 they took as long as the
  convolutions, and on 2.15 the gradient's longer (docs/scaling.md).
  """
  return dtype.size == 2 and not any(tf.config.list_logical_devices(kind) for kind in ('GPU', 'TPU'))


class LeakyReLU(tf.keras.layers.Layer):
  """`leaky_relu` as a layer."""

  def __init__(self, slope=0.2, name=None, **kwargs):
    super().__init__(name=name, **kwargs)
    self.slope = slope

  def call(self, inputs, training=False):
    """`[...]` float -> the same. Outside of training, and so in exports, without XLA."""
    return leaky_relu(inputs, self.slope, bool(training) and xla_is_faster(inputs.dtype))

  def get_config(self):
    return {**super().get_config(), 'slope': self.slope}
