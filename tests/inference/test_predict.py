"""Task predict: a folder of images to a table, from the checkpoint and from the SavedModel."""

import csv
import io
import json

from meta_pseudo_labels import main, models
from meta_pseudo_labels.data.augment.views import PadCrop, Points
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.inference import classifier, predict_files, saved_model
from meta_pseudo_labels.training import logs

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(name='run', scope='module')
def fixture_run(tmp_path_factory):
  """The folder of a run on digits."""
  folder = tmp_path_factory.mktemp('run')
  assert (
    main.run(
      [
        'main',
        '--dataset_name=digits_40',
        '--model_type=mlp-8x1',
        '--image_size=8',
        '--lr=3',
        '--num_train_steps=3',
        '--train_batch_size=8',
        '--ema_decay=0.5',
        '--eval_batch_size=500',
        '--strategy=one_device',
        f'--output_dir={folder}',
      ]
    )
    == 0
  )
  return folder


@pytest.fixture(name='images', scope='module')
def fixture_images(tmp_path_factory):
  """A folder with seven images at several depths, two damaged ones, and what is no image."""
  folder = tmp_path_factory.mktemp('images')
  random = np.random.RandomState(0)
  draw = lambda *shape: random.randint(0, 256, shape).astype(np.uint8)
  (folder / 'b' / 'deep').mkdir(parents=True)
  (folder / '.hidden').mkdir()
  png = lambda *shape: tf.io.encode_png(draw(*shape)).numpy()
  for name, content in (
    ('a, "1".png', png(8, 8, 1)),
    ('a2.JPG', tf.io.encode_jpeg(draw(20, 30, 3)).numpy()),
    ('b/c.png', png(9, 12, 4)),
    ('b/deep/\u00e9.jpeg', tf.io.encode_jpeg(draw(8, 8, 1)).numpy()),
    ('b/deep/z.png', png(40, 8, 3)),
    ('y.png', png(8, 8, 1)),
    ('z.png', png(8, 8, 1)),
    ('b/bad.jpg', b'no image'),
    ('cut.png', png(30, 30, 3)[:200]),
    ('notes.txt', b'notes'),
    ('.hidden/h.png', png(8, 8, 1)),
    ('.h.png', png(8, 8, 1)),
  ):
    (folder / name).write_bytes(content)
  return folder


def predicted(run, images, *flags):
  """The text of what predict writes, `flags` naming --output."""
  argv = ['main', f'--output_dir={run}', '--task_mode=predict', f'--input={images}', *flags]
  assert main.run(argv) == 0
  return (run / 'predictions.csv').read_text()


def test_a_folder_from_the_checkpoint_and_from_the_saved_model(run, images, tmp_path, capsys):
  text = predicted(run, images, '--eval_batch_size=3')
  printed = capsys.readouterr().out
  rows = list(csv.DictReader(io.StringIO(text)))
  names = ['a, "1".png', 'a2.JPG', 'b/c.png', 'b/deep/z.png', 'b/deep/\u00e9.jpeg', 'y.png', 'z.png']
  assert [row['path'] for row in rows] == [f'{images}/{name}' for name in names]
  assert list(rows[0]) == ['path', 'class', 'probability'] + [
    f'{what}_{place}' for place in range(1, 6) for what in ('class', 'probability')
  ]
  for row in rows:
    probabilities = [float(row[f'probability_{place}']) for place in range(1, 6)]
    assert probabilities == sorted(probabilities, reverse=True) and probabilities[0] <= 1
    assert (row['class'], row['probability']) == (row['class_1'], row['probability_1'])
    assert row['class'] in '0123456789'
  assert '7 images in' in printed and 'images/s' in printed and 'predict 3/3' in printed
  assert '2 files cannot be read' in printed
  unreadable = (run / 'predictions.csv.unreadable.txt').read_text().splitlines()
  assert [line.split('\t')[0] for line in unreadable] == [f'{images}/b/bad.jpg', f'{images}/cut.png']
  assert all(line.split('\t')[1] in printed for line in unreadable)

  assert main.run(['main', f'--output_dir={run}', '--task_mode=export']) == 0
  argv = ['main', '--task_mode=predict', f'--input={images}', f'--saved_model={run}/saved_model']
  assert main.run([*argv, f'--output={tmp_path}/new/p.csv']) == 0
  assert (tmp_path / 'new' / 'p.csv').read_text() == text
  assert main.run([*argv, f'--output={tmp_path}/p.jsonl', '--eval_batch_size=2']) == 0
  lines = [json.loads(line) for line in (tmp_path / 'p.jsonl').read_text().splitlines()]
  assert [line['path'] for line in lines] == [row['path'] for row in rows]
  for line, row in zip(lines, rows):
    assert line['class'] == row['class'] == line['top_5_classes'][0]
    assert line['top_5_classes'] == [row[f'class_{place}'] for place in range(1, 6)]
    assert line['top_5_probabilities'] == pytest.approx(
      [float(row[f'probability_{place}']) for place in range(1, 6)], abs=2e-6
    )
  # One good file: the list of unreadable ones goes.
  predicted(run, images / 'y.png')
  assert not (run / 'predictions.csv.unreadable.txt').exists()


