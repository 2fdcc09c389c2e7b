"""Leaky ReLU, the wide resnets' activation."""

import functools

import tensorflow as tf


def leaky_relu(inputs, slope, in_xla=False):
  """Computes max(x, slope * x), elementwise.

  Its gradient is computed from the output, which has the input's sign. The next convolution keeps the
  output in memory anyway, so the input, a tensor of the same size, can be freed.

  Args:
    inputs: float tensor of any shape.
    slope: float in (0, 1).
    in_xla: whether XLA compiles the loops over the elements; the results are the same.

  Returns:
    Tensor of the shape and dtype of `inputs`.
  """
  forward, by_inputs = _build_loops(slope, in_xla)

  @tf.custom_gradient
  def activated(inputs):
    outputs = forward(inputs)
    return outputs, lambda cotangent: by_inputs(cotangent, outputs)

  return activated(inputs)


@functools.cache  # All layers of one shape share what XLA has compiled.
def _build_loops(slope, in_xla):
  """Returns (function of inputs to outputs, function of (cotangent, outputs) to the gradient)."""
  forward = lambda inputs: tf.nn.leaky_relu(inputs, slope)
  by_inputs = lambda cotangent, outputs: tf.raw_ops.LeakyReluGrad(
    gradients=cotangent, features=outputs, alpha=slope
  )
  if not in_xla:
    return forward, by_inputs
  return tuple(tf.function(f, jit_compile=True, autograph=False) for f in (forward, by_inputs))


def xla_is_faster(dtype):
  """Returns whether XLA is faster at elementwise loops over a dtype on this process's devices: bool.

  TensorFlow's own loops process 16-bit numbers one by one on a CPU. In bfloat16 they took as long as
  the convolutions, and on 2.15 the gradient's took longer (docs/scaling.md).
  """
  return dtype.size == 2 and not any(tf.config.list_logical_devices(kind) for kind in ('GPU', 'TPU'))


class LeakyReLU(tf.keras.layers.Layer):
  """`leaky_relu` as a layer."""

  def __init__(self, slope=0.2, name=None, **kwargs):
    super().__init__(name=name, **kwargs)
    self.slope = slope

  def call(self, inputs, training=False):
    """Applies `leaky_relu` to a float tensor of any shape, with XLA only in training, not in exports."""
    return leaky_relu(inputs, self.slope, bool(training) and xla_is_faster(inputs.dtype))

  def get_config(self):
    return {**super().get_config(), 'slope': self.slope}
