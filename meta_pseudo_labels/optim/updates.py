"""The base of the optimizers, and what happens to gradients before them."""

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.optim.schedules import Rate

import tensorflow as tf

# A slot's values by the slot's name.
Slots = Dict[str, List[tf.Tensor]]

# A variable belongs to a batch norm (no weight decay) if its name contains one of these (release).
NORM_WORDS = ('batch_norm', 'batchnorm', 'bn', 'layer_norm', 'layernorm')


def add_weight_decay(
  gradients: Sequence[tf.Tensor], values: Sequence[tf.Tensor], names: Sequence[str], weight_decay: float
) -> List[tf.Tensor]:
  """Returns gradient + weight_decay * value, except for batch norms' variables (`NORM_WORDS`)."""
  return [
    g if any(word in name.lower() for word in NORM_WORDS) else g + weight_decay * v
    for g, v, name in zip(gradients, values, names)
  ]


def clip(gradients: Sequence[tf.Tensor], grad_bound: float) -> Tuple[List[tf.Tensor], tf.Tensor]:
  """Scales gradients to a global norm of at most `grad_bound`; returns (gradients, norm before)."""
  # Bounded away from zero, where the square root has no derivative.
  norm = tf.sqrt(tf.maximum(tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients]), 1e-36))
  scale = tf.minimum(grad_bound / norm, 1.0)
  # A norm that is not finite must stay visible, since the caller skips such a step.
  scale = tf.where(tf.math.is_finite(norm), scale, norm)
  return [g * scale for g in gradients], norm


class Optimizer(tf.Module):
  """Base class of the optimizers: slots for the variables it was built with, and their update.

  A subclass has `update_one`, the step of one variable: of its gradient, its value and each of its
  slots, all `[a, b, ...]` of the variable's shape. Its `slot_starts` name the slots.

  Raises:
    tf.errors.InvalidArgumentError: by `update`, if a gradient's shape does not fit its variable.

  Example:
    >>> class Sign(mpl.optimizers.Optimizer):
    ...   def update_one(self, gradient, value, rate, step, name):
    ...     return value - rate * tf.sign(gradient), {}
    >>> w, optimizer = tf.Variable([1.0, 2.0]), Sign(0.5)
    >>> optimizer.build([w])
    >>> optimizer.update([tf.constant([3.0, -0.1])], [w], optimizer.slot_values(), 0)[0][0].numpy()
    array([0.5, 2.5], dtype=float32)
  """

  slot_starts: Dict[str, float] = {}  # Slot name -> its initial value.

  def __init__(self, learning_rate: Rate, name: Optional[str] = None):
    """Stores `learning_rate`: a float, or a function of the step (integer scalar) such as LearningRate."""
    super().__init__(name=name)
    self.learning_rate = learning_rate
    self.slots: Dict[str, List[tf.Variable]] = {}
    self.names: Optional[List[str]] = None  # Of the variables, once there are slots.
    self._scales: Dict[str, float] = {}
    self._wait = 0
    self._decay = 0.0
    self._decays: Callable[[tf.Variable], bool] = lambda variable: False
    self._decayed: Tuple[bool, ...] = ()

  def scale_rates(self, scales: Dict[str, float], wait: int = 0) -> 'Optimizer':
    """Multiplies the rate of some variables, such as those of a pretrained network, by factors.

    Args:
      scales: {variable's name: float}.
      wait: int, the step before which these variables' rate is 0. Their slots move before, so that the
        first step after it is no larger than the next ones.

    Returns:
      the optimizer itself.
    """
    self._scales, self._wait = dict(scales), wait
    return self

  def decay_weights(self, weight_decay: float, decays: Callable[[tf.Variable], bool]) -> 'Optimizer':
    """Adds decoupled weight decay (Loshchilov and Hutter 2019): w <- step(w) - rate * weight_decay * w.

    The decay is not part of the gradient, so the method does not clip it. The rate is the variable's own
    one at that step. The method's own weight_decay comes on top.

    Args:
      weight_decay: float.
      decays: function of a variable to whether it decays; `build` asks it.

    Returns:
      the optimizer itself.
    """
    self._decay, self._decays = weight_decay, decays
    return self

  def build(self, variables: Sequence[tf.Variable]) -> None:
    """Creates the slots on the first call; call it under the strategy's scope."""
    if self.names is None:
      self._decayed = tuple(bool(self._decay and self._decays(v)) for v in variables)
      self.names = [v.name for v in variables]
      self.slots = {
        slot: [
          tf.Variable(
            tf.fill(v.shape, tf.cast(start, v.dtype)),
            trainable=False,
            name=f'{v.name.split(":")[0]}/{slot}',
          )
          for v in variables
        ]
        for slot, start in self.slot_starts.items()
      }

  def rate(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the learning rate at `step`: float32 scalar."""
    rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
    return tf.cast(rate, tf.float32)

  def slot_values(self) -> Slots:
    """Returns the current values of the slots: {slot: list of tensors}."""
    return {slot: [tf.convert_to_tensor(v) for v in values] for slot, values in self.slots.items()}

  def update_one(
    self, gradient: tf.Tensor, value: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, name: str, **slots: Any
  ) -> Tuple[tf.Tensor, Dict[str, tf.Tensor]]:
    """Computes the step of one variable as a pure function: (new value, {slot: new value})."""
    raise NotImplementedError

  def update(
    self, gradients: Sequence[tf.Tensor], values: Sequence[tf.Tensor], slots: Slots, step: tf.Tensor
  ) -> Tuple[List[tf.Tensor], Slots]:
    """Computes the step of all variables as a pure, differentiable function.

    Args:
      gradients: list of tensors, already summed over replicas.
      values: list of the variables' values before the step.
      slots: `slot_values()`.
      step: integer scalar, the number of steps before this one.

    Returns:
      (list of new values, {slot: list of new values}).
    """
    names, rate = self.names or [], self.rate(step)
    new_values: List[tf.Tensor] = []
    new_slots: Slots = {slot: [] for slot in slots}
    for index, (gradient, value) in enumerate(zip(gradients, values)):
      own = {slot: tensors[index] for slot, tensors in slots.items()}
      scaled = tf.cast(self._scaled(rate, step, names[index]), value.dtype)
      new_value, new_own = self.update_one(gradient, value, scaled, step, names[index], **own)
      if self._decayed[index]:
        new_value -= scaled * self._decay * value
      new_values.append(new_value)
      for slot, tensor in new_own.items():
        new_slots[slot].append(tensor)
    return new_values, new_slots

  def _scaled(self, rate, step, name):
    """Returns the rate of one variable; see `scale_rates`."""
    if name not in self._scales:
      return rate
    rate *= self._scales[name]
    return tf.where(step < self._wait, tf.zeros_like(rate), rate) if self._wait else rate

  def assign_slots(self, new_slots: Slots) -> None:
    """Stores the slots that `update` returned; all replicas must call it with the same values."""
    for slot, tensors in new_slots.items():
      collectives.assign(self.slots[slot], tensors)
