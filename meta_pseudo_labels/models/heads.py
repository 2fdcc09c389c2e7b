"""Classifiers of features that a frozen network gave."""

from meta_pseudo_labels.models import layers

import numpy as np
import tensorflow as tf


class Standardize(tf.keras.layers.Layer):
  """Subtracts a mean from features and divides by a standard deviation; both are weights that stay."""

  def build(self, shape):
    """Creates the two weights for features `[N, D]`: 0 and 1."""
    fixed = lambda name, value: self.add_weight(
      name=name, shape=[shape[-1]], initializer=tf.keras.initializers.Constant(value), trainable=False
    )
    self.mean, self.deviation = fixed('mean', 0.0), fixed('deviation', 1.0)
    super().build(shape)

  def call(self, features):
    """Returns (features - mean) / deviation, `[N, D]`."""
    return (features - tf.cast(self.mean, features.dtype)) / tf.cast(self.deviation, features.dtype)

  def adapt(self, features):
    """Takes mean and deviation of features `[n, D]`; dimensions that never change are divided by 1."""
    features = np.asarray(features, np.float32)
    deviation = features.std(axis=0)
    self.set_weights([features.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0)])


def num_features(model):
  """Returns how many features the last layer of a model gets: int; see `set_linear`."""
  return model.get_layer('head/dense').kernel.shape[0]


def set_linear(model, kernel, bias):
  """Lets a model give the logits features @ kernel + bias.

  Args:
    model: a linear `head`, or of `pretrained.build`.
    kernel: `[D, K]`.
    bias: `[K]`.
  """
  kernel, bias = np.asarray(kernel), np.asarray(bias)
  if any(layer.name == 'head/standardize' for layer in model.layers):
    mean, deviation = model.get_layer('head/standardize').get_weights()
    kernel, bias = kernel * deviation[:, np.newaxis], bias + mean @ kernel
  model.get_layer('head/dense').set_weights([kernel, bias])


def get_linear(model):
  """Returns (kernel `[D, K]`, bias `[K]`) of a linear `head`'s logits, in terms of its inputs."""
  mean, deviation = model.get_layer('head/standardize').get_weights()
  kernel, bias = model.get_layer('head/dense').get_weights()
  kernel = kernel / deviation[:, np.newaxis]
  return kernel, bias - mean @ kernel


def join(backbone, head_):
  """Returns a backbone and a `head` of its features as one Keras model: views -> logits."""
  return tf.keras.Model(backbone.input, head_(backbone.output), name='backbone_and_head')


def head(name, *, num_classes, num_features, dropout=0.0, seed=0, standardized_by=None):
  """Builds a Keras model: features `[N, D]` -> logits `[N, num_classes]` float32.

  Args:
    name: 'linear', or 'mlp-<width>x<hidden layers>'.
    num_classes, num_features: ints.
    dropout: rate before the first dense layer and after each hidden one.
    seed: int, of the initial weights: of the last layer zero, of others Glorot uniform.
    standardized_by: `[n, D]`, features whose mean and deviation become 0 and 1; None: they stay.
  """
  width, depth = (0, 0) if name == 'linear' else map(int, name[len('mlp-') :].split('x'))
  inputs = tf.keras.Input([num_features], name='inputs')
  standardize = Standardize(name='head/standardize')
  x = standardize(inputs)
  if standardized_by is not None:
    standardize.adapt(standardized_by)
  for index in range(depth):
    x = layers.Dropout(dropout, name=f'head/dropout_{index + 1}')(x)
    path = f'head/hidden_{index + 1}'
    x = tf.keras.layers.Dense(
      width,
      'relu',
      name=path,
      kernel_initializer=tf.keras.initializers.GlorotUniform(layers.layer_seed(seed, path)),
    )(x)
  x = layers.Dropout(dropout, name='head/dropout')(x)
  x = tf.keras.layers.Dense(num_classes, name='head/dense', kernel_initializer='zeros')(x)
  return tf.keras.Model(inputs, layers.to_float32('logits')(x), name=f'head_{name}')
