"""Runs that start from a network in a file: every method, replicas, precision, memory, going on."""

import json
import os

from meta_pseudo_labels import main
from meta_pseudo_labels.checkpoints import convert

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope='module', name='network')
def fixture_network(tmp_path_factory):
  """The path of a small Keras model with blocks, batch norms, and a head of 5 classes."""
  inputs = tf.keras.Input((None, None, 3))
  x = tf.keras.layers.Rescaling(1 / 255)(inputs)
  x = tf.keras.layers.Conv2D(4, 3, padding='same')(x)
  for _ in range(3):
    branch = tf.keras.layers.Conv2D(4, 3, padding='same', use_bias=False)(x)
    branch = tf.keras.layers.BatchNormalization()(branch)
    x = tf.keras.layers.Add()([x, tf.keras.layers.ReLU()(branch)])
  x = tf.keras.layers.GlobalAveragePooling2D()(x)
  model = tf.keras.Model(inputs, tf.keras.layers.Dense(5)(x))
  generator = np.random.default_rng(0)
  model.set_weights(
    [np.abs(v) + 0.2 * generator.random(v.shape) if v.ndim == 1 else v for v in model.get_weights()]
  )
  path = tmp_path_factory.mktemp('network') / 'network.h5'
  model.save(path)
  return str(path)


def command(folder, network, *flags):
  """The command line of a run of seconds on the digits."""
  return [
    *('main', '--dataset_name=digits_20', f'--model_type={network}', f'--output_dir={folder}'),
    *('--image_size=8', '--label_seed=1', '--train_batch_size=4', '--uda_data=2', '--num_train_steps=4'),
    *('--save_every=2', '--log_every=2', '--strategy=one_device', '--eval_batch_size=300'),
    *('--mpl_student_lr_wait_steps=0', '--mpl_student_lr_warmup_steps=0', '--ema_decay=0.9'),
    *('--mpl_teacher_lr_warmup_steps=0', '--optim_type=adamw', '--lr=0.1', '--mpl_feedback=soft'),
    *('--mpl_teacher_lr=0.1', '--mpl_student_lr=0.1', *flags),
  ]


def weights(folder):
  """{name: value} of the newest checkpoint's tensors."""
  path = convert.find_newest(str(folder), print)
  skipped = ('seconds', 'identity', 'serving', 'save_counter', '_CHECKPOINTABLE')
  names = [name for name, _ in tf.train.list_variables(path) if not name.startswith(skipped)]
  return {name: tf.train.load_variable(path, name) for name in names}


