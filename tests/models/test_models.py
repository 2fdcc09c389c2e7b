"""The models against the release's inventory (golden case8) and against plain tf.nn ops."""

import functools
import gc
import gzip
import json
import pathlib
import re

from meta_pseudo_labels import models, rng
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import efficientnet, layers

import numpy as np
import pytest
import tensorflow as tf

with gzip.open(pathlib.Path(__file__).resolve().parents[2] / 'tests/golden' / 'case8.json.gz') as file:
  GOLDEN = json.load(file)
EFFICIENTNETS = [name for name in GOLDEN if name.startswith('efficientnet')]
DECAY, EPSILON = 0.6, 1e-2  # Of batch norms, unlike the defaults.
QUICK = ('wrn-28-2', 'wrn-28-10', 'wrn-28-large', 'resnet-50', 'efficientnet-b0')


def build(name, size=32, **kwargs):
  kwargs = {'num_classes': 10, 'input_shape': (size, size, 3), **kwargs}
  return models.build(name, **kwargs)


shared = functools.lru_cache(None)(build)  # For tests that only look.


def images(size, batch, seed=0):
  """`[batch, size, size, 3]` float32."""
  draw = np.random.RandomState(seed).standard_normal([batch, size, size, 3])
  return draw.astype(np.float32)


# What the release has: every name, shape and size, in its order.


@pytest.mark.parametrize(
  'name', [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in GOLDEN]
)
def test_variables_are_the_releases(name):
  golden = GOLDEN[name]
  cifar = name.startswith('wrn')
  model = build(name, 32 if cifar else 224, num_classes=10 if cifar else 1000)
  trainable = [[f'model/{v.name[:-2]}', v.shape.as_list()] for v in model.trainable_variables]
  assert trainable == golden['trainable']
  assert sum(np.prod(shape) for _, shape in trainable) == golden['n_trainable_params']
  assert len(model.variables) == golden['n_global_variables']
  if golden.get('all_names_order'):
    assert [f'model/{v.name[:-2]}' for v in model.variables] == golden['all_names_order']
  assert [1, *model.output_shape[1:]] == golden['logits_shape']
  del model
  gc.collect()  # A Keras model holds itself in cycles, and the largest one is 2 GB.


@pytest.mark.parametrize('name', EFFICIENTNETS)
def test_blocks_are_the_releases(name):
  """The structure of every EfficientNet at once, without the minutes that building takes."""
  shapes = {variable.split('/', 2)[2]: shape for variable, shape in GOLDEN[name]['trainable']}
  specs = efficientnet.blocks(name)
  assert len(specs) == 1 + max(int(n) for n in re.findall(r'block_(\d+)/', ' '.join(shapes)))
  inputs = shapes['stem/conv2d/kernel'][3]
  for index, spec in enumerate(specs):
    size, _, expanded, _ = shapes[f'block_{index}/depthwise/dw_conv_2d/depthwise_kernel']
    assert spec['kernel_size'] == size
    assert spec['expansion'] * inputs == expanded
    inputs = shapes[f'block_{index}/output/conv2d/kernel'][3]
    assert spec['filters'] == inputs


@pytest.mark.parametrize('name', GOLDEN)
def test_eval_image_size(name):
  own = GOLDEN[name]['eval_image_size']
  assert models.eval_image_size(name, 32, imagenet=False) == 32
  assert models.eval_image_size(name, 32, imagenet=True) == (own or 32)
  assert models.eval_image_size(name, 900, imagenet=True) == 900


# What they compute: the same network once more, from the release's description, out of tf.nn ops.


class Reference:
  """The ops of one forward pass in float64, over a model's variables by name."""

  def __init__(self, model, training):
    self.values = {v.name[:-2]: tf.cast(v, tf.float64) for v in model.variables}
    self.training = training
    self.statistics = {}  # Of the batch, by the name of the moving average they go into.

  def conv(self, x, path, stride=1):
    x = tf.nn.conv2d(x, self.values[f'{path}/kernel'], stride, 'SAME')
    return x + self.values.get(f'{path}/bias', 0.0)

  def depthwise(self, x, path, stride):
    kernel = self.values[f'{path}/depthwise_kernel']
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], 'SAME')

  def norm(self, x, path):
    mean, variance, gamma, beta = (
      self.values[f'{path}/{name}'] for name in ('moving_mean', 'moving_variance', 'gamma', 'beta')
    )
    if self.training:
      mean, variance = tf.nn.moments(x, [0, 1, 2])
      self.statistics.update({f'{path}/moving_mean': mean, f'{path}/moving_variance': variance})
    return (x - mean) / tf.sqrt(variance + EPSILON) * gamma + beta

  def head(self, x, path):
    x = tf.reduce_mean(x, [1, 2])
    return x @ self.values[f'{path}/dense/kernel'] + self.values[f'{path}/dense/bias']


