"""The models of the release and the paper, by name."""

import contextlib
import sys
from typing import Optional, Sequence

from meta_pseudo_labels.config.choices import is_pretrained
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import efficientnet, mlp, pretrained, resnet, wide_resnet
from meta_pseudo_labels.models.pretrained import Pretrained as Pretrained  # Public from here, too.

import tensorflow as tf

__all__ = ['Pretrained', 'build']


def build(
  name: str,
  *,
  num_classes: int,
  input_shape: Sequence[int],
  dropout: float = 0.0,
  bn_decay: float = 0.99,
  bn_epsilon: float = 1e-3,
  bn_batch_size: Optional[int] = None,
  stochastic_depth: float = 0.0,
  small_images: bool = False,
  seed: int = 0,
  use: Optional[Pretrained] = None,
  architecture: Optional[str] = None,
) -> tf.keras.Model:
  """Builds a Keras model by `--model_type`: inputs `[N, *input_shape]` -> logits `[N, num_classes]`.

  The variables of the release's networks are in its order, under its names without their scope.

  Args:
    name: `wrn-<6n+4>-<k>`, `wrn-28-large`, `resnet-50`, a key of `efficientnet.SIZES`,
      `mlp-<width>x<hidden layers>`; a network of tf.keras.applications, or the path of one that was
      saved (`pretrained.build`).
    num_classes: int.
    input_shape: (H, W, C) for images, (D,) for vectors.
    dropout: rate before the last dense layer.
    bn_decay, bn_epsilon, bn_batch_size: of the batch norms.
    stochastic_depth: EfficientNets only, the drop rate at the end of the network.
    small_images: EfficientNets only, fewer strides.
    seed: int; two models of one seed start with the same weights.
    use: Pretrained, for networks of tf.keras.applications and paths; None: its defaults.
    architecture: see `pretrained.build`.

  Raises:
    UserError: there is no such model, or it does not fit the data.

  Example:
    >>> network = mpl.models.build('wrn-10-1', num_classes=10, input_shape=(32, 32, 3), seed=1)
    >>> network.output_shape
    (None, 10)
  """
  kwargs = dict(
    num_classes=num_classes,
    input_shape=tuple(input_shape),
    dropout=dropout,
    bn_decay=bn_decay,
    bn_batch_size=bn_batch_size,
    seed=seed,
  )
  if is_pretrained(name):
    return pretrained.build(name, use or Pretrained(), architecture=architecture, **kwargs)
  kwargs.update(bn_epsilon=bn_epsilon)
  builder = _builder(name)
  if name in efficientnet.SIZES:
    kwargs.update(stochastic_depth=stochastic_depth, small_images=small_images)
  _check_rank(name, builder, input_shape)
  # Keras goes through a network by recursion, a call per layer: EfficientNet-L2 has over 900.
  with _recursion_limit(5000):
    return builder(name, **kwargs)


def _check_rank(name, builder, input_shape):
  """Raises UserError if a network takes no inputs of this shape."""
  if len(input_shape) != 3 and builder is not mlp.mlp:  # That one flattens inputs of any rank.
    raise UserError(
      f'--model_type={name}: needs images, but the data have the shape '
      f'{tuple(input_shape)}; use mlp-<width>x<hidden layers>'
    )


def _builder(name):
  """Returns the function that builds a network of the release or the paper."""
  if name in efficientnet.SIZES:
    return efficientnet.efficientnet
  if name in resnet.NAMES:
    return resnet.resnet
  if wide_resnet.NAME.match(name) or name == 'wrn-28-large':
    return wide_resnet.wide_resnet
  if mlp.NAME.match(name):
    return mlp.mlp
  known = ', '.join(('wrn-<6n+4>-<k>', 'wrn-28-large', *resnet.NAMES, *efficientnet.SIZES))
  raise UserError(
    f'--model_type={name}: no such model; use {known}, mlp-<width>x<hidden layers>, a network of '
    'tf.keras.applications such as MobileNetV2, or the path of a Keras model'
  )


@contextlib.contextmanager
def _recursion_limit(limit):
  """Within it Python's recursion limit is at least `limit`."""
  before = sys.getrecursionlimit()
  sys.setrecursionlimit(max(before, limit))
  try:
    yield
  finally:
    sys.setrecursionlimit(before)


def eval_image_size(name, image_size, imagenet):
  """Returns the pixels per side at which a model is evaluated.

  On ImageNet the release evaluates an EfficientNet at its own resolution if that is larger than
  `image_size`, its training resolution. All other models are evaluated at `image_size`.

  Args:
    name: `--model_type`.
    image_size: int, `--image_size`.
    imagenet: bool, whether the data are from ImageNet.
  """
  if imagenet and name in efficientnet.SIZES:
    return max(image_size, efficientnet.SIZES[name][2])
  return image_size
