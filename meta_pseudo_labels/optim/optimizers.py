"""Learning rates and optimizers with the release's semantics (those of TensorFlow 1).

An optimizer's `update` is a pure function from gradients, values and slots to new values and slots.
So a `tf.where` can skip a non-finite step. The feedback (methods/feedback.py) needs the derivative of
the update with respect to the gradients, which a plain GradientTape computes.
"""

from typing import Any, Dict, Optional, Sequence, Tuple

from meta_pseudo_labels.optim.schedules import LearningRate as LearningRate  # Public from here, too.
from meta_pseudo_labels.optim.schedules import Rate
from meta_pseudo_labels.optim.updates import NORM_WORDS, Optimizer
from meta_pseudo_labels.optim.updates import add_weight_decay as add_weight_decay
from meta_pseudo_labels.optim.updates import clip as clip

import tensorflow as tf

__all__ = [
  'LARS',
  'SGD',
  'Adam',
  'AdamW',
  'LearningRate',
  'Momentum',
  'Optimizer',
  'RMSProp',
  'build',
  'get',
]


# What a variable becomes, and its slots.
Updated = Tuple[tf.Tensor, Dict[str, tf.Tensor]]


class SGD(Optimizer):
  """Stochastic gradient descent: w <- w - rate * g.

  Example:
    >>> w, optimizer = tf.Variable([1.0, 2.0]), mpl.optimizers.SGD(0.5)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([2.0, 2.0])], [w], optimizer.slot_values(), 0)[0][0].numpy()
    array([0., 1.], dtype=float32)
  """

  def update_one(
    self, gradient: tf.Tensor, value: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, name: str
  ) -> Updated:
    return value - rate * gradient, {}


class Momentum(Optimizer):
  """Momentum: a <- m*a + g; w <- w - rate*a, or with Nesterov w <- w - rate*(g + m*a).

  As in TF1, the accumulator does not contain the rate.

  Example:
    >>> w, optimizer = tf.Variable([1.0, 2.0]), mpl.optimizers.Momentum(0.5, 0.5)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([2.0, 2.0])], [w], optimizer.slot_values(), 0)[0][0].numpy()
    array([-0.5, 0.5], dtype=float32)
  """

  slot_starts = {'momentum': 0.0}

  def __init__(
    self,
    learning_rate: Rate,
    momentum: float = 0.9,
    nesterov: bool = True,
    rate_inside: bool = False,
    name: Optional[str] = None,
  ):
    """Creates the optimizer.

    Args:
      learning_rate, name: see `Optimizer`.
      momentum: float m in [0, 1).
      nesterov: bool.
      rate_inside: bool, whether the accumulator sums gradients times rates, as in Keras.
    """
    super().__init__(learning_rate, name)
    self.momentum = momentum
    self.nesterov = nesterov
    self.rate_inside = rate_inside

  def update_one(
    self,
    gradient: tf.Tensor,
    value: tf.Tensor,
    rate: tf.Tensor,
    step: tf.Tensor,
    name: str,
    momentum: tf.Tensor,
  ) -> Updated:
    if self.rate_inside:
      gradient, rate = rate * gradient, 1.0
    accumulated = self.momentum * momentum + gradient
    direction = gradient + self.momentum * accumulated if self.nesterov else accumulated
    return value - rate * direction, {'momentum': accumulated}


class RMSProp(Optimizer):
  """RMSProp as in TF1.

  s <- rho*s + (1-rho)*g^2, where s starts at ONE; m <- momentum*m + rate*g/sqrt(s + epsilon);
  w <- w - m.

  Example:
    >>> w, optimizer = tf.Variable([1.0, 2.0]), mpl.optimizers.RMSProp(0.5, epsilon=0.0)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([1.0, 1.0])], [w], optimizer.slot_values(), 0)[0][0].numpy().round(3)
    array([0.5, 1.5], dtype=float32)
  """

  slot_starts = {'rms': 1.0, 'momentum': 0.0}

  def __init__(
    self,
    learning_rate: Rate,
    rho: float = 0.9,
    momentum: float = 0.9,
    epsilon: float = 1e-3,
    name: Optional[str] = None,
  ):
    super().__init__(learning_rate, name)
    self.rho = rho
    self.momentum = momentum
    self.epsilon = epsilon

  def update_one(
    self,
    gradient: tf.Tensor,
    value: tf.Tensor,
    rate: tf.Tensor,
    step: tf.Tensor,
    name: str,
    rms: tf.Tensor,
    momentum: tf.Tensor,
  ) -> Updated:
    rms = rms + (1.0 - self.rho) * (tf.square(gradient) - rms)
    momentum = self.momentum * momentum + rate * gradient * tf.math.rsqrt(rms + self.epsilon)
    return value - momentum, {'rms': rms, 'momentum': momentum}


