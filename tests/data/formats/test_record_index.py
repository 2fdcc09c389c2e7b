"""What is found in record files is kept, and found anew where the files have changed."""

import os

from meta_pseudo_labels.data.formats import imagenet_tfrecord, record_index

import numpy as np
import pytest
import tensorflow as tf


def write(path, labels):
  """Writes records with an image and a label each."""
  with tf.io.TFRecordWriter(str(path)) as writer:
    for label in labels:
      image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'x' * (label + 1)]))
      label = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
      feature = tf.train.Features(feature={'image': image, 'label': label})
      writer.write(tf.train.Example(features=feature).SerializeToString())


def test_labels_and_places_are_read_once(tmp_path, monkeypatch):
  path, cache = tmp_path / 'a', str(tmp_path / 'cache')
  write(path, [3, 1, 2])

  def both():
    records = imagenet_tfrecord.index([path], 'image', cache)
    return records, imagenet_tfrecord.labels(records, 'label', 0, cache)

  records, labels = both()
  assert labels.tolist() == [3, 1, 2] and len(os.listdir(f'{cache}/records')) == 2
  # From now on reading would fail.
  for name in ('_find_places', '_read_labels'):
    monkeypatch.setattr(imagenet_tfrecord, name, None)
  again, labels = both()
  assert labels.tolist() == [3, 1, 2] and again.key == 'image'
  np.testing.assert_array_equal(again.place, records.place)
  write(path, [4])
  with pytest.raises(TypeError):
    both()


@pytest.mark.parametrize('content', [b'', b'PK', None])
def test_a_damaged_index_is_made_again(tmp_path, content):
  path, cache = str(tmp_path / 'a'), tmp_path / 'cache'
  write(path, [1])
  make = lambda: {'x': np.arange(3)}
  record_index.cached(str(cache), [path], 'x', make)
  (found,) = (cache / 'records').iterdir()
  found.write_bytes(found.read_bytes()[:-9] if content is None else content)
  assert record_index.cached(str(cache), [path], 'x', make)['x'].tolist() == [0, 1, 2]


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path):
  path = str(tmp_path / 'a')
  write(path, [1])
  made = record_index.cached(f'{path}/no', [path], 'x', lambda: {'x': np.arange(2)})
  assert made['x'].tolist() == [0, 1]
