"""A small fully connected network (paper section 3.1, two moons)."""

import re

from meta_pseudo_labels.models import layers

import tensorflow as tf

NAME = re.compile(r'mlp-(\d+)x(\d+)$')


def mlp(
  name,
  *,
  num_classes,
  input_shape,
  dropout=0.0,
  bn_decay=0.99,
  bn_epsilon=1e-3,
  bn_batch_size=None,
  seed=0,
):
  """Builds a Keras model: inputs `[N, ...]`, flattened to vectors -> logits `[N, num_classes]` float32.

  Args:
    name: `mlp-<width>x<hidden layers>`, with tanh after each hidden layer. The paper's text has sigmoid
      and weights within +-0.1. With these no method learned two moons (docs/method.md).
    num_classes: int.
    input_shape: (D,) for vectors, (H, W, C) for images.
    dropout: rate on the last hidden features.
    bn_decay, bn_epsilon, bn_batch_size: not used, since there is no batch norm; every builder takes them.
    seed: int, of the initial weights (Glorot uniform).
  """
  del bn_decay, bn_epsilon, bn_batch_size
  width, depth = (int(group) for group in NAME.match(name).groups())

  def hidden(units, path, activation=None):
    return tf.keras.layers.Dense(
      units,
      activation,
      name=path,
      kernel_initializer=tf.keras.initializers.GlorotUniform(layers.layer_seed(seed, path)),
    )

  inputs = tf.keras.Input(input_shape, name='inputs')
  x = tf.keras.layers.Flatten(name=f'{name}/flatten')(inputs) if len(input_shape) > 1 else inputs
  for index in range(depth):
    x = hidden(width, f'{name}/hidden_{index + 1}/dense', 'tanh')(x)
  x = layers.Dropout(dropout, name=f'{name}/head/dropout')(x)
  x = hidden(num_classes, f'{name}/head/dense')(x)
  return tf.keras.Model(inputs, layers.to_float32('logits')(x), name=name)