def test_what_an_input_means(images):
  short = lambda pattern: [name[len(str(images)) + 1 :] for name in predict_files.find(str(pattern))]
  assert short(images / '*.png') == ['a, "1".png', 'cut.png', 'y.png', 'z.png']
  assert short(images / 'b*') == ['b/bad.jpg', 'b/c.png', 'b/deep/z.png', 'b/deep/\u00e9.jpeg']
  assert short(images / '**' / 'z.png') == ['b/deep/z.png', 'z.png']
  assert short(images / 'notes.txt') == ['notes.txt']


def test_the_network_is_traced_once(images, tmp_path):
  model = models.build('wrn-10-1', num_classes=3, input_shape=(8, 8, 3))
  served = classifier.Classifier(model, Serving(('one', 'two', 'three'), (8, 8, 3), PadCrop()))
  shapes = []
  classify = served.classify
  served.classify = lambda inputs: shapes.append(tuple(inputs.shape)) or classify(inputs)
  found = []
  for batch_size in (2, 100):
    count, bad = predict_files.write(
      served,
      predict_files.find(str(images)),
      str(tmp_path / 'out.csv'),
      'csv',
      batch_size=batch_size,
      progress=logs.Progress(),
    )
    assert (count, len(bad)) == (7, 2)
    found.append((tmp_path / 'out.csv').read_text())
  assert shapes == [(2, 8, 8, 3)] * 4 + [(9, 8, 8, 3)]
  rows = [list(csv.reader(io.StringIO(text))) for text in found]
  assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
  assert classify.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--input=/no/such'], '--input=/no/such: no images found'),
    (['--input='], '--input: not given; --task_mode=predict needs --input=...'),
    (['--format=xml'], '--format=xml: unknown value'),
    (['--saved_model=/no/such'], '--saved_model=/no/such: cannot be loaded'),
    (['--output=/proc/nothing/here.csv'], '--output=/proc/nothing/here.csv: cannot be written'),
    (['--output_dir=', '--saved_model=x'], '--output: not given; --task_mode=predict needs --output=...'),
    (['--output_dir=/no/such'], '--output_dir=/no/such: no run there'),
  ],
)
def test_a_bad_request_is_one_line_and_status_2(run, images, capsys, flags, words):
  argv = ['main', f'--output_dir={run}', '--task_mode=predict', f'--input={images}']
  assert main.run([*argv, *flags]) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().splitlines()) == 1


def test_networks_that_take_no_images(images, tmp_path, capsys):
  model = models.build('mlp-8x1', num_classes=2, input_shape=(2,))
  points = classifier.Classifier(model, Serving(('one', 'two'), (2,), Points()))
  saved_model.write(points, str(tmp_path / 'points'))
  other = tf.Module()
  other.function = tf.function(lambda x: x, input_signature=[tf.TensorSpec([])])
  tf.saved_model.save(other, str(tmp_path / 'other'))
  for name, words in (
    ('points', 'classifies points, not images'),
    ('other', 'not written by --task_mode=export'),
  ):
    capsys.readouterr()
    assert (
      main.run(
        [
          'main',
          '--task_mode=predict',
          f'--input={images}',
          f'--output={tmp_path}/o',
          f'--saved_model={tmp_path}/{name}',
        ]
      )
      == 2
    )
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
