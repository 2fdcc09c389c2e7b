"""--export_formats=onnx: what ONNX Runtime computes of the file, beside the run's Keras model."""

import builtins
import json
import sys

import meta_pseudo_labels as mpl
from meta_pseudo_labels import main
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.inference import onnx_model

import numpy as np
import pytest
from test_pretrained_runs import command, fixture_network  # noqa: F401 A fixture.
from test_tflite import export, fixture_run, normalize, take_test_digits  # noqa: F401 A fixture.
from tiny import tiny

PACKAGES = ('onnx', 'tf2onnx', 'onnxruntime')


def infer(path, inputs):
  """The logits of an ONNX file."""
  onnxruntime = pytest.importorskip('onnxruntime')
  session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
  assert session.get_inputs()[0].shape == ['N', *inputs.shape[1:]]
  assert session.get_outputs()[0].shape == ['N', 10] or inputs.ndim == 2
  (logits,) = session.run(['logits'], {'inputs': inputs})
  return logits


def assert_near(logits, expected):
  assert np.abs(expected).max() > 0.01 and logits.shape == expected.shape
  np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_the_test_images_by_onnx_runtime(run, capsys):
  """And so the accuracy is that of the run to the last example."""
  pytest.importorskip('tf2onnx')
  assert export(run, '--export_formats=onnx') == 0
  images, labels = take_test_digits()
  trained = mpl.load_run(run)
  expected = trained.model.predict(normalize(run, images), verbose=0)
  logits = infer(run / 'saved_model' / 'model.onnx', normalize(run, images))
  assert_near(logits, expected)
  assert_near(infer(run / 'saved_model' / 'model.onnx', normalize(run, images[:1])), expected[:1])
  assert np.mean(logits.argmax(axis=1) == labels) == trained.evaluate()['top1']
  (row,) = json.loads((run / 'export.json').read_text())['files']
  assert row['difference'] <= 1e-4 * row['scale'] and row['same_class'] == 1.0
  assert 'model.onnx: ' in capsys.readouterr().out


def test_points(tmp_path):
  pytest.importorskip('tf2onnx')
  assert main.run(tiny(tmp_path)) == 0
  assert export(tmp_path, '--export_formats=onnx') == 0
  points = np.random.default_rng(0).normal(size=[9, 2]).astype(np.float32)
  expected = mpl.load_run(tmp_path).model.predict(points, verbose=0)
  assert_near(infer(tmp_path / 'saved_model' / 'model.onnx', points), expected)


def test_features_and_head_in_one_file(tmp_path, network):
  pytest.importorskip('tf2onnx')
  more = [f'--cache_dir={tmp_path}/cache', '--method=supervised', '--features', '--feature_views=1']
  assert main.run(command(tmp_path / 'run', network, *more)) == 0
  assert export(tmp_path / 'run', '--export_formats=onnx') == 0
  pixels = np.random.default_rng(0).uniform(0, 255, [5, 8, 8, 1]).astype(np.float32)
  expected = mpl.load_run(tmp_path / 'run').model.predict(pixels, verbose=0)
  assert_near(infer(tmp_path / 'run' / 'saved_model' / 'model.onnx', pixels), expected)


@pytest.mark.parametrize('name', PACKAGES)
def test_a_missing_package_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, name):
  (tmp_path / 'run').mkdir()
  for package in PACKAGES:  # The others are there, whatever this environment has.
    monkeypatch.setitem(sys.modules, package, None if package == name else builtins)
  with pytest.raises(
    UserError, match=f'needs the package {name}, which is not installed; pip install'
  ) as error:
    onnx_model.require()
  assert "'meta-pseudo-labels[onnx]'" in str(error.value) and '\n' not in str(error.value)


def test_a_package_that_does_not_work_is_one_line(monkeypatch, tmp_path):
  """As onnx 1.18 does with the ml_dtypes of TensorFlow 2.15."""
  (tmp_path / 'onnx.py').write_text('import math\nmath.float4_e2m1fn\n')
  monkeypatch.delitem(sys.modules, 'onnx', raising=False)
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(UserError, match='onnx does not work here .*float4_e2m1fn.*; pip install'):
    onnx_model.require()
