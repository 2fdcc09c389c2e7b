"""Replicas that are split over TPU cores, as far as that can be seen without a TPU: how images and the
TPU's mesh are divided, that every pass is told so, that XLA takes it, and what is refused."""

from meta_pseudo_labels import build, methods
from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.config import Config, to_json
from meta_pseudo_labels.distribution import devices, spatial
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training import evaluate

import numpy as np
import pytest
import tensorflow as tf


@pytest.mark.parametrize('cores, expected', [(2, (2, 1)), (4, (2, 2)), (8, (4, 2)), (16, (4, 4))])
def test_parts_are_as_square_as_can_be(cores, expected):
  assert spatial.choose_grid(cores) == expected


@pytest.mark.parametrize(
  'mesh, cores, expected',
  [
    ((2, 2, 1, 2), 2, [1, 1, 1, 2]),  # v3-8: the two cores of a chip.
    ((2, 2, 1, 2), 8, [2, 2, 1, 2]),
    ((4, 4, 1, 2), 4, [2, 1, 1, 2]),
    ((32, 32, 1, 2), 16, [4, 2, 1, 2]),  # v3-2048, as in the paper: 128 replicas.
    ((4, 4, 4, 1), 16, [4, 2, 2, 1]),
  ],
)  # v4: one core a chip, in three dimensions.
def test_a_replica_is_a_block_of_the_mesh(mesh, cores, expected):
  assert spatial.choose_block(mesh, cores) == expected


def test_a_mesh_that_cannot_be_divided():
  with pytest.raises(UserError, match=r'--num_cores_per_replica=16: a TPU of 8 cores \(mesh 2x2x1x2\)'):
    spatial.choose_block((2, 2, 1, 2), 16)


class Resolver:
  """What `TPUClusterResolver` is to the code under test: nothing."""

  def __init__(self, tpu):
    self.tpu = tpu


@pytest.fixture(name='two_by_two_chips')
def fixture_two_by_two_chips(monkeypatch):
  """A TPU of 8 cores, as far as making a strategy goes: what TPUStrategy was given."""
  given = {}
  places = [[x, y, 0, core] for y in range(2) for x in range(2) for core in range(2)]
  topology = tf.tpu.experimental.Topology(
    mesh_shape=[2, 2, 1, 2], device_coordinates=np.array([places], np.int32)
  )
  monkeypatch.setattr(tf.distribute.cluster_resolver, 'TPUClusterResolver', Resolver)
  monkeypatch.setattr(tf.config, 'experimental_connect_to_cluster', lambda resolver: None)
  monkeypatch.setattr(tf.tpu.experimental, 'initialize_tpu_system', lambda resolver: topology)
  monkeypatch.setattr(
    tf.distribute.TPUStrategy,
    '__init__',
    lambda self, resolver, assignment=None: given.update(tpu=resolver.tpu, assignment=assignment),
  )
  return given


def test_a_strategy_for_split_replicas(two_by_two_chips):
  strategy = devices.create_strategy('tpu', master='pod', cores_per_replica=4)
  assert isinstance(strategy, spatial.SplitReplicas) and strategy.grid == (2, 2)
  assignment = two_by_two_chips['assignment']
  assert two_by_two_chips['tpu'] == 'pod' and assignment.core_assignment.shape == (2, 4, 4)
  cores = {tuple(place) for replica in assignment.core_assignment.tolist() for place in replica}
  assert len(cores) == 8  # Every core once.


def test_one_core_a_replica_is_the_plain_strategy(two_by_two_chips):
  strategy = devices.create_strategy('auto', use_tpu=True)
  assert not isinstance(strategy, spatial.SplitReplicas) and not two_by_two_chips['assignment']


def split_strategy(cores):
  """A SplitReplicas of which nothing but the splitting of tensors works."""
  strategy = object.__new__(spatial.SplitReplicas)
  strategy.grid = spatial.choose_grid(cores)
  strategy._extended = type('Extended', (), {'_tpu_devices': np.empty([1, cores], object)})
  return strategy


@pytest.fixture(name='on_four_cores')
def fixture_on_four_cores(monkeypatch):
  """Has images split as on a TPU: the shapes of those that were."""
  strategy, shapes = split_strategy(4), []

  def split(images):
    shapes.append(tuple(images.shape))
    return strategy.experimental_split_to_logical_devices(images, [1, *strategy.grid, 1])

  monkeypatch.setattr(spatial, 'split', split)
  return shapes


