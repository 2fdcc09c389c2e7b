"""The teacher of Reduced Meta Pseudo Labels: a small network on the predictions of a large one."""

from meta_pseudo_labels.models import layers

import tensorflow as tf

# Log probabilities are at most some tens in size. Scaled like this they do not saturate a tanh.
SCALE = 0.1


def calibration(num_classes, *, units=64, depth=1, seed=0):
  """Builds a Keras model: log probabilities `[N, C]` -> logits `[N, C]`, initially the identity.

  logits = log p + f(log p / 10), where f is a fully connected network with tanh. Its last layer is
  initialized with zeros. The paper only says that the network is small. Its sizes, the initial
  identity and the scale are choices made here. It computes in Keras' floatx under every precision
  policy: bfloat16 would lose the difference between two confident predictions.

  Args:
    num_classes: int, C.
    units: int, width of each hidden layer.
    depth: int, number of hidden layers.
    seed: int, of the initial weights (Glorot uniform).
  """
  dtype = tf.keras.backend.floatx()
  name = 'calibration'
  log_probs = tf.keras.Input([num_classes], dtype=dtype, name='log_probs')
  x = tf.keras.layers.Rescaling(SCALE, dtype=dtype, name=f'{name}/scale')(log_probs)
  for index in range(depth):
    path = f'{name}/hidden_{index + 1}/dense'
    x = tf.keras.layers.Dense(
      units,
      'tanh',
      dtype=dtype,
      name=path,
      kernel_initializer=tf.keras.initializers.GlorotUniform(layers.layer_seed(seed, path)),
    )(x)
  x = tf.keras.layers.Dense(
    num_classes, dtype=dtype, name=f'{name}/head/dense', kernel_initializer='zeros'
  )(x)
  logits = tf.keras.layers.Add(dtype=dtype, name='logits')([log_probs, x])
  return tf.keras.Model(log_probs, logits, name=name)
