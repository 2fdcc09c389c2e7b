"""Files that are wrong in one way each, for tests/test_bad_requests.py."""

import contextlib
import gzip
import json
import re
import sys
import unittest.mock

from meta_pseudo_labels import build
from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.data import semi_supervised

import numpy as np
import tensorflow as tf

POINTS = dict(
  train_points=np.zeros([8, 2], np.float32),
  train_labels=np.arange(8) % 2,
  test_points=np.zeros([4, 2], np.float32),
  test_labels=np.arange(4) % 2,
)
IMAGES = dict(
  train_images=np.zeros([8, 9, 9], np.uint8),
  train_labels=np.arange(8) % 2,
  test_images=np.zeros([4, 9, 9], np.uint8),
  test_labels=np.arange(4) % 2,
)
NAN = np.full([8, 2], np.nan, np.float32)
# {name: arrays of an .npz file}, each wrong in one way.
ARRAYS = {
  'no_arrays': {},
  'no_inputs': dict(train_labels=np.arange(8)),
  'no_labels': {k: v for k, v in POINTS.items() if k != 'train_labels'},
  'misnamed': dict(POINTS, trian_points=NAN),
  'nan_points': dict(POINTS, train_points=NAN),
  'nan_test': dict(POINTS, test_points=NAN[:4]),
  'float64': dict(POINTS, train_points=np.zeros([8, 2])),
  'other_width': dict(POINTS, test_points=np.zeros([4, 3], np.float32)),
  'few_labels': dict(POINTS, train_labels=np.arange(7) % 2),
  'float_labels': dict(POINTS, train_labels=np.arange(8) / 2),
  'negative_labels': dict(POINTS, train_labels=np.arange(8) - 3),
  'unknown_labels': dict(POINTS, train_labels=np.full(8, -1)),
  'one_class': dict(POINTS, train_labels=np.zeros(8, int), test_labels=np.zeros(4, int)),
  'gap': dict(POINTS, train_labels=np.arange(8) % 2 * 2),
  'few_names': dict(POINTS, class_names=np.array(['one'])),
  'same_names': dict(POINTS, class_names=np.array(['one', 'one'])),
  'pickled': dict(POINTS, class_names=np.array(['one', 2], object)),
  'empty_array': dict(IMAGES, train_images=np.zeros([0, 9, 9], np.uint8), train_labels=np.zeros(0, int)),
  'five_channels': dict(IMAGES, train_images=np.zeros([8, 9, 9, 5], np.uint8)),
  'cut': None,
  'no_zip': None,
  'missing': None,
}
# {name: lines of a file of labels}, each wrong in one way.
LABELS = {
  'unknown_column': ['path,label', 'labeled/a/0.png,a'],
  'no_such_image': ['path,class', 'labeled/a/7.png,a'],
  'outside': ['path,class', '../0.png,a'],
  'two_classes': ['path,class', 'labeled/a/0.png,a', 'labeled/a/0.png,b'],
  'other_folder': ['path,class', 'labeled/a/0.png,b'],
  'no_class': ['path,class', 'labeled/a/0.png,'],
  'no_rows': ['path,class'],
}
# {what is done to a copy of a run: how the table says it}.
DAMAGES = {
  'all_damaged': 'all its checkpoints cut in half',
  'results_damaged': 'results.json cut in half',
  'hparams_damaged': 'hparams.json cut in half',
  'older_version': 'its checkpoint lacks variables',
  'locked': 'another process is training it',
  'data_damaged': 'ckpt-1 cut in half',
  'empty': 'no checkpoint in it',
  'no_onnx': 'whole; onnx is not installed',
}


