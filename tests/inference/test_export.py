"""Task export: what a process with nothing but TensorFlow makes of the SavedModel."""

import json
import os
import subprocess
import sys

from meta_pseudo_labels import build, main, models
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.augment.views import PadCrop, Points, ResizedCrop
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.inference import classifier, saved_model
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
import tensorflow as tf

FLAGS = [
  '--dataset_name=digits_40_mpl',
  '--model_type=wrn-10-1',
  '--image_size=12',
  '--num_validation=100',
  '--mpl_feedback=soft',
  '--train_batch_size=8',
  '--uda_data=1',
  '--num_train_steps=6',
  '--save_every=3',
  '--log_every=3',
  '--uda_steps=2',
  '--ema_decay=0.9',
  '--batch_norm_decay=0.5',
  '--mpl_student_lr=3',
  '--mpl_teacher_lr=3',
  '--mpl_student_lr_wait_steps=0',
  '--mpl_student_lr_warmup_steps=0',
  '--mpl_teacher_lr_warmup_steps=0',
  '--eval_batch_size=500',
  '--strategy=one_device',
]

# What somebody without this project does. The test images come as an array, so that they are PNG
# files of this process's making.
CLIENT = """
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
files = tf.constant([tf.io.encode_png(image).numpy() for image in images])
results = {name: value.numpy() for name, value in loaded.signatures['serving_default'](
    image_bytes=files).items() if value.dtype != tf.string}
named = loaded.signatures['serving_default'](image_bytes=files[:20])
results['class_names'] = named['class_names'].numpy().astype(str)
rgb = np.repeat(images, 3, axis=3)
results['of_pixels'] = loaded.signatures['images'](images=tf.constant(rgb))['probabilities']
results['logits'] = loaded.signatures['logits'](images=tf.constant(rgb))['logits']
larger = np.repeat(np.repeat(rgb[:7], 3, axis=1), 4, axis=2)
results['of_larger'] = loaded.signatures['images'](images=tf.constant(larger))['probabilities']
larger = tf.constant([tf.io.encode_png(image).numpy() for image in larger])
results['of_larger_files'] = loaded.signatures['serving_default'](image_bytes=larger)[
    'probabilities']
results['of_none'] = loaded.signatures['serving_default'](image_bytes=files[:0])['probabilities']
try:
  loaded.signatures['serving_default'](
      image_bytes=tf.concat([files[:4], [b'no image', files[0], b'', files[1]], files[:3]], 0))
  results['error'] = 'none'
except tf.errors.InvalidArgumentError as error:
  results['error'] = error.message
results['signatures'] = sorted(loaded.signatures)
results['ours'] = [name for name in sys.modules if name.startswith('meta_pseudo')]
np.savez(sys.argv[3], **results)
"""


def exported(run, folder, *flags):
  """Exports the run into a folder; the command names little more than the run's folder."""
  argv = ['main', f'--output_dir={run}', '--task_mode=export', f'--export_dir={folder}', *flags]
  assert main.run(argv) == 0
  return tf.saved_model.load(str(folder))


@pytest.fixture(name='run', scope='module')
def fixture_run(tmp_path_factory):
  """The folder of a run on digits that has selected its student by validation."""
  folder = tmp_path_factory.mktemp('run')
  assert main.run(['main', f'--output_dir={folder}', *FLAGS]) == 0
  return folder


@pytest.fixture(name='digits', scope='module')
def fixture_digits(run):
  """(the test images, 8 x 8 pixels as they come, though the run was trained at 12, {ema, raw,
  teacher: their probabilities by the checkpoint's models in evaluation})."""
  config = parse(['main', f'--output_dir={run}', *FLAGS])
  problem = build.problem(config)
  trained = Run(config, problem, tf.distribute.OneDeviceStrategy('CPU:0'))
  assert trained.checkpoints.restore_best()
  images = problem.evaluated['test'].inputs
  assert images.shape == (500, 12, 12, 1)
  model = lambda name: tf.nn.softmax(
    trained.phases[0].models[name][0](problem.views.plain(images), training=False)
  ).numpy()
  found = {'raw': model('student'), 'teacher': model('teacher')}
  with trained.phases[0].method.average.applied():
    found['ema'] = model('student')
  return registry.load(problem.info).test.inputs, found


