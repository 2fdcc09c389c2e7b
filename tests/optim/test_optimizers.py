"""Schedules against the release's numbers, optimizers against arithmetic by hand."""

import json
import pathlib

from meta_pseudo_labels.optim import optimizers, schedules

import numpy as np
import pytest
import tensorflow as tf

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / 'tests/golden'


def test_learning_rates_equal_the_release_s():
  golden = json.loads((GOLDEN / 'case7.json').read_text())
  params = golden['params']
  for name, expected in golden['lr'].items():
    decay_type, warmup, wait = name.split('/')
    wait = wait.split('=')[1]
    schedule = schedules.LearningRate(
      params['lr'],
      batch_size=params['train_batch_size'],
      decay_type=decay_type,
      num_train_steps=params['num_train_steps'],
      num_warmup_steps=int(warmup.split('=')[1]),
      num_wait_steps=0 if wait == 'None' else int(wait),
      num_decay_steps=params['num_decay_steps'],
      decay_rate=params['lr_decay_rate'],
    )
    found = [float(schedule(tf.constant(step, tf.int64))) for step in range(len(expected))]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)


def test_an_unknown_schedule_is_named():
  with pytest.raises(ValueError, match='decay_type=linear: no such schedule; use constant'):
    schedules.LearningRate(0.1, decay_type='linear')(tf.constant(0))


def steps(optimizer, gradients, start=1.0, name='kernel'):
  """The values of one variable after each step."""
  variable = tf.Variable(start, name=name)
  optimizer.build([variable])
  found = []
  for step, gradient in enumerate(gradients):
    values, slots = optimizer.update(
      [tf.constant(gradient)],
      [tf.convert_to_tensor(variable)],
      optimizer.slot_values(),
      tf.constant(step, tf.int64),
    )
    variable.assign(values[0])
    optimizer.assign_slots(slots)
    found.append(float(variable))
  return found


def test_sgd():
  np.testing.assert_allclose(steps(optimizers.SGD(0.1), [1.0, 2.0]), [0.9, 0.7], rtol=1e-6)


def test_nesterov_keeps_the_rate_out_of_the_accumulator():
  rates = [0.1, 0.2]
  optimizer = optimizers.Momentum(lambda step: tf.gather(rates, step), 0.5)
  # a = 1, w = 1 - .1 * (1 + .5); a = .5 + 2, w -= .2 * (2 + .5 * 2.5).
  np.testing.assert_allclose(steps(optimizer, [1.0, 2.0]), [0.85, 0.85 - 0.2 * 3.25], rtol=1e-6)


def test_keras_keeps_the_rate_inside():
  rates = [0.1, 0.2]
  optimizer = optimizers.Momentum(lambda step: tf.gather(rates, step), 0.5, rate_inside=True)
  # a = .1, w = 1 - (.1 + .05); a = .05 + .4, w -= .4 + .225.
  np.testing.assert_allclose(steps(optimizer, [1.0, 2.0]), [0.85, 0.85 - 0.625], rtol=1e-6)


def test_rmsprop_starts_its_mean_square_at_one():
  # ms = 1 + .1 * (4 - 1) = 1.3, m = .1 * 2 / sqrt(1.3 + .3).
  first = 0.1 * 2 / np.sqrt(1.6)
  ms = 1.3 + 0.1 * (1 - 1.3)
  second = 0.5 * first + 0.1 / np.sqrt(ms + 0.3)
  found = steps(optimizers.RMSProp(0.1, rho=0.9, momentum=0.5, epsilon=0.3), [2.0, 1.0])
  np.testing.assert_allclose(found, [1 - first, 1 - first - second], rtol=1e-6)


def test_adamw_decays_by_the_rate_apart_from_the_gradient():
  # The first step of Adam is the rate whatever the gradient; 1 - 0.1 * (1 + 0.5 * 1) = 0.85.
  found = steps(optimizers.AdamW(0.1, 0.5), [3.0, 3.0])
  np.testing.assert_allclose(found, [0.85, 0.85 - 0.1 * (1 + 0.5 * 0.85)], rtol=1e-5)
  np.testing.assert_allclose(steps(optimizers.AdamW(0.1, 0.5), [3.0], name='dense/bias'), [0.9], rtol=1e-5)


def test_rates_are_scaled_by_variable_and_wait():
  optimizer = lambda: optimizers.Momentum(0.1, 0.5, nesterov=False).scale_rates({'kernel:0': 0.5}, wait=2)
  # The accumulator goes 1, 1.5, 1.75 from the start.
  np.testing.assert_allclose(steps(optimizer(), [1.0] * 3), [1, 1, 1 - 0.05 * 1.75], rtol=1e-6)
  np.testing.assert_allclose(steps(optimizer(), [1.0] * 2, name='other'), [0.9, 0.9 - 0.15], rtol=1e-6)


