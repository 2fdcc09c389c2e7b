"""A step of UDA with each pseudo-labeling strategy in bfloat16 and float16, against float32."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import models
from meta_pseudo_labels.methods import Batch
from meta_pseudo_labels.methods import pseudo_label_strategies as strategies

import numpy as np
import pytest
import tensorflow as tf

SETTINGS = {  # So that some of the unlabeled examples count and others do not, none of them narrowly.
  'uda': dict(threshold=0.7),
  'fixmatch': dict(threshold=0.6),
  'flexmatch': dict(threshold=0.6),
  'freematch': dict(momentum=0.5, fairness=0.5),
  'softmatch': dict(momentum=0.5, distribution_alignment='labeled'),
}
STATE = {
  'flexmatch': {'status': np.arange(40) % 3},
  'freematch': {'confidence': 0.6, 'probs': [0.3, 0.36, 0.34], 'counts': [0.2, 0.5, 0.3]},
  'softmatch': {'mean': 0.6, 'variance': 0.04, 'model_marginal': [0.3, 0.4, 0.3]},
}
PRECISIONS = {'bfloat16': 2.0**-8, 'float16': 2.0**-11}  # The relative error of one rounding.


@pytest.fixture(autouse=True)
def fixture_precision():
  yield
  tf.keras.mixed_precision.set_global_policy('float32')


def own_network():
  """A Keras model of one's own: batch norm, and logits in the precision of the policy."""
  tf.keras.utils.set_random_seed(1)
  return tf.keras.Sequential(
    [
      tf.keras.layers.Dense(16, input_shape=(6,)),
      tf.keras.layers.BatchNormalization(),
      tf.keras.layers.Activation('relu'),
      tf.keras.layers.Dense(3, kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.6)),
    ]
  )


NETWORKS = {'own': own_network, 'mlp': lambda: models.build('mlp-16x1', num_classes=3, input_shape=(6,))}


def batch(dtype):
  random = np.random.RandomState(3)
  points = lambda count: tf.cast(random.standard_normal([count, 6]), dtype)
  original = points(24)
  return {
    'labeled': points(6),
    'labels': tf.range(6) % 3,
    'original': original,
    'augmented': original + points(24) / 8,
    'positions': tf.constant(random.permutation(40)[:24]),
  }


def make_step(name, precision, network, **settings):
  """(UDA, its Pass before the step, the logs of the step) in this precision."""
  tf.keras.mixed_precision.set_global_policy('float32' if precision == 'float32' else f'mixed_{precision}')
  method = mpl.UDA(
    NETWORKS[network](),
    pseudo_labels=strategies.STRATEGIES[name](**SETTINGS[name]),
    num_unlabeled=40,
    uda_steps=0,
    loss_scaling=precision == 'float16',
    **settings,
  )
  for key, value in STATE.get(name, {}).items():
    method.pseudo_labeling_state[key].assign(value)
  method.compile(mpl.optimizers.SGD(0.1))
  data = batch(precision)
  with method.frozen_statistics(method.student):
    out = method.uda_pass(method.student, Batch.of(data))
  return method, out, method.train_step(data)


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', strategies.STRATEGIES)
def test_a_step_is_that_of_float32_up_to_rounding(name, precision, network):
  before = NETWORKS[network]().get_weights()
  expected, out, logs = make_step(name, 'float32', network)
  method, low, low_logs = make_step(name, precision, network)
  assert method.student.compute_dtype == precision or method.student.layers[-2].compute_dtype == precision
  # What is decided by, and what is learned from, is in float32.
  assert {low.mask_u.dtype, low.logits['original'].dtype, low.loss_u.dtype} == {tf.float32}
  assert all(value.dtype == tf.float32 for value in tf.nest.flatten(low.sums))
  assert 0 < np.sum(out.mask_u.numpy() > 0.9) < 24
  tolerance = 16 * PRECISIONS[precision]
  np.testing.assert_allclose(low.mask_u, out.mask_u, atol=tolerance)
  assert all(np.isfinite(value) for value in low_logs.values()) and not low_logs['skipped_steps']
  for key, value in logs.items():
    np.testing.assert_allclose(low_logs[key], value, rtol=tolerance, atol=tolerance / 10, err_msg=key)
  found, moved = (
    np.concatenate([np.ravel(now - then) for now, then in zip(one.student.get_weights(), before)])
    for one in (method, expected)
  )
  assert 0.01 < np.linalg.norm(moved) and np.linalg.norm(found - moved) < tolerance * np.linalg.norm(moved)
  state = getattr(method, 'pseudo_labeling_state', {})
  assert state.keys() >= STATE.get(name, {}).keys()
  for key, variable in state.items():
    assert variable.dtype in (tf.float32, tf.int64)
    np.testing.assert_allclose(
      variable, expected.pseudo_labeling_state[key], rtol=tolerance, atol=tolerance / 10, err_msg=key
    )
