"""A small fully connected network for vector data (paper section 3.1, two moons)."""
import re

import tensorflow as tf

from meta_pseudo_labels.models import layers

NAME = re.compile(r'mlp-(\d+)x(\d+)$')


def mlp(name, *, num_classes, input_shape, dropout=0., bn_decay=.99, bn_epsilon=1e-3, seed=0):
  """A Keras model: vectors `[N, D]` float32 -> logits `[N, num_classes]` float32.

  Args:
    name: `mlp-<width>x<hidden layers>`, tanh after each (feedback.md: with sigmoid and weights
      within +-.1, as the paper's text has it, no method learned two moons).
    num_classes: int.
    input_shape: (D,).
    dropout: rate on the last hidden features.
    bn_decay, bn_epsilon: not used, there is no batch norm; every builder takes them.
    seed: int, of the initial weights (Glorot uniform).
  """
  del bn_decay, bn_epsilon
  width, depth = (int(group) for group in NAME.match(name).groups())

  def hidden(units, path, activation=None):
    return tf.keras.layers.Dense(
        units, activation, name=path,
        kernel_initializer=tf.keras.initializers.GlorotUniform(layers.layer_seed(seed, path)))

  points = tf.keras.Input(input_shape, name='points')
  x = points
  for index in range(depth):
    x = hidden(width, f'{name}/hidden_{index + 1}/dense', 'tanh')(x)
  x = layers.Dropout(dropout, name=f'{name}/head/dropout')(x)
  x = hidden(num_classes, f'{name}/head/dense')(x)
  return tf.keras.Model(points, layers.to_float32('logits')(x), name=name)
