"""Every recipe is valid, built, and makes a step on stand-in data; the release's two train as they are."""

import dataclasses
import functools
import itertools
import json
import pathlib
import re

from meta_pseudo_labels import build, main, methods
from meta_pseudo_labels.config import Config, parse, validate
from meta_pseudo_labels.data import registry, semi_supervised, splits, storage
from meta_pseudo_labels.data.augment.views import PadCrop
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.training import selection

import estimate
import numpy as np
import pytest
import tensorflow as tf

FLAGFILES = pathlib.Path(__file__).resolve().parents[1] / 'flags'


@pytest.fixture(autouse=True)
def fixture_precision():
  """The recipes ask for bfloat16, for the whole process: undone for the tests after these."""
  yield
  tf.keras.mixed_precision.set_global_policy('float32')


NOT_A_RECIPE = 'Not a recipe itself'  # In the head comments of what several recipes include.
RELEASE = ('cifar10_4000_mpl', 'imagenet_10_percent_mpl')  # Its commands, flag for flag.
STUDIES = ('study_digits', 'study_fashion_mnist')  # Whose method benchmarks/study.py chooses.

# (rate of a single network or of MPL's teacher, rate of MPL's student) at the end of the warm-up, by
# hand: the flags' rates per 256 examples, times the labeled batch.
RATES = {
  'two_moons': (2.1 * 6 / 256, 2.1 * 6 / 256),
  'digits': (0.4 * 32 / 256, 0.8 * 32 / 256),
  'study_digits': (0.8 * 16 / 256, 1.6 * 16 / 256),
  'study_fashion_mnist': (0.4 * 32 / 256, 0.8 * 32 / 256),
  'fashion_mnist': (0.4 * 32 / 256, 0.4 * 32 / 256),
  'cifar': (0.1 / 2, 0.1 / 2),
  'svhn': (0.1 / 2, 0.1 / 2),
  'imagenet_10_percent': (0.15 * 4, 0.1 * 4),
  'imagenet_extra': (0.15 * 16, 0.1 * 16),
  'efficientnet': (0.15 * 8, 0.1 * 8),
  'folder': (0.0016 / 16, 0.016 / 16),  # Finetuning in the ladder.
  'folder_': (0.016 / 16, 0.016 / 16),
}
PARAMETERS = {  # Of the networks at their data sets' numbers of classes.
  ('wrn-28-2', 10): 1.47e6,
  ('wrn-28-8', 100): 23.4e6,
  ('resnet-50', 1000): 25.6e6,
  ('efficientnet-l2', 1000): 480e6,
  ('efficientnet-b6-mpl', 1000): 317e6,
}


def head(path):
  """A flagfile's comment at its start, in one line."""
  lines = path.read_text(encoding='utf-8').splitlines()
  return ' '.join(
    line.lstrip('# ') for line in itertools.takewhile(lambda line: line.startswith('#'), lines)
  )


def is_recipe(path):
  return NOT_A_RECIPE not in head(path)


PATHS = sorted(FLAGFILES.rglob('*.flags'))
PATH_OF = {path.stem: path for path in PATHS}
RECIPES = [path.stem for path in PATHS if is_recipe(path)]
speed = lambda name: pytest.mark.long if name.startswith(('eff', 'imagenet', 'cifar100')) else ()


def recipe_config(name):
  """A recipe's valid Config."""
  config = parse(['main', f'--flagfile={PATH_OF[name]}'])
  if name in STUDIES:
    config = config.replace(
      method='mpl',
      dataset_name={'study_digits': 'digits_40', 'study_fashion_mnist': 'fashion_mnist_40'}[name],
    )
  validate(config)
  return config


def test_head_comments_say_what_they_must():
  for path in PATHS:
    text = head(path)
    if is_recipe(path):
      for words in ('Hardware: ', 'Hours: ', 'Expected: '):
        assert words in text, f'{path.name}: no {words}'
      assert re.search(r'Not run with this program yet\.|Run 20\d\d-\d\d-\d\d', text), path.name
  for name in RELEASE:
    assert 'GOING ON AFTER AN INTERRUPTION: add --noreset_output_dir' in head(PATH_OF[name])


def test_what_is_shared_is_included_somewhere():
  texts = {path.stem: path.read_text(encoding='utf-8') for path in PATHS}
  for path in PATHS:
    if not is_recipe(path):
      assert any(f'/{path.name}\n' in text or f'={path.name}\n' in text for text in texts.values()), (
        path.name
      )


