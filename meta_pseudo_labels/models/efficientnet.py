"""EfficientNets (Tan and Le 2019) as the release builds them, its two wide ones included."""

import math

from meta_pseudo_labels.models import batch_norm, layers

import tensorflow as tf

SIZES = {  # (width multiplier, depth multiplier, evaluation resolution in pixels)
  'efficientnet-bs': (0.5, 1.0, 224),
  'efficientnet-b0': (1.0, 1.0, 224),
  'efficientnet-b1': (1.0, 1.1, 240),
  'efficientnet-b2': (1.1, 1.2, 260),
  'efficientnet-b3': (1.2, 1.4, 300),
  'efficientnet-b4': (1.4, 1.8, 380),
  'efficientnet-b5': (1.6, 2.2, 456),
  'efficientnet-b6': (1.8, 2.6, 528),
  'efficientnet-b7': (2.0, 3.1, 600),
  'efficientnet-b8': (2.2, 3.6, 672),
  'efficientnet-l2': (4.3, 5.3, 600),
  'efficientnet-b5-mpl': (5.0, 2.2, 800),
  'efficientnet-b6-mpl': (5.0, 2.6, 800),
}

_STAGES = (  # of b0: (blocks, kernel size, output filters, strides, expansion)
  (1, 3, 16, 1, 1),
  (2, 3, 24, 2, 6),
  (2, 5, 40, 2, 6),
  (3, 3, 80, 2, 6),
  (3, 5, 112, 1, 6),
  (4, 5, 192, 2, 6),
  (1, 3, 320, 1, 6),
)
_SMALL_IMAGES_STRIDE_1 = (1, 2)  # indices into _STAGES


def blocks(name, small_images=False):
  """Returns the settings of a network's blocks in order, one dict per block.

  Args:
    name: a key of SIZES.
    small_images: bool, whether stages 2 and 3 have stride 1 instead of 2.
  """
  width, depth, _ = SIZES[name]
  specs = []
  for stage, (repeats, kernel_size, filters, strides, expansion) in enumerate(_STAGES):
    if small_images and stage in _SMALL_IMAGES_STRIDE_1:
      strides = 1
    for index in range(math.ceil(depth * repeats)):
      specs.append(
        dict(
          kernel_size=kernel_size,
          filters=_filters(filters, width),
          strides=strides if index == 0 else 1,
          expansion=expansion,
        )
      )
  return specs


def efficientnet(
  name,
  *,
  num_classes,
  input_shape,
  dropout=0.0,
  bn_decay=0.99,
  bn_epsilon=1e-3,
  bn_batch_size=None,
  stochastic_depth=0.0,
  small_images=False,
  seed=0,
):
  """Builds a Keras model: normalized images `[N, H, W, C]` -> logits `[N, num_classes]` float32.

  Args:
    name: a key of SIZES.
    num_classes: int.
    input_shape: (H, W, C).
    dropout: rate on the pooled features (`dense_dropout_rate`).
    bn_decay, bn_epsilon, bn_batch_size: of the batch norms (`batch_norm_...`).
    stochastic_depth: `stochastic_depth_drop_rate`; block i of n is dropped at i/n of this rate.
    small_images: bool, whether the stem and stages 2 and 3 have stride 1 instead of 2.
    seed: int, of the initial weights.
  """
  width = SIZES[name][0]
  specs = blocks(name, small_images)

  def norm(x, path, activation=None):
    x = batch_norm.BatchNorm(f'{path}/batch_norm', bn_decay, bn_epsilon, bn_batch_size)(x)
    if activation:
      x = tf.keras.layers.Activation(activation, name=f'{path}/{activation}')(x)
    return x

  def conv_norm(x, filters, kernel_size, path, activation=None, strides=1):
    x = layers.conv2d(filters, kernel_size, f'{path}/conv2d', strides=strides, seed=seed)(x)
    return norm(x, path, activation)

  def block(x, path, kernel_size, filters, strides, expansion, drop_rate):
    h, inputs = x, x.shape[-1]
    if expansion > 1:
      h = conv_norm(h, inputs * expansion, 1, f'{path}/expand', 'swish')
    h = layers.depthwise_conv2d(kernel_size, f'{path}/depthwise/dw_conv_2d', strides=strides, seed=seed)(h)
    h = norm(h, f'{path}/depthwise', 'swish')
    h = _squeeze_excite(h, max(1, inputs // 4), f'{path}/se', seed)
    h = conv_norm(h, filters, 1, f'{path}/output')
    if strides != 1 or inputs != filters:
      return h
    h = layers.StochasticDepth(drop_rate, name=f'{path}/residual/stochastic_depth')(h)
    return tf.keras.layers.Add(name=f'{path}/residual/add')([h, x])

  images = tf.keras.Input(input_shape, name='images')
  x = conv_norm(images, _filters(32, width), 3, f'{name}/stem', 'swish', 1 if small_images else 2)
  for index, spec in enumerate(specs):
    drop_rate = stochastic_depth * index / len(specs)
    x = block(x, f'{name}/block_{index}', **spec, drop_rate=drop_rate)
  x = conv_norm(x, _filters(1280, width), 1, f'{name}/head', 'swish')
  logits = layers.head(x, f'{name}/head', num_classes, dropout, seed)
  return tf.keras.Model(images, logits, name=name)


def _filters(filters, width):
  """Rounds `filters * width` to the nearest multiple of 8, but never to more than 10 % below it."""
  scaled = filters * width
  rounded = max(8, int(scaled + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * scaled else rounded


def _squeeze_excite(x, filters, path, seed):
  """Scales the channels of `[N, H, W, C]` by a gate in (0, 1) computed from their means.

  Args:
    x: KerasTensor.
    filters: int, width of the hidden layer. In the release it is a quarter of the BLOCK's input
      channels, not of the channels of `x`, which the block has expanded.
    path: str, prefix of the layers' names.
    seed: int, of the initial weights.
  """
  gate = tf.keras.layers.GlobalAveragePooling2D(keepdims=True, name=f'{path}/pool')(x)
  gate = layers.conv2d(filters, 1, f'{path}/reduce', use_bias=True, seed=seed)(gate)
  gate = tf.keras.layers.Activation('swish', name=f'{path}/reduce/swish')(gate)
  gate = layers.conv2d(x.shape[-1], 1, f'{path}/expand', use_bias=True, seed=seed)(gate)
  gate = tf.keras.layers.Activation('sigmoid', name=f'{path}/expand/sigmoid')(gate)
  return tf.keras.layers.Multiply(name=f'{path}/scale')([x, gate])