def make(folder):
  """Writes all of them into a folder."""
  (folder / 'itself.flags').write_text(f'--flagfile={folder}/itself.flags\n')
  (folder / 'image.flags').write_bytes(b'\xff\xd8\xff\xe0')
  (folder / 'wrong.flags').write_text('--lr\n{}\n')
  (folder / 'deep.json').write_text('[' * 100000)
  (folder / 'other_selection.json').write_text(
    json.dumps({'dataset': 'digits', 'of': 5, 'positions': [1]})
  )
  (folder / 'empty').mkdir()
  (folder / 'work').mkdir()
  (folder / 'work' / 'thesis.tex').write_text('years of work')
  (folder / 'repository' / '.git').mkdir(parents=True)
  (folder / 'repository' / 'hparams.json').write_text('{}')
  for name, text in (
    ('bad_hparams', '{"seed": 5'),
    ('old_hparams', '{"sead": 5}'),
    ('list_hparams', '{"num_labeled": []}'),
  ):
    (folder / name).mkdir()
    (folder / name / 'hparams.json').write_text(text)
  _folders_of_images(folder)
  _flat_files(folder)
  for name, arrays in ARRAYS.items():
    if arrays is not None:
      np.savez(folder / f'{name}.npz', **arrays)
  np.savez(folder / 'no_test.npz', **{k: v for k, v in POINTS.items() if 'train' in k})
  content = (folder / 'no_test.npz').read_bytes()
  (folder / 'cut.npz').write_bytes(content[: len(content) // 2])
  (folder / 'no_zip.npz').write_bytes(b'no archive')
  _stored_predictions(folder)


def _stored_predictions(folder):
  """Files for reduced_mpl on digits_40 of 8 pixels, each wrong in one way."""
  problem = build.problem(Config(dataset_name='digits_40_mpl', image_size=8))
  labeled, unlabeled = (
    np.full([len(of), 10], np.log(0.1), np.float32) for of in (problem.labeled[0], problem.unlabeled)
  )
  right = dict(labeled=labeled, unlabeled=unlabeled, data=json.dumps(problem.described))
  said = lambda **changes: json.dumps({**problem.described, **changes})
  for name, change in (
    ('other_images', dict(data=said(inputs='0'))),
    ('other_data', dict(data='{}')),
    ('other_classes', dict(data=said(class_names=['a', 'b']))),
    ('no_json', dict(data='{')),
    ('three_classes', dict(labeled=labeled[:, :3])),
    ('few', dict(unlabeled=unlabeled[:9])),
    ('float64', dict(labeled=labeled.astype(np.float64))),
    ('probabilities', dict(unlabeled=np.exp(unlabeled))),
    ('nan', dict(labeled=labeled * np.float32(np.nan))),
  ):
    np.savez(folder / f'{name}_predictions.npz', **{**right, **change})


def _folders_of_images(folder):
  image = tf.io.encode_png(np.full([9, 9, 3], 99, np.uint8)).numpy()
  bomb = image[:16] + (60000).to_bytes(4, 'big') * 2 + image[24:]

  def images(name, classes=('a', 'b'), count=6, **extra):
    for label in classes:
      (folder / name / 'labeled' / label).mkdir(parents=True)
      for number in range(count):
        (folder / name / 'labeled' / label / f'{number}.png').write_bytes(image)
    for path, content in extra.items():
      (folder / name / 'labeled' / 'a' / f'{path}.png').write_bytes(content)

  images('images')
  for name, lines in LABELS.items():
    (folder / f'{name}.csv').write_text('\n'.join(lines) + '\n')
  images('one_class', ['a'])
  images('no_images', count=0)
  images('strange_class')
  (folder / 'strange_class' / 'test' / 'c').mkdir(parents=True)
  images('bad_image', bad=b'no image')
  images('cut_image', cut=image[:40])
  images('bomb', bomb=bomb)
  images('webp', webp=b'RIFF\x1a\0\0\0WEBPVP8L' + bytes(20))
  images('all_bad', count=0, bad=b'no image')
  (folder / 'all_bad' / 'labeled' / 'b' / 'good.png').write_bytes(image)


def _flat_files(folder):
  names = [
    f'{split}-{what}-ubyte' for split in ('train', 't10k') for what in ('images-idx3', 'labels-idx1')
  ]
  for kind, content in (
    ('wrong', b'no idx file at all'),
    ('negative', bytes([0, 0, 8, 3, *[255] * 8, 0, 0, 0, 28]) + bytes(28)),
    ('short', bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 28, 0, 0, 0, 28])),
  ):
    (folder / f'idx_{kind}').mkdir()
    for name in names:
      (folder / f'idx_{kind}' / name).write_bytes(content)
  (folder / 'idx_gzip').mkdir()
  for name in names:
    (folder / 'idx_gzip' / f'{name}.gz').write_bytes(gzip.compress(bytes(100))[:20])
  for kind, count in (('short', 5), ('part', 1)):
    (folder / f'cifar_{kind}').mkdir()
    for number in range(1, 1 + count):
      (folder / f'cifar_{kind}' / f'data_batch_{number}.bin').write_bytes(
        bytes(3073 if kind == 'part' else 3000)
      )


@contextlib.contextmanager
def damaged(run, how):
  """Within it a run's folder is damaged, or used by another."""
  cut = lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  if how == 'all_damaged':
    for path in run.glob('ckpt_*/ckpt-*'):
      cut(path)
  elif how == 'data_damaged':
    cut(run / 'ckpt_last' / 'ckpt-1.data-00000-of-00001')
  elif how in ('results_damaged', 'hparams_damaged'):
    cut(run / f'{how.split("_", maxsplit=1)[0]}.json')
  elif how == 'older_version':
    for path in run.glob('ckpt_last/ckpt-*'):
      path.unlink()
    tf.train.Checkpoint(phase=tf.Variable(0)).write(str(run / 'ckpt_last' / 'ckpt-2'))
  elif how == 'empty':
    for path in run.glob('ckpt_last/*'):
      path.unlink()
  hidden = unittest.mock.patch.dict(sys.modules, {'onnx': None} if how == 'no_onnx' else {})
  with run_folder.lock(str(run)) if how == 'locked' else hidden:
    yield


def without_others_words(line):
  """The line with ... for what differs between versions and machines."""
  for pattern in (
    r'(?<=process )\d+',
    r'(?<=One of )JPEG, .*(?= required)',
    r'(?<=no TPU answers \().*(?=\); use)',
    r'(?<=not JSON \().*(?=\); restore)',
    r'(?<=cannot be loaded \().*(?=\); give)',
  ):
    line = re.sub(pattern, '...', line)
  return line
