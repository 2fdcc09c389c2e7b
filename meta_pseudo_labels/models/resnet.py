"""ResNet-50 (He et al. 2016) as the release builds it."""

from meta_pseudo_labels.models import batch_norm, layers

import tensorflow as tf

NAMES = ('resnet-50',)
_GROUPS = ((256, 3), (512, 4), (1024, 6), (2048, 3))  # (output filters, blocks)


def resnet(
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
    name: `resnet-50`.
    num_classes: int.
    input_shape: (H, W, C).
    dropout: rate on the pooled features (`dense_dropout_rate`).
    bn_decay, bn_epsilon, bn_batch_size: of the batch norms (`batch_norm_decay`, `batch_norm_epsilon`,
      `batch_norm_batch_size`).
    seed: int, of the initial weights.

  Source: the release (docs/fidelity.md). A block's stride is on its 3x3 convolution. Every batch norm
  starts with gamma 1, including the last one of a block.
  """

  def conv_norm(x, filters, kernel_size, path, strides=1):
    x = layers.conv2d(filters, kernel_size, f'{path}/conv2d', strides=strides, seed=seed)(x)
    return batch_norm.BatchNorm(f'{path}/batch_norm', bn_decay, bn_epsilon, bn_batch_size)(x)

  def relu(x, path):
    return tf.keras.layers.ReLU(name=f'{path}/relu')(x)

  def block(x, filters, strides, path):
    h = relu(conv_norm(x, filters // 4, 1, f'{path}/conv_1x1_1'), f'{path}/conv_1x1_1')
    h = relu(conv_norm(h, filters // 4, 3, f'{path}/conv_3x3', strides), f'{path}/conv_3x3')
    h = conv_norm(h, filters, 1, f'{path}/conv_1x1_2')
    if strides != 1 or x.shape[-1] != filters:
      # Keras sorts layers by their distance from the output. This identity puts both layers of
      # conv_1x1_2 before both layers of the projection, as in the release.
      h = tf.keras.layers.Activation('linear', name=f'{path}/conv_1x1_2/linear')(h)
      x = conv_norm(x, filters, 1, f'{path}/residual', strides)
    return relu(tf.keras.layers.Add(name=f'{path}/add')([h, x]), path)

  images = tf.keras.Input(input_shape, name='images')
  x = relu(conv_norm(images, 64, 7, f'{name}/stem', 2), f'{name}/stem')
  x = tf.keras.layers.MaxPooling2D(3, 2, padding='same', name=f'{name}/stem/pool')(x)
  number = 0
  for group, (filters, blocks) in enumerate(_GROUPS):
    for index in range(blocks):
      number += 1
      strides = 2 if group > 0 and index == 0 else 1
      x = block(x, filters, strides, f'{name}/block_{number}')
  logits = layers.head(x, f'{name}/head', num_classes, dropout, seed)
  return tf.keras.Model(images, logits, name=name)
