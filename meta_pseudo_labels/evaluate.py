"""Exact accuracy over a whole split, on any strategy."""
import tensorflow as tf

from meta_pseudo_labels import distribute
from meta_pseudo_labels import losses


class Evaluator:
  """Top-1, top-5 and cross entropy of a model over a split: each example counts once."""

  def __init__(self, strategy, model, batches, num_batches):
    """Prepares the evaluation.

    Args:
      strategy: tf.distribute.Strategy that the model lives on.
      model: Keras model, inputs -> logits `[b, C]`.
      batches: function of a tf.distribute.InputContext to the dataset that
        `pipeline.eval_batches` describes.
      num_batches: int, GLOBAL batches in the split.
    """
    self._batches = distribute.datasets(strategy, batches)
    self._num_batches = num_batches

    @tf.autograph.experimental.do_not_convert
    def sums(inputs, labels, weights):
      logits = tf.cast(model(inputs, training=False), tf.float32)
      one_hot = tf.one_hot(labels, logits.shape[-1])
      top = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, tf.float32)
      top_5 = tf.cast(tf.math.in_top_k(labels, logits, 5), tf.float32)
      loss = losses.cross_entropy(labels=one_hot, logits=logits)
      return tf.stack([tf.reduce_sum(value * weights)
                       for value in (top, top_5, loss, tf.ones_like(weights))])

    @tf.function
    def total(iterator, num_batches):
      result = tf.zeros([4])
      for _ in tf.range(num_batches):
        shares = strategy.run(sums, args=next(iterator))
        result += strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)
      return result

    self._total = total

  def __call__(self):
    """{'top1', 'top5': fractions in [0, 1], 'loss': nats, 'examples': int} of the model now."""
    top, top_5, loss, count = self._total(
        iter(self._batches), tf.constant(self._num_batches)).numpy().tolist()
    return {'top1': top / count, 'top5': top_5 / count, 'loss': loss / count,
            'examples': int(count)}
