"""Networks that were trained elsewhere, with a new head: of tf.keras.applications, or from a file."""

import dataclasses
import json
import os
from typing import Tuple

from meta_pseudo_labels.config.choices import is_network_path
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import (
  applications,
  layers,
  network_files,
  network_inputs,
  rebuild,
  saved_features,
)
from meta_pseudo_labels.models.batch_norm import BatchNorm
from meta_pseudo_labels.models.blocks import block_ends, divide

import tensorflow as tf

HEAD = 'head'  # The layers after the features are called head/...
_ANY_SIDE = 224  # Pixels, of images of any size, to tell layers apart by the sizes of their maps.


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """How a network made elsewhere is used.

  Attributes:
    weights: 'imagenet', 'none', a path, or '' for what fits: ImageNet's, or those of the file.
    inputs: a key of `INPUTS`, or '' where the network is known to say it itself.
    freeze: 'none', 'all', or how many of the last blocks learn, in digits.
    train_batch_norm: bool, whether batch norms that learn use and move the batch's statistics.
    mean, std: of the views `[N, H, W, C]` that it gets, see `NetworkInputs`.
    feature_layers: int, how many inner layers the head sees besides the last, at most; see
      `find_inner_layers`.

  Raises:
    UserError: `models.build`, if the network cannot be used so.

  Example:
    >>> use = mpl.models.Pretrained(weights='none', freeze='all', mean=(128.0,), std=(64.0,))
    >>> network = mpl.models.build('MobileNetV2', num_classes=5, input_shape=(32, 32, 3), use=use)
    >>> len(network.trainable_variables)  # of the new last layer
    2
  """

  weights: str = ''
  inputs: str = ''
  freeze: str = 'none'
  train_batch_norm: bool = False
  mean: Tuple[float, ...] = (0.0,)
  std: Tuple[float, ...] = (1.0,)
  feature_layers: int = 0

  @property
  def from_scratch(self) -> bool:
    """Whether the network starts with random weights."""
    return self.weights == 'none'


def build(
  name,
  use,
  *,
  num_classes,
  input_shape,
  dropout=0.0,
  bn_decay=0.99,
  bn_batch_size=None,
  seed=0,
  architecture=None,
):
  """Builds a Keras model: views `[N, H, W, 1 or 3]` -> logits `[N, num_classes]` float32.

  Its layers are what makes the network's inputs of the views, the network up to its features, global
  average pooling where these are maps, the same of inner layers, dropout, a new dense layer.

  Args:
    name: str, a key of `applications.NETWORKS`, or a path.
    use: Pretrained.
    num_classes, input_shape, dropout, bn_decay, bn_batch_size, seed: as of `models.build`.
    architecture: str, of `describe`: the network is built from it, with random weights, and its file
      is not read. For weights that a checkpoint brings.

  Raises:
    UserError: no such file, weights of another network, images too small.
  """
  _check_shape(name, input_shape)
  inputs = tf.keras.Input(input_shape, name='inputs')
  adapted = lambda kind: network_inputs.NetworkInputs(kind, use.mean, use.std, name='network_inputs')(
    inputs
  )
  if network_files.is_saved_model(name):
    if not use.inputs:
      raise UserError(_unknown_inputs(name))
    x = saved_features.SavedFeatures(name, name='features')(adapted(use.inputs))
  else:
    network, kind = _network(name, use, architecture)
    rebuilder = rebuild.Rebuilder(
      frozen_statistics=not (use.from_scratch or use.train_batch_norm),
      decay=bn_decay,
      batch_size=bn_batch_size,
      divisor=applications.divisor(name),
      seed=seed,
    )
    x = rebuilder.connect(network, adapted(kind))
    if not use.from_scratch and architecture is None:
      rebuilder.copy_weights()
  x = _pool(inputs, x, use.feature_layers)
  x = layers.Dropout(dropout, name=f'{HEAD}/dropout')(x)
  path = f'{HEAD}/dense'
  x = tf.keras.layers.Dense(
    num_classes,
    name=path,
    kernel_initializer=tf.keras.initializers.GlorotUniform(layers.layer_seed(seed, path)),
  )(x)
  model = tf.keras.Model(inputs, layers.to_float32('logits')(x), name=os.path.basename(name.rstrip('/')))
  _freeze(model, use.freeze)
  return model


def cut_before_head(model):
  """Returns the part of a model of `build` up to its features: Keras model, views -> `[N, D]`."""
  return tf.keras.Model(model.input, model.get_layer(f'{HEAD}/dropout').input, name='backbone')


def _pool(inputs, features, count):
  """Returns a network's features `[N, D]`, those of `count` inner layers before them.

  Args:
    inputs: Keras tensor, the views.
    features: Keras tensor `[N, D]` or `[N, h, w, D]`.
    count: int, of inner layers, if there are as many.
  """
  pool = lambda tensor, name: tf.keras.layers.GlobalAveragePooling2D(name=f'{HEAD}/{name}')(tensor)
  last = pool(features, 'pool') if len(features.shape) == 4 else features
  found = find_inner_layers(tf.keras.Model(inputs, features))[-count:] if count else []
  if not found:
    return last
  inner = [pool(layer.output, f'pool_{index}') for index, layer in enumerate(found)]
  return tf.keras.layers.Concatenate(name=f'{HEAD}/features')([*inner, last])


