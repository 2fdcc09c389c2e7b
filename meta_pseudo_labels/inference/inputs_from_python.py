"""Paths, images, arrays and points that somebody gives a trained run from Python."""

import io
import os

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.inference import predict_files

import numpy as np
import tensorflow as tf
from PIL import Image

_PNG_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')
_IMAGES = (
  'give a path, a folder, a pattern, a PIL image, uint8 arrays [N, H, W, C], or a list of paths, PIL '
  'images and uint8 arrays [H, W] or [H, W, C]'
)


def find_images(inputs):
  """Returns (names, sources) of what `TrainedRun.predict` takes: paths or None, paths or PNG bytes.

  Raises UserError for anything else.
  """
  if isinstance(inputs, (str, os.PathLike)):
    inputs = predict_files.find(os.fspath(inputs))
  elif isinstance(inputs, Image.Image):
    inputs = [inputs]
  elif isinstance(inputs, (np.ndarray, tf.Tensor)) and len(inputs.shape) != 4:
    raise UserError(f'inputs: an array of shape {list(inputs.shape)}; {_IMAGES}')
  names, sources = [], []
  for one in inputs:
    path = os.fspath(one) if isinstance(one, (str, os.PathLike)) else None
    names.append(path)
    sources.append(path if path is not None else _as_png(one))
  return names, sources


def _as_png(image):
  """Returns a PIL image or an array uint8 as a PNG file, so that all images take the way of files."""
  if not isinstance(image, Image.Image):
    array = np.asarray(image)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
      raise UserError(f'inputs: an image of shape {list(array.shape)} and dtype {array.dtype}; {_IMAGES}')
    image = Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)
  exif = image.getexif()
  if image.mode not in _PNG_MODES:
    image = image.convert('RGB')
  file = io.BytesIO()
  image.save(file, 'png', compress_level=1, exif=exif)
  return file.getvalue()


def classify_points(network, inputs, batch_size):
  """Returns (names, {number: (class, probabilities)}, {}) of points float `[N, D]`."""
  try:
    points = np.asarray(inputs, np.float32)
  except (TypeError, ValueError):
    points = np.empty([])
  if points.ndim != 2 or points.shape[1:] != tuple(network.input_shape):
    raise UserError(
      f'inputs: this network classifies points; give an array of shape [N, {network.input_shape[0]}]'
    )
  found = {}
  for first in range(0, len(points), batch_size):
    outputs = network.from_points(points[first : first + batch_size])
    rows = zip(outputs['classes'].numpy(), outputs['probabilities'].numpy())
    found.update(enumerate(rows, first))
  return [None] * len(points), found, {}


def measure(probabilities, labels):
  """Returns the measures of `TrainedRun.evaluate`, of probabilities `[N, C]` and labels int32 `[N]`."""
  if not len(labels):
    raise UserError('inputs: none; give at least one')
  own = probabilities[np.arange(len(labels)), labels]
  rank = np.sum(probabilities > own[:, np.newaxis], axis=1)
  return {
    'top1': float(np.mean(probabilities.argmax(axis=1) == labels)),
    'top5': float(np.mean(rank < 5)),
    'loss': float(np.mean(-np.log(np.maximum(own, np.finfo(np.float32).tiny)))),
    'examples': len(labels),
  }
