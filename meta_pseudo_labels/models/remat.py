"""Training passes that keep less: each block's insides are computed again when the gradient needs them
(Chen et al. 2016, "Training deep nets with sublinear memory cost")."""

from meta_pseudo_labels.models import batch_norm, layers

import tensorflow as tf


def block_of(name):
  """The block that a layer belongs to, by its name: `wrn-28-2/block_1` of
  `wrn-28-2/block_1/conv_3x3_1/conv2d`; None of a layer outside of all blocks."""
  parts = name.split('/')
  return '/'.join(parts[:2]) if len(parts) > 2 else None


def boundaries(model):
  """The tensors of a functional Keras model between its blocks, in order: KerasTensors.

  A block ends where the next layer's name is of another block, if all that comes later needs but
  this one tensor.

  Args:
    model: of `models.build`.

  Raises:
    ValueError: its layers have no blocks in their names.
  """
  found, made, inputs = [], {id(model.input)}, lambda layer: {id(t) for t in tf.nest.flatten(layer.input)}
  layers_left = [layer for layer in model.layers if not isinstance(layer, tf.keras.layers.InputLayer)]
  while len(layers_left) > 1:
    layer, *layers_left = layers_left
    made.add(id(layer.output))
    block = block_of(layer.name)
    if block is None or block == block_of(layers_left[0].name):
      continue
    if made & set().union(*map(inputs, layers_left)) == {id(layer.output)}:
      found.append(layer.output)
  if len(found) < 2:
    raise ValueError(
      f"remat: the layers of {model.name} are not named by blocks, as those of this project's models are"
    )
  return found


class Rematerialized:
  """A model's training pass, block by block.

  Its results and gradients are those of `model(inputs, training=True)`: random numbers are drawn from
  the same `layers.noise`, and batch-norm averages move once. A gradient of the gradient, which `soft`
  takes, is right too; for it the insides of the blocks are kept from the backward pass on.
  """

  def __init__(self, model):
    """Prepares; outside of tf.function. Raises ValueError as `boundaries` does."""
    ends = [model.input, *boundaries(model)]
    self._blocks = [tf.keras.Model(first, last) for first, last in zip(ends, ends[1:])]
    self._rest = tf.keras.Model(ends[-1], model.output)

  def __call__(self, inputs):
    """Inputs `[N, ...]` -> what the model gives, in training mode."""
    for block in self._blocks:
      inputs = _recomputed(block, inputs)
    return self._rest(inputs, training=True)


def _recomputed(block, inputs):
  """block(inputs, training=True) whose gradient computes it again."""
  source = layers.current_noise()

  @tf.custom_gradient
  def passed(inputs):
    with batch_norm.first_pass() as kept:
      outputs = block(inputs, training=True)

    def backward(cotangent, variables=None):
      variables = variables or []
      # The same operations on the same inputs would be merged with the first ones and kept from
      # there on: these ones cannot be made before the cotangent is.
      with tf.control_dependencies([cotangent]):
        again = tf.identity(inputs, name='again')
      with (
        layers.same_noise(source),
        batch_norm.second_pass(kept),
        tf.GradientTape(watch_accessed_variables=False) as tape,
      ):
        tape.watch([again, *variables])
        outputs_again = block(again, training=True)
      by_inputs, *by_variables = tape.gradient(
        outputs_again, [again, *variables], output_gradients=cotangent
      )
      return by_inputs, by_variables

    return outputs, backward

  return passed(inputs)