def lrelu(x):
  return tf.maximum(x, 0.2 * x)


def wide_resnet(ref, x, name):
  x = ref.conv(x, f'{name}/stem/conv2d')
  for number in range(1, 4):  # Of wrn-10-k: one block a group.
    path, stride = f'{name}/block_{number}', 1 if number == 1 else 2
    normed = ref.norm(x, f'{path}/conv_3x3_1/batch_norm')
    h = ref.conv(lrelu(normed), f'{path}/conv_3x3_1/conv2d', stride)
    h = ref.conv(lrelu(ref.norm(h, f'{path}/conv_3x3_2/batch_norm')), f'{path}/conv_3x3_2/conv2d')
    x = h + (ref.conv(lrelu(normed), f'{path}/residual/conv2d', 2) if stride == 2 else x)
  return ref.head(lrelu(ref.norm(x, f'{name}/head/batch_norm')), f'{name}/head')


def resnet(ref, x, name):
  def conv_norm(x, path, stride=1):
    return ref.norm(ref.conv(x, f'{path}/conv2d', stride), f'{path}/batch_norm')

  x = tf.nn.relu(conv_norm(x, f'{name}/stem', 2))
  x = tf.nn.max_pool2d(x, 3, 2, 'SAME')
  for number in range(1, 17):
    path, stride = f'{name}/block_{number}', 2 if number in (4, 8, 14) else 1
    h = tf.nn.relu(conv_norm(x, f'{path}/conv_1x1_1'))
    h = tf.nn.relu(conv_norm(h, f'{path}/conv_3x3', stride))
    h = conv_norm(h, f'{path}/conv_1x1_2')
    x = tf.nn.relu(h + (conv_norm(x, f'{path}/residual', stride) if number in (1, 4, 8, 14) else x))
  return ref.head(x, f'{name}/head')


def swish_network(ref, x, name, small_images):
  def swish(x):
    return x * tf.sigmoid(x)

  def conv_norm(x, path, stride=1):
    return ref.norm(ref.conv(x, f'{path}/conv2d', stride), f'{path}/batch_norm')

  x = swish(conv_norm(x, f'{name}/stem', 1 if small_images else 2))
  for number in range(16):  # Of -bs and -b0: stages start at blocks 0, 1, 3, 5, 8, 11, 15.
    path = f'{name}/block_{number}'
    stride = 2 if number in ((5, 11) if small_images else (1, 3, 5, 11)) else 1
    h = x if number == 0 else swish(conv_norm(x, f'{path}/expand'))
    h = ref.depthwise(h, f'{path}/depthwise/dw_conv_2d', stride)
    h = swish(ref.norm(h, f'{path}/depthwise/batch_norm'))
    gate = tf.reduce_mean(h, [1, 2], keepdims=True)
    gate = ref.conv(swish(ref.conv(gate, f'{path}/se/reduce')), f'{path}/se/expand')
    h = conv_norm(h * tf.sigmoid(gate), f'{path}/output')
    x = h + x if h.shape == x.shape and stride == 1 else h
  return ref.head(swish(conv_norm(x, f'{name}/head')), f'{name}/head')


@functools.lru_cache(None)
def model_for_reference(name, size, small_images):
  model = build(name, size, small_images=small_images, bn_decay=DECAY, bn_epsilon=EPSILON)
  draw = np.random.RandomState(0).standard_normal
  for variable in model.variables:  # Off their initial values, which hide what they do.
    if 'kernel' not in variable.name:
      variable.assign_add(0.1 * draw(variable.shape))
  for seed in range(1, 9):  # To averages that fit, or evaluation would hardly see the image.
    model(images(size, 8, seed), training=True)
  return model


@pytest.mark.parametrize('training', [False, True], ids=['evaluation', 'training'])
@pytest.mark.parametrize(
  'name, size, small_images, forward',
  [
    ('wrn-10-2', 8, False, wide_resnet),
    ('resnet-50', 64, False, resnet),
    ('efficientnet-bs', 33, False, functools.partial(swish_network, small_images=False)),
    ('efficientnet-bs', 15, True, functools.partial(swish_network, small_images=True)),
  ],
  ids=['wrn', 'resnet', 'efficientnet', 'efficientnet-small-images'],
)
def test_forward_pass(name, size, small_images, forward, training):
  model, x = model_for_reference(name, size, small_images), images(size, 8)
  before = {v.name[:-2]: v.numpy() for v in model.variables}
  reference = Reference(model, training)
  expected = forward(reference, tf.cast(x, tf.float64), name)
  logits = model(x, training=training)
  assert logits.shape == [8, 10] and logits.dtype == tf.float32
  tolerance = 5e-4 if training else 2e-4  # Batch statistics of few examples magnify rounding.
  np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max())
  for variable in model.variables:
    path = variable.name[:-2]
    moved = before[path]
    if path in reference.statistics:
      moved = moved + (1 - DECAY) * (reference.statistics[path] - moved)
    # A sum is rounded by what its terms are, not by what it comes to.
    np.testing.assert_allclose(
      variable, moved, rtol=1e-4, err_msg=path, atol=2e-5 * max(1, np.abs(moved).max())
    )


