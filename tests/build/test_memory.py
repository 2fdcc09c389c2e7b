"""The estimate of a step's memory by hand and against real peaks, and what is chosen by it."""

from meta_pseudo_labels import build
from meta_pseudo_labels.build import memory
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models.batch_norm import BatchNorm

import pytest
import tensorflow as tf

MIXING = memory.Network(100, 110, 1000, 300, True)
ALONE = MIXING._replace(couples_examples=False)


def configured(**changes):
  return Config(dataset_name='digits', train_batch_size=8, uda_data=4, **changes)


def small_network(trainable=True, side=4):
  """Images `[N, side, side, 1]` -> logits `[N, 3]`."""
  images = tf.keras.Input([side, side, 1])
  x = tf.keras.layers.Conv2D(8, 3, padding='same', name='conv', trainable=trainable)(images)
  norm = BatchNorm('norm', inference=not trainable)
  norm.trainable = trainable
  x = norm(x)
  x = tf.keras.layers.ReLU()(x)
  x = tf.keras.layers.Add()([x, tf.keras.layers.Activation('linear')(x)])
  x = tf.keras.layers.GlobalAveragePooling2D()(x)
  return tf.keras.Model(images, tf.keras.layers.Dense(3)(x))


def test_what_a_pass_keeps_by_hand():
  """The image, the convolution's output, the ReLU's, and what the last layer sees."""
  assert memory.measure(small_network()).activations == 16 + 4 * 4 * 8 * 2 + 8 + 3 * 128
  assert memory.measure(small_network(side=None), side=4).activations == 16 + 128 * 2 + 8 + 3 * 128
  # Before the first layer that learns nothing is kept.
  assert memory.measure(small_network(trainable=False)).activations == 8 + 3 * 128
  assert memory.measure(small_network()).rematerialized is None


def test_images_of_a_size_that_the_network_leaves_open():
  """As of ImageNet, which is evaluated at another size than it is trained at."""
  built = lambda side: build.model(configured(model_type='efficientnet-b0'), 0, (side, side, 3), 10)
  assert memory.measure(built(None), 32) == memory.measure(built(32))


def test_a_product_by_constants_keeps_nothing():
  first, second = tf.keras.layers.Dense(8), tf.keras.layers.Dense(4)
  inputs = tf.keras.Input([16])
  model = tf.keras.Model(inputs, second(first(inputs)))
  assert memory.measure(model).activations == 16 + 8 + 3 * 16
  second.trainable = False
  assert memory.measure(model).activations == 16 + 3 * 16


def test_remat_keeps_what_is_between_the_blocks_and_one_of_them():
  found = memory.measure(build.model(configured(model_type='wrn-16-1'), 0, (8, 8, 3), 10))
  # Most is there in the second block: two inputs of 16 channels, three tensors inside, three in work.
  assert found.rematerialized == 8 * 8 * 16 * (2 + 3 + 3)
  assert found.rematerialized < found.activations


@pytest.mark.parametrize(
  'changes, images',
  [
    (dict(method='supervised'), 8),
    (dict(method='supervised', micro_batches=3), 2),  # Of 8, the next number of parts is four.
    (dict(method='uda'), 8 + 64),
    (dict(method='uda', original_view='separate'), 8 + 32),
    (dict(method='uda', micro_batches=16), 1 + 4),  # Two parts share a labeled example.
    (dict(method='pseudo_labels'), 8 + 32),
    (dict(method='reduced_mpl'), 8 + 32),
    (dict(method='mpl'), 8 + 64),
    (dict(method='mpl', mpl_feedback='argmax'), 8 + 64 + 8 + 32),
    (dict(method='mpl', mpl_feedback='soft'), 8 + 64 + 8 + 32 + 8),
    (dict(method='mpl', mpl_feedback='soft', micro_batches=4), 2 + 16),
    (dict(method='supervised', finetune_steps=1, finetune_batch_size=24), 24),
  ],
)
def test_the_images_that_a_step_holds_by_hand(changes, images):
  config = configured(**changes)
  assert memory.step_activations(config, MIXING, MIXING) == images * 1000 * 4
  half = config.replace(use_bfloat16=True, remat=True)
  assert memory.step_activations(half, MIXING, MIXING) == images * 300 * 2


def test_views_that_nothing_mixes_and_several_replicas():
  config = configured(method='uda')
  assert memory.step_activations(config, None, ALONE) == (8 + 32) * 1000 * 4
  assert memory.step_activations(config, None, MIXING, replicas=4) == (2 + 16) * 1000 * 4


