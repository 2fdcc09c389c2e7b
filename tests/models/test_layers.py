"""The layers by their formulas: hand-computed numpy, and one replica against two."""

from meta_pseudo_labels import rng
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import batch_norm, layers

import numpy as np
import pytest
import tensorflow as tf

DECAY, EPSILON = 0.9, 1e-3
SECTIONS = (('labeled', 4), ('unlabeled', 6))


def images(seed=0, batch=10):
  """`[batch, 4, 5, 3]` float32, its channels of different spreads around 2."""
  draw = np.random.RandomState(seed).standard_normal([batch, 4, 5, 3])
  return (draw * [1, 2, 3] + 2).astype(np.float32)


def built_norm(dtype='float32'):
  layer = batch_norm.BatchNorm('norm', DECAY, EPSILON, dtype=dtype)
  layer.build([None, 4, 5, 3])
  layer.gamma.assign([0.5, 1.0, 2.0])
  layer.beta.assign([1.0, 0.0, -1.0])
  layer.moving_mean.assign([0.1, 0.2, 0.3])
  layer.moving_variance.assign([1.0, 2.0, 3.0])
  return layer


def normalized(x, mean, variance):
  return (x - mean) / np.sqrt(variance + EPSILON) * [0.5, 1.0, 2.0] + [1.0, 0.0, -1.0]


class TestBatchNorm:
  def test_starts_with_gamma_1_beta_0_mean_0_variance_1(self):
    layer = batch_norm.BatchNorm()
    layer.build([None, 4, 5, 2])
    assert [v.numpy().tolist() for v in layer.variables] == [[1, 1], [0, 0], [0, 0], [1, 1]]

  def test_training_uses_and_averages_the_biased_statistics(self):
    x, layer = images(batch=2), built_norm()
    mean = x.astype(np.float64).mean(axis=(0, 1, 2))
    variance = (x.astype(np.float64) ** 2).mean(axis=(0, 1, 2)) - mean**2  # of 40, not of 39
    np.testing.assert_allclose(layer(x, training=True), normalized(x, mean, variance), atol=1e-5)
    start_mean, start_variance = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(layer.moving_mean, start_mean + 0.1 * (mean - start_mean), rtol=1e-6)
    np.testing.assert_allclose(
      layer.moving_variance, start_variance + 0.1 * (variance - start_variance), rtol=1e-6
    )

  def test_evaluation_uses_the_averages_and_leaves_them_alone(self):
    x, layer = images(), built_norm()
    expected = normalized(x, np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, np.float32([0.1, 0.2, 0.3]))

  @pytest.mark.parametrize('training', [False, True])
  def test_bfloat16_is_normalized_in_float32_and_cast_back(self, training):
    x = tf.cast(images(), tf.bfloat16)
    layer = built_norm('mixed_bfloat16')
    outputs = layer(x, training=training)
    assert outputs.dtype == tf.bfloat16
    assert all(v.dtype == tf.float32 for v in layer.variables)
    expected = built_norm()(tf.cast(x, tf.float32), training=training)
    np.testing.assert_array_equal(outputs, tf.cast(expected, tf.bfloat16))

  @pytest.mark.parametrize('again', [False, True])
  @pytest.mark.parametrize('which', ['direct', 'transposed', 'second'])
  def test_derivatives_of_the_fused_kernel(self, which, again):
    """Its gradient, that gradient's transpose by the cotangent (what `soft` takes), and its own
    derivative by the inputs, against automatic differentiation of the formula in float64; also
    where the statistics are known from a pass before."""
    draw = np.random.RandomState(1).standard_normal

    def formula(x, gamma, beta):
      mean = tf.reduce_mean(x, [0, 1, 2])
      variance = tf.reduce_mean(tf.square(x - mean), [0, 1, 2])
      return (x - mean) * gamma * tf.math.rsqrt(variance + EPSILON) + beta

    def fused(x, gamma, beta):
      known = batch_norm.fused_batch_norm(tf.stop_gradient(x), gamma, beta, EPSILON)[1] if again else None
      return batch_norm.fused_batch_norm(x, gamma, beta, EPSILON, known)[0]

    x, arguments = images(batch=3), ([0.5, 1.0, 2.0], [1.0, 0.0, -1.0])
    cotangent, directions = draw(x.shape), (draw(x.shape), draw(3), draw(3))

    def derivative(function, dtype):
      cast = lambda value: tf.constant(value, dtype)
      inputs, dy = [cast(x), *map(cast, arguments)], cast(cotangent)
      with tf.GradientTape(persistent=True) as outer:
        outer.watch([dy, *inputs])
        with tf.GradientTape() as inner:
          inner.watch(inputs)
          outputs = function(*inputs)
        gradients = inner.gradient(outputs, inputs, output_gradients=dy)
      if which == 'direct':
        return gradients
      source = dy if which == 'transposed' else inputs[0]
      return [outer.gradient(gradients, source, output_gradients=list(map(cast, directions)))]

    for found, expected in zip(derivative(fused, tf.float32), derivative(formula, tf.float64)):
      np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


