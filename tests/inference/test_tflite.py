"""The files of --export_formats: what an interpreter of each computes, beside the run's Keras model."""

import contextlib
import io
import json
import types

import meta_pseudo_labels as mpl
from meta_pseudo_labels import main
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.config.choices import EXPORT_FORMATS
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.data.augment.views import PadCrop, Points
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.inference import agreement, formats

import numpy as np
import pytest
import tensorflow as tf
from test_export import built
from test_pretrained_runs import command, fixture_network  # noqa: F401 A fixture.
from tiny import tiny

TFLITE = ('tflite', 'tflite_float16', 'tflite_int8')
FLAGS = ['--dataset_name=digits_200', '--model_type=wrn-10-1', '--image_size=8', '--lr=0.4',
         '--num_train_steps=60', '--train_batch_size=32', '--ema_decay=0.9', '--batch_norm_decay=0.8',
         '--num_warmup_steps=0', '--eval_batch_size=300', '--strategy=one_device']  # fmt: skip


@pytest.fixture(name='run', scope='module')
def fixture_run(tmp_path_factory):
  """The folder of a run on digits that has learned something."""
  folder = tmp_path_factory.mktemp('run')
  assert main.run(['main', f'--output_dir={folder}', *FLAGS]) == 0
  return folder


def export(run, *flags):
  return main.run(['main', f'--output_dir={run}', '--task_mode=export', *flags])


def take_test_digits():
  """(uint8 `[500, 8, 8, 1]`, labels `[500]`)."""
  found = registry.load(registry.info('digits')).test
  return found.inputs, found.labels


def normalize(run, images):
  """What the network sees of uint8 images, by what the checkpoint says of its mean and deviation."""
  views = mpl.load_run(run)._serving.views
  return ((images - np.array(views.mean)) / np.array(views.std)).astype(np.float32)


