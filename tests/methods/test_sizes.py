"""Batches of sizes that are not known before the step, that vary, and that differ between replicas."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
import tensorflow as tf
from test_methods import BATCH, NAMES, batch, make


def forget_size(tensor):
  """The same values, of a size that is not known while a function is traced."""
  return tf.compat.v1.placeholder_with_default(tensor, [None, *tensor.shape[1:]])


def train(name, shares, steps=2):
  """(logs of the last step, all variables) of steps on as many replicas as there are shares.

  Args:
    name: of `make`.
    shares: per replica, how many of the batch's BATCH units it gets; None for a known size.
  """
  strategy = (
    tf.distribute.OneDeviceStrategy('CPU:0')
    if len(shares) == 1
    else devices.create_mirrored([f'CPU:{index}' for index in range(len(shares))])
  )
  with strategy.scope():
    method = make(name)
  known = shares == [None]
  bounds = np.cumsum([0, *([BATCH] if known else shares)])

  def values(context):
    first, last = bounds[context.replica_id_in_sync_group :][:2]
    cut = lambda x: x[len(x) * first // BATCH : len(x) * last // BATCH]
    return tf.nest.map_structure(lambda x: tf.constant(cut(x)), batch())

  @tf.function(autograph=False)
  def step(data):
    body = lambda data: method.train_step(data if known else tf.nest.map_structure(forget_size, data))
    return strategy.run(body, args=(data,))

  data = strategy.experimental_distribute_values_from_function(values)
  for _ in range(steps):
    logs = step(data)
  local = lambda value: float(strategy.experimental_local_results(value)[0])
  return {key: local(value) for key, value in logs.items()}, [v.numpy() for v in method.variables]


def assert_same(found, expected):
  assert found[0].keys() == expected[0].keys()
  for key, value in expected[0].items():
    np.testing.assert_allclose(found[0][key], value, rtol=2e-4, atol=2e-6, err_msg=key)
  for value, other in zip(found[1], expected[1]):
    np.testing.assert_allclose(value, other, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize('name', NAMES)
def test_a_size_that_is_not_known_makes_no_difference(name):
  assert_same(train(name, [BATCH]), train(name, [None]))


@pytest.mark.parametrize('name', ('supervised', 'uda', 'soft', 'sampled'))
def test_replicas_with_unequal_shares_train_what_one_trains(name):
  """Losses, batch norms, dropout and drawn labels are those of the global batch."""
  assert_same(train(name, [5, 3]), train(name, [None]))


def test_a_replica_without_examples_is_told():
  with pytest.raises(tf.errors.InvalidArgumentError, match='a replica got no examples'):
    train('supervised', [BATCH, 0])


def dataset(drop_remainder):
  """Five batches, the last of them of half the size."""
  parts = [np.concatenate([batch(seed)[part] for seed in range(5)]) for part in range(4)]
  cut = lambda part, size: tf.data.Dataset.from_tensor_slices(parts[part]).batch(
    size, drop_remainder=drop_remainder
  )
  short = lambda ds, size: ds.take(4).concatenate(ds.skip(4).map(lambda x: x[: size // 2]))
  sizes = [BATCH, BATCH, 2 * BATCH, 2 * BATCH]
  return tf.data.Dataset.zip(tuple(short(cut(part, size), size) for part, size in enumerate(sizes)))


def test_fit_takes_the_last_short_batch_as_a_step_of_that_size():
  def weights(fit):
    method = make('soft')
    fit(method)
    assert int(method.step) == 5 and not int(method.skipped)
    return [v.numpy() for v in [*method.student.variables, *method.teacher.variables]]

  def step_by_step(method):
    for elements in dataset(True):
      method.train_step(elements)

  def fit(method):
    method.compile(
      teacher_optimizer=mpl.optimizers.Momentum(0.1), student_optimizer=mpl.optimizers.Momentum(0.1)
    )
    assert dataset(False).element_spec[0].shape[0] is None
    history = method.fit(dataset(False), verbose=0)
    assert np.isfinite(history.history['mpl/dot_product']).all()

  for value, other in zip(weights(fit), weights(step_by_step)):
    np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-5)


def test_fit_on_two_replicas_logs_what_it_logs_on_one():
  found = []
  for strategy in (tf.distribute.get_strategy(), devices.create_mirrored(['CPU:0', 'CPU:1'])):
    with strategy.scope():
      method = make('uda')
      method.compile(mpl.optimizers.Momentum(0.1))
    found.append(method.fit(dataset(False), verbose=0).history)
  assert found[0].keys() == found[1].keys()
  for name, values in found[0].items():
    np.testing.assert_allclose(found[1][name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_rows_that_differ_only_in_the_step_are_told_there():
  method = make('uda')
  unknown = [tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in batch()[:4]]
  step = tf.function(method.train_step, input_signature=[tuple(unknown)], autograph=False)
  images, labels, original, augmented = batch()[:4]
  step((images, labels, original, augmented))
  for bad in ((images, labels[:1], original, augmented), (images, labels, original[:1], augmented)):
    with pytest.raises(tf.errors.InvalidArgumentError, match='differ in their number of rows'):
      step(bad)


def test_parts_need_a_known_size():
  method = make('uda', micro_batches=2)
  method.compile(mpl.optimizers.SGD(0.1))
  with pytest.raises(
    UserError, match='--micro_batches=2: needs batches of a known size; .*drop_remainder'
  ):
    method.fit(dataset(False), verbose=0)
