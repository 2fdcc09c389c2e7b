"""Reads networks that somebody saved: `.h5` and `.keras` files of Keras 2, and SavedModels."""

import json
import os
import zipfile

from meta_pseudo_labels.config.choices import NETWORK_FILES, is_network_path
from meta_pseudo_labels.errors import UserError, one_line

import tensorflow as tf

# Layers after the features that the old head consists of.
_HEAD = ('Dense', 'Activation', 'Softmax', 'Dropout', 'ReLU', 'Reshape')


def is_saved_model(name):
  """Returns whether a `--model_type` is a folder, as a SavedModel is."""
  return is_network_path(name) and not name.endswith(NETWORK_FILES)


def load(path, flag):
  """Loads a Keras 2 model from a file.

  Args:
    path: str, of a `.h5` or `.keras` file with a whole model.
    flag: str, the flag with its value, for errors.

  Returns:
    Keras model.

  Raises:
    UserError: there is no such file, it is no Keras 2 model, or needs code that is not here.
  """
  if not os.path.isfile(path):
    raise UserError(f'{flag}: no such file; give a .h5 or .keras file of a Keras 2 model')
  _refuse_keras_3(path, flag)
  if is_weights(path):
    raise UserError(
      f'{flag}: holds weights without their network; give a file of model.save(), or give the '
      'architecture with --model_type and this file with --model_weights'
    )
  try:
    return tf.keras.models.load_model(path, compile=False)
  except Exception as error:  # noqa: BLE001 Keras raises many kinds for a file that it cannot read.
    raise UserError(
      f'{flag}: Keras cannot load it ({one_line(error)[:200]}); save it with Keras 2'
    ) from None


def _refuse_keras_3(path, flag):
  """Raises UserError for a `.keras` file of Keras 3."""
  if not zipfile.is_zipfile(path):
    return
  try:
    with zipfile.ZipFile(path) as file:
      version = json.loads(file.read('metadata.json'))['keras_version']
  except (KeyError, ValueError, zipfile.BadZipFile):
    return  # Keras says what is wrong with it.
  if not version.startswith('2.'):
    raise UserError(
      f'{flag}: was saved by Keras {version}, and this project uses Keras 2; in its own environment '
      'save the weights (model.save_weights) of a keras.applications network and give them with '
      '--model_weights, or export a SavedModel (model.export)'
    )


def is_weights(path):
  """Returns whether a file is an HDF5 file of weights alone."""
  if not path.endswith(('.h5', '.hdf5')):
    return False
  import h5py  # Comes with TensorFlow; nothing else needs it.

  try:
    with h5py.File(path, 'r') as file:
      return 'model_config' not in file.attrs
  except OSError:
    return False  # Keras says what is wrong with it.


def cut_head(model, flag):
  """Returns the part of a model up to its features: a Keras model, inputs -> `[N, D]` or `[N, H, W, C]`.

  The head is what follows the last layer that is not dense, an activation or a dropout: of several dense
  layers the last one alone.

  Args:
    model: Keras model of one input.
    flag: str, for errors.

  Raises:
    UserError: it is not a functional model from images to one vector.
  """
  if not getattr(model, '_is_graph_network', False) and not isinstance(model, tf.keras.Sequential):
    raise UserError(
      f'{flag}: its network is a subclass of keras.Model, whose layers cannot be told; save it as a '
      'functional model, or as a SavedModel'
    )
  if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
    raise UserError(f'{flag}: its inputs are not images [N, H, W, C]; give a network of images')
  outputs = dict(zip(model.output_names, model.outputs))
  tensor = outputs.get('features', model.outputs[-1])
  if 'features' in outputs:
    return tf.keras.Model(model.inputs, tensor)
  producers = {}
  for layer in model.layers:
    if not isinstance(layer, tf.keras.Model):
      producers.update((id(output), layer) for output in tf.nest.flatten(layer.output))
  found, layer = tensor, producers.get(id(tensor))
  while type(layer).__name__ in _HEAD and len(found.shape) == 2:
    found = layer.input
    if isinstance(layer, tf.keras.layers.Dense):
      tensor = found
      break
    layer = producers.get(id(found))
  if isinstance(producers.get(id(tensor)), tf.keras.layers.Dropout):
    tensor = producers[id(tensor)].input
  return tf.keras.Model(model.inputs, tensor)


def known_inputs(model):
  """Returns the kind of inputs that a model says itself, a key of `INPUTS`, or None.

  A network that begins by scaling pixels down, or by normalizing them by means above 1, takes 0 to 255.
  """
  layers = [layer for layer in model.layers if not isinstance(layer, tf.keras.layers.InputLayer)]
  for layer in layers[:3]:
    if isinstance(layer, tf.keras.Model):
      return known_inputs(layer)
    kind = type(layer).__name__
    if kind == 'Rescaling':
      scales = tf.nest.flatten(layer.scale)
      return '0_255' if all(abs(float(scale)) < 0.1 for scale in scales) else None
    if kind == 'Normalization' and layer.input_mean is not None:
      return (
        '0_255' if float(tf.reduce_max(tf.convert_to_tensor(layer.input_mean, tf.float32))) > 2 else None
      )
    if kind not in ('ZeroPadding2D', 'Resizing') and not kind.startswith('Random'):
      return None
  return None