@pytest.mark.parametrize(
  'changes',
  [
    dict(method='supervised'),
    dict(method='uda', micro_batches=4),
    dict(method='uda', remat=True),
    dict(method='mpl', mpl_feedback='soft'),
  ],
)
def test_the_estimate_is_near_the_real_peak(changes):
  """TensorFlow counts large tensors alone, so these are."""
  config = configured(model_type='wrn-10-2', image_size=32, **changes).replace(uda_data=2)
  shape = (32, 32, 3)
  teacher, student = (build.model(config, number, shape, 10) for number in (0, 1))
  trained = build.method(config, teacher=teacher, student=student)
  images = lambda count: tf.random.stateless_normal([count, *shape], [0, count])
  data = images(8), tf.zeros(8, tf.int32), images(16), images(16)
  step = tf.function(trained.train_step, autograph=False)
  step(data)
  tf.config.experimental.reset_memory_stats('CPU:0')
  before = tf.config.experimental.get_memory_info('CPU:0')['current']
  float(step(data)['global_step'])
  peak = tf.config.experimental.get_memory_info('CPU:0')['peak'] - before
  sizes = memory.measure(teacher), memory.measure(student)
  # The weights and what is as large are there before the step.
  estimate = memory.needed_bytes(config, *sizes) - memory.fixed_bytes(config, *sizes)
  assert 0.5 < peak / estimate < 2, (peak, estimate)


def flags(config):
  return config.micro_batches, config.remat


def test_what_is_preferred():
  config = configured(method='uda')
  order = lambda network: [flags(one) for one in memory.list_choices(config, None, network)]
  counts = (1, 2, 4, 8, 16, 32)
  assert order(ALONE) == [(count, again) for again in (False, True) for count in counts]
  assert order(MIXING) == [(count, again) for count in counts for again in (False, True)]
  assert order(MIXING._replace(rematerialized=None)) == [(count, False) for count in counts]
  explicit = config.replace(micro_batches=4, remat=False)
  assert list(map(flags, memory.list_choices(explicit, None, MIXING))) == [(4, False)]


def test_what_fits_is_left_as_it_is_without_a_word():
  for usable in (None, 1e6):
    chosen, line = memory.choose(configured(method='uda'), None, MIXING, usable)
    assert (flags(chosen), line) == ((1, False), '')


def test_remat_comes_first_where_parts_change_the_results():
  config = configured(method='uda')  # 288 kB of activations, 86 with remat.
  chosen, line = memory.choose(config, None, MIXING, 100e3)
  assert flags(chosen) == (1, True)
  assert line == 'by estimate a run takes 0.00029 GB and the device has 0.0001 GB, so --remat: 8.8e-05 GB'
  chosen, line = memory.choose(config, None, MIXING, 50e3)
  assert flags(chosen) == (2, True) and 'statistics over a part, so the results are others' in line
  chosen, line = memory.choose(config.replace(remat=False), None, MIXING, 50e3)
  assert flags(chosen) == (8, False)


def test_parts_come_first_where_they_change_nothing():
  config = configured(method='uda')
  chosen, line = memory.choose(config, None, ALONE, 50e3)  # 40 images of 4 kB, 2.5 kB besides.
  assert flags(chosen) == (4, False) and 'statistics' not in line
  assert flags(memory.choose(config, None, ALONE, 7e3)[0]) == (16, True)


def test_memory_that_is_not_enough():
  config = configured(method='uda')
  chosen, line = memory.choose(config, None, MIXING, 1e3)  # Nobody asked for as little.
  assert flags(chosen) == (32, True) and line.endswith('which may be too much')
  with pytest.raises(
    UserError, match='--memory=1e-06: a run takes at least .* --micro_batches=32 --remat'
  ):
    memory.choose(config.replace(memory=1e-6), None, MIXING, 1e3)


def test_half_is_the_next_number_of_parts_or_remat():
  config = configured(method='uda')
  less = lambda network, config=config, **used: memory.choose_less(
    config, config.replace(**used), None, network
  )
  assert flags(less(ALONE)) == (2, False)
  assert flags(less(ALONE, micro_batches=4, remat=True)) == (8, True)
  assert flags(less(ALONE, micro_batches=32, remat=False)) == (32, True)
  assert flags(less(MIXING)) == (1, True)
  assert flags(less(MIXING, micro_batches=2, remat=True)) == (4, True)
  assert less(MIXING, micro_batches=32, remat=True) is None
  assert less(MIXING, configured(method='uda', micro_batches=1, remat=False)) is None
  odd = configured(method='uda').replace(train_batch_size=3, uda_data=5)
  assert flags(less(ALONE, odd, micro_batches=3)) == (15, False)
