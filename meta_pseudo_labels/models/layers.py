"""The layers that all models here are built from, with the release's initial values and statistics.

Layers are named by the release's variable paths (`wrn-28-2/block_1/conv_3x3_1/conv2d`). So a
variable's name is the release's name without its scope (`model/`, `teacher/`).
"""

import contextlib
import contextvars
import dataclasses
import math
import zlib
from typing import NamedTuple, Optional, Union

from meta_pseudo_labels import rng
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError

import tensorflow as tf

_NOISE = contextvars.ContextVar('noise', default=None)


class Section(NamedTuple):
  """Consecutive examples of one replica in a forward pass, of one purpose.

  Attributes:
    purpose: str.
    count: int, or int32 scalar: how many they are.
    first: int, or int32 scalar: the position of the first one in the replica's whole batch, of which the
      pass may be a part; with `total` its position in the global batch.
    whole: int, the size of that batch; None: these are all.
    total: int32 scalar, the size of the global batch where the replicas' shares may differ; else None.
  """

  purpose: str
  count: Union[int, tf.Tensor]
  first: Union[int, tf.Tensor] = 0
  whole: Optional[int] = None
  total: Optional[tf.Tensor] = None


@dataclasses.dataclass(frozen=True)
class Noise:
  """Source of the random numbers for the layers of one forward pass.

  Attributes:
    key: int32 `[2]`, the step's key (`rng.key`).
    sections: tuple of `Section`, or of (purpose, count): the groups of examples in this pass. An
      example's numbers depend only on its purpose and its position in the GLOBAL batch. So they are
      the same on one replica and on many, and in two passes over the same examples.
    replica: int32 scalar, this replica's index.
    replicas: int, the number of replicas.
  """

  key: tf.Tensor
  sections: tuple
  replica: tf.Tensor
  replicas: int

  def uniform(self, layer, features):
    """Returns uniform draws in [0, 1), float32 `[sum of counts, features]`, for the layer of this name."""
    parts = []
    for section in self.sections:
      purpose, count, first, whole, total = Section(*section)
      if total is not None:
        draw = rng.uniform(self.key, f'{layer}/{purpose}', [total, features])
        parts.append(rng.rows(draw, first, count))
        continue
      size = count if whole is None else whole
      draw = rng.uniform(self.key, f'{layer}/{purpose}', [size * self.replicas, features])
      if whole is not None:
        draw = tf.slice(draw, [self.replica * size + first, 0], [count, features])
      elif self.replicas > 1:
        draw = rng.rows(draw, self.replica * count, count)
      parts.append(draw)
    return tf.concat(parts, axis=0)


@contextlib.contextmanager
def noise(key, sections):
  """Makes dropout and stochastic depth draw statelessly from `key` in this context; see `Noise`."""
  context = tf.distribute.get_replica_context()
  source = Noise(key, tuple(sections), context.replica_id_in_sync_group, context.num_replicas_in_sync)
  token = _NOISE.set(source)
  try:
    yield source
  finally:
    _NOISE.reset(token)


def current_noise():
  """Returns the surrounding `Noise`, or None."""
  return _NOISE.get()


@contextlib.contextmanager
def reuse_noise(source):
  """Makes the layers draw from the `Noise` of an earlier pass in this context; None: from none."""
  token = _NOISE.set(source)
  try:
    yield
  finally:
    _NOISE.reset(token)


def layer_seed(seed, name):
  """Returns one int per (model seed, layer name), so that no two layers have the same initial weights."""
  return zlib.crc32(f'{seed}/{name}'.encode()) & 0x7FFFFFFF


def conv2d(filters, kernel_size, name, *, strides=1, use_bias=False, seed=0):
  """Builds a SAME convolution, kernel ~ normal(stddev sqrt(2 / (kh * kw * filters))) as in the release."""
  stddev = math.sqrt(2 / (kernel_size * kernel_size * filters))
  return tf.keras.layers.Conv2D(
    filters,
    kernel_size,
    strides=strides,
    padding='same',
    use_bias=use_bias,
    name=name,
    kernel_initializer=tf.keras.initializers.RandomNormal(stddev=stddev, seed=layer_seed(seed, name)),
  )


def depthwise_conv2d(kernel_size, name, *, strides=1, seed=0):
  """Builds a SAME depthwise convolution, kernel ~ normal(stddev sqrt(2 / (kh * kw)))."""
  stddev = math.sqrt(2 / (kernel_size * kernel_size))
  return tf.keras.layers.DepthwiseConv2D(
    kernel_size,
    strides=strides,
    padding='same',
    use_bias=False,
    name=name,
    depthwise_initializer=tf.keras.initializers.RandomNormal(stddev=stddev, seed=layer_seed(seed, name)),
  )


def dense(units, name, *, seed=0):
  """Builds a dense layer, kernel ~ uniform(+-1/sqrt(units)), bias zero, as in the release."""
  bound = 1 / math.sqrt(units)
  return tf.keras.layers.Dense(
    units,
    name=name,
    kernel_initializer=tf.keras.initializers.RandomUniform(-bound, bound, seed=layer_seed(seed, name)),
  )


def to_float32(name):
  """Builds a layer that casts logits to float32 under a bfloat16 or float16 policy (release: modeling)."""
  return tf.keras.layers.Activation('linear', dtype='float32', name=name)


class Dropout(tf.keras.layers.Layer):
  """Dropout on features `[N, C]`, drawn from the surrounding `noise`.

  Without a surrounding `noise`, as for a model used in plain Keras, it is Keras' stateful dropout.
  """

  def __init__(self, rate, name=None, **kwargs):
    super().__init__(name=name, **kwargs)
    self.rate = rate

  def call(self, inputs, training=False):
    if not training or not self.rate:
      return inputs
    source = _NOISE.get()
    if source is None:
      return tf.nn.dropout(inputs, self.rate)
    keep = source.uniform(self.name, inputs.shape[-1]) >= self.rate
    return tf.where(keep, inputs / (1 - self.rate), tf.zeros_like(inputs))

  def get_config(self):
    return {**super().get_config(), 'rate': self.rate}


class StochasticDepth(tf.keras.layers.Layer):
  """Drops a residual branch `[N, H, W, C]` per example: x / keep * floor(keep + uniform).

  Source: the release's EfficientNet. It draws its numbers like `Dropout`.
  """

  def __init__(self, rate, name=None, **kwargs):
    super().__init__(name=name, **kwargs)
    self.rate = rate

  def call(self, inputs, training=False):
    if not training or not self.rate:
      return inputs
    source = _NOISE.get()
    draw = tf.random.uniform([tf.shape(inputs)[0], 1]) if source is None else source.uniform(self.name, 1)
    keep = 1 - self.rate
    kept = tf.cast(tf.floor(keep + draw), inputs.dtype)
    return inputs / keep * kept[:, :, tf.newaxis, tf.newaxis]

  def get_config(self):
    return {**super().get_config(), 'rate': self.rate}


def head(features, path, num_classes, dropout, seed):
  """Returns the logits `[N, num_classes]` float32 of feature maps `[N, H, W, C]`, as a Keras tensor.

  Args:
    features: KerasTensor.
    path: str, prefix of the layers' names.
    num_classes: int.
    dropout: rate on the pooled features.
    seed: int, of the initial weights.
  """
  x = tf.keras.layers.GlobalAveragePooling2D(name=f'{path}/pool')(features)
  x = Dropout(dropout, name=f'{path}/dropout')(x)
  x = dense(num_classes, f'{path}/dense', seed=seed)(x)
  return to_float32('logits')(x)
