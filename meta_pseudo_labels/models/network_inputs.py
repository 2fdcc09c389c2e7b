"""What a network made elsewhere expects of its pixels: five kinds, and the layer that makes them."""

import tensorflow as tf

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# By `--model_inputs`: (order of the channels, factor, what is subtracted, what it is divided by), for
# pixels of 0 to 255. The names `caffe` and `torch` are those of keras.applications.imagenet_utils.
INPUTS = {
  '0_255': ('rgb', 1.0, (0.0,) * 3, (1.0,) * 3),
  '0_1': ('rgb', 1 / 255, (0.0,) * 3, (1.0,) * 3),
  '-1_1': ('rgb', 1 / 127.5, (1.0,) * 3, (1.0,) * 3),
  'caffe': ('bgr', 1.0, (103.939, 116.779, 123.68), (1.0,) * 3),
  'torch': ('rgb', 1 / 255, _IMAGENET_MEAN, _IMAGENET_STD),
}


class NetworkInputs(tf.keras.layers.Layer):
  """Turns the project's views `[N, H, W, 1 or 3]` into what a network expects: float32 `[N, H, W, 3]`.

  A view is (pixel - mean) / std with pixels of 0 to 255. That is undone first, so that the data are
  normalized once. Gray images get three equal channels. It computes in float32 (or float64 under that
  policy): bfloat16 has 8 bits.
  """

  def __init__(self, kind, mean=(0.0,), std=(1.0,), name=None, **kwargs):
    """Creates the layer.

    Args:
      kind: a key of `INPUTS`.
      mean, std: sequences of one float, or of one per channel: the normalization of the views.
      name, **kwargs: as of every Keras layer.
    """
    kwargs['dtype'] = 'float64' if tf.keras.backend.floatx() == 'float64' else 'float32'
    super().__init__(name=name, **kwargs)
    self.kind, self.mean, self.std = kind, tuple(mean), tuple(std)

  def call(self, inputs):
    order, factor, subtracted, divisor = INPUTS[self.kind]
    constant = lambda values: tf.constant(values, inputs.dtype)
    pixels = inputs * constant(self.std) + constant(self.mean)
    if pixels.shape[-1] == 1:
      pixels = tf.repeat(pixels, 3, axis=-1)
    if order == 'bgr':
      pixels = tf.reverse(pixels, axis=[-1])
    return (pixels * factor - constant(subtracted)) / constant(divisor)

  def get_config(self):
    return {**super().get_config(), 'kind': self.kind, 'mean': self.mean, 'std': self.std}


class Standardize(tf.keras.layers.Layer):
  """Computes (x - mean) / sqrt(variance) / divisor by channel, with mean and variance in variables.

  Stands for a Keras `Normalization` that has them in variables too, but computes with constants made
  from these when weights are loaded: a checkpoint that is restored would not reach them.
  """

  def __init__(self, divisor=None, name=None, **kwargs):
    """Creates the layer; `divisor`: sequence of floats, or None for ones."""
    super().__init__(name=name, **kwargs)
    self.divisor = divisor

  def build(self, input_shape):
    exact = dict(trainable=False, experimental_autocast=False)
    self.mean = self.add_weight('mean', [input_shape[-1]], initializer='zeros', **exact)
    self.variance = self.add_weight('variance', [input_shape[-1]], initializer='ones', **exact)
    super().build(input_shape)

  def call(self, inputs):
    deviation = tf.maximum(tf.sqrt(self.variance), tf.keras.backend.epsilon())
    values = (inputs - tf.cast(self.mean, inputs.dtype)) / tf.cast(deviation, inputs.dtype)
    return values if self.divisor is None else values / tf.constant(self.divisor, inputs.dtype)

  def get_config(self):
    return {**super().get_config(), 'divisor': self.divisor}