def test_lars_scales_by_the_ratio_of_norms_and_skips_biases():
  # trust = .1 * 2 / (4 + .5 * 2) = .04; g = .04 * (4 + .5 * 2) = .2; w -= .2 + .9 * .2.
  optimizer = lambda: optimizers.LARS(1.0, weight_decay=0.5, eeta=0.1)
  np.testing.assert_allclose(steps(optimizer(), [4.0], start=2.0), [2 - 0.38], rtol=1e-6)
  np.testing.assert_allclose(steps(optimizer(), [4.0], start=2.0, name='bias'), [2 - 4 * 1.9], rtol=1e-6)


@pytest.mark.parametrize(
  'make',
  [
    lambda: tf.keras.optimizers.SGD(0.1),
    lambda: tf.keras.optimizers.SGD(0.1, 0.9),
    lambda: tf.keras.optimizers.SGD(0.1, 0.9, nesterov=True),
    lambda: tf.keras.optimizers.Adam(0.1),
    lambda: tf.keras.optimizers.AdamW(0.1, weight_decay=0.3),
    lambda: tf.keras.optimizers.Adam(0.1, weight_decay=0.3),
    lambda: tf.keras.optimizers.SGD(0.1, weight_decay=0.3),
    lambda: tf.keras.optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=0.3),
    lambda: tf.keras.optimizers.SGD(
      tf.keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), weight_decay=0.3
    ),
    lambda: tf.keras.optimizers.legacy.SGD(0.1, 0.9),
    lambda: tf.keras.optimizers.legacy.Adam(tf.keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
    lambda: tf.keras.optimizers.SGD(tf.keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
  ],
)
def test_the_place_of_a_keras_optimizer_is_taken_by_one_that_does_the_same(make):
  gradients = [1.0, -2.0, 0.5, 3.0]
  variable, keras = tf.Variable(1.0), make()
  expected = []
  for gradient in gradients:
    keras.apply_gradients([(tf.constant(gradient), variable)])
    expected.append(float(variable))
  np.testing.assert_allclose(steps(optimizers.get(make()), gradients), expected, rtol=1e-5)


def test_what_keras_leaves_out_of_its_weight_decay_stays_out():
  """By a name, which is a pattern, and by the variable itself."""

  def variables():
    return [tf.Variable(2.0, name=name) for name in ('a/kernel', 'b/bias', 'c/kernel')]

  def make(found):
    keras = tf.keras.optimizers.AdamW(0.1, weight_decay=0.5)
    keras.exclude_from_weight_decay(var_list=found[2:], var_names=['b.*s'])
    return keras

  expected, own = variables(), variables()
  optimizer = optimizers.get(make(own))
  optimizer.build(own)
  make(expected).apply_gradients([(tf.constant(1.0), variable) for variable in expected])
  found, _ = optimizer.update(
    [tf.constant(1.0)] * 3, list(map(tf.convert_to_tensor, own)), optimizer.slot_values(), tf.constant(0)
  )
  np.testing.assert_allclose(found, [v.numpy() for v in expected], rtol=1e-5)
  np.testing.assert_allclose(found, [1.8, 1.9, 1.9], rtol=1e-5)


def test_a_keras_learning_rate_may_be_set_later():
  keras = tf.keras.optimizers.SGD(0.1)
  optimizer = optimizers.get(keras)
  assert float(optimizer.rate(tf.constant(0))) == pytest.approx(0.1)
  keras.learning_rate = 0.05
  assert float(optimizer.rate(tf.constant(0))) == pytest.approx(0.05)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: tf.keras.optimizers.Adagrad(0.1), 'Adagrad: not supported; use'),
    (
      lambda: tf.keras.optimizers.SGD(0.1, clipnorm=1.0),
      'clipnorm=1.0: .* pass grad_bound, a global norm',
    ),
    (lambda: tf.keras.optimizers.SGD(0.1, use_ema=True), 'use_ema=True: .* pass ema_decay to the method'),
    (lambda: tf.keras.optimizers.AdamW(0.1, amsgrad=True), 'amsgrad=True: .* use Adam or AdamW without'),
    (lambda: tf.keras.optimizers.legacy.SGD(0.1, decay=0.1), 'decay=0.1: .* use a schedule'),
    (lambda: 'sgd', 'not an optimizer'),
  ],
)
def test_what_would_be_taken_for_something_else_is_refused(make, message):
  with pytest.raises(TypeError, match=message):
    optimizers.get(make())


def test_weight_decay_leaves_batch_norms_out():
  names = ['block/conv2d/kernel:0', 'block/batch_norm/gamma:0', 'head/dense/bias:0']
  found = optimizers.add_weight_decay([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], names, 0.5)
  assert found == [2.0, 1.0, 2.0]


def test_clipping_scales_all_by_the_global_norm():
  gradients = [tf.constant([3.0]), tf.constant([4.0])]
  clipped, norm = optimizers.clip(gradients, 10.0)
  np.testing.assert_allclose([clipped[0][0], clipped[1][0], norm], [3, 4, 5], rtol=1e-6)
  clipped, norm = optimizers.clip(gradients, 1.0)
  np.testing.assert_allclose([clipped[0][0], clipped[1][0], norm], [0.6, 0.8, 5], rtol=1e-6)
  _, norm = optimizers.clip([tf.constant([np.nan])], 1.0)
  assert np.isnan(norm)