def find_inner_layers(model):
  """Lists the layers of a network whose features may serve besides its last ones, in order.

  They are the last ends of blocks (`blocks.block_ends`) at each size of the maps. What the last features
  are made of without a further convolution is none of them.

  Args:
    model: functional Keras model, images -> features `[N, D]` or `[N, h, w, D]`.
  """
  ends = [layer for layer in block_ends(model) if len(layer.output.shape) == 4]
  outputs = [layer.output for layer in ends]
  if outputs and None in model.input_shape[1:3]:
    small = tf.keras.Input([_ANY_SIDE, _ANY_SIDE, model.input_shape[3]])
    outputs = tf.nest.flatten(tf.keras.Model(model.input, outputs)(small))
  by_side = {tuple(output.shape[1:3]): layer for layer, output in zip(ends, outputs)}
  convolves = lambda layer: any(len(weight.shape) == 4 for weight in layer.weights)
  order = {id(layer): position for position, layer in enumerate(model.layers)}
  last = max((position for position, layer in enumerate(model.layers) if convolves(layer)), default=0)
  return [layer for layer in by_side.values() if order[id(layer)] < last]


def describe(name, use):
  """Returns the text from which `build` makes a network without its file; '' if it needs none.

  Args:
    name: str, `--model_type`.
    use: Pretrained.
  """
  if not is_network_path(name) or network_files.is_saved_model(name):
    return ''
  network, kind = _network(name, use, None)
  return json.dumps({'inputs': kind, 'layers': network.to_json()})


def rate_scales(model, backbone_lr_scale, layer_decay):
  """Returns the factor of the learning rate for each of a model's variables: {variable's name: float}.

  Those of the head have 1. Those of the last block have `backbone_lr_scale`, and those of each block
  before have `layer_decay` times the factor of the block after it.

  Args:
    model: of `build`.
    backbone_lr_scale, layer_decay: floats.
  """
  found, scale = {}, backbone_lr_scale
  for block in reversed(_backbone_blocks(model)):
    found.update((variable.name, scale) for layer in block for variable in layer.variables)
    scale *= layer_decay
  return found


def _network(name, use, architecture):
  """Returns (Keras model from inputs to features, the kind of its inputs)."""
  if architecture and is_network_path(name):
    found = json.loads(architecture)
    return tf.keras.models.model_from_json(found['layers']), found['inputs']
  if name in applications.NETWORKS:
    weights = use.weights or 'imagenet'
    network = applications.construct(name)
    if weights == 'imagenet' and architecture is None:
      network.set_weights(applications.load_imagenet(name).get_weights())
    elif weights not in ('imagenet', 'none') and architecture is None:
      network = applications.load_file(name, weights, f'--model_weights={weights}')
    return network, applications.NETWORKS[name].inputs
  flag = f'--model_type={name}'
  whole = network_files.load(name, flag)
  kind = use.inputs or network_files.known_inputs(whole)
  if kind is None:
    raise UserError(_unknown_inputs(name))
  return network_files.cut_head(whole, flag), kind


def _unknown_inputs(name):
  """Returns the line that asks for `--model_inputs`."""
  return (
    f'--model_type={name}: does not say what pixels it was trained on; give --model_inputs, one of '
    + ', '.join(network_inputs.INPUTS)
  )


def _check_shape(name, input_shape):
  """Raises UserError unless a network takes inputs of this shape."""
  if len(input_shape) != 3:
    raise UserError(
      f'--model_type={name}: needs images, but the data have the shape {tuple(input_shape)}; use '
      'mlp-<width>x<hidden layers>'
    )
  least = applications.NETWORKS[name].least if name in applications.NETWORKS else 1
  side = input_shape[0]
  if side is not None and side < least:
    raise UserError(
      f'--image_size={side}: {name} takes images of {least} pixels or more; give a larger one, or '
      'another --model_type'
    )


def _backbone_blocks(model):
  """Returns the blocks of the network before the head, in order: list of lists of layers."""
  # Without the head, whose inner features are no branches of the network.
  blocks = divide(tf.keras.Model(model.input, _last_features(model)))
  # What comes after the last sum belongs to the last block that has weights.
  return [block for block in blocks if any(layer.weights for layer in block)]


def _last_features(model):
  """Returns the Keras tensor of a model of `build` that its head begins with."""
  names = [layer.name for layer in model.layers]
  if f'{HEAD}/pool' in names:
    return model.get_layer(f'{HEAD}/pool').input
  if f'{HEAD}/features' in names:
    return model.get_layer(f'{HEAD}/features').input[-1]
  return model.get_layer(f'{HEAD}/dropout').input


def _freeze(model, freeze):
  """Freezes the network before the head: all of it, none, or all but the last blocks."""
  if freeze == 'none':
    return
  blocks = _backbone_blocks(model)
  learning = 0 if freeze == 'all' else int(freeze)
  for block in blocks[: max(0, len(blocks) - learning)]:
    for layer in block:
      layer.trainable = False
      if isinstance(layer, BatchNorm):
        layer.inference = True