def interpret(path, inputs):
  """The logits of a TFLite file; its tensors' dtypes."""
  interpreter = tf.lite.Interpreter(str(path))
  (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
  assert source['dtype'] == result['dtype'] == np.float32
  interpreter.resize_tensor_input(source['index'], inputs.shape)
  interpreter.allocate_tensors()
  interpreter.set_tensor(source['index'], inputs)
  interpreter.invoke()
  return interpreter.get_tensor(result['index']), interpreter.get_tensor_details()


@pytest.fixture(name='printed', scope='module')
def fixture_printed(run):
  """What the export of all of TFLite's kinds prints."""
  text = io.StringIO()
  with contextlib.redirect_stdout(text):
    assert export(run, f'--export_formats={",".join(TFLITE)}') == 0
  return text.getvalue()


@pytest.mark.parametrize('number, limit', [(0, 1e-4), (1, 1e-2), (2, 0.3)])
def test_each_kind_of_tflite_is_as_far_from_the_run_as_it_says(run, printed, number, limit):
  images, labels = take_test_digits()
  inputs, trained = normalize(run, images), mpl.load_run(run)
  expected = trained.model.predict(inputs, verbose=0)
  assert trained.evaluate()['top1'] == np.mean(expected.argmax(axis=1) == labels) > 0.7
  row = json.loads((run / 'export.json').read_text())['files'][number]
  path = run / 'saved_model' / row['file']
  logits, _ = interpret(path, inputs)
  difference = np.abs(logits - expected).max()
  assert 0 < difference <= limit * np.abs(expected).max()
  assert row['difference'] == pytest.approx(difference, rel=0.2, abs=1e-5)
  assert row['scale'] == pytest.approx(np.abs(expected).max(), rel=1e-4)
  assert row['same_class'] == pytest.approx(np.mean(logits.argmax(1) == expected.argmax(1)), abs=0.003)
  assert row['accuracy'] == pytest.approx(np.mean(logits.argmax(1) == labels), abs=0.003)
  assert (row['run_accuracy'], row['examples'], row['of']) == (trained.evaluate()['top1'], 500, 500)
  assert row['accuracy'] > row['run_accuracy'] - 0.01 and row['warning'] == ''
  assert row['bytes'] == path.stat().st_size and row['format'] == TFLITE[number]
  assert f'{row["file"]}: {row["bytes"] / 1e6:.2f} MB, largest difference of logits' in printed
  assert f'of 500 test examples, accuracy {100 * row["accuracy"]:.2f}% (run: ' in printed


def test_weights_are_stored_in_what_was_asked_for(run, printed):
  inputs = normalize(run, take_test_digits()[0][:2])
  folder, kernels, activations = run / 'saved_model', {}, {}
  for kind in ('model', 'model_float16', 'model_int8'):
    details = interpret(folder / f'{kind}.tflite', inputs)[1]
    kernels[kind] = [found['dtype'] for found in details if tuple(found['shape']) == (64, 3, 3, 64)]
    # As they are for one image: kernels of 1 filter there are none.
    fresh = tf.lite.Interpreter(str(folder / f'{kind}.tflite')).get_tensor_details()
    activations[kind] = {
      found['dtype'] for found in fresh if len(found['shape']) == 4 and found['shape'][0] == 1
    }
  assert np.int8 in activations['model_int8'] and np.int8 not in activations['model']
  assert np.float32 in kernels['model'] and np.int8 not in kernels['model']
  assert np.float16 in kernels['model_float16']
  assert np.int8 in kernels['model_int8'] and np.float32 not in kernels['model_int8']
  sizes = [(folder / f'{kind}.tflite').stat().st_size for kind in kernels]
  assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.4 * sizes[0]


def test_the_report_shows_them(run, printed):
  assert main.run(['main', f'--output_dir={run}', '--task_mode=report']) == 0
  text = (run / 'report.html').read_text(encoding='utf-8')
  assert 'Exported files' in text and '<td>model_int8.tflite</td>' in text
  assert 'on 500 of 500 test examples' in text


def test_python_exports_the_same_and_a_later_export_replaces_it(run, printed, tmp_path):
  before = json.loads((run / 'export.json').read_text())['files'][0]
  (row,) = mpl.load_run(run).export(tmp_path / 'python', formats=['tflite'])
  assert row['file'] == before['file'] and row['accuracy'] == before['accuracy']
  assert row['difference'] == pytest.approx(before['difference'], abs=1e-5)
  assert (tmp_path / 'python' / 'model.tflite').stat().st_size == before['bytes']
  with pytest.raises(UserError, match="--export_formats=tflit: unknown format 'tflit' .did you mean"):
    mpl.load_run(run).export(tmp_path / 'python', formats=['tflit'])
  assert export(run, f'--export_dir={tmp_path}/bare') == 0
  assert json.loads((run / 'export.json').read_text())['files'] == []
  assert not list((tmp_path / 'bare').glob('*.tflite'))


def test_formats_are_those_of_the_flag():
  assert tuple(formats.FORMATS) == EXPORT_FORMATS
  asked = lambda **flags: Config(**flags).exported_formats
  assert asked() == () and asked(export_tflite=True) == ('tflite',)
  assert asked(export_tflite=True, export_formats='onnx, tflite') == ('tflite', 'onnx')


def test_points_and_their_calibration(tmp_path, capsys):
  assert main.run(tiny(tmp_path)) == 0
  assert export(tmp_path, '--export_formats=tflite,tflite_int8') == 0
  found = json.loads((tmp_path / 'export.json').read_text())['files']
  points = np.random.default_rng(0).normal(size=[9, 2]).astype(np.float32)
  logits, _ = interpret(tmp_path / 'saved_model' / 'model.tflite', points)
  expected = mpl.load_run(tmp_path).model.predict(points, verbose=0)
  np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
  assert found[0]['difference'] <= 1e-4 * found[0]['scale'] and found[1]['same_class'] > 0.9


@pytest.mark.parametrize(
  'flags', [pytest.param((), marks=pytest.mark.long), ('--features', '--feature_views=1')]
)
def test_a_network_made_elsewhere(tmp_path, network, flags):
  """Finetuned, and as features with a new head: the file has both in one."""
  more = [f'--cache_dir={tmp_path}/cache', '--method=supervised', *flags]
  assert main.run(command(tmp_path / 'run', network, *more)) == 0
  assert export(tmp_path / 'run', '--export_formats=tflite') == 0
  (row,) = json.loads((tmp_path / 'run' / 'export.json').read_text())['files']
  pixels = np.random.default_rng(0).uniform(0, 255, [5, 8, 8, 1]).astype(np.float32)
  logits, _ = interpret(tmp_path / 'run' / 'saved_model' / 'model.tflite', pixels)
  expected = mpl.load_run(tmp_path / 'run').model.predict(pixels, verbose=0)
  assert logits.shape == (5, 10) and np.abs(expected).max() > 0.01
  np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
  assert row['difference'] <= 1e-4 * row['scale'] and row['examples'] == 500


def test_without_the_data_a_float_file_is_written_and_int8_is_refused(tmp_path, capsys):
  arrays = {
    'train_points': np.random.default_rng(0).normal(size=[20, 2]).astype(np.float32),
    'train_labels': np.arange(20) % 2,
  }
  np.savez(
    tmp_path / 'own.npz', test_points=arrays['train_points'], test_labels=arrays['train_labels'], **arrays
  )
  flags = [
    '--dataset_name=npz',
    f'--data_dir={tmp_path}/own.npz',
    '--num_labeled=10',
    '--method=supervised',
  ]
  assert main.run([*tiny(tmp_path / 'run'), *flags]) == 0
  (tmp_path / 'own.npz').unlink()
  capsys.readouterr()
  assert export(tmp_path / 'run', '--export_formats=tflite') == 0
  assert 'model.tflite: not compared with the run, whose data are not there (' in capsys.readouterr().out
  assert (tmp_path / 'run' / 'saved_model' / 'model.tflite').exists()
  assert export(tmp_path / 'run', '--export_formats=tflite_int8') == 2
  error = capsys.readouterr().err
  assert '--export_formats=tflite_int8: is measured on training examples, which are not there' in error


def test_bfloat16_is_served_but_not_in_these_files(tmp_path):
  tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    served, _ = built(PadCrop(dtype=tf.bfloat16), (8, 8, 3), 'mlp-8x1')
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')
  with pytest.raises(UserError, match='=tflite: this network computes in bfloat16'):
    formats.write(served, str(tmp_path / 'served'), ['tflite'])


def test_int8_is_calibrated_on_labeled_and_unlabeled_examples():
  labeled, unlabeled = (np.arange(float(n))[:, np.newaxis].astype(np.float32) for n in (250, 1000))
  problem = types.SimpleNamespace(labeled=(labeled, None), unlabeled=unlabeled)
  found = np.array(list(agreement.calibration(types.SimpleNamespace(views=Points()), problem)))
  assert found.shape == (300, 1, 1)
  np.testing.assert_array_equal(found[:100].ravel(), np.arange(0, 250, 2.5) // 1)
  np.testing.assert_array_equal(found[100:].ravel(), np.arange(0, 1000, 5))


def test_warnings_and_counts_by_hand():
  """Logits of four examples, of which only two are taken; one of them changes its class."""
  values = dict(file='f', bytes=10, same_class=1.0, examples=5, of=5, split='test')
  said = lambda kind, difference, lost: (
    agreement.Agreement(
      format=kind, difference=difference, scale=10.0, accuracy=0.5 - lost, run_accuracy=0.5, **values
    ).warning
  )
  assert (
    said('onnx', 0.9e-3, 0) == said('tflite_float16', 0.1, 0.009) == said('tflite_int8', 5.0, -0.2) == ''
  )
  assert 'f: differs from the run by more than 0.0001' in said('tflite', 1.1e-3, 0)
  assert 'differs' in said('onnx', float('nan'), 0)
  assert 'f: loses 1.5 points of accuracy' in said('tflite_int8', 0.1, 0.015)
  assert 'loses' in said('tflite_int8', 0.1, float('nan'))
  assert agreement.spread(5, 3).tolist() == [0, 1, 3] and agreement.spread(2, 3).tolist() == [0, 1]
  assert agreement.spread(0, 3).tolist() == []


def test_a_comparison_by_hand():
  inputs = np.array([[0.0, 1.0], [3.0, 1.0], [0.0, -4.0]], np.float32)
  labels = np.array([1, 0, 1], np.int32)
  network = types.SimpleNamespace(views=Points(), from_inputs=lambda x: {'logits': tf.constant(x)})
  problem = types.SimpleNamespace(
    labeled=(inputs, labels), evaluated={'validation': types.SimpleNamespace(inputs=inputs, labels=labels)}
  )
  reference = agreement.Reference(network, problem, batch_size=2)
  found = reference.compare(lambda x: x + np.float32([0, 2.5]), file='f', format='onnx', bytes=1)
  assert (found.difference, found.scale, found.split, found.examples) == (2.5, 4.0, 'validation', 3)
  # By the run: classes 1, 0, 0. With 2.5 more for class 1: 1, 1, 0.
  assert found.same_class == found.run_accuracy == pytest.approx(2 / 3)
  assert found.accuracy == pytest.approx(1 / 3)
  problem.evaluated = {}
  assert agreement.Reference(network, problem, batch_size=2).split == 'labeled'