def test_recipes_are_named_after_what_they_do():
  """Every recipe has its own folder, and only the release's commands empty theirs."""
  for name in RECIPES:
    config = recipe_config(name)
    assert config.output_dir == f'runs/{name}'
    assert config.reset_output_dir == (name in RELEASE)
    if name not in STUDIES and config.task != 'ladder':  # That one has all methods.
      method = next((end for end in ('reduced_mpl', 'mpl') if f'_{end}' in name), config.method_name)
      assert config.method_name == method and re.search(rf'_{method}(_finetune|_without_uda)?$', name)
    if name == 'two_moons_mpl_without_uda':
      assert config.uda_weight == 0
    # The paper's result has a finetune; its baselines, two moons and the release's commands have not.
    tuned = '_mpl' in name and name not in RELEASE and not name.startswith('two_moons')
    assert bool(config.finetune_steps) == tuned


def test_the_finetune_recipes_are_the_releases_commands_and_a_finetune():
  for name in RELEASE:
    changed = {
      field.name
      for field in dataclasses.fields(Config)
      if getattr(recipe_config(name), field.name) != getattr(recipe_config(f'{name}_finetune'), field.name)
    }
    assert changed <= {  # lr and num_warmup_steps: which MPL does not read.
      'output_dir',
      'reset_output_dir',
      'running_local_dev',
      'use_tpu',
      'finetune_steps',
      'lr',
      'num_warmup_steps',
      'eval_batch_size',
    }


def random_images(info, *, count, size, extra=0):
  """`storage.Data` of noise in memory, its labels one class after the other."""
  rng = np.random.RandomState(0)
  draw = lambda n: storage.Examples(
    rng.randint(256, size=(n, size, size, info.image_shape[-1])).astype(np.uint8),
    np.arange(n, dtype=np.int32) % info.num_classes,
  )
  unlabeled = draw(extra) if extra else None
  return storage.Data(train=draw(count), test=draw(20), unlabeled_extra=unlabeled)


@pytest.fixture(name='stand_ins', scope='module')
def fixture_stand_ins(tmp_path_factory):
  """A function of a Config to (Problem, its first batch: two labeled, two unlabeled examples).

  ImageNet and one's own images are files as users have them; what TFDS or Debian would bring is
  noise, as many images as the recipes' splits need. What recipes have in common is made once.
  """
  root = tmp_path_factory.mktemp('stand_ins')
  rng = np.random.RandomState(0)
  jpeg = lambda: tf.io.encode_jpeg(rng.randint(256, size=(40, 30, 3)).astype(np.uint8)).numpy()
  for place, count in (('labeled/cat', 8), ('labeled/dog', 8), ('unlabeled', 8)):
    (root / 'folder' / place).mkdir(parents=True)
    for number in range(count):
      (root / 'folder' / place / f'{number}.jpg').write_bytes(jpeg())
  (root / 'shards').mkdir()
  for prefix, count in (('ten_percent', 1000), ('train', 8), ('validation', 4)):
    with tf.io.TFRecordWriter(f'{root}/shards/{prefix}-00000-of-00001') as writer:
      for label in range(count):
        features = {
          'image/encoded': tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg()])),
          'image/class/label': tf.train.Feature(int64_list=tf.train.Int64List(value=[label + 1])),
        }
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
  folders = {'folder': f'{root}/folder', 'imagenet_10_percent': f'{root}/shards'}
  load = registry.load

  def stand_in_for(info, *args, **kwargs):
    if info.name in ('cifar10', 'cifar100', 'svhn', 'fashion_mnist'):
      count = {'cifar100': 10100, 'fashion_mnist': 6100}.get(info.name, 4100)
      return random_images(
        info, count=count, size=info.image_shape[0], extra=50 if info.name == 'svhn' else 0
      )
    return load(info, *args, **kwargs)

  @functools.cache
  def made(config):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(registry, 'load', stand_in_for)
      problem = build.problem(config.replace(data_dir=folders.get(config.dataset)))
    return problem, next(iter(problem.train_batches(batch_size=2, seed=0, uda_data=1)))

  # The fields that data depend on.
  return lambda config: made(
    Config(
      dataset_name=config.dataset,
      num_labeled=config.labeled_count,
      label_seed=config.label_seed,
      image_size=config.image_size,
      views=config.views,
      use_bfloat16=config.use_bfloat16,
      augment_magnitude=config.augment_magnitude,
      use_augment=config.use_augment,
      model_type=config.model_type,
      augment_stddev=config.augment_stddev,
    )
  )