class LARS(Optimizer):
  """Layer-wise adaptive rates (You et al. 2017) as in the release.

  If a variable's name contains none of `skip`, weight_decay * w is added to its gradient. The sum is
  scaled by rate * eeta * |w| / (|g| + weight_decay * |w|), where |g| is the norm before the addition.
  Nesterov momentum at rate 1 follows. This weight decay is in addition to that of the method: the
  release's Supervised applies it twice.

  Example:
    >>> w, optimizer = tf.Variable([1.0, 2.0]), mpl.optimizers.LARS(1.0, 0.0, 0.0, eeta=0.5)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([1.0, 2.0])], [w], optimizer.slot_values(), 0)[0][0].numpy()
    array([0.5, 1. ], dtype=float32)
  """

  slot_starts = {'momentum': 0.0}
  skip = ('batch_norm', 'batchnorm', 'gamma', 'beta', 'bias')

  def __init__(
    self,
    learning_rate: Rate,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    eeta: float = 1e-3,
    name: Optional[str] = None,
  ):
    super().__init__(learning_rate, name)
    self.momentum = momentum
    self.weight_decay = weight_decay
    self.eeta = eeta

  def update_one(
    self,
    gradient: tf.Tensor,
    value: tf.Tensor,
    rate: tf.Tensor,
    step: tf.Tensor,
    name: str,
    momentum: tf.Tensor,
  ) -> Updated:
    if not any(word in name for word in self.skip):
      value_norm, gradient_norm = tf.norm(value), tf.norm(gradient)
      trust = self.eeta * value_norm / (gradient_norm + self.weight_decay * value_norm)
      rate *= tf.where((value_norm > 0.0) & (gradient_norm > 0.0), trust, tf.ones_like(trust))
      gradient += self.weight_decay * value
    gradient *= rate
    accumulated = self.momentum * momentum + gradient
    return value - (gradient + self.momentum * accumulated), {'momentum': accumulated}


class Adam(Optimizer):
  """Adam (Kingma and Ba 2015) with bias correction; epsilon is outside of the root as in Keras.

  `beta_1` and `beta_2` are the decays of the averages of the gradients and of their squares.

  Example:
    >>> w, optimizer = tf.Variable([1.0, 2.0]), mpl.optimizers.Adam(0.5)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([3.0, 0.1])], [w], optimizer.slot_values(), 0)[0][0].numpy().round(3)
    array([0.5, 1.5], dtype=float32)
  """

  slot_starts = {'m': 0.0, 'v': 0.0}

  def __init__(
    self,
    learning_rate: Rate,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    name: Optional[str] = None,
  ):
    super().__init__(learning_rate, name)
    self.beta_1 = beta_1
    self.beta_2 = beta_2
    self.epsilon = epsilon

  def update_one(
    self,
    gradient: tf.Tensor,
    value: tf.Tensor,
    rate: tf.Tensor,
    step: tf.Tensor,
    name: str,
    m: tf.Tensor,
    v: tf.Tensor,
  ) -> Updated:
    t = tf.cast(step + 1, value.dtype)
    m = m + (1.0 - self.beta_1) * (gradient - m)
    v = v + (1.0 - self.beta_2) * (tf.square(gradient) - v)
    rate *= tf.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t)
    # The root of zero has no derivative, and the feedback needs one.
    root = tf.sqrt(tf.maximum(v, tf.constant(1e-30, v.dtype)))
    return value - rate * m / (root + self.epsilon), {'m': m, 'v': v}


class AdamW(Adam):
  """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w <- w - rate * (adam + decay * w).

  See `decay_weights`; give the method a weight_decay of 0.
  Variables whose names contain one of `skip` have none.

  Example:
    >>> w, optimizer = tf.Variable([1.0, 2.0]), mpl.optimizers.AdamW(0.5, weight_decay=0.2)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([3.0, 0.1])], [w], optimizer.slot_values(), 0)[0][0].numpy().round(3)
    array([0.4, 1.3], dtype=float32)
  """

  skip: Tuple[str, ...] = (*NORM_WORDS, 'gamma', 'beta', 'bias')

  def __init__(
    self,
    learning_rate: Rate,
    weight_decay: float = 0.004,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    skip: Optional[Sequence[str]] = None,
    name: Optional[str] = None,
  ):
    super().__init__(learning_rate, beta_1, beta_2, epsilon, name)
    self.weight_decay = weight_decay
    self.skip = self.skip if skip is None else tuple(skip)
    self.decay_weights(weight_decay, lambda v: not any(word in v.name for word in self.skip))


