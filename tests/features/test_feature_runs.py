"""Runs with --features: every method, the exported network, going on, what is refused."""

import os
import shutil

from meta_pseudo_labels import main

import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets
from test_pretrained_runs import assert_same, command, fixture_network, weights  # noqa: F401 A fixture.
from tiny import stop_after_saving


def features(network, *flags):
  """The flags of a run on a network's features, which are computed once for all tests."""
  return ('--features', '--feature_views=1', f'--cache_dir={os.path.dirname(network)}/cache', *flags)


@pytest.mark.parametrize(
  'method',
  [
    'supervised',
    pytest.param('pseudo_labels', marks=pytest.mark.slow),
    pytest.param('uda', marks=pytest.mark.slow),
    'mpl',
  ],
)
def test_every_method_learns_a_head_and_exports_it_with_the_network(tmp_path, network, method, capsys):
  folder = tmp_path / 'run'
  flags = features(network, f'--method={method}', '--num_train_steps=60', '--save_every=60')
  assert main.run(command(folder, network, *flags)) == 0, capsys.readouterr().err
  found = weights(folder)
  for export in ('raw', 'ema') if method == 'mpl' else ('raw',):
    arguments = ['main', '--task_mode=export', f'--output_dir={folder}', f'--export_weights={export}']
    assert main.run([*arguments, f'--export_dir={tmp_path}/{export}']) == 0
  exported = tf.saved_model.load(str(tmp_path / 'raw'))
  digits = np.repeat(datasets.load_digits().images[:50, :, :, np.newaxis] / 16 * 255, 3, -1)
  pixels = np.round(digits).astype(np.uint8)
  logits = exported.signatures['logits'](images=pixels)['logits'].numpy()
  # By hand: the features of the file's network, then the head that the checkpoint has.
  whole = tf.keras.models.load_model(network, compile=False)
  cut = tf.keras.Model(whole.input, whole.layers[-2].output)
  values = {name: v for name, v in found.items() if '/.OPTIMIZER_SLOT/' not in name}
  head = lambda what: next(v for name, v in values.items() if f'train/student/{what}' in name)
  names = sorted(name for name in values if name.startswith('train/student/'))
  kernel = next(values[name] for name in names if values[name].shape == (4, 10))
  bias = next(values[name] for name in names if values[name].shape == (10,))
  mean, deviation = (head(f'layer_with_weights-0/{what}') for what in ('mean', 'deviation'))
  expected = (cut(pixels.astype(np.float32)).numpy() - mean) / deviation @ kernel + bias
  np.testing.assert_allclose(logits, expected, atol=1e-3 * abs(expected).max())
  assert abs(kernel).max() > 0.01
  # The network is in the checkpoint, as it was in its file.
  kept = [v for name, v in values.items() if name.startswith('backbone/')]
  for variable in cut.get_weights():
    assert any(v.shape == variable.shape and np.array_equal(v, variable) for v in kept)


def test_a_run_goes_on_and_its_report_is_written(tmp_path, network, monkeypatch):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  flags = features(network, '--method=mpl')
  assert main.run(command(whole, network, *flags)) == 0
  with monkeypatch.context() as patch:
    stop_after_saving(patch)
    assert main.run(command(stopped, network, *flags)) == 130
  assert main.run(command(stopped, network, *flags)) == 0
  assert_same(weights(whole), weights(stopped))
  assert 'Most confident mistakes' in (whole / 'report.html').read_text()
  assert main.run(['main', '--task_mode=label', f'--output_dir={whole}']) == 0
  assert (whole / 'teacher_predictions.npz').exists()


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--freeze=1'], '--freeze=1: not with --features'),
    (['--model_type=wrn-10-1'], 'starts with random weights'),
    (['--dataset_name=two_moons_6'], '--features: two_moons has no images'),
    (['--head=wrn-10-1'], '--head=wrn-10-1: must be linear'),
    (['--head=lineal'], '--head=lineal: must be linear'),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, network, flags, words, capsys):
  assert main.run(command(tmp_path / 'run', network, *features(network), *flags)) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.splitlines()) == 1


def test_another_network_is_another_run(tmp_path, network, capsys):
  folder = tmp_path / 'run'
  mine = shutil.copy(network, tmp_path)
  flags = features(network, '--num_train_steps=2')
  assert main.run(command(folder, mine, *flags)) == 0
  other = tf.keras.models.load_model(mine, compile=False)
  other.set_weights([1.5 * value for value in other.get_weights()])
  other.save(mine)
  assert main.run(command(folder, mine, *flags)) == 2
  assert 'other data' in capsys.readouterr().err
