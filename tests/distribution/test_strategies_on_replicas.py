"""Pseudo-labeling strategies on several replicas: the state of all of them is that of one."""

import functools

import meta_pseudo_labels as mpl
from meta_pseudo_labels import models
from meta_pseudo_labels.distribution import collectives, devices
from meta_pseudo_labels.methods import pseudo_label_strategies as strategies

import numpy as np
import pytest
import tensorflow as tf

CLASSES, LABELED, UNLABELED, EXAMPLES, STEPS = 3, 4, 16, 30, 3
KINDS = ('uda flexmatch', 'uda freematch', 'uda softmatch', 'soft flexmatch', 'soft freematch')
QUICK = ('uda flexmatch', 'uda freematch', 'uda softmatch')


def make(kind, **settings):
  kind, name = kind.split()
  threshold = {'threshold': 0.4} if name == 'flexmatch' else {}
  strategy = strategies.STRATEGIES[name](momentum=0.5, distribution_alignment='labeled', **threshold)
  settings = dict(pseudo_labels=strategy, num_unlabeled=EXAMPLES, grad_bound=0.5, **settings)
  network = lambda seed: models.build('mlp-6x1', num_classes=CLASSES, input_shape=(2,), seed=seed)
  if kind == 'uda':
    method = mpl.UDA(network(1), **settings)
    method.set_optimizers(mpl.optimizers.Momentum(0.5))
  else:
    method = mpl.MetaPseudoLabels(network(0), network(1), mpl_feedback=kind, **settings)
    method.set_optimizers(mpl.optimizers.Momentum(0.5), mpl.optimizers.Momentum(0.5))
  return method


def batch(step):
  """The GLOBAL batch of a step; some of the unlabeled examples are in it several times."""
  random = np.random.RandomState(step)
  points = lambda count: 2 * random.standard_normal([count, 2]).astype(np.float32)
  return {
    'labeled': points(LABELED),
    'labels': random.randint(CLASSES, size=LABELED).astype(np.int32),
    'original': points(UNLABELED),
    'augmented': points(UNLABELED),
    'truth': random.randint(-1, CLASSES, size=UNLABELED).astype(np.int32),
    'positions': random.randint(EXAMPLES // 2, size=UNLABELED).astype(np.int64),
  }


def train(kind, replicas, jit_compile=False, **settings):
  """({log: values} of the steps, {name: value} of the variables) on so many replicas."""
  names = [f'CPU:{index}' for index in range(replicas)]
  strategy = devices.create_mirrored(names) if replicas > 1 else tf.distribute.OneDeviceStrategy('CPU:0')
  with strategy.scope():
    method = make(kind, **settings)

  run = method.train_step
  if jit_compile:
    run = tf.function(run, jit_compile=True, autograph=False)

  @tf.function(autograph=False)
  def step(shares):
    return strategy.run(run, args=(shares,))

  def share(data, context):
    index, rows = context.replica_id_in_sync_group, lambda values: len(values) // replicas
    return {
      name: tf.constant(values[rows(values) * index : rows(values) * (index + 1)])
      for name, values in data.items()
    }

  logs = []
  for number in range(STEPS):
    shares = functools.partial(share, batch(number))
    found = step(strategy.experimental_distribute_values_from_function(shares))
    logs.append(
      {key: float(strategy.experimental_local_results(value)[0]) for key, value in found.items()}
    )
  values = {name: v.numpy() for name, v in method.pseudo_labeling_state.items()}
  values |= {f'{index} {v.name}': v.numpy() for index, v in enumerate(method.student.variables)}
  if replicas > 1:
    for variable in method.pseudo_labeling_state.values():
      for value in variable.values:
        np.testing.assert_array_equal(value, variable.values[0])
  return {key: [line[key] for line in logs] for key in logs[0]}, values


one = functools.cache(lambda kind: train(kind, 1))


def assert_same(found, expected):
  for mine, other in zip(found, expected):
    assert mine.keys() == other.keys()
    for key, value in other.items():
      np.testing.assert_allclose(mine[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
  'kind', [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.long) for kind in KINDS]
)
def test_replicas_hold_the_state_of_one(kind):
  assert_same(train(kind, 2), one(kind))


@pytest.mark.parametrize('kind', [pytest.param('uda flexmatch', marks=pytest.mark.long), 'uda freematch'])
def test_parts_on_replicas_hold_the_state_of_one(kind):
  assert_same(train(kind, 2, micro_batches=4), one(kind))


@pytest.mark.parametrize('kind', QUICK)
def test_a_compiled_step_has_the_state_of_a_plain_one(kind):
  assert_same(train(kind, 1, jit_compile=True), one(kind))


def test_the_comparison_is_about_something():
  _, values = one('uda flexmatch')
  assert len(set(values['status'])) >= 3  # Not yet confident, and two classes at least.
  logs, values = one('uda freematch')
  assert 0 < min(logs['uda/u_ratio']) < 1 and min(logs['uda/fairness']) < -1e-3
  assert np.ptp(values['probs']) > 0.01


@pytest.mark.parametrize('known', [True, False])
def test_rows_of_all_replicas_in_order(known):
  strategy = devices.create_mirrored(['CPU:0', 'CPU:1'])
  shares = [[1.0, 2.0], [3.0, 4.0]] if known else [[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]
  inputs = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(shares[context.replica_id_in_sync_group])[:, None]
  )

  def gather(rows):
    rows = rows if known else tf.boolean_mask(rows, rows[:, 0] > 0)  # Of a size that no shape tells.
    return collectives.gather_rows(rows)

  found = tf.function(lambda rows: strategy.run(gather, args=(rows,)), autograph=False)(inputs)
  expected = [1, 2, 3, 4] if known else [1, 2, 3]
  for value in strategy.experimental_local_results(found):
    np.testing.assert_array_equal(value[:, 0], expected)
