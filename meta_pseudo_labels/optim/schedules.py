"""Learning-rate schedules with the semantics of the official release."""

import dataclasses
import math
from typing import Callable, Union

import tensorflow as tf

# A learning rate: a number, or a function from the step (integer scalar) to a number.
Rate = Union[float, Callable[[tf.Tensor], tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class LearningRate:
  """A learning rate as a function of the step before its increment, as in the release.

  Attributes:
    rate: the rate per 256 examples of the global batch (`lr`, `mpl_student_lr`, ...).
    batch_size: the GLOBAL labeled batch; the base rate is rate * batch_size / 256.
    decay_type: constant, exponential (staircase) or cosine (to zero).
    num_train_steps: the step at which the cosine ends.
    num_warmup_steps: the base rate is multiplied by (s + 1) / num_warmup_steps before this step.
    num_wait_steps: the rate is 0 before this step; s = step - num_wait_steps.
    num_decay_steps, decay_rate: of the exponential decay.

  Raises:
    ValueError: when it is called, if there is no such `decay_type`.

  Example:
    >>> rate = mpl.optimizers.LearningRate(0.4, batch_size=128, decay_type='cosine', num_train_steps=10)
    >>> [round(float(rate(tf.constant(step))), 3) for step in (0, 5, 10)]  # a scalar at each step
    [0.2, 0.1, 0.0]
  """

  rate: float
  batch_size: int = 256
  decay_type: str = 'constant'
  num_train_steps: int = 1
  num_warmup_steps: int = 0
  num_wait_steps: int = 0
  num_decay_steps: int = 1
  decay_rate: float = 1.0

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the rate at `step` (integer scalar tensor): float32 scalar."""
    base = self.rate * self.batch_size / 256.0
    s = tf.cast(step, tf.float32) - self.num_wait_steps
    after = s - self.num_warmup_steps
    if self.decay_type == 'constant':
      rate = tf.constant(base, tf.float32)
    elif self.decay_type == 'exponential':
      rate = base * self.decay_rate ** tf.floor(after / self.num_decay_steps)
    elif self.decay_type == 'cosine':
      length = max(1, self.num_train_steps - self.num_warmup_steps - self.num_wait_steps)
      rate = base * 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(after / length, 0.0, 1.0)))
    else:
      raise ValueError(
        f'decay_type={self.decay_type}: no such schedule; use constant, exponential or cosine'
      )
    if self.num_warmup_steps:
      rate = tf.where(after < 0.0, base * (s + 1.0) / self.num_warmup_steps, rate)
    return tf.where(s < 0.0, 0.0, rate)
