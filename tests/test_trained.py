"""A run from Python: train and load_run, whose predictions are those of the command."""

import csv
import json
import os

import meta_pseudo_labels as mpl
from meta_pseudo_labels import config, main
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import tiny

FLAGS = ['--dataset_name=digits_40', '--model_type=mlp-8x1', '--image_size=8', '--lr=3',
         '--num_train_steps=3', '--train_batch_size=8', '--ema_decay=0.5', '--eval_batch_size=3',
         '--strategy=one_device', '--log_every=1', '--seed=5']  # fmt: skip


@pytest.fixture(name='folder', scope='module')
def fixture_folder(tmp_path_factory):
  """The folder of a run on digits that the command trained."""
  folder = tmp_path_factory.mktemp('run')
  assert main.run(['main', *FLAGS, f'--output_dir={folder}']) == 0
  return folder


@pytest.fixture(name='pictures', scope='module')
def fixture_pictures(tmp_path_factory):
  """A folder of images: PNG, gray, transparent, with a palette, 16 bits deep, GIF, turned."""
  folder, random = tmp_path_factory.mktemp('pictures'), np.random.RandomState(0)
  draw = lambda *shape: Image.fromarray(random.randint(0, 256, shape).astype(np.uint8))
  draw(8, 8, 3).save(folder / '1.png')
  draw(20, 9).save(folder / '2.png')
  draw(12, 12, 4).save(folder / '3.png')
  draw(12, 30, 3).convert('P', palette=Image.Palette.ADAPTIVE).save(folder / '4.png')
  Image.fromarray(random.randint(0, 2**16, (10, 11)).astype(np.uint16)).save(folder / '5.png')
  draw(9, 9, 3).convert('P', palette=Image.Palette.ADAPTIVE).save(folder / '6.gif')
  exif = Image.Exif()
  exif[0x0112] = 6
  draw(9, 14, 3).save(folder / '7.png', exif=exif)
  return folder


def rows_of_command(folder, pictures, *flags):
  argv = ['main', f'--output_dir={folder}', '--task_mode=predict', f'--input={pictures}', *flags]
  assert main.run([*argv, '--eval_batch_size=3']) == 0
  with open(folder / 'predictions.csv', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_predictions_are_those_of_the_command(folder, pictures):
  """Of paths, of opened images, and of arrays: to all digits that the command writes."""
  expected = rows_of_command(folder, pictures)
  run = mpl.load_run(folder)
  paths = [row['path'] for row in expected]
  assert len(paths) == 7 and run.class_names == tuple('0123456789')
  for inputs in (str(pictures), pictures, paths, list(map(Image.open, paths))):
    found = run.predict(inputs, batch_size=3)
    assert found.class_names == [row['class'] for row in expected]
    assert found.names == (paths if not isinstance(inputs, list) or inputs is paths else [None] * 7)
    top = np.sort(found.probabilities, axis=1)[:, ::-1]
    for place in range(5):
      assert [f'{value:.6f}' for value in top[:, place]] == [
        row[f'probability_{place + 1}'] for row in expected
      ]
    rows = found.rows()
    assert [(row['class'], f'{row["probability"]:.6f}') for row in rows] == [
      (row['class'], row['probability']) for row in expected
    ]
  one = np.array(Image.open(paths[0]))
  for inputs in (Image.open(paths[0]), one[np.newaxis], [one], tf.constant(one)[tf.newaxis]):
    np.testing.assert_array_equal(run.predict(inputs, batch_size=3).classes, found.classes[:1])
  several = np.stack([one, one[::-1]])
  np.testing.assert_allclose(run.predict(several).probabilities[0], found.probabilities[0], rtol=1e-5)


def test_the_model_holds_what_is_asked_for(folder, pictures):
  """The averaged weights differ from the raw ones, in the model as in the command."""
  averaged, raw = mpl.load_run(folder), mpl.load_run(folder, weights='raw')
  weights = [run.model.get_weights() for run in (averaged, raw)]
  assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(*weights))
  expected = rows_of_command(folder, pictures, '--export_weights=raw')
  found = raw.predict(pictures)
  assert [f'{row["probability"]:.6f}' for row in found.rows()] == [row['probability'] for row in expected]
  assert averaged.teacher is None
  with pytest.raises(UserError, match='--export_weights=teacher: the run has no teacher'):
    mpl.load_run(folder, weights='teacher')


def test_evaluate_finds_what_the_task_finds(folder):
  run = mpl.load_run(folder)
  assert main.run(['main', *FLAGS, f'--output_dir={folder}', '--task_mode=eval']) == 0
  with open(folder / 'eval_test.json', encoding='utf-8') as file:
    expected = json.load(file)['models']['student']
  assert run.evaluate() == pytest.approx(expected, rel=1e-5)
  with pytest.raises(UserError, match="split='train': the data have"):
    run.evaluate(split='train')


