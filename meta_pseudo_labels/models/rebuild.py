"""Builds a Keras model anew inside a network of this project, with this project's layers.

Keras' own batch norms know no other replicas, and its dropout draws from a state that no checkpoint
holds. So layers like these are replaced by those of models/, which have the same weights.
"""

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import batch_norm, layers, network_inputs

import tensorflow as tf

# Layers that augment in training. This project's views do that, so the network gets the image itself.
_AUGMENTS = ('RandomFlip', 'RandomRotation', 'RandomZoom', 'RandomTranslation', 'RandomContrast')
_AUGMENTS += ('RandomCrop', 'RandomBrightness', 'RandomHeight', 'RandomWidth')
_DRAWS = ('GaussianNoise', 'GaussianDropout', 'AlphaDropout', 'SpatialDropout2D')


class Rebuilder:
  """Calls the layers of a model again, replaced, on other tensors; each one once.

  Attributes:
    pairs: list of (layer, new layer).
    ignored: names of layers that were left out because they augment images.
  """

  def __init__(self, *, frozen_statistics, decay, batch_size=None, divisor=None, seed=0):
    """Stores what the new layers get.

    Args:
      frozen_statistics: bool, whether batch norms normalize by their moving statistics in training too.
      decay: float, `BatchNorm.decay`.
      batch_size: `BatchNorm.batch_size`.
      divisor: of `Standardize`.
      seed: of the initial weights, with each layer's name.
    """
    self._norm = dict(inference=frozen_statistics, decay=decay, batch_size=batch_size)
    self._divisor, self._seed = divisor, seed
    self.pairs, self.ignored = [], []

  def connect(self, model, inputs, prefix=''):
    """Returns the output of `model`, rebuilt on a tensor: a KerasTensor.

    Models that are layers of the model are rebuilt as well, so that the result has one level of layers.

    Args:
      model: functional Keras model of one input and one output.
      inputs: KerasTensor.
      prefix: str, of the layers' names.

    Raises:
      UserError: it has a layer that cannot be rebuilt.
    """
    known = {id(tf.nest.flatten(model.inputs)[0]): inputs}
    for depth in sorted(model._nodes_by_depth, reverse=True):
      for node in model._nodes_by_depth[depth]:
        if isinstance(node.layer, tf.keras.layers.InputLayer):
          continue
        args, kwargs = tf.nest.map_structure(
          lambda value: known.get(id(value), value), (node.call_args, node.call_kwargs)
        )
        outputs = self._call(node.layer, args, kwargs, prefix)
        for before, after in zip(tf.nest.flatten(node.outputs), tf.nest.flatten(outputs)):
          known[id(before)] = after
    return known[id(tf.nest.flatten(model.outputs)[0])]

  def _call(self, layer, args, kwargs, prefix):
    if isinstance(layer, tf.keras.Model):
      return self.connect(layer, args[0], f'{prefix}{layer.name}/')
    if type(layer).__name__ in _AUGMENTS:
      self.ignored.append(layer.name)
      return args[0]
    kwargs.pop('training', None)
    new = self._replace(layer, prefix + layer.name)
    self.pairs.append((layer, new))
    return new(*args, **kwargs)

  def _replace(self, layer, name):
    """Returns the new layer, without weights, for a layer of the model."""
    kind, config = type(layer).__name__, layer.get_config()
    if any(pair[0] is layer for pair in self.pairs):
      raise UserError(f'{name}: is called more than once in the network; such networks are not supported')
    if kind in ('BatchNormalization', 'SyncBatchNormalization'):
      return batch_norm.BatchNorm(
        name=name,
        epsilon=layer.epsilon,
        scale=layer.scale,
        center=layer.center,
        **self._norm,
      )
    if kind == 'Normalization' and layer.input_mean is None:
      return network_inputs.Standardize(self._divisor, name=name, dtype=_exact())
    if kind == 'StochasticDepth' or kind == 'Dropout' and config.get('noise_shape') is not None:
      rate = layer.rate if kind == 'Dropout' else layer.drop_path_rate
      return layers.StochasticDepth(rate, name=name)
    if kind == 'Dropout':
      return layers.Dropout(layer.rate, name=name)
    if kind in _DRAWS:
      raise UserError(
        f'{name}: a {kind} layer draws random numbers that no checkpoint holds; save the network '
        'without it'
      )
    exact = kind in ('Rescaling', 'Normalization')
    config.update(name=name, dtype=_exact() if exact else tf.keras.mixed_precision.global_policy().name)
    for part, value in config.items():
      if isinstance(value, dict) and 'seed' in value.get('config', {}):
        # Keras would seed these by how many there were before in the process.
        seed = layers.layer_seed(self._seed, f'{name}/{part}')
        config[part] = {**value, 'config': {**value['config'], 'seed': seed}}
    return type(layer).from_config(config)

  def copy_weights(self):
    """Copies the weights of the model's layers into the new ones.

    Raises:
      ValueError: a new layer has weights of other shapes.
    """
    for before, after in self.pairs:
      values = before.get_weights()
      if isinstance(after, network_inputs.Standardize):
        values = values[:2]  # The third is a counter.
      after.set_weights(values)


def _exact():
  """Returns the dtype of what must not be computed in bfloat16 or float16."""
  return 'float64' if tf.keras.backend.floatx() == 'float64' else 'float32'