class TestDropout:
  def test_keeps_and_scales_by_the_draw_of_its_name(self):
    x = np.random.RandomState(0).standard_normal([10, 64]).astype(np.float32)
    with layers.noise(rng.key(1, 2), SECTIONS) as source:
      outputs = layers.Dropout(0.4, name='head/dropout')(x, training=True)
      draw = source.uniform('head/dropout', 64).numpy()
    np.testing.assert_allclose(outputs, np.where(draw >= 0.4, x / 0.6, 0), rtol=1e-6)
    assert abs((draw >= 0.4).mean() - 0.6) < 0.08

  def test_same_key_same_numbers_and_only_then(self):
    def dropped(key=rng.key(1, 2), name='a', sections=SECTIONS):
      with layers.noise(key, sections):
        return layers.Dropout(0.5, name=name)(np.ones([10, 64], np.float32), training=True).numpy()

    first = dropped()
    np.testing.assert_array_equal(first, dropped())
    assert (first != dropped(rng.key(1, 3))).any()
    assert (first != dropped(rng.key(2, 2))).any()
    assert (first != dropped(name='b')).any()
    # An example's numbers follow it to wherever its section stands in another pass.
    other = dropped(sections=(('unlabeled', 6), ('labeled', 4)))
    np.testing.assert_array_equal(np.concatenate([other[6:], other[:6]]), first)

  def test_is_nothing_in_evaluation_or_at_rate_0(self):
    x = np.ones([2, 8], np.float32)
    np.testing.assert_array_equal(layers.Dropout(0.5)(x, training=False), x)
    np.testing.assert_array_equal(layers.Dropout(0.0)(x, training=True), x)

  def test_without_noise_it_is_keras_dropout(self):
    layer = layers.Dropout(0.5)
    draws = [layer(np.ones([4, 64], np.float32), training=True).numpy() for _ in range(2)]
    assert set(np.unique(draws)) == {0.0, 2.0}
    assert (draws[0] != draws[1]).any()


class TestStochasticDepth:
  def test_drops_whole_examples_by_the_formula(self):
    x = images()
    with layers.noise(rng.key(1, 2), SECTIONS) as source:
      outputs = layers.StochasticDepth(0.4, name='depth')(x, training=True).numpy()
      draw = source.uniform('depth', 1).numpy()
    expected = x / 0.6 * np.floor(0.6 + draw)[:, :, None, None]
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    kept = [bool(example.any()) for example in outputs]
    assert True in kept and False in kept

  def test_keeps_the_mean(self):
    layer = layers.StochasticDepth(0.3, name='depth')
    with layers.noise(rng.key(0, 0), (('l', 20000),)):
      outputs = layer(np.ones([20000, 1, 1, 1], np.float32), training=True).numpy()
    assert abs(outputs.mean() - 1) < 4 * np.sqrt(0.3 / 0.7 / 20000)

  def test_is_nothing_in_evaluation_or_at_rate_0(self):
    np.testing.assert_array_equal(layers.StochasticDepth(0.5)(images(), training=False), images())
    np.testing.assert_array_equal(layers.StochasticDepth(0.0)(images(), training=True), images())


def test_a_replica_draws_its_slice_of_the_global_batch():
  key = rng.key(3, 4)
  whole = layers.Noise(key, (('l', 4), ('u', 6)), tf.constant(0), 1).uniform('x', 5).numpy()
  halves = [
    layers.Noise(key, (('l', 2), ('u', 3)), tf.constant(replica), 2).uniform('x', 5) for replica in (0, 1)
  ]
  np.testing.assert_array_equal(halves[0], np.concatenate([whole[:2], whole[4:7]]))
  np.testing.assert_array_equal(halves[1], np.concatenate([whole[2:4], whole[7:]]))


def on_two_replicas(x, weights):
  """What two replicas make of the halves of a batch: (outputs, variables of the batch norm)."""
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  with strategy.scope():
    norm = built_norm()
    depth, dropout = layers.StochasticDepth(0.5, name='depth'), layers.Dropout(0.5, name='dropout')

  def halves(values):
    return strategy.experimental_distribute_values_from_function(
      lambda context: tf.constant(np.split(values, 2)[context.replica_id_in_sync_group])
    )

  @tf.function
  def step(inputs, weights):
    with layers.noise(rng.key(5, 6), (('l', inputs.shape[0]),)), tf.GradientTape() as tape:
      tape.watch(inputs)
      normed = norm(inputs, training=True)
      loss = tf.reduce_sum(normed * weights)
      dropped = depth(inputs, training=True), dropout(inputs[:, 0, 0], training=True)
    return normed, tape.gradient(loss, inputs), *dropped

  outputs = strategy.run(step, args=(halves(x), halves(weights)))
  joined = [
    np.concatenate([part.numpy() for part in strategy.experimental_local_results(output)])
    for output in outputs
  ]
  return joined, [v.numpy() for v in norm.variables]


