"""Batches against their definition: epochs, replicas, going on, evaluation's padding."""

import socket

from meta_pseudo_labels.data import input_pipeline, service
from meta_pseudo_labels.data.augment.views import PadCrop, Points
from meta_pseudo_labels.distribution import collectives, devices
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
import tensorflow as tf

IMAGES = np.random.RandomState(0).randint(0, 256, [50, 8, 8, 1]).astype(np.uint8)
LABELS = np.arange(50).astype(np.int32)


def batches(count, **settings):
  settings = dict(views=PadCrop(magnitude=8), batch_size=8, uda_data=2, seed=3, **settings)
  dataset = input_pipeline.train_batches(IMAGES[:20], LABELS[:20], IMAGES, **settings)
  return [[part.numpy() for part in element] for element in dataset.take(count)]


def test_an_epoch_holds_every_example_once_and_epochs_differ():
  order = np.concatenate([b.numpy() for b in input_pipeline.order(20, 3, 'x', 8).take(5)])
  np.testing.assert_array_equal(np.sort(order[:20]), np.arange(20))
  np.testing.assert_array_equal(np.sort(order[20:40]), np.arange(20))
  assert (order[:20] != order[20:40]).any()
  other = np.concatenate([b.numpy() for b in input_pipeline.order(20, 4, 'x', 8).take(5)])
  assert (order != other).any()


@pytest.mark.parametrize('start', [1, 2, 3, 7])
def test_an_order_that_starts_later_goes_on_the_same(start):
  whole = [b.numpy() for b in input_pipeline.order(20, 3, 'x', 8).take(start + 3)]
  part = [b.numpy() for b in input_pipeline.order(20, 3, 'x', 8, start).take(3)]
  np.testing.assert_array_equal(part, whole[start:])


def test_every_place_of_an_epoch_sees_every_example_equally_often():
  order = np.concatenate([b.numpy() for b in input_pipeline.order(10, 0, 'x', 10).take(2000)])
  counts = np.array([np.bincount(place, minlength=10) for place in order.reshape(2000, 10).T])
  chi_square = ((counts - 200) ** 2 / 200).sum()  # 81 degrees of freedom.
  assert 40 < chi_square < 140


@pytest.fixture(name='service_address', scope='module')
def fixture_service_address():
  """Of a tf.data service with two workers in this process."""
  experimental, ports = tf.data.experimental.service, []
  for _ in range(2):
    with socket.socket() as free:
      free.bind(('localhost', 0))
      ports.append(free.getsockname()[1])
  dispatcher = experimental.DispatchServer(
    experimental.DispatcherConfig(worker_addresses=[f'localhost:{port}' for port in ports])
  )
  address = dispatcher.target.split('://')[1]
  workers = [
    experimental.WorkerServer(
      experimental.WorkerConfig(dispatcher_address=address, worker_address=f'localhost:{port}', port=port)
    )
    for port in ports
  ]
  yield service.check_dispatcher(address)
  del workers, dispatcher


@pytest.mark.long
@pytest.mark.parametrize('replicas, balanced', [(1, False), (2, False), (2, True)])
def test_a_service_s_workers_make_the_same_batches(service_address, replicas, balanced):
  # Up to the places of some: each is found among those that this process makes itself.
  settings = dict(start_step=5, replicas=replicas, balanced=balanced)
  alone = batches(120 * replicas, **settings)
  made = batches(30 * replicas, **settings, service_address=service_address)
  same = lambda one, other: all(np.array_equal(a, b) for a, b in zip(one, other))
  places = [[index for index, own in enumerate(alone) if same(own, element)] for element in made]
  assert all(len(found) == 1 for found in places)
  places = np.reshape(places, [30, replicas])
  assert len(set(places[:, 0])) == 30 and (places[:, 0] % replicas == 0).all()
  assert (places[:, 1:] == places[:, :1] + 1).all()  # A step's replicas stay together.
  steps = places[:, 0] // replicas
  assert {*steps % 2} == {0, 1}  # Both had their share.


@pytest.mark.parametrize(
  'address, words',
  [
    ('nowhere', "give the dispatcher's host:port"),
    ('http://a:1', 'give the dispatcher'),
    ('localhost:1', 'no dispatcher answers'),
    ('localhost:99999', 'no dispatcher answers'),
  ],
)
def test_a_service_that_is_not_there_is_named(address, words):
  with pytest.raises(UserError, match=f'--dataset_service_address={address}: .*{words}'):
    service.check_dispatcher(address)


