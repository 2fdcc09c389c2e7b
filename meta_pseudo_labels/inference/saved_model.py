"""Writing a Classifier as a SavedModel, with a warm-up request and other files of the network."""

import os
import shutil

from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf


def require_free(folder):
  """Raises UserError unless a SavedModel may be written to `folder` (an older one is replaced)."""
  if os.path.isdir(folder):
    taken = os.listdir(folder) and not os.path.isfile(os.path.join(folder, 'saved_model.pb'))
  else:
    taken = os.path.exists(folder)
  if taken:
    raise UserError(
      f'--export_dir={folder}: exists and is no SavedModel, so it will not be '
      'replaced; give another folder'
    )


def write(classifier, folder, *, files=None):
  """Writes a SavedModel, in one move: an older one in its place is replaced.

  With it comes `assets.extra/tf_serving_warmup_requests`.

  Args:
    classifier: Classifier.
    folder: str.
    files: {name: bytes} of more files in the folder, or None.

  Raises:
    UserError: the folder holds something else or cannot be written.
  """
  folder = folder.rstrip('/')
  require_free(folder)
  partial = folder + '.partial'
  try:
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(os.path.join(partial, 'assets.extra'))
    tf.saved_model.save(classifier, partial, signatures=classifier.signatures)
    _write_warmup(classifier, os.path.join(partial, 'assets.extra', 'tf_serving_warmup_requests'))
    for name, content in (files or {}).items():
      with open(os.path.join(partial, name), 'wb') as file:
        file.write(content)
    if os.path.isdir(folder):
      shutil.rmtree(folder)
    os.replace(partial, folder)
  except OSError as error:
    raise UserError(
      f'--export_dir={folder}: cannot be written ({error.strerror}); give a folder that can'
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _message(number, payload):
  """A field of a protocol buffer message that holds bytes or another message."""

  def varint(value):
    head, value = value & 127, value >> 7
    return bytes([head | 128]) + varint(value) if value else bytes([head])

  return varint(number << 3 | 2) + varint(len(payload)) + payload


def _write_warmup(classifier, path):
  """One request of one example, which TensorFlow Serving makes before it serves.

  A tensorflow.serving.PredictionLog: its predict_log (field 6) holds a request (1), which holds the
  model's name (field 1 of 1) and the inputs (2), a map of name (1) to TensorProto (2). Written by
  hand, because those messages come with a package that nothing else needs.
  """
  if classifier.points:
    zeros = np.zeros([1, *classifier.input_shape], np.float32)
    name, value = 'points', tf.make_tensor_proto(zeros)
  else:
    image = tf.io.encode_png(tf.zeros([32, 32, crops.CHANNELS], tf.uint8)).numpy()
    name, value = 'image_bytes', tf.make_tensor_proto([image])
  inputs = _message(1, name.encode()) + _message(2, value.SerializeToString())
  request = _message(1, _message(1, b'default')) + _message(2, inputs)
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(_message(6, _message(1, request)))
