"""Which unlabeled images are worth training on: the most probable ones of each class.

Source: the paper's ImageNet experiment with extra data, where a supervised network picks the
12,800 most probable images of each class out of 130 million.
"""

from meta_pseudo_labels.data import input_pipeline

import numpy as np
import tensorflow as tf


def most_probable(probabilities, per_class):
  """The positions of the `per_class` most probable examples of each class.

  An example that is among the most probable of several classes is taken once; between equal
  probabilities the earlier example wins.

  Args:
    probabilities: float `[M, C]`.
    per_class: int, 1 or more.

  Returns:
    int64, ascending, each position once.
  """
  chosen = [np.argsort(-column, kind='stable')[:per_class] for column in np.asarray(probabilities).T]
  return np.unique(np.concatenate(chosen)).astype(np.int64)


def log_probabilities(model, inputs, views, batch_size):
  """A model's log probabilities for inputs as evaluation sees them: float32 `[M, C]`."""
  count = len(inputs)
  batches = input_pipeline.eval_batches(
    inputs, np.zeros(count, np.int32), views=views, batch_size=batch_size
  )
  log_probs = tf.function(
    lambda x: tf.nn.log_softmax(tf.cast(model(x, training=False), tf.float32)), autograph=False
  )
  return np.concatenate([log_probs(x).numpy() for x, _, _ in batches])[:count]