def test_evaluate_refuses_other_data_than_those_of_the_training(tmp_path):
  """Of an .npz file that was replaced, and of a labeled example that changed its class."""
  random = np.random.RandomState(0)
  parts = {
    f'{split}_points': random.normal(size=[20, 3]).astype(np.float32) for split in ('train', 'test')
  }
  labels = {f'{split}_labels': np.arange(20) % 2 for split in ('train', 'test')}
  path = tmp_path / 'rows.npz'
  save = lambda **changes: np.savez(path, **{**parts, **labels, **changes})
  save()
  run = mpl.train(
    dataset_name='npz', data_dir=str(path), model_type='mlp-4x1', method='supervised',
    num_train_steps=1, train_batch_size=4, strategy='one_device', output_dir=f'{tmp_path}/run',
    num_validation=0,
    verbose=False,
  )  # fmt: skip
  before = run.evaluate()
  save(train_labels=1 - labels['train_labels'])
  with pytest.raises(UserError, match=r'other data \(labels differ\); give evaluate\(\) inputs') as raised:
    run.evaluate(split='test')
  assert '\n' not in str(raised.value) and f'{tmp_path}/run' in str(raised.value)
  save(unlabeled_points=parts['test_points'])
  with pytest.raises(UserError, match=r'\(unlabeled differ\)'):
    mpl.load_run(tmp_path / 'run').evaluate()
  assert run.evaluate(parts['test_points'], labels['test_labels'])['top1'] == before['top1']
  save()
  assert run.evaluate() == before


def test_evaluate_of_own_images(folder, pictures):
  run = mpl.load_run(folder)
  found = run.predict(pictures)
  right = run.evaluate(pictures, found.class_names)
  best = found.probabilities.max(axis=1)
  assert (right['top1'], right['top5'], right['examples']) == (1.0, 1.0, 7)
  assert right['loss'] == pytest.approx(-np.log(best).mean(), rel=1e-5)
  worst = found.probabilities.argmin(axis=1)
  assert run.evaluate(pictures, [*worst[:6], found.classes[6]])['top1'] == pytest.approx(1 / 7)
  for labels, words in (
    (worst[:6], 'labels: 6 for 7 inputs'),
    (['x'] * 7, "labels: 'x' is no class"),
    ([10] * 7, 'labels: 10 is no class'),
  ):
    with pytest.raises(UserError, match=words):
      run.evaluate(pictures, labels)


def test_the_history_is_rows(folder):
  run = mpl.load_run(folder)
  trained = [row for row in run.history if row['kind'] == 'train']
  assert [row['step'] for row in trained] == [1, 2, 3] and 'loss/total' in trained[0]
  assert run.results['phases']['train']['student']['examples'] == run.evaluate()['examples']
  assert 'supervised on digits' in repr(run)


def test_what_cannot_be_read_is_told_or_left_out(folder, pictures, tmp_path):
  run = mpl.load_run(folder)
  (tmp_path / 'bad.png').write_bytes(b'no image')
  paths = [str(pictures / '1.png'), tmp_path / 'bad.png']
  with pytest.raises(UserError, match='bad.png: cannot be read .* 1 of 2 images'):
    run.predict(paths)
  found = run.predict(paths, skip_unreadable=True)
  assert found.class_names[1] is None and found.classes[1] == -1 and list(found.unreadable) == [1]
  assert np.isnan(found.probabilities[1]).all() and not np.isnan(found.probabilities[0]).any()
  for bad, words in (
    (np.zeros([8, 8, 3], np.uint8), r'an array of shape \[8, 8, 3\]; give a path'),
    (np.zeros([1, 8, 8, 3]), r'an image of shape \[8, 8, 3\] and dtype float64'),
    ('/no/such', 'no images found'),
  ):
    with pytest.raises(UserError, match=words):
      run.predict(bad)


def test_train_is_the_command(tmp_path, capsys):
  """The same weights; and a teacher, points, and settings of the process that stay."""
  argv = tiny(tmp_path / 'command', '--mpl_feedback=soft')[1:]
  assert main.run(['main', *argv]) == 0
  tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    capsys.readouterr()
    run = mpl.train(
      argv, output_dir=tmp_path / 'python', num_train_steps=np.int64(6).item(), verbose=False
    )
    assert capsys.readouterr().out == ''
    assert tf.keras.mixed_precision.global_policy().name == 'mixed_bfloat16'
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')
  command = mpl.load_run(str(tmp_path / 'command'))
  assert os.path.isfile(tmp_path / 'python' / 'results.json') and run.folder == str(tmp_path / 'python')
  for one, other in ((run.model, command.model), (run.teacher, command.teacher)):
    assert len(one.get_weights()) == len(other.get_weights()) > 0
    for value, expected in zip(one.get_weights(), other.get_weights()):
      np.testing.assert_array_equal(value, expected)
  points = np.random.RandomState(0).normal(size=[700, 2]).astype(np.float32)
  found = run.predict(points, batch_size=500)
  np.testing.assert_allclose(
    found.probabilities, tf.nn.softmax(run.model.predict(points, verbose=0)), rtol=1e-4, atol=1e-6
  )
  with pytest.raises(UserError, match=r'classifies points; give an array of shape \[N, 2\]'):
    run.predict(points[0])


def test_a_request_that_cannot_be_carried_out_raises(tmp_path):
  for call, words in (
    (lambda: mpl.load_run(tmp_path), 'no run there'),
    (lambda: mpl.train(['--nosuch=1']), '--nosuch: unknown flag'),
    (lambda: mpl.train(num_train_step=3), "unknown name 'num_train_step' .did you mean"),
    (lambda: mpl.train(num_train_steps='many'), "num_train_steps is 'many', but must be"),
    (lambda: mpl.train(num_train_steps=object()), 'settings: '),
    (lambda: mpl.train(['--dataset_name=digits'], output_dir='x', task_mode='eval'), 'task_mode=eval'),
    (lambda: mpl.train(config.Config(dataset_name='digits_40', seed=-1)), '--'),
  ):  # fmt: skip
    with pytest.raises(UserError, match=words) as raised:
      call()
    assert '\n' not in str(raised.value)
