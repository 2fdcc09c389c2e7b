"""The release's two commands (flags/*.flags) start training, on tiny stand-in data."""
import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from meta_pseudo_labels import config as config_lib
from meta_pseudo_labels import distribute
from meta_pseudo_labels import main
from meta_pseudo_labels import train
from meta_pseudo_labels.data import datasets
from meta_pseudo_labels.data import examples
from meta_pseudo_labels.data import problem as problem_lib
from meta_pseudo_labels.data import splits
from meta_pseudo_labels.data import views as views_lib

FLAGFILES = pathlib.Path(__file__).resolve().parents[1] / 'flags'


@pytest.fixture(autouse=True)
def fixture_precision():
  """The recipes ask for bfloat16, for the whole process: undone for the tests after these."""
  yield
  tf.keras.mixed_precision.set_global_policy('float32')


SHARED = ('two_moons',)  # What several recipes include.


@pytest.mark.parametrize('name', sorted(
    path.stem for path in FLAGFILES.glob('*.flags') if path.stem not in SHARED))
def test_every_recipe_is_valid(name):
  config = config_lib.parse(['main', f'--flagfile={FLAGFILES}/{name}.flags', '--output_dir=x'])
  if name.startswith('study'):
    config = config.replace(method='mpl')
  config_lib.validate(config)
  assert name.endswith(config.method_name) or name.startswith('study') or (
      name == 'two_moons_mpl_without_uda' and config.uda_weight == 0)


def write_cifar10(folder, *, train_records, test_records):
  """CIFAR-10's files of binary records, with random images."""
  rng = np.random.RandomState(0)
  names = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
  for name, count in zip(names, [train_records // 5] * 5 + [test_records]):
    records = rng.randint(256, size=(count, 1 + 32 * 32 * 3)).astype(np.uint8)
    records[:, 0] %= 10
    (folder / name).write_bytes(records.tobytes())


def test_cifar10_4000_mpl_starts_training(tmp_path, capsys):
  write_cifar10(tmp_path, train_records=4100, test_records=50)
  run = tmp_path / 'run'
  assert main.run([
      'main', f'--flagfile={FLAGFILES}/cifar10_4000_mpl.flags', f'--data_dir={tmp_path}',
      f'--output_dir={run}', '--num_train_steps=1', '--train_batch_size=2',
      '--uda_data=1', '--eval_batch_size=50', '--strategy=one_device']) == 0
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
  info = dataclasses.replace(datasets.info('cifar10'), name='stand-in',
                             class_names=tuple(map(str, range(num_classes))))
  images = rng.randint(256, size=(8, size, size, 3)).astype(np.uint8)
  labels = rng.randint(num_classes, size=8).astype(np.int32)
  views = views_lib.PadCrop(mean=info.mean, std=info.std, flip=info.flip, ops=info.augment_ops,
                            magnitude=config.augment_magnitude, dtype=tf.bfloat16)
  # By hand, as no draw would take eight images for a thousand classes.
  split = splits.Split(np.arange(4), np.arange(8), np.arange(0))
  return problem_lib.Problem(
      info=info, split=split, inputs=images, labels=labels, unlabeled=images, truth=labels,
      evaluated={'test': examples.Examples(images, labels)}, views=views)


def test_imagenet_10_percent_mpl_starts_training(one_device):
  config = config_lib.parse(['main', f'--flagfile={FLAGFILES}/imagenet_10_percent_mpl.flags'])
  config_lib.validate(config)
  assert (config.dataset_classes, config.image_size, config.model_type) == (1000, 224, 'resnet-50')
  config = config.replace(image_size=32, train_batch_size=2, uda_data=1)
  distribute.set_up(config.seed, use_bfloat16=config.use_bfloat16)
  problem = stand_in(config, config.dataset_classes)
  with one_device.scope():
    phases = train.build_phases(config, problem)
  assert [(phase.name, phase.num_steps) for phase in phases] == [('train', 700000)]
  method = phases[0].method
  data = next(iter(problem.train_batches(batch_size=2, seed=0, uda_data=1)))
  before = [v.numpy() for v in method.teacher.trainable_variables]
  logs = one_device.run(method.train_step, args=(data,))
  assert logs['global_step'] == 1 and logs['lr/student'] == 0
  assert 6 < logs['cross_entropy/teacher_on_l'] < 9  # About log(1000) before the first step.
  moved = {v.name: np.any(v.numpy() != value) for v, value in zip(
      method.teacher.trainable_variables, before)}
  # In the first of 5,000 warm-up steps a gamma, 1, moves by less than float32 can tell.
  assert [name for name, did in moved.items() if not did and '/gamma' not in name] == []
