"""The networks of tf.keras.applications by name: what each expects, and where its weights come from."""

import math
import os
import re
from typing import NamedTuple

from meta_pseudo_labels.errors import UserError, one_line
from meta_pseudo_labels.models import network_files

import tensorflow as tf


class Network(NamedTuple):
  """One network of tf.keras.applications.

  Attributes:
    module: str, its module there; the constructor is called like the network.
    inputs: a key of `network_inputs.INPUTS`; '0_255' where the network has its preprocessing inside.
    native: int, the pixels per side of its ImageNet weights.
    least: int, the fewest pixels per side that it takes.
    norm: 'batch', 'layer' or 'none', its kind of normalization.
  """

  module: str
  inputs: str
  native: int = 224
  least: int = 32
  norm: str = 'batch'


def _family(module, inputs, names, native=224, **facts):
  """Returns {name: Network}; `native` is one number, or one for each name."""
  sizes = native if isinstance(native, tuple) else (native,) * len(names)
  return {name: Network(module, inputs, size, **facts) for name, size in zip(names, sizes)}


_REGNET_SIZES = ('002', '004', '006', '008', '016', '032', '040', '064', '080')

# Source of the sizes and kinds: the documentation of tf.keras.applications.
NETWORKS = {
  **_family('mobilenet', '-1_1', ('MobileNet',)),
  **_family('mobilenet_v2', '-1_1', ('MobileNetV2',)),
  # Keras has the constructors of V3 at the top alone.
  **_family('', '0_255', ('MobileNetV3Small', 'MobileNetV3Large')),
  **_family(
    'efficientnet',
    '0_255',
    tuple(f'EfficientNetB{number}' for number in range(8)),
    (224, 240, 260, 300, 380, 456, 528, 600),
  ),
  **_family(
    'efficientnet_v2',
    '0_255',
    tuple(f'EfficientNetV2{size}' for size in ('B0', 'B1', 'B2', 'B3', 'S', 'M', 'L')),
    (224, 240, 260, 300, 384, 480, 480),
  ),
  **_family('resnet', 'caffe', ('ResNet50', 'ResNet101', 'ResNet152')),
  **_family('resnet_v2', '-1_1', ('ResNet50V2', 'ResNet101V2', 'ResNet152V2')),
  **_family('densenet', 'torch', ('DenseNet121', 'DenseNet169', 'DenseNet201')),
  **_family('convnext', '0_255', ('ConvNeXtTiny', 'ConvNeXtSmall', 'ConvNeXtBase'), norm='layer'),
  **_family('regnet', '0_255', tuple(f'RegNet{kind}{size}' for kind in 'XY' for size in _REGNET_SIZES)),
  **_family('nasnet', '-1_1', ('NASNetMobile',)),
  **_family('inception_v3', '-1_1', ('InceptionV3',), 299, least=75),
  **_family('inception_resnet_v2', '-1_1', ('InceptionResNetV2',), 299, least=75),
  **_family('xception', '-1_1', ('Xception',), 299, least=71),
  **_family('vgg16', 'caffe', ('VGG16',), norm='none'),
  **_family('vgg19', 'caffe', ('VGG19',), norm='none'),
}


def construct(name, weights=None):
  """Returns a network's Keras model: images `[N, H, W, 3]` of any size -> features `[N, D]`.

  NASNet's says that it takes its native size alone; `rebuild` connects its layers for others.

  Args:
    name: a key of `NETWORKS`.
    weights: None, or 'imagenet', which Keras downloads unless it has them in its cache.
  """
  # NASNet's graph depends on the sizes of its maps, so these must be known.
  side = NETWORKS[name].native if NETWORKS[name].module == 'nasnet' else None
  return _constructor(name)(include_top=False, weights=weights, pooling='avg', input_shape=(side, side, 3))


def _constructor(name):
  """Returns the function of tf.keras.applications that builds a network."""
  module = NETWORKS[name].module
  return getattr(getattr(tf.keras.applications, module) if module else tf.keras.applications, name)


def divisor(name):
  """Returns by what a network divides normalized pixels, by channel; None: by nothing.

  Keras' EfficientNets do so if they are built with ImageNet weights, and not if they are built without
  and get the same weights later. Here they do always, so that a checkpoint finds the same network
  whatever it started from.
  """
  if name in NETWORKS and NETWORKS[name].module == 'efficientnet':
    return tuple(math.sqrt(deviation) for deviation in (0.229, 0.224, 0.225))
  return None


def load_imagenet(name):
  """Returns `construct(name)` with ImageNet weights.

  Raises:
    UserError: they are not in Keras' cache, and cannot be downloaded; the line says which file to bring.
  """
  try:
    return construct(name, 'imagenet')
  except Exception as error:  # noqa: BLE001 Keras raises a plain Exception.
    url = re.search(r'(\S+/)([^/\s]+\.h5)', str(error))
    if not url:
      raise UserError(
        f'--model_type={name}: its ImageNet weights cannot be loaded ({one_line(error)[:200]}); give them '
        'as a file with --model_weights=PATH, or --model_weights=none'
      ) from None
    folder = os.path.join(os.path.expanduser('~'), '.keras', 'models')
    raise UserError(
      f'--model_type={name}: its ImageNet weights cannot be downloaded; bring {url.group(2)} '
      f'(from {url.group(1)}) and put it into {folder}, give it with --model_weights=PATH, or '
      '--model_weights=none'
    ) from None


def load_file(name, path, flag):
  """Returns `construct(name)` with the weights of a file of the same architecture.

  Args:
    name: a key of `NETWORKS`.
    path: str, of a whole model, or of weights with or without the head of 1000 classes.
    flag: str, the flag with its value, for errors.

  Raises:
    UserError: there is no such file, or its weights are of another architecture.
  """
  if not os.path.isfile(path):
    raise UserError(f'{flag}: no such file; give a .h5 or .keras file of {name}, imagenet or none')
  model = construct(name)
  try:
    if not network_files.is_weights(path):
      features = network_files.cut_head(network_files.load(path, flag), flag)
      model.set_weights(features.get_weights())
    else:
      _load_weights(model, name, path)
  except (ValueError, OSError, KeyError, IndexError) as error:
    raise UserError(
      f'{flag}: its weights are not those of {name} ({one_line(error)[:160]}); give a file of {name}'
    ) from None
  return model


def _load_weights(model, name, path):
  """Loads an HDF5 file of weights into `construct(name)`; the file may have those of the head too."""
  try:
    model.load_weights(path)
  except ValueError:  # It has more layers. Names do not help: Keras counts its layers through a process.
    whole = _constructor(name)(include_top=True, weights=None)
    whole.load_weights(path)
    model.set_weights(whole.get_weights()[: len(model.weights)])
