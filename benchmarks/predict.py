"""Measures predict, from files to a CSV file, as a ratio to the bare network's images per second.

    python benchmarks/predict.py [--images=10000] [--model_type=wrn-28-2] [--image_size=32]
        [--eval_batch_size=128] [--rounds=3]

Small JPEG files are written to a temporary folder, and `predict_files.write` classifies them, including
reading, decoding and writing. The bare network processes one constant batch as often. Both take turns,
so that other load on the machine affects both equally. The results are the ratio and its spread over
the rounds. On a machine with other users the second ratio, that of CPU seconds, is more meaningful. It
is the first ratio for cores that are never idle.
"""

import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels import build, methods
from meta_pseudo_labels.config import parse as parse_flags
from meta_pseudo_labels.config import validate
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.data.augment.views import PadCrop
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.inference import classifier, predict_files
from meta_pseudo_labels.training import logs

import numpy as np
import tensorflow as tf


def write_images(folder, count, size):
  """Writes `count` JPEG files of size x size pixels, 500 different ones; returns their paths."""
  random = np.random.RandomState(0)
  different = [
    tf.io.encode_jpeg(random.randint(0, 256, [size, size, 3]).astype(np.uint8)).numpy()
    for _ in range(min(count, 500))
  ]
  paths = [os.path.join(folder, f'{number:06d}.jpg') for number in range(count)]
  for number, path in enumerate(paths):
    with open(path, 'wb') as file:
      file.write(different[number % len(different)])
  return paths


def parse(argv):
  """Parses a command line to (images, rounds, Config). Raises UserError."""
  own = {'images': 10000, 'rounds': 3}
  rest = []
  for argument in argv:
    name, _, value = argument.lstrip('-').partition('=')
    if name in own:
      if not value.isdigit() or not int(value):
        raise UserError(f'--{name}={value}: not a positive integer; give 1 or more')
      own[name] = int(value)
    else:
      rest.append(argument)
  config = parse_flags(['predict', '--dataset_name=cifar10', '--output_dir=unused', *rest])
  validate(config)
  return own['images'], own['rounds'], config


def compare(config, count, rounds, folder):
  """Prints a line per round, and then the median ratios."""
  size, info = config.image_size, registry.info('cifar10')
  paths = write_images(folder, count, size)
  model = build.model(config, 0, (size, size, 3), info.num_classes)
  served = classifier.Classifier(
    model, Serving(info.class_names, (size, size, 3), PadCrop(mean=info.mean, std=info.std))
  )
  batch_size = min(config.eval_batch_size, count)
  batch = tf.zeros([batch_size, size, size, 3])
  bare = tf.function(lambda inputs: model(inputs, training=False), autograph=False)

  def write():
    with open(os.devnull, 'w', encoding='utf-8') as nowhere:
      predict_files.write(
        served,
        paths,
        os.path.join(folder, 'predictions.csv'),
        'csv',
        batch_size=batch_size,
        progress=logs.Progress(nowhere),
      )

  def constant():
    for _ in range(-(-count // batch_size)):
      bare(batch).numpy()

  def taken(function):
    began = np.array([time.time(), time.process_time()])
    function()
    return np.array([time.time(), time.process_time()]) - began

  write(), constant()  # Traces the functions.
  ratios = []
  for number in range(rounds):
    # The order alternates, so that a machine that slows down affects both equally.
    order = (write, constant) if number % 2 else (constant, write)
    seconds = {function: taken(function) for function in order}
    ratios.append(seconds[constant] / seconds[write])
    print(
      f'predict {count / seconds[write][0]:8.1f} images/s, the bare network on a constant batch '
      f'{count / seconds[constant][0]:8.1f}: {ratios[-1][0]:.3f}; by CPU seconds '
      f'{ratios[-1][1]:.3f}',
      flush=True,
    )
  for what, of in zip(('images/s', 'images per CPU second'), np.transpose(ratios)):
    print(
      f"predict makes {np.median(of):.3f} of the bare network's {what} "
      f'({of.min():.3f} to {of.max():.3f}), {config.model_type} at {size} pixels'
    )


def main(argv):
  try:
    count, rounds, config = parse(argv)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  with tempfile.TemporaryDirectory() as folder:
    compare(config, count, rounds, folder)


if __name__ == '__main__':
  main(sys.argv[1:])
