"""Wide residual networks (Zagoruyko and Komodakis 2016) as the release builds them."""

import re

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import activations, batch_norm, layers

import tensorflow as tf

NAME = re.compile(r'wrn-(\d+)-(\d+)$')


def wide_resnet(
  name,
  *,
  num_classes,
  input_shape,
  dropout=0.0,
  bn_decay=0.99,
  bn_epsilon=1e-3,
  bn_batch_size=None,
  seed=0,
):
  """Builds a Keras model: normalized images `[N, H, W, C]` -> logits `[N, num_classes]` float32.

  Args:
    name: `wrn-<6n+4>-<k>` or `wrn-28-large`, whose variables the release names `wrn-28-135`.
    num_classes: int.
    input_shape: (H, W, C).
    dropout: rate on the pooled features (`dense_dropout_rate`).
    bn_decay, bn_epsilon, bn_batch_size: of the batch norms (`batch_norm_decay`, `batch_norm_epsilon`,
      `batch_norm_batch_size`).
    seed: int, of the initial weights.

  Raises:
    UserError: the depth is not 6n+4.

  Source: the release (docs/fidelity.md). Projections are applied after the first batch norm.
  """
  if name == 'wrn-28-large':
    name, depth, stem, widths = 'wrn-28-135', 28, 16, (135, 270, 540)
  else:
    depth, k = (int(group) for group in NAME.match(name).groups())
    stem, widths = 16 * k, (16 * k, 32 * k, 64 * k)
  if depth < 10 or (depth - 4) % 6:
    raise UserError(f'--model_type={name}: depth {depth} is not 6n+4; use 10, 16, 22, 28, ...')

  def norm_relu(x, path):
    x = batch_norm.BatchNorm(f'{path}/batch_norm', bn_decay, bn_epsilon, bn_batch_size)(x)
    return activations.LeakyReLU(0.2, name=f'{path}/relu')(x)

  def block(x, filters, strides, path):
    changed = strides != 1 or x.shape[-1] != filters
    activated = norm_relu(x, f'{path}/conv_3x3_1')
    h = layers.conv2d(filters, 3, f'{path}/conv_3x3_1/conv2d', strides=strides, seed=seed)(activated)
    h = norm_relu(h, f'{path}/conv_3x3_2')
    h = layers.conv2d(filters, 3, f'{path}/conv_3x3_2/conv2d', seed=seed)(h)
    if changed:
      x = layers.conv2d(filters, 1, f'{path}/residual/conv2d', strides=strides, seed=seed)(activated)
    return tf.keras.layers.Add(name=f'{path}/add')([h, x])

  images = tf.keras.Input(input_shape, name='images')
  x = layers.conv2d(stem, 3, f'{name}/stem/conv2d', seed=seed)(images)
  number = 0
  for group, filters in enumerate(widths):
    for index in range((depth - 4) // 6):
      number += 1
      strides = 2 if group > 0 and index == 0 else 1
      x = block(x, filters, strides, f'{name}/block_{number}')
  x = norm_relu(x, f'{name}/head')
  logits = layers.head(x, f'{name}/head', num_classes, dropout, seed)
  return tf.keras.Model(images, logits, name=name)
