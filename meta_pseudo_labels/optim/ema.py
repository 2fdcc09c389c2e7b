"""The release's exponential moving average of a model's variables."""

import contextlib

from meta_pseudo_labels.distribution import collectives

import tensorflow as tf


def decay(step, ema_decay, ema_start=0):
  """Returns the share d of the way to the new value: 1 - min(ema_decay, (s+1)/(s+10)), s = step - start.

  Before `ema_start` it is 1, which copies the value. `step` is an integer scalar tensor; the result is
  a float32 scalar.
  """
  s = tf.cast(step - ema_start, tf.float32)
  d = 1.0 - tf.minimum(tf.cast(ema_decay, tf.float32), (s + 1.0) / (s + 10.0))
  return tf.where(step < ema_start, 1.0, d)


class MovingAverage(tf.Module):
  """Averages of all variables of a model, batch-norm statistics included.

  Release behaviour: an average starts at 1 if the variable's name contains `variance` or `beta`, and
  at 0 otherwise. The first updates have decays of 0.1, 0.18, 0.25, ..., so the initial value soon
  loses its influence.
  """

  def __init__(self, variables, ema_decay=0.0, ema_start=0, name=None):
    """Creates the averages.

    Args:
      variables: those of a built model.
      ema_decay: float in [0, 1); 0 makes every update a copy. See `decay`.
      ema_start: int, the step before which updates copy.
      name: str or None.
    """
    super().__init__(name=name)
    self.ema_decay = ema_decay
    self.ema_start = ema_start
    # Third-party layers may hold counters and seeds. These integers have no average.
    self._variables = [v for v in variables if v.dtype.is_floating]
    self.averages = [
      tf.Variable(
        tf.ones(v.shape, v.dtype)
        if 'variance' in v.name or 'beta' in v.name
        else tf.zeros(v.shape, v.dtype),
        trainable=False,
        name=f'ema/{v.name.split(":")[0]}',
      )
      for v in self._variables
    ]

  def update(self, step):
    """Moves every average towards its variable; all replicas must call it together."""
    d = decay(step, self.ema_decay, self.ema_start)
    collectives.assign(
      self.averages, [a - tf.cast(d, a.dtype) * (a - v) for a, v in zip(self.averages, self._variables)]
    )

  def copy_from_model(self):
    """Lets every average be its variable's value, where a network starts with weights worth averaging."""
    for v, a in zip(self._variables, self.averages):
      a.assign(v.numpy())

  @contextlib.contextmanager
  def applied(self):
    """Puts the averages into the model in this context, and its own values back after it.

    Call it outside of replica context.
    """
    values = [v.numpy() for v in self._variables]
    for v, a in zip(self._variables, self.averages):
      v.assign(a.numpy())
    try:
      yield
    finally:
      for v, value in zip(self._variables, values):
        v.assign(value)

  def copy_to_model(self):
    """Overwrites the model's values with the averages (a finetune starts from them)."""
    for v, a in zip(self._variables, self.averages):
      v.assign(a.numpy())