def assert_same(one, other, atol=0.0):
  assert set(one) == set(other) and len(one) > 10
  for name, value in one.items():
    if value.dtype.kind == 'f':
      np.testing.assert_allclose(value, other[name], atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize(
  'method',
  [
    *(pytest.param(name, marks=pytest.mark.long) for name in ('supervised', 'pseudo_labels', 'uda')),
    'mpl',
  ],
)
def test_every_method_starts_from_the_file_and_leaves_its_statistics(tmp_path, network, method):
  flags = (f'--method={method}', '--freeze=1', '--head_steps=1', '--layer_decay=0.5')
  assert main.run(command(tmp_path, network, *flags)) == 0
  before = tf.keras.models.load_model(network, compile=False)
  found = weights(tmp_path)
  same = lambda value: any(v.shape == value.shape and np.array_equal(v, value) for v in found.values())
  for layer in before.layers:
    if isinstance(layer, tf.keras.layers.BatchNormalization):
      assert same(layer.moving_mean.numpy()) and same(layer.moving_variance.numpy())
  convolutions = [layer for layer in before.layers if isinstance(layer, tf.keras.layers.Conv2D)]
  assert [same(layer.kernel.numpy()) for layer in convolutions] == [True, True, True, False]


@pytest.mark.long
def test_it_goes_on_and_predicts_without_the_file(tmp_path, network, capsys):
  moved = tmp_path / 'moved.h5'
  moved.write_bytes(open(network, 'rb').read())
  flags = ('--method=mpl', '--dense_dropout_rate=0.2')
  assert main.run(command(tmp_path / 'whole', moved, *flags)) == 0
  halted = command(tmp_path / 'halted', moved, *flags)
  assert main.run([*halted, '--num_train_steps=4', '--save_every=2', '--max_restarts=0']) == 0
  # Back to its first half: the newer checkpoint is gone, and so is the network's file.
  for path in (tmp_path / 'halted/ckpt_last').glob('ckpt-4*'):
    path.unlink()
  (tmp_path / 'halted/ckpt_last/checkpoint').write_text('model_checkpoint_path: "ckpt-2"\n')
  moved.unlink()
  assert main.run(halted) == 0
  assert 'Resuming at step 2' in capsys.readouterr().out
  assert_same(weights(tmp_path / 'whole'), weights(tmp_path / 'halted'))
  exporting = ['main', '--task_mode=export', f'--output_dir={tmp_path}/whole', '--strategy=one_device']
  assert main.run(exporting) == 0
  loaded = tf.saved_model.load(str(tmp_path / 'whole/saved_model'))
  pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
  assert loaded.signatures['images'](tf.constant(pixels))['probabilities'].shape == (3, 10)
  converting = ['main', '--task_mode=convert', f'--output_dir={tmp_path}/whole']
  assert main.run([*converting, f'--output={tmp_path}/released/model.ckpt']) == 0


@pytest.mark.long
@pytest.mark.parametrize('flags', [('--remat',), ('--strategy=mirrored',)])
def test_memory_and_replicas_do_not_change_the_result(tmp_path, network, flags):
  run = ('--method=mpl', '--train_batch_norm', '--dense_dropout_rate=0.2')
  assert main.run(command(tmp_path / 'one', network, *run)) == 0
  assert main.run(command(tmp_path / 'other', network, *run, *flags)) == 0
  assert_same(weights(tmp_path / 'one'), weights(tmp_path / 'other'), atol=2e-3)


def test_bfloat16_trains(tmp_path, network):
  assert main.run(command(tmp_path, network, '--method=mpl', '--use_bfloat16')) == 0
  with open(os.path.join(tmp_path, 'metrics.jsonl'), encoding='utf-8') as file:
    assert all(np.isfinite(json.loads(line).get('grad_norm/teacher', 0.0)) for line in file)


def test_a_small_student_learns_from_a_pretrained_teacher(tmp_path, network, capsys):
  flags = ('--method=mpl', '--student_model_type=mlp-8x1')
  assert main.run(command(tmp_path, network, *flags)) == 0
  found = weights(tmp_path)
  assert any(value.shape == (64, 8) for value in found.values())  # The student's first layer.
  assert main.run(['main', '--task_mode=export', f'--output_dir={tmp_path}', '--strategy=one_device']) == 0


@pytest.mark.parametrize(
  'flags, message',
  [
    (('--freeze=some',), '--freeze=some: must be none, all, or a number of blocks'),
    (('--model_weights=imagenet',), '--model_weights=imagenet: is for networks of tf.keras.applications'),
    (('--model_type=wrn-10-1', '--head_steps=3'), '--head_steps=3: is for pretrained networks'),
    (('--model_type=MobilNetV2',), "unknown model (did you mean 'MobileNetV2'?)"),
    (
      ('--model_type=MobileNetV2', '--model_weights=none'),
      'MobileNetV2 takes images of 32 pixels or more',
    ),
    (('--model_type=none.h5',), '--model_type=none.h5: no such file'),
  ],
)
def test_bad_requests_are_refused_in_one_line(tmp_path, network, capsys, flags, message):
  assert main.run(command(tmp_path, network, *flags)) == 2
  line = capsys.readouterr().err.strip()
  assert message in line and line.startswith('error: ') and '\n' not in line


@pytest.fixture(name='as_in_a_run')
def fixture_as_in_a_run():
  """Graphs optimized as in a run: see OPTIMIZED in conftest.py.

  Without it, oneDNN's own pass joins a bias' gradient with a filter's that nothing needs: the one of a
  gradient's gradient. In ResNet50V2 this makes a graph with a cycle.
  """
  before = tf.config.optimizer.get_experimental_options().get('disable_meta_optimizer', False)
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': False})
  yield
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': before})


@pytest.mark.slow
@pytest.mark.usefixtures('as_in_a_run')
@pytest.mark.parametrize('method', ['supervised', 'pseudo_labels', 'uda', 'mpl'])
@pytest.mark.parametrize('name', ['MobileNetV2', 'MobileNetV3Small', 'EfficientNetB0', 'ResNet50V2'])
def test_networks_of_keras_train_two_steps_by_every_method(tmp_path, name, method):
  flags = (f'--method={method}', '--model_weights=none', '--image_size=32', '--num_train_steps=2')
  assert main.run(command(tmp_path, name, *flags)) == 0
  for value in weights(tmp_path).values():
    if value.dtype.kind == 'f':
      assert np.isfinite(value).all()
