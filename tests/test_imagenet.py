"""ImageNet's shards through the command line: the release's, with tiny pictures of every class."""

import json

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data import semi_supervised

import numpy as np
import pytest
import tensorflow as tf


def write_shards(folder, prefix, labels, shards):
  """Shards as the release names them; an image's colour tells its label, which is 1-based."""
  parts = np.array_split(np.asarray(labels), shards)
  for number, part in enumerate(parts):
    with tf.io.TFRecordWriter(f'{folder}/{prefix}-{number:05d}-of-{shards:05d}') as writer:
      for label in part:
        pixels = np.full([9 + label % 5, 12, 3], label % 256, np.uint8)
        image = tf.io.encode_jpeg(pixels).numpy()
        writer.write(
          tf.train.Example(
            features=tf.train.Features(
              feature={
                'image/encoded': tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                'image/class/label': tf.train.Feature(int64_list=tf.train.Int64List(value=[label + 1])),
              }
            )
          ).SerializeToString()
        )


@pytest.mark.long
def test_imagenet_10_percent_mpl_trains(tmp_path, capsys):
  (tmp_path / 'shards').mkdir()
  write_shards(tmp_path / 'shards', 'ten_percent', range(1000), 2)
  write_shards(tmp_path / 'shards', 'train', range(0, 1000, 10), 3)
  write_shards(tmp_path / 'shards', 'validation', range(0, 1000, 50), 2)
  argv = [
    'main',
    '--dataset_name=imagenet_10_percent_mpl',
    f'--data_dir={tmp_path}/shards',
    '--image_size=16',
    '--model_type=mlp-8x1',
    '--train_batch_size=8',
    '--uda_data=2',
    '--save_every=2',
    '--log_every=1',
    '--eval_batch_size=16',
    '--mpl_feedback=soft',
    '--strategy=one_device',
    '--mpl_student_lr_wait_steps=0',
  ]
  assert main.run([*argv, f'--output_dir={tmp_path}/run', '--num_train_steps=2']) == 0
  assert '1000 labeled, 100 unlabeled, 20 test examples of imagenet_10_percent' in (
    capsys.readouterr().out
  )
  with open(tmp_path / 'run' / 'metrics.jsonl', encoding='utf-8') as file:
    lines = [json.loads(line) for line in file]
  assert [line['step'] for line in lines if line['kind'] == 'train'] == [1, 2]
  # A run that goes on at a step reads the records that an uninterrupted one would.
  problem = build.problem(parse([*argv, '--output_dir=unused']))
  batches = lambda start: list(
    problem.train_batches(batch_size=8, uda_data=2, seed=0, start_step=start).take(2)
  )
  for whole, later in zip(batches(1)[1], batches(2)[0]):
    np.testing.assert_array_equal(whole, later)
  # The colour of a labeled view is its label's.
  views, labels = batches(0)[0][:2]
  colors = np.asarray(views) * problem.views.std + problem.views.mean
  np.testing.assert_allclose(colors.mean(axis=(1, 2, 3)), labels.numpy() % 256, atol=3)