# Settings of a Keras optimizer that the method has its own of, or that no optimizer here has.
_OF_THE_METHOD = {
  **dict.fromkeys(
    ('clipnorm', 'clipvalue', 'global_clipnorm'), 'pass grad_bound, a global norm, to the method'
  ),
  'use_ema': 'pass ema_decay to the method, which averages the student',
  'amsgrad': 'use Adam or AdamW without it',
  'decay': 'use a schedule of tf.keras.optimizers.schedules as its learning rate',
}


def get(optimizer: Any) -> Optimizer:
  """Returns an `Optimizer` unchanged, or the one that corresponds to a Keras SGD, Adam or AdamW.

  The learning rate is still read from the Keras optimizer: from its schedule, or from its variable,
  which Keras callbacks may set. Its own weight_decay stays what it is in Keras: `decay_weights`, of all
  variables but those of `exclude_from_weight_decay`. It is read when the method takes the optimizer.

  Raises:
    TypeError: the optimizer is of another kind, or has settings that belong to the method.

  Example:
    >>> mpl.optimizers.get(tf.keras.optimizers.SGD(0.1, momentum=0.5)).momentum
    0.5
  """
  if isinstance(optimizer, Optimizer):
    return optimizer
  if not hasattr(optimizer, 'get_config') or not hasattr(optimizer, 'apply_gradients'):
    raise TypeError(
      f'{optimizer!r}: not an optimizer; use meta_pseudo_labels.optimizers or a Keras SGD, Adam or AdamW'
    )
  settings, kind = optimizer.get_config(), type(optimizer).__name__
  for name, instead in _OF_THE_METHOD.items():
    if settings.get(name):
      raise TypeError(f'{name}={settings[name]}: not supported in {settings["name"]}; {instead}')

  def rate(step):
    found = getattr(optimizer, '_learning_rate', None)  # Keras' own would call a schedule by its own step.
    if not isinstance(found, tf.keras.optimizers.schedules.LearningRateSchedule):
      found = optimizer.learning_rate  # Of the optimizers before Keras 2.11 a schedule, too.
    return found(step) if callable(found) and not hasattr(found, 'dtype') else tf.convert_to_tensor(found)

  if kind == 'SGD' and not settings['momentum']:
    found = SGD(rate)
  elif kind == 'SGD':
    found = Momentum(rate, settings['momentum'], settings['nesterov'], rate_inside=True)
  elif kind in ('Adam', 'AdamW'):
    found = Adam(rate, settings['beta_1'], settings['beta_2'], settings['epsilon'])
  else:
    raise TypeError(
      f'{kind}: not supported; use meta_pseudo_labels.optimizers or a Keras SGD, Adam or AdamW'
    )
  # Keras itself knows which variables it was told to leave out.
  decay = settings.get('weight_decay')
  return found.decay_weights(decay, optimizer._use_weight_decay) if decay else found


def build(
  optim_type: str,
  learning_rate: Rate,
  *,
  rmsprop_rho: float = 0.9,
  rmsprop_momentum: float = 0.9,
  rmsprop_epsilon: float = 1e-3,
  weight_decay: float = 0.0,
) -> Optimizer:
  """Builds an optimizer by `--optim_type`: sgd, momentum (0.9, Nesterov), rmsprop, lars or adamw.

  Args:
    optim_type: str.
    learning_rate: float, or a function of the step such as LearningRate.
    rmsprop_rho, rmsprop_momentum, rmsprop_epsilon: floats, see `RMSProp`.
    weight_decay: float, of lars and adamw alone.

  Raises:
    ValueError: there is no such optimizer.

  Example:
    >>> mpl.optimizers.build('lars', 0.1, weight_decay=0.5).weight_decay
    0.5
  """
  if optim_type == 'sgd':
    return SGD(learning_rate)
  if optim_type == 'momentum':
    return Momentum(learning_rate)
  if optim_type == 'rmsprop':
    return RMSProp(learning_rate, rmsprop_rho, rmsprop_momentum, rmsprop_epsilon)
  if optim_type == 'lars':
    return LARS(learning_rate, weight_decay=weight_decay)
  if optim_type == 'adamw':
    return AdamW(learning_rate, weight_decay)
  raise ValueError(
    f'optim_type={optim_type}: no such optimizer; use sgd, momentum, rmsprop, lars or adamw'
  )