def test_mlp():
  model = models.build('mlp-8x2', num_classes=2, input_shape=(3,))
  x = np.random.RandomState(0).standard_normal([5, 3]).astype(np.float32)
  w1, b1, w2, b2, w3, b3 = (v.numpy() for v in model.variables)
  expected = np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3
  np.testing.assert_allclose(model(x), expected, atol=1e-6)
  images = models.build('mlp-8x2', num_classes=2, input_shape=(3, 1, 1))
  images.set_weights(model.get_weights())
  np.testing.assert_allclose(images(x.reshape(5, 3, 1, 1)), expected, atol=1e-6)


# What the flags change.


@pytest.mark.parametrize(
  'size, small_images, sides',
  [(33, False, [17, 17, 9, 5, 3, 3, 2, 2]), (15, True, [15, 15, 15, 15, 8, 8, 4, 4])],
)
def test_small_images_drop_three_strides(size, small_images, sides):
  model = model_for_reference('efficientnet-bs', size, small_images)
  outputs = ['stem/conv2d', *(f'block_{last}/output/conv2d' for last in (0, 2, 4, 7, 10, 14, 15))]
  found = [model.get_layer(f'efficientnet-bs/{path}').output_shape[1:3] for path in outputs]
  assert found == [(side, side) for side in sides]


def test_stochastic_depth_grows_with_the_block():
  model = shared('efficientnet-bs', 16, dropout=0.5, stochastic_depth=0.8)
  rates = {
    layer.name.split('/')[1]: layer.rate
    for layer in model.layers
    if isinstance(layer, layers.StochasticDepth)
  }
  # The blocks with a residual, of 16: neither the first of a stage nor one that changes width.
  assert rates == pytest.approx(
    {f'block_{index}': 0.8 * index / 16 for index in (2, 4, 6, 7, 9, 10, 12, 13, 14)}
  )


@pytest.mark.parametrize('name', ['wrn-10-1', 'resnet-50', 'efficientnet-bs', 'mlp-8x1'])
def test_dropout_draws_from_the_noise(name):
  if name.startswith('mlp'):
    model = build(name, input_shape=(3,), dropout=0.5)
  else:
    model = shared(name, 16, dropout=0.5, stochastic_depth=0.8)
  x = np.random.RandomState(0).standard_normal([6, *model.input_shape[1:]]).astype(np.float32)

  def logits(step):
    with layers.noise(rng.key(0, step), (('labeled', 2), ('unlabeled', 4))):
      return model(x, training=True).numpy()

  first = logits(1)
  np.testing.assert_array_equal(first, logits(1))
  assert (first != logits(2)).any()


def test_seeds():
  def kernels(seed):
    model = build('wrn-10-1', seed=seed)
    return [v.numpy() for v in model.variables if 'kernel' in v.name]

  first, again, other = kernels(1), kernels(1), kernels(2)
  for one, same, different in zip(first, again, other):
    np.testing.assert_array_equal(one, same)
    assert (one != different).all()
  assert (first[1] != first[2]).all()  # Two layers of one shape.


@pytest.mark.parametrize('name', ['wrn-10-1', 'resnet-50', 'efficientnet-bs'])
def test_bfloat16_keeps_variables_and_logits_in_float32(name):
  tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    model = build(name)
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')
  assert {v.dtype for v in model.variables} == {tf.float32}
  with tf.GradientTape() as tape:
    logits = model(images(32, 2), training=True)
  assert logits.dtype == tf.float32
  gradients = tape.gradient(logits, model.trainable_variables)
  assert all(g.dtype == tf.float32 and np.isfinite(g).all() for g in gradients)
  kernel = next(layer for layer in model.layers if layer.name.endswith('stem/conv2d'))
  assert kernel.compute_dtype == 'bfloat16'


@pytest.mark.parametrize(
  'name, shape, words',
  [
    ('resnet-18', (32, 32, 3), ['--model_type=resnet-18', 'resnet-50', 'efficientnet-l2']),
    ('efficientnet-b9', (32, 32, 3), ['--model_type=efficientnet-b9', 'efficientnet-b8']),
    ('wrn-11-2', (32, 32, 3), ['6n+4', '11']),
    ('resnet-50', (2,), ['--model_type=resnet-50', '(2,)', 'image']),
  ],
)
def test_a_wrong_model_says_what_is_there(name, shape, words):
  with pytest.raises(UserError) as error:
    models.build(name, num_classes=10, input_shape=shape)
  assert all(word in str(error.value) for word in words)
  assert '\n' not in str(error.value)