def test_shapes_types_and_labels_that_stay_with_their_images():
  labeled, labels, original, augmented = batches(1)[0]
  assert labeled.shape == (8, 8, 8, 1) and original.shape == augmented.shape == (16, 8, 8, 1)
  assert labeled.dtype == original.dtype == np.float32 and labels.dtype == np.int32
  assert set(labels) <= set(range(20))
  plain = input_pipeline.train_batches(
    IMAGES[:20], LABELS[:20], None, batch_size=8, uda_data=0, seed=3, views=Points()
  )
  points, labels = next(iter(plain))
  np.testing.assert_array_equal(points, IMAGES[labels.numpy()].astype(np.float32))


@pytest.mark.parametrize('replicas', [2, 4])
def test_replicas_share_the_batch_of_one(replicas):
  whole, parts = batches(2), batches(2 * replicas, replicas=replicas)
  for step in range(2):
    mine = parts[step * replicas : (step + 1) * replicas]
    for index in range(4):
      np.testing.assert_array_equal(np.concatenate([part[index] for part in mine]), whole[step][index])


@pytest.mark.parametrize('replicas', [1, 8])
def test_the_number_of_examples_is_known_to_the_graph(replicas):
  settings = dict(views=PadCrop(magnitude=8), batch_size=8, uda_data=1, seed=3, replicas=replicas)
  dataset = input_pipeline.train_batches(IMAGES[:20], LABELS[:20], IMAGES, **settings)
  assert {spec.shape[0] for spec in dataset.element_spec} == {8 // replicas}


def test_a_worker_feeds_its_own_replicas():
  whole = batches(8, replicas=4)
  second = batches(4, replicas=4, first_replica=2, local_replicas=2)
  for step in range(2):
    for replica in range(2):
      for mine, expected in zip(second[2 * step + replica], whole[4 * step + 2 + replica]):
        np.testing.assert_array_equal(mine, expected)


def test_going_on_at_a_step_gives_that_step_s_batch():
  whole, later = batches(5), batches(2, start_step=3)
  for mine, expected in zip(later, whole[3:]):
    for part, other in zip(mine, expected):
      np.testing.assert_array_equal(part, other)


def test_evaluation_pads_with_weight_zero():
  found = list(
    input_pipeline.eval_batches(IMAGES[:10], LABELS[:10], views=PadCrop(), batch_size=8, replicas=2)
  )
  labels = np.concatenate([element[1].numpy() for element in found])
  weights = np.concatenate([element[2].numpy() for element in found])
  assert len(found) == 4
  np.testing.assert_array_equal(labels[weights == 1], np.arange(10))
  assert weights.sum() == 10
  np.testing.assert_allclose(found[0][0], IMAGES[:4] / 255.0, atol=1e-6)


def test_points_are_jittered_only_in_the_augmented_view():
  points = np.random.RandomState(0).standard_normal([30, 2]).astype(np.float32)
  dataset = input_pipeline.train_batches(
    points[:6], LABELS[:6], points, batch_size=6, uda_data=50, seed=0, views=Points(stddev=0.1)
  )
  _, _, original, augmented = next(iter(dataset))
  noise = (augmented - original).numpy()
  assert abs(noise.std() - 0.1) < 0.01 and abs(noise.mean()) < 0.02


def test_bfloat16_views():
  dataset = input_pipeline.eval_batches(
    IMAGES[:4], LABELS[:4], batch_size=4, views=PadCrop(dtype=tf.bfloat16)
  )
  assert next(iter(dataset))[0].dtype == tf.bfloat16


def test_one_cpu_device_reads_a_dataset_without_tuning_thread():
  """That thread sleeps up to a minute, and who drops an iterator waits for it: with it, the end of
  a phase of 60 seconds took 90 more."""
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  views = PadCrop()
  for make in (
    lambda context: input_pipeline.train_batches(
      IMAGES[:20], LABELS[:20], IMAGES, views=views, batch_size=8, uda_data=2, seed=3
    ),
    lambda context: input_pipeline.eval_batches(IMAGES, LABELS, views=views, batch_size=8),
  ):
    dataset = devices.distribute_batches(strategy, make)
    assert isinstance(dataset, tf.data.Dataset)
    assert not dataset.options().autotune.enabled


def test_batches_say_which_unlabeled_examples_they_have():
  """On one replica and on two, beside the parts that they have without it."""
  settings = dict(
    views=Points(stddev=0.0), batch_size=4, uda_data=5, seed=3, truth=np.arange(30, dtype=np.int32)
  )
  points = np.arange(60, dtype=np.float32).reshape([30, 2])
  plain = input_pipeline.train_batches(points[:6], LABELS[:6], points, **settings)
  found = []
  for replicas in (1, 2):
    dataset = input_pipeline.train_batches(
      points[:6], LABELS[:6], points, **settings, with_positions=True, replicas=replicas
    )
    found.append(list(dataset.take(2 * replicas)))
  for step, expected in enumerate(plain.take(2)):
    assert list(found[0][step]) == ['labeled', 'labels', 'original', 'augmented', 'truth', 'positions']
    for value, other in zip(found[0][step].values(), expected):
      np.testing.assert_array_equal(value, other)
    positions = found[0][step]['positions']
    np.testing.assert_array_equal(positions, expected[4])
    halves = [found[1][2 * step + replica]['positions'] for replica in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), positions)


