"""Evaluates models on all examples of a split, on any strategy: metrics and single outcomes."""

import dataclasses

from meta_pseudo_labels import losses
from meta_pseudo_labels.distribution import collectives, devices, spatial

import numpy as np
import tensorflow as tf

NUM_BINS = 15  # For calibration, as in Guo et al. 2017, "On calibration of modern neural networks".


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """A model's predictions for N examples.

  Attributes:
    labels: int32 `[N]`, the true classes.
    predicted: int32 `[N]`, the most probable classes.
    confidence: float32 `[N]`, the probabilities of the predicted classes.
  """

  labels: np.ndarray
  predicted: np.ndarray
  confidence: np.ndarray

  @property
  def right(self):
    """Whether each prediction is correct: bool `[N]`."""
    return self.labels == self.predicted

  def mistakes(self, count):
    """Returns the positions of the `count` most confident mistakes, most confident first: int64."""
    wrong = np.flatnonzero(~self.right)
    return wrong[np.argsort(-self.confidence[wrong], kind='stable')][:count]


class Evaluator:
  """Computes a model's top-1, top-5 and cross entropy over a split; each example counts once."""

  def __init__(self, strategy, model, batches, num_batches):
    """Prepares the evaluation.

    Args:
      strategy: tf.distribute.Strategy under which the model was built.
      model: Keras model, inputs -> logits `[b, C]`.
      batches: function from a tf.distribute.InputContext to the dataset that
        `input_pipeline.eval_batches` describes.
      num_batches: int, the number of GLOBAL batches in the split.
    """
    self._batches = devices.distribute_batches(strategy, batches)
    self._num_batches = num_batches

    @tf.autograph.experimental.do_not_convert
    def sums(inputs, labels, weights):
      logits = tf.cast(model(spatial.split(inputs), training=False), tf.float32)
      one_hot = tf.one_hot(labels, logits.shape[-1])
      top = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, tf.float32)
      top_5 = tf.cast(tf.math.in_top_k(labels, logits, 5), tf.float32)
      loss = losses.cross_entropy(labels=one_hot, logits=logits)
      return tf.stack(
        [tf.reduce_sum(value * weights) for value in (top, top_5, loss, tf.ones_like(weights))]
      )

    @tf.function
    def total(iterator, num_batches):
      result = tf.zeros([4])
      for _ in tf.range(num_batches):
        shares = strategy.run(sums, args=next(iterator))
        result += strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)
      return result

    @tf.autograph.experimental.do_not_convert
    def rows(inputs, labels, weights):
      # Each replica's rows of the global batch, and zeros elsewhere. The sum over replicas, which every
      # strategy supports, is the global batch in order. Classes up to 2^24 are exact in float32.
      logits = tf.cast(model(spatial.split(inputs), training=False), tf.float32)
      values = tf.stack(
        [
          tf.cast(labels, tf.float32),
          tf.cast(tf.argmax(logits, axis=-1), tf.float32),
          tf.reduce_max(tf.nn.softmax(logits), axis=-1),
          weights,
        ],
        axis=-1,
      )
      replica = tf.distribute.get_replica_context().replica_id_in_sync_group
      return tf.scatter_nd([[replica]], values[tf.newaxis], [strategy.num_replicas_in_sync, *values.shape])

    @tf.function(autograph=False)
    def outcomes(iterator):
      shares = strategy.run(rows, args=next(iterator))
      return tf.reshape(strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None), [-1, 4])

    self._total, self._outcomes = total, outcomes

  def __call__(self):
    """Evaluates the model with its current weights.

    Returns:
      {'top1', 'top5': fractions in [0, 1], 'loss': nats, 'examples': int}.
    """
    top, top_5, loss, count = (
      self._total(iter(self._batches), tf.constant(self._num_batches)).numpy().tolist()
    )
    return {'top1': top / count, 'top5': top_5 / count, 'loss': loss / count, 'examples': int(count)}

  def outcomes(self):
    """Returns the `Outcomes` of the model with its current weights, in the order of the split."""
    iterator = iter(self._batches)
    rows = np.concatenate([self._outcomes(iterator).numpy() for _ in range(self._num_batches)])
    labels, predicted, confidence, weights = rows.T
    real = weights > 0
    return Outcomes(
      labels[real].astype(np.int32), predicted[real].astype(np.int32), np.nan_to_num(confidence[real])
    )


def count_confusions(outcomes, num_classes):
  """Counts examples by true class (row) and predicted class (column): int64 `[C, C]`."""
  cells = outcomes.labels.astype(np.int64) * num_classes + outcomes.predicted
  return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def measure_calibration(outcomes, num_bins=NUM_BINS):
  """Measures the distance between confidence and accuracy (Guo et al. 2017).

  Args:
    outcomes: Outcomes.
    num_bins: int, number of bins of equal width; bin i, from 0, has the confidences in
      (i, i + 1] / num_bins.

  Returns:
    {'ece', 'num_bins', 'bins': [{'from', 'to', 'examples', 'confidence', 'accuracy'}]}. 'ece' is the
    mean over examples of the distance between accuracy and mean confidence in the example's bin.
    'confidence' and 'accuracy' are None in an empty bin.
  """
  confidence = outcomes.confidence.astype(np.float64)
  chosen = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
  bins, ece = [], 0.0
  for number in range(num_bins):
    inside = chosen == number
    count = int(inside.sum())
    mean, accuracy = (
      (float(values[inside].mean()) for values in (confidence, outcomes.right)) if count else (None, None)
    )
    if count:
      ece += count / len(confidence) * abs(accuracy - mean)
    bins.append(
      {
        'from': number / num_bins,
        'to': (number + 1) / num_bins,
        'examples': count,
        'confidence': mean,
        'accuracy': accuracy,
      }
    )
  return {'ece': ece, 'num_bins': num_bins, 'bins': bins}


def summarize(outcomes, class_names):
  """Summarizes Outcomes as numbers for JSON.

  Returns:
    {'per_class': [{'class', 'examples', 'right', 'accuracy' (None without examples)}],
    'confusion': rows of `confusion`, 'calibration': see `calibration`}.
  """
  matrix = count_confusions(outcomes, len(class_names))
  per_class = []
  for number, (name, row) in enumerate(zip(class_names, matrix)):
    count, right = int(row.sum()), int(row[number])
    per_class.append(
      {'class': name, 'examples': count, 'right': right, 'accuracy': right / count if count else None}
    )
  return {
    'per_class': per_class,
    'confusion': matrix.tolist(),
    'calibration': measure_calibration(outcomes),
  }
