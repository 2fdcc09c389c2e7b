"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, "Mixed precision training")."""

import tensorflow as tf

START, LEAST, MOST = 2.0**15, 1.0, 2.0**24
STEPS_TO_GROW = 2000


class LossScale(tf.Module):
  """A factor that keeps the small numbers of a float16 backward pass off zero.

  It halves at every step whose gradient is not finite, which is left out, and doubles after
  2,000 in a row that were.
  """

  def __init__(self, name=None):
    super().__init__(name=name)
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    self.factor = tf.Variable(START, trainable=False, name='loss_scale', aggregation=first)
    self.good_steps = tf.Variable(0, trainable=False, dtype=tf.int64, name='good_steps', aggregation=first)

  def gradient(self, tape, targets, sources, output_gradients):
    """`tape.gradient` of lists, carried out `factor` times as large."""
    factor = tf.convert_to_tensor(self.factor)
    gradients = tape.gradient(
      targets,
      sources,
      output_gradients=[tf.cast(factor, g.dtype) * g for g in output_gradients],
      unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [g / tf.cast(factor, g.dtype) for g in gradients]

  def update(self, finite):
    """After a step; `finite`: bool scalar, whether all of its gradients were."""
    good = tf.where(finite, self.good_steps + 1, 0)
    grows = good >= STEPS_TO_GROW
    self.factor.assign(
      tf.clip_by_value(self.factor * tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5), LEAST, MOST)
    )
    self.good_steps.assign(tf.where(grows, tf.zeros_like(good), good))