# Class 0 has seven examples, 1 none, 2 two, 3 one, 4 five; none of them in a row.
UNEVEN = np.random.RandomState(1).permutation(np.repeat([0, 2, 3, 4], [7, 2, 1, 5])).astype(np.int32)


def positions_of(count, size=1, start=0, labels=UNEVEN, seed=3):
  """The first positions of a balanced order, int64 `[count * size]`."""
  found = input_pipeline.balanced_order(labels, seed, 'x', size, start).take(count)
  return np.concatenate([batch.numpy() for batch in found])


def test_each_class_stands_once_in_every_block_of_a_balanced_order():
  classes = UNEVEN[positions_of(4 * 300)].reshape(300, 4)
  np.testing.assert_array_equal(np.sort(classes, axis=1), np.tile([0, 2, 3, 4], [300, 1]))
  places = np.array([np.bincount(place, minlength=5)[[0, 2, 3, 4]] for place in classes.T])
  assert ((places - 75) ** 2 / 75).sum() < 28  # Chi square of 9 degrees of freedom: above once in 1,000.


def test_a_class_s_examples_come_in_shuffled_epochs_of_their_own():
  positions = positions_of(4 * 70)
  for label, count in ((0, 7), (2, 2), (3, 1), (4, 5)):
    epochs = positions[UNEVEN[positions] == label].reshape(-1, count)
    members = np.flatnonzero(UNEVEN == label)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(members, [len(epochs), 1]))
    assert len(np.unique(epochs, axis=0)) > (count > 1)
  assert (positions != positions_of(4 * 70, seed=4)).any()


def test_classes_of_one_size_are_shuffled_independently():
  labels = np.repeat([0, 1], 4)
  blocks = np.sort(positions_of(2 * 400, labels=labels).reshape(400, 2), axis=1)
  assert len(np.unique(blocks, axis=0)) == 16  # All pairs.


@pytest.mark.parametrize('start', [1, 2, 3, 7, 50])
def test_a_balanced_order_that_starts_later_goes_on_the_same(start):
  whole = positions_of(start + 3, size=6)
  np.testing.assert_array_equal(positions_of(3, size=6, start=start), whole[6 * start :])


def test_balanced_batches_on_replicas_and_after_a_stop():
  points = np.random.RandomState(0).standard_normal([30, 2]).astype(np.float32)

  def take(count, balanced=True, **settings):
    dataset = input_pipeline.train_batches(
      *(points[: len(UNEVEN)], UNEVEN, points),
      **dict(views=Points(), batch_size=8, uda_data=2, seed=3, balanced=balanced, **settings),
    )
    return [[part.numpy() for part in element] for element in dataset.take(count)]

  whole = take(5)
  for _, labels, *_ in whole:
    np.testing.assert_array_equal(np.bincount(labels, minlength=5), [2, 0, 2, 2, 2])
  for mine, expected in zip(take(2, start_step=3), whole[3:]):
    for part, other in zip(mine, expected):
      np.testing.assert_array_equal(part, other)
  second = take(4, replicas=4, first_replica=2, local_replicas=2)
  for step in range(2):
    for index in range(4):
      parts = np.concatenate([second[2 * step + replica][index] for replica in range(2)])
      np.testing.assert_array_equal(parts, whole[step][index][len(whole[step][index]) // 2 :])
  plain = take(1, balanced=False)[0]  # Its unlabeled examples are the same.
  np.testing.assert_array_equal(whole[0][2], plain[2])
  assert (np.bincount(plain[1], minlength=5) != [2, 0, 2, 2, 2]).any()


def test_a_thousand_classes_take_turns():
  labels = np.random.RandomState(0).permutation(np.repeat(np.arange(1000), 3)).astype(np.int32)
  assert set(labels[positions_of(10, size=100, labels=labels)]) == set(range(1000))
