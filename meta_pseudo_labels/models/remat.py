"""Rematerialization: training passes that keep fewer activations in memory.

The activations inside each block are computed again when the gradient needs them
(Chen et al. 2016, "Training deep nets with sublinear memory cost").
"""

from meta_pseudo_labels.distribution import spatial
from meta_pseudo_labels.models import batch_norm, blocks, layers

import tensorflow as tf


def get_block(name):
  """Returns the name of the block that a layer belongs to, by the layer's name, or None.

  It is `wrn-28-2/block_1` for `wrn-28-2/block_1/conv_3x3_1/conv2d`.
  """
  parts = name.split('/')
  return '/'.join(parts[:2]) if len(parts) > 2 else None


def find_boundaries(model):
  """Returns the tensors between the blocks of a functional Keras model, in order: KerasTensors.

  A block ends at a layer if the next layer's name is of another block and the layers that follow
  depend only on this layer's output. In a model whose names name no blocks it ends as `blocks.block_ends`
  says.

  Args:
    model: from `models.build`.

  Raises:
    ValueError: it has no blocks.
  """
  cuts = {id(layer) for layer in blocks.find_cuts(model)}
  order = [layer for layer in model.layers if not isinstance(layer, tf.keras.layers.InputLayer)]
  found = [
    layer.output
    for layer, following in zip(order, order[1:])
    if id(layer) in cuts and get_block(layer.name) not in (None, get_block(following.name))
  ]
  if len(found) < 2:  # A network made elsewhere.
    found = [layer.output for layer in blocks.block_ends(model)]
  if len(found) < 2:
    raise ValueError(f'remat: {model.name} has no blocks between which it could be cut')
  return found


class Rematerialized:
  """A model's training pass that keeps only the tensors between blocks.

  Its results and gradients are those of `model(inputs, training=True)`. Random numbers are drawn from
  the same `layers.noise`, and batch-norm averages move once. The gradient of the gradient, which `soft`
  needs, is correct too; for it the activations inside the blocks are kept from the backward pass on.
  """

  def __init__(self, model):
    """Divides `model` into its blocks; call it outside of tf.function. Raises: see `find_boundaries`."""
    ends = [model.input, *find_boundaries(model)]
    self._blocks = [tf.keras.Model(first, last) for first, last in zip(ends, ends[1:])]
    self._rest = tf.keras.Model(ends[-1], model.output)

  def __call__(self, inputs):
    """Returns the model's outputs for inputs `[N, ...]`, in training mode."""
    for block in self._blocks:
      inputs = _recompute(block, inputs)
    return self._rest(inputs, training=True)


def _recompute(block, inputs):
  """Returns block(inputs, training=True); its gradient computes the block again."""
  source = layers.current_noise()

  @tf.custom_gradient
  def passed(inputs):
    with batch_norm.record_statistics() as kept:
      outputs = block(inputs, training=True)

    def backward(cotangent, variables=None):
      variables = variables or []
      # TensorFlow would merge the same operations on the same inputs with the first ones, and would
      # keep their results. With this dependency they cannot run before the cotangent exists.
      with tf.control_dependencies([cotangent]):
        again = tf.identity(inputs, name='again')
      with (
        layers.reuse_noise(source),
        batch_norm.reuse_statistics(kept),
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


class Passes:
  """The training passes of models, rematerialized or not. Checkpoints do not contain it."""

  def __init__(self, remat):
    self._remat, self._models = remat, {}

  def prepare(self, model):
    """Prepares a model before its first pass. Raises: see `remat.find_boundaries`."""
    if self._remat:
      self._models[id(model)] = Rematerialized(model)

  def __call__(self, model, inputs):
    rematerialized, inputs = self._models.get(id(model)), spatial.split(inputs)
    return rematerialized(inputs) if rematerialized else model(inputs, training=True)