@pytest.mark.long
def test_another_process_predicts_what_evaluation_does(run, digits, tmp_path, capsys):
  exported(run, tmp_path / 'served')
  printed = capsys.readouterr().out
  assert 'SavedModel with the signatures serving_default, images, logits' in printed
  assert 'ckpt_best' in printed
  images, expected = digits
  np.save(tmp_path / 'images.npy', images)
  (tmp_path / 'client.py').write_text(CLIENT)
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  subprocess.run(
    [sys.executable, 'client.py', 'served', 'images.npy', 'found.npz'],
    cwd=tmp_path,
    env=environment,
    check=True,
    capture_output=True,
    timeout=120,
  )
  found = np.load(tmp_path / 'found.npz')
  assert found['ours'].size == 0
  assert found['signatures'].tolist() == ['images', 'logits', 'serving_default']
  np.testing.assert_allclose(found['probabilities'], expected['ema'], atol=1e-5)
  np.testing.assert_array_equal(found['classes'], expected['ema'].argmax(1))
  assert found['classes'].dtype == np.int32 and len(found['classes']) == 500
  np.testing.assert_array_equal(found['class_names'], found['classes'][:20].astype(str))
  top = np.sort(expected['ema'])[:, :-6:-1]
  np.testing.assert_allclose(found['top_5_probabilities'], top, atol=1e-5)
  np.testing.assert_array_equal(found['top_5_classes'][:, 0], found['classes'])
  np.testing.assert_allclose(found['of_pixels'], expected['ema'], atol=1e-5)
  np.testing.assert_allclose(tf.nn.softmax(found['logits']), expected['ema'], atol=1e-5)
  np.testing.assert_allclose(found['of_larger'], found['of_larger_files'], atol=1e-5)
  assert found['of_larger'].shape == (7, 10) and found['of_none'].shape == (0, 10)
  assert 'images that cannot be decoded, by index:] [4 6]' in str(found['error'])


def test_the_weights_that_were_asked_for(run, digits, tmp_path):
  images, expected = digits
  assert np.abs(expected['ema'] - expected['raw']).max() > 1e-2
  assert np.abs(expected['teacher'] - expected['raw']).max() > 1e-2
  rgb = tf.repeat(images[:50], 3, axis=3)
  for weights in ('raw', 'teacher'):
    loaded = exported(run, tmp_path / weights, f'--export_weights={weights}')
    found = loaded.signatures['images'](images=rgb)['probabilities']
    np.testing.assert_allclose(found, expected[weights][:50], atol=1e-5)


def test_an_older_export_is_replaced_and_tflite_and_warmup_come_with_it(run, digits, tmp_path):
  (tmp_path / 'served').mkdir()
  (tmp_path / 'served' / 'saved_model.pb').write_text('older')
  (tmp_path / 'served' / 'more').write_text('older')
  exported(run, tmp_path / 'served', '--export_tflite')
  assert os.listdir(tmp_path) == ['served'] and not (tmp_path / 'served' / 'more').exists()
  images, expected = digits
  interpreter = tf.lite.Interpreter(str(tmp_path / 'served' / 'model.tflite'))
  index = interpreter.get_input_details()[0]['index']
  interpreter.resize_tensor_input(index, [20, 12, 12, 1])
  images = crops.stretch_all(images[:20], 12).numpy()
  interpreter.allocate_tensors()
  mean, std = 77.59793, 95.73860
  interpreter.set_tensor(index, ((images - mean) / std).astype(np.float32))
  interpreter.invoke()
  logits = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])
  np.testing.assert_allclose(tf.nn.softmax(logits), expected['ema'][:20], atol=1e-4)
  warmup = tmp_path / 'served' / 'assets.extra' / 'tf_serving_warmup_requests'
  (record,) = tf.data.TFRecordDataset(str(warmup)).as_numpy_iterator()
  # tensorflow_serving/apis: PredictionLog.predict_log, PredictLog.request, then PredictRequest's
  # model_spec (its name) and inputs, a map.
  ((predict_log,),) = fields(record, 6)
  ((request,),) = fields(predict_log, 1)
  (model_spec,), (entry,) = fields(request, 1, 2)
  assert fields(model_spec, 1) == [[b'default']]
  (name,), (tensor,) = fields(entry, 1, 2)
  assert name == b'image_bytes'
  (image,) = tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(tensor))
  loaded = tf.saved_model.load(str(tmp_path / 'served'))
  found = loaded.signatures['serving_default'](image_bytes=tf.constant([image]))
  assert found['classes'].shape == [1]


def fields(message, *numbers):
  """The values of a protocol buffer message whose fields all are of these numbers and hold bytes:
  a list of bytes for each number."""

  def varint():
    nonlocal place
    value = shift = 0
    while True:
      byte, place = message[place], place + 1
      value |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        return value

  place, found = 0, {number: [] for number in numbers}
  while place < len(message):
    key = varint()
    assert key & 7 == 2
    length = varint()
    found[key >> 3].append(message[place : place + length])
    assert len(found[key >> 3][-1]) == length
    place += length
  return list(found.values())


def built(views, shape, model_type='wrn-10-1', num_classes=3):
  """(a Classifier of an untrained model, that model)."""
  model = models.build(model_type, num_classes=num_classes, input_shape=shape)
  names = ('one', 'two', 'three')[:num_classes]
  return classifier.Classifier(model, Serving(names, shape, views)), model


def test_gray_of_equal_channels_is_unchanged():
  gray = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  served, _ = built(PadCrop(mean=(0.0,), std=(1.0,)), (16, 16, 1))
  png = tf.io.encode_png(gray[0])
  np.testing.assert_array_equal(served.prepare(png), gray[0])
  np.testing.assert_array_equal(served.prepare_pixels(tf.repeat(gray[0], 3, axis=2)), gray[0])