def sharded(function, *args):
  """The images' inputs that the graph of a tf.function has split over cores."""
  graph = function.get_concrete_function(*args).graph
  return [op for op in graph.get_operations() if op.type == 'XlaSharding']


def test_images_are_split_and_nothing_else(monkeypatch):
  monkeypatch.setattr(tf.distribute, 'get_strategy', lambda: split_strategy(8))
  images = tf.zeros([2, 8, 8, 3])
  (op,) = sharded(tf.function(spatial.split, autograph=False), images)
  assert op.outputs[0].shape == images.shape
  # The field `tile_assignment_dimensions` of OpSharding: 1 x 4 x 2 x 1.
  assert b'\x1a\x04\x01\x04\x02\x01' in op.get_attr('sharding')
  vectors = tf.zeros([2, 8])
  assert spatial.split(vectors) is vectors


def test_other_strategies_split_nothing():
  images = tf.zeros([2, 8, 8, 3])
  assert spatial.split(images) is images


def mpl(model_type, remat=False):
  """(MPL with the derivative's feedback, a batch for it of 4 labeled and 4 unlabeled images)."""
  config = Config(
    dataset_name='cifar10',
    method='mpl',
    mpl_feedback='soft',
    model_type=model_type,
    image_size=8,
    train_batch_size=4,
    uda_data=1,
    remat=remat,
  )
  make = lambda number: build.model(config, number, (8, 8, 3), 10)
  rng = np.random.RandomState(0)
  views = lambda: tf.constant(rng.normal(size=[4, 8, 8, 3]), tf.float32)
  return build.method(config, student=make(1), teacher=make(0)), (views(), tf.range(4), views(), views())


@pytest.mark.long
@pytest.mark.parametrize('remat', (False, True))
def test_every_pass_is_split(on_four_cores, remat):
  method, data = mpl('wrn-10-1', remat)
  assert len(sharded(tf.function(method.train_step, autograph=False), data)) == 3
  # Teacher: labeled, original and augmented views; student: augmented and labeled ones; after its
  # move: labeled ones.
  assert on_four_cores == [(12, 8, 8, 3), (8, 8, 8, 3), (4, 8, 8, 3)]


@pytest.mark.long
def test_xla_takes_it_and_computes_the_same(on_four_cores, monkeypatch):
  def logs():
    method, data = mpl('mlp-8x1')
    return tf.function(method.train_step, jit_compile=True, autograph=False)(data)

  found = logs()
  assert len(on_four_cores) == 4  # Without batch norm the original views pass on their own.
  monkeypatch.setattr(spatial, 'split', lambda images: images)
  for name, value in logs().items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_evaluation_is_split_too(on_four_cores):
  model = build.model(Config(dataset_name='cifar10', model_type='mlp-8x1'), 0, (8, 8, 3), 10)
  batch = (tf.zeros([2, 8, 8, 3]), tf.zeros([2], tf.int32), tf.ones([2]))
  evaluator = evaluate.Evaluator(
    tf.distribute.OneDeviceStrategy('CPU:0'),
    model,
    lambda context: tf.data.Dataset.from_tensors(batch).repeat(),
    1,
  )
  assert evaluator()['examples'] == len(evaluator.outcomes().labels) == 2
  assert on_four_cores == [(2, 8, 8, 3)] * 2


@pytest.mark.parametrize(
  'sizes, words',
  [
    ((512, 510), 'splits images into 4 x 4 parts, and 510 pixels per side cannot be divided by 4'),
    ((), 'splits images into 4 x 4 parts, and there are no images'),
  ],
)
def test_images_that_cannot_be_split(sizes, words):
  with pytest.raises(UserError, match=words):
    spatial.check_sizes(split_strategy(16), sizes)
  spatial.check_sizes(tf.distribute.get_strategy(), sizes)
  spatial.check_sizes(split_strategy(16), (512, 64))


def test_what_was_trained_on_split_replicas_is_used_without_them(tmp_path):
  trained = Config(
    dataset_name='digits_40_mpl',
    output_dir=str(tmp_path),
    strategy='tpu',
    use_xla_sharding=True,
    num_cores_per_replica=4,
  )
  (tmp_path / 'hparams.json').write_text(to_json(trained), encoding='utf-8')
  report = Config(task_mode='report', output_dir=str(tmp_path))
  found = run_folder.load_trained_config(report)
  assert (found.use_xla_sharding, found.num_cores_per_replica) == (False, 1)
  # Training goes on too, on another number of cores.
  run_folder.prepare_folder(trained.replace(use_xla_sharding=False, num_cores_per_replica=1))
