"""Where a functional Keras model can be cut, and the blocks between the cuts."""

import tensorflow as tf


def find_cuts(model):
  """Lists the layers whose output is all that later layers depend on, in order.

  Args:
    model: functional Keras model of one input and one output, each of whose layers is called once.

  Returns:
    list of layers, without the input layer and the last one.
  """
  order = [layer for layer in model.layers if not isinstance(layer, tf.keras.layers.InputLayer)]
  last_use = {}
  for position, layer in enumerate(order):
    for tensor in _inputs(layer):
      last_use[id(tensor)] = position
  cuts, alive_until = [], last_use.get(id(model.input), -1)
  for position, layer in enumerate(order[:-1]):
    # What was made before this layer and is used after it prevents a cut.
    if alive_until <= position:
      cuts.append(layer)
    for tensor in tf.nest.flatten(layer.output):
      alive_until = max(alive_until, last_use.get(id(tensor), -1))
  return cuts


def _inputs(layer):
  """Returns all tensors that a layer takes: list of KerasTensor.

  `layer.input` has only the first of an operator's, as in `x + shortcut`.
  """
  return tf.nest.flatten(layer.inbound_nodes[0].keras_inputs)


def block_ends(model):
  """Lists the last layer of each block but the last, for models whose layers' names name no blocks.

  A block ends at a cut (`find_cuts`) where branches meet: at a sum or a concatenation. In a model
  without branches it ends where the images become smaller.
  """
  cuts = find_cuts(model)
  merges = [layer for layer in cuts if len(_inputs(layer)) > 1]
  if len(merges) > 2:
    return merges
  side = lambda tensor: tensor.shape[1] if len(tensor.shape) == 4 else None
  output = lambda layer: tf.nest.flatten(layer.output)[0]
  return [layer for layer in cuts if side(output(layer)) != side(_inputs(layer)[0])]


def divide(model):
  """Divides a model's layers into blocks, in order: list of lists of layers."""
  ends, blocks = {id(layer) for layer in block_ends(model)}, [[]]
  for layer in model.layers:
    blocks[-1].append(layer)
    if id(layer) in ends:
      blocks.append([])
  return [block for block in blocks if block]