def test_two_replicas_compute_what_one_does():
  x = images(batch=8)
  x[:4] += 3  # The halves differ: statistics of one replica alone would be far off.
  weights = images(seed=1, batch=8)
  (normed, gradient, depth, dropped), variables = on_two_replicas(x, weights)

  norm = built_norm()
  with layers.noise(rng.key(5, 6), (('l', 8),)), tf.GradientTape() as tape:
    inputs = tf.constant(x)
    tape.watch(inputs)
    outputs = norm(inputs, training=True)
    loss = tf.reduce_sum(outputs * weights)
    np.testing.assert_array_equal(depth, layers.StochasticDepth(0.5, name='depth')(x, training=True))
    np.testing.assert_array_equal(dropped, layers.Dropout(0.5, name='dropout')(x[:, 0, 0], training=True))
  np.testing.assert_allclose(normed, outputs, atol=1e-5)
  np.testing.assert_allclose(gradient, tape.gradient(loss, inputs), atol=1e-5)
  for one, two in zip(norm.variables, variables):
    np.testing.assert_allclose(two, one, rtol=1e-5)


@pytest.mark.parametrize(
  'layer, stddev',
  [
    (layers.conv2d(64, 3, 'conv'), np.sqrt(2 / (3 * 3 * 64))),
    (layers.conv2d(256, 1, 'pointwise'), np.sqrt(2 / 256)),
    (layers.depthwise_conv2d(5, 'depthwise'), np.sqrt(2 / 25)),
  ],
  ids=['conv', 'pointwise', 'depthwise'],
)
def test_convolution_kernels_start_normal(layer, stddev):
  layer.build([None, 8, 8, 512])
  assert len(layer.variables) == 1  # No bias.
  kernel = layer.variables[0].numpy()
  assert abs(kernel.mean()) < 4 * stddev / np.sqrt(kernel.size)
  assert abs(kernel.std() / stddev - 1) < 4 / np.sqrt(2 * kernel.size)
  assert np.abs(kernel).max() > 3 * stddev  # Not truncated at two.


def test_dense_kernels_start_uniform_within_the_outputs_root():
  layer = layers.dense(25, 'dense')
  layer.build([None, 4000])
  kernel, bias = (v.numpy() for v in layer.variables)
  assert 0.1999 < kernel.max() <= 0.2 and -0.2 <= kernel.min() < -0.1999
  assert abs(kernel.std() / (0.2 / np.sqrt(3)) - 1) < 0.01
  np.testing.assert_array_equal(bias, np.zeros(25))


def test_biases_start_at_zero():
  layer = layers.conv2d(4, 1, 'reduce', use_bias=True)
  layer.build([None, 1, 1, 8])
  np.testing.assert_array_equal(layer.variables[1], np.zeros(4))


def test_logits_are_float32_whatever_computes_them():
  assert layers.to_float32('logits')(tf.ones([1, 2], tf.bfloat16)).dtype == tf.float32


@pytest.mark.parametrize(
  'replicas, examples, batch_size, size',
  [
    (1, 16, None, 1),
    (8, 16, 32, 8),  # One group.
    (16, 16, None, 8),
    (128, 16, None, 16),  # An eighth, at least 8.
    (32, 60, 256, 4),  # CIFAR's command on 32 cores: 4 labeled and 56 unlabeled examples a core.
    (32, 16, 112, 4),  # 7, rounded down to a power of two.
    (16, 16, 16, 2),
    (16, 16, 1, 2),  # At least 2.
    (16, 16, 4096, 16),
  ],
)  # At most all.
def test_group_sizes_are_the_release_s(replicas, examples, batch_size, size):
  assert batch_norm.group_size(replicas, examples, batch_size) == size


def test_groups_that_do_not_add_up_are_refused():
  with pytest.raises(UserError, match='12 replicas cannot be divided into groups of 8'):
    batch_norm.group_size(12, 16, None)


def test_replicas_normalize_within_their_groups_and_average_over_all(monkeypatch):
  """Four replicas in two groups: by hand."""
  monkeypatch.setattr(batch_norm, 'ONE_GROUP', 2)
  x = images(batch=8) + np.repeat([0, 0, 5, 9], 2).astype(np.float32)[:, None, None, None]
  strategy = devices.create_mirrored([f'CPU:{index}' for index in range(4)])
  with strategy.scope():
    layer = batch_norm.BatchNorm('norm', DECAY, EPSILON, batch_size=4)
    layer.build([None, 4, 5, 3])

  @tf.function(autograph=False)
  def run():
    def replica():
      first = 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
      return layer(tf.ensure_shape(tf.constant(x)[first : first + 2], [2, 4, 5, 3]), training=True)

    return strategy.experimental_local_results(strategy.run(replica))

  outputs = np.concatenate([part.numpy() for part in run()])
  halves = x.astype(np.float64).reshape([2, -1, 3])
  mean, variance = halves.mean(1), halves.var(1)
  expected = (x.reshape([2, -1, 3]) - mean[:, None]) / np.sqrt(variance[:, None] + EPSILON)
  np.testing.assert_allclose(outputs, expected.reshape(x.shape), atol=1e-4)
  np.testing.assert_allclose(layer.moving_mean.numpy(), (1 - DECAY) * mean.mean(0), rtol=1e-5)
  np.testing.assert_allclose(
    layer.moving_variance.numpy(), DECAY + (1 - DECAY) * variance.mean(0), rtol=1e-4
  )