def test_photos_are_cropped_as_in_evaluation():
  views = ResizedCrop(size=12, eval_size=16, mean=(100.0, 120.0, 90.0), std=(50.0, 60.0, 70.0))
  served, model = built(views, (None, None, 3))
  images = np.random.RandomState(0).randint(0, 256, [3, 37, 50, 3]).astype(np.uint8)
  files = tf.stack(
    [
      tf.io.encode_png(images[0]),
      tf.io.encode_jpeg(images[1], quality=80),
      tf.io.encode_png(images[2][:9, :20]),
    ]
  )
  seen = views.plain(files)
  found = tf.stack([served.prepare(file) for file in files])
  # But for the last bit: a graph may multiply by 1 / std.
  np.testing.assert_allclose(found[::2], seen[::2], atol=1e-6)
  # A record's JPEG is decoded as in the release, a file's as by Pillow: a few levels of 255 apart.
  np.testing.assert_allclose(found[1], seen[1], atol=4 / 50)
  expected = tf.nn.softmax(model(found, training=False))
  np.testing.assert_allclose(served.from_bytes(files)['probabilities'], expected, atol=1e-6)
  files = tf.stack([tf.io.encode_png(image) for image in images])
  pixels = tf.stack([served.prepare_pixels(image) for image in images])
  np.testing.assert_allclose(pixels, views.plain(files), atol=1e-5)


def test_bfloat16_is_served(tmp_path):
  tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    served, model = built(PadCrop(dtype=tf.bfloat16), (8, 8, 3), 'mlp-8x1')
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')
  saved_model.write(served, str(tmp_path / 'served'))
  loaded = tf.saved_model.load(str(tmp_path / 'served'))
  images = tf.zeros([2, 8, 8, 3], tf.uint8)
  found = loaded.signatures['logits'](images=images)['logits']
  assert found.dtype == tf.float32
  np.testing.assert_allclose(found, model(tf.zeros([2, 8, 8, 3], tf.bfloat16)), atol=1e-2)


def test_points(tmp_path):
  served, model = built(Points(), (2,), 'mlp-8x1', num_classes=2)
  saved_model.write(served, str(tmp_path / 'served'))
  loaded = tf.saved_model.load(str(tmp_path / 'served'))
  assert sorted(loaded.signatures) == ['points', 'serving_default']
  points = tf.constant([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]])
  expected = tf.nn.softmax(model(points)).numpy()
  for signature in loaded.signatures.values():
    found = signature(points=points)
    np.testing.assert_allclose(found['probabilities'], expected, atol=1e-6)
    assert found['top_5_classes'].shape == (3, 2)
  assert set(found['class_names'].numpy()) <= {b'one', b'two'}


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--output_dir=/no/such'], '--output_dir=/no/such: no run there'),
    (['--model_type=wrn-16-1'], 'model_type wrn-10-1 -> wrn-16-1'),
    (['--dataset_name=digits_50_mpl'], 'labeled_count 40 -> 50'),
    (['--export_dir={run}/ckpt_last'], 'ckpt_last: exists and is no SavedModel'),
    (['--export_dir=/proc/nothing/here'], '--export_dir=/proc/nothing/here: cannot be written'),
    (['--export_weights=average'], '--export_weights=average: unknown value'),
    (['--reset_output_dir'], 'would delete the checkpoints'),
  ],
)
def test_a_bad_request_is_one_line_and_status_2(run, capsys, flags, words):
  flags = [flag.format(run=run) for flag in flags]
  assert main.run(['main', f'--output_dir={run}', '--task_mode=export', *flags]) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().splitlines()) == 1


def test_networks_that_a_run_does_not_have(tmp_path, capsys):
  argv = [
    'main',
    '--dataset_name=two_moons_6',
    '--model_type=mlp-8x1',
    '--label_seed=1',
    '--num_train_steps=1',
    '--train_batch_size=4',
    f'--output_dir={tmp_path}',
  ]
  # What the training did to its folder, a later task does not do.
  assert (
    main.run([*argv, '--method=uda', '--uda_data=1', '--strategy=one_device', '--reset_output_dir']) == 0
  )
  capsys.readouterr()
  command = ['main', f'--output_dir={tmp_path}', '--task_mode=export']
  assert main.run([*command, '--export_weights=teacher']) == 2
  assert 'the run has no teacher that can be used' in capsys.readouterr().err
  # With the whole command of the training, as eval wants it, too.
  assert main.run([*argv, '--method=uda', '--uda_data=1', '--task_mode=export']) == 0
  assert 'ckpt_last' in capsys.readouterr().out  # No validation split, nothing selected.
  assert json.loads((tmp_path / 'results.json').read_text()).get('selected') is None
  assert (tmp_path / 'saved_model' / 'saved_model.pb').exists()