def check_network(config, name):
  """The network, built in full in a graph that never runs (benchmarks/estimate.py), so that
  EfficientNet-L2 is a matter of seconds; and the hours of the head comment, which follow from it."""
  found = estimate.estimate(config)
  parameters = found.network.parameters
  expected = PARAMETERS.get((config.model_type, estimate.get_input_shape(config)[1]), parameters)
  assert parameters == pytest.approx(expected, rel=0.01)
  text = head(PATH_OF[name])
  hours = [
    f'{words} {estimate.format_cell(found, estimate.DEVICES[device], 0.35)}'
    for words, device in (
      ('two CPU cores', 'cpu'),
      ('A100', 'a100'),
      ('TPU v3-8', 'v3-8'),
      ('TPU v3-2048', 'v3-2048'),
    )
  ]
  if config.task == 'ladder':  # Its hours are given, not found.
    return
  words = re.search(r'Hours: (.*?) \(computed, at 35 % of the peak', text).group(1).split('; ')
  assert words and set(words) <= set(hours)


def check_rates(config, name, method):
  """The learning rates at step 0, after the warm-up and at the end."""
  family = max((key for key in RATES if name.startswith(key)), key=len)
  single, student = RATES[family]
  expected = [(method.student_optimizer, single, 0, config.num_warmup_steps)]
  if config.method_name in ('mpl', 'reduced_mpl'):
    expected = [
      (
        method.student_optimizer,
        student,
        config.mpl_student_lr_wait_steps,
        config.mpl_student_lr_warmup_steps,
      ),
      (method.teacher_optimizer, single, 0, config.mpl_teacher_lr_warmup_steps),
    ]
  for optimizer, base, wait, warmup in expected:
    rate = lambda step, optimizer=optimizer: float(optimizer.rate(tf.constant(step)))
    assert rate(0) == pytest.approx(0 if wait else base / max(1, warmup))
    assert rate(wait + warmup) == pytest.approx(base)
    assert wait + warmup < config.num_train_steps
    end = base if config.lr_decay_type == 'constant' else 0
    assert rate(config.num_train_steps) == pytest.approx(end, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize('name', [pytest.param(name, marks=speed(name)) for name in RECIPES])
def test_recipe(name, stand_ins, one_device):
  """A recipe's data, views, split, networks, phases, rates and first step, of two and two examples.
  The network is built in full, symbolically. In the step an MLP stands for it: L2's would need a pod."""
  config = recipe_config(name)
  devices.set_up(config.seed, dtype=config.computes_in)
  problem, data = stand_ins(config)
  assert len(problem.split.labeled) == config.labeled_count or config.labeled_count is None
  selection.choose(config.select, config.eval_split, problem)
  shape = problem.input_shape
  if shape[-1] == 3:  # Images in colour; None where evaluation is at another size.
    shape = (config.image_size, config.image_size, 3)
  check_network(config, name)
  if problem.input_shape != shape:  # An MLP takes one size alone.
    problem = dataclasses.replace(
      problem, views=dataclasses.replace(problem.views, eval_size=config.image_size)
    )
  with one_device.scope():
    small, sizes = config.replace(model_type='mlp-8x1'), (problem.input_shape, problem.num_classes)
    phases = build.phases(small, *sizes, num_unlabeled=2)
  names = (
    ['teacher'] * (config.method_name == 'pseudo_labels')
    + ['train']
    + (['finetune'] * bool(config.finetune_steps))
  )
  assert [phase.name for phase in phases] == names
  phase = phases[names.index('train')]
  assert (phase.num_steps, phase.batch_size) == (config.num_train_steps, config.train_batch_size)
  check_rates(config, name, phase.method)
  labeled, labels, original, augmented, _ = data
  assert labeled.shape == original.shape == augmented.shape == (2, *shape) and labels.shape == (2,)
  if config.method_name == 'reduced_mpl':  # A teacher has said nothing much of them.
    said = tf.fill([2, problem.num_classes], -np.log(problem.num_classes).astype(np.float32))
    data += ((said, said),)
  data = methods.Batch(*data)._replace(positions=tf.range(2))
  logs = one_device.run(phase.method.train_step, args=(data,))
  assert logs['global_step'] == 1 and logs['skipped_steps'] == 0
  assert all(np.isfinite(value) for value in logs.values())


def write_cifar10(folder, *, train_records, test_records):
  """CIFAR-10's files of binary records, with random images."""
  rng = np.random.RandomState(0)
  names = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
  for name, count in zip(names, [train_records // 5] * 5 + [test_records]):
    records = rng.randint(256, size=(count, 1 + 32 * 32 * 3)).astype(np.uint8)
    records[:, 0] %= 10
    (folder / name).write_bytes(records.tobytes())


# A large network's step is a slow test: `test_recipe` builds the network, and tests/models compares its
# outputs.
@pytest.mark.parametrize('model_type', ['wrn-10-1', pytest.param('wrn-28-2', marks=pytest.mark.slow)])
def test_cifar10_4000_mpl_starts_training(tmp_path, capsys, model_type):
  write_cifar10(tmp_path, train_records=4100, test_records=50)
  run = tmp_path / 'run'
  assert (
    main.run(
      [
        'main',
        f'--flagfile={PATH_OF["cifar10_4000_mpl"]}',
        f'--data_dir={tmp_path}',
        f'--output_dir={run}',
        f'--model_type={model_type}',
        '--num_train_steps=1',
        '--train_batch_size=2',
        '--uda_data=1',
        '--eval_batch_size=50',
        '--strategy=one_device',
      ]
    )
    == 0
  )
  printed = capsys.readouterr().out
  assert '4000 labeled, 4100 unlabeled, 50 test examples of cifar10' in printed
  results = json.loads((run / 'results.json').read_text())
  assert results['steps'] == {'train': 1}
  assert results['phases']['train']['student']['examples'] == 50
  with open(run / 'metrics.jsonl', encoding='utf-8') as file:
    logs = json.loads(file.readline())
  assert logs['global_step'] == 1 and logs['lr/student'] == 0  # The student waits 3,000 steps.
  assert all(np.isfinite(value) for value in logs.values() if not isinstance(value, str))
  # Ten classes, about equally likely before the first step.
  assert 2 < logs['cross_entropy/teacher_on_l'] < 4


def stand_in(config, num_classes):
  """A Problem of random images and the recipe's number of classes."""
  rng = np.random.RandomState(0)
  size = config.image_size
  info = dataclasses.replace(
    registry.info('cifar10'), name='stand-in', class_names=tuple(map(str, range(num_classes)))
  )
  images = rng.randint(256, size=(8, size, size, 3)).astype(np.uint8)
  labels = rng.randint(num_classes, size=8).astype(np.int32)
  views = PadCrop(
    mean=info.mean,
    std=info.std,
    flip=info.flip,
    ops=info.augment_ops,
    magnitude=config.augment_magnitude,
    dtype=tf.bfloat16,
  )
  # By hand, as no draw would take eight images for a thousand classes.
  split = splits.Split(np.arange(4), np.arange(8), np.arange(0))
  return semi_supervised.Problem(
    info=info,
    split=split,
    inputs=images,
    labels=labels,
    unlabeled=images,
    truth=labels,
    evaluated={'test': storage.Examples(images, labels)},
    views=views,
  )


@pytest.mark.parametrize('model_type', ['wrn-10-1', pytest.param('resnet-50', marks=pytest.mark.slow)])
def test_imagenet_10_percent_mpl_starts_training(one_device, model_type):
  config = parse(['main', f'--flagfile={PATH_OF["imagenet_10_percent_mpl"]}'])
  validate(config)
  assert (config.dataset_classes, config.image_size, config.model_type) == (1000, 224, 'resnet-50')
  config = config.replace(model_type=model_type, image_size=32, train_batch_size=2, uda_data=1)
  devices.set_up(config.seed, dtype=config.computes_in)
  problem = stand_in(config, config.dataset_classes)
  with one_device.scope():
    phases = build.phases(config, problem.input_shape, problem.num_classes)
  assert [(phase.name, phase.num_steps) for phase in phases] == [('train', 700000)]
  method = phases[0].method
  data = next(iter(problem.train_batches(batch_size=2, seed=0, uda_data=1)))
  before = [v.numpy() for v in method.teacher.trainable_variables]
  logs = one_device.run(method.train_step, args=(data,))
  assert logs['global_step'] == 1 and logs['lr/student'] == 0
  assert 6 < logs['cross_entropy/teacher_on_l'] < 9  # About log(1000) before the first step.
  moved = {
    v.name: np.any(v.numpy() != value) for v, value in zip(method.teacher.trainable_variables, before)
  }
  # In the first of 5,000 warm-up steps a gamma, 1, moves by less than float32 can tell.
  assert [name for name, did in moved.items() if not did and '/gamma' not in name] == []
