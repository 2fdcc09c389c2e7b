"""Parts of a batch on several replicas: own statistics for each, the same averages on all in the end."""

import functools
import itertools

from meta_pseudo_labels.distribution import devices

import numpy as np
import pytest
import replicas
import tensorflow as tf

SLOW = pytest.mark.slow


@functools.cache
def plain(kind, count, micro_batches):
  """What `train` returns without options, made once for the tests that compare with it."""
  return train(kind, count, micro_batches)


def train(kind, count, micro_batches, **options):
  """What `replicas.train` returns on so many devices."""
  names = [f'CPU:{index}' for index in range(count)]
  strategy = devices.create_mirrored(names) if count > 1 else tf.distribute.OneDeviceStrategy('CPU:0')
  return replicas.train(strategy, kind, micro_batches=micro_batches, **options)


def assert_same(found, expected, leave_out='nothing'):
  """Compares logs and variables, without those variables that have this word in their name."""
  for name, value in found[0].items():
    np.testing.assert_allclose(value, expected[0][name], rtol=1e-4, atol=1e-6, err_msg=name)
  names = [v.name for v in replicas.model(1).variables]
  assert len(found[1]) % len(names) == 0
  for name, value, other in zip(itertools.cycle(names), found[1], expected[1]):
    if leave_out not in name:
      np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6, err_msg=name)


# UDA's step has all that two of the slow ones have; tests/methods/test_parts.py has the parts of all
# methods, test_replicas.py their replicas.
@pytest.mark.parametrize(
  'kind',
  [
    'uda',
    'release',
    'soft',
    *(pytest.param(kind, marks=SLOW) for kind in ('supervised', 'pseudo_labels', 'sampled')),
  ],
)
def test_parts_on_replicas_are_the_parts_of_one(kind):
  """Two replicas of two parts each have the statistics of four parts: losses and weights are the same.
  The averages are not: of a part's two moves the mean is taken, where the other makes four."""
  assert_same(train(kind, 2, 2), train(kind, 1, 4), leave_out='moving')


@pytest.mark.parametrize('kind', [pytest.param('uda', marks=SLOW), 'soft'])
def test_without_batch_norm_parts_make_no_difference(kind, monkeypatch):
  nothing = lambda name: tf.keras.layers.Activation('linear', name=name)
  monkeypatch.setattr(replicas, 'model', functools.partial(replicas.model, norm=nothing))
  assert_same(train(kind, 4, 2), train(kind, 1, 1))


def test_all_replicas_hold_the_same_averages(monkeypatch):
  held = []
  build = replicas.build.method

  def keep(*args, **models):
    held.append(models)
    return build(*args, **models)

  monkeypatch.setattr(replicas.build, 'method', keep)
  train('soft', 2, 2)
  moving = [v for model in held[0].values() for v in model.non_trainable_variables]
  assert len(moving) == 8
  for variable in moving:
    one, other = (value.numpy() for value in variable.values)
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - np.round(one)).max() > 1e-3  # They have moved.


@pytest.mark.long
@pytest.mark.parametrize(
  'kind', [pytest.param('uda', marks=SLOW), pytest.param('release', marks=SLOW), 'soft']
)
def test_a_compiled_step_in_parts_trains_what_a_plain_one_trains(kind):
  assert_same(train(kind, 1, 2, jit_compile=True), plain(kind, 1, 2))


@pytest.mark.long
def test_parts_in_float16():
  """With loss scaling: about what float32 trains."""
  expected, _ = plain('soft', 1, 2)
  tf.keras.mixed_precision.set_global_policy('mixed_float16')
  try:
    logs, _ = train('soft', 1, 2, use_float16=True)
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')
  assert logs['skipped_steps'].max() == 0
  for name in logs:
    if 'cross_entropy' in name or 'grad_norm' in name:
      np.testing.assert_allclose(logs[name], expected[name], rtol=0.03, atol=1e-3, err_msg=name)
