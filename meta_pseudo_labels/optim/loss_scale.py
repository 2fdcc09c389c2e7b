"""Dynamic loss scaling for float16 (Micikevicius et al. 2018, "Mixed precision training")."""

import tensorflow as tf

START, LEAST, MOST = 2.0**15, 1.0, 2.0**24
STEPS_TO_GROW = 2000


class LossScale(tf.Module):
  """A factor that prevents small numbers of a float16 backward pass from becoming zero.

  A step whose gradient is not finite is skipped and halves the factor. 2,000 finite steps in a row
  double it.
  """

  def __init__(self, name=None):
    super().__init__(name=name)
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    self.factor = tf.Variable(START, trainable=False, name='loss_scale', aggregation=first)
    self.good_steps = tf.Variable(0, trainable=False, dtype=tf.int64, name='good_steps', aggregation=first)

  def gradient(self, tape, targets, sources, output_gradients):
    """Computes `tape.gradient` of lists, scaled by `factor` in the backward pass only."""
    factor = tf.convert_to_tensor(self.factor)
    gradients = tape.gradient(
      targets,
      sources,
      output_gradients=[tf.cast(factor, g.dtype) * g for g in output_gradients],
      unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [g / tf.cast(factor, g.dtype) for g in gradients]

  def update(self, finite):
    """Updates the factor after a step; `finite`: bool scalar, whether all its gradients were finite."""
    good = tf.where(finite, self.good_steps + 1, 0)
    grows = good >= STEPS_TO_GROW
    self.factor.assign(
      tf.clip_by_value(self.factor * tf.where(finite, tf.where(grows, 2.0, 1.0), 0.5), LEAST, MOST)
    )
    self.good_steps.assign(tf.where(grows, tf.zeros_like(good), good))
