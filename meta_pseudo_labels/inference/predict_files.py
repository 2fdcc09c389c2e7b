"""Task predict: the classes of a folder of images, one line an image."""

import csv
import glob
import json
import math
import os
import time

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.augment import decode
from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.errors import UserError, one_line
from meta_pseudo_labels.files import atomic_write

import numpy as np
import tensorflow as tf

PARALLEL_CALLS = 16  # Images in the making at once, at most.
NAMED = 10  # How many unreadable files are told by name.


def find(pattern):
  """The image files that `--input` means, sorted: list of str.

  Args:
    pattern: a file, a folder (its images at any depth; hidden ones and those with another suffix
      are left out), or a glob pattern of files and folders, `**` included. A file that is named
      or matched counts whatever its suffix.

  Raises:
    UserError: none is found.
  """
  places = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
  found = set()
  for place in places:
    if os.path.isdir(place):
      found.update(image_folder.images_below(place)[0])
    else:
      found.add(place)
  if not found:
    raise UserError(
      f'--input={pattern}: no images found ({" ".join(image_folder.SUFFIXES)}); give a '
      'file, a folder, or a pattern in quotes'
    )
  return sorted(found)


def load(path):
  """What task export wrote: an object with export.Classifier's functions.

  Raises:
    UserError: there is no SavedModel, or it is of another making.
  """
  try:
    classifier = tf.saved_model.load(path)
  except (OSError, ValueError, tf.errors.OpError) as error:
    raise UserError(
      f'--saved_model={path}: cannot be loaded ({one_line(error)}); give a '
      'folder that --task_mode=export wrote'
    ) from error
  if not all(hasattr(classifier, name) for name in ('classify', 'names')):
    raise UserError(f'--saved_model={path}: not written by --task_mode=export; give a folder that was')
  return classifier


def default_output(output, kind, output_dir):
  """Returns where the predictions go, and how they are written: (path, csv or jsonl).

  Args:
    output, kind: `--output` and `--format`, '' for the usual ones.
    output_dir: str.
  """
  kind = kind or ('jsonl' if output.endswith('.jsonl') else 'csv')
  return output or os.path.join(output_dir, f'predictions.{kind}'), kind


def write(classifier, paths, output, kind, *, batch_size, progress):
  """Writes the classes of images to a file, and what cannot be read to `<output>.unreadable.txt`.

  A line has the path, the most likely class, its probability, and the five most likely classes
  with theirs. The lines are in the order of `paths`.

  Args:
    classifier: export.Classifier, or what `load` returns.
    paths: list of str.
    output: str, the file.
    kind: 'csv' or 'jsonl'.
    batch_size: int, images that go through the network at once.
    progress: progress.Progress.

  Returns:
    (how many lines were written, [(path, why it cannot be read)]).

  Raises:
    UserError: the file cannot be written, or the classifier does not take images.
  """
  if not hasattr(classifier, 'prepare'):
    raise UserError(
      '--task_mode=predict: this network classifies points, not images; call the '
      'signature serving_default of its export with them'
    )
  # A small folder need not fill a large batch.
  batch_size = min(batch_size, len(paths))
  unreadable = output + '.unreadable.txt'
  try:
    os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
    # As the operating system names files: any bytes.
    with atomic_write(output, errors='surrogateescape', newline='') as file:
      names = [name.decode() for name in classifier.names().numpy()]
      began = time.time()
      done = _write_lines(classifier, paths, _writer(file, kind, names), batch_size, progress)
    taken = time.time() - began
    bad = [(path, _reason(classifier, path)) for path in np.array(paths, object)[~done].tolist()]
    _write_unreadable(unreadable, bad)
  except OSError as error:
    raise UserError(
      f'--output={output}: cannot be written ({error.strerror}); give a file that can'
    ) from error
  count = len(paths) - len(bad)
  progress.say(
    f'{count} images in {taken:.1f} s ({count / max(taken, 1e-9):.4g} images/s): ' + _shown(output)
  )
  if bad:
    progress.say(f'{len(bad)} files cannot be read ({_shown(unreadable)}):')
    for path, reason in bad[:NAMED]:
      progress.say(f'  {_shown(path)}: {reason}')
    if len(bad) > NAMED:
      progress.say(f'  ... and {len(bad) - NAMED} more')
  return count, bad


def _shown(path):
  """A path as any terminal can show it."""
  return path.encode('utf-8', 'replace').decode()


def _batches(classifier, paths, batch_size):
  """A dataset of (numbers int64 `[batch_size]`, inputs `[batch_size, ...]`), the files that can be
  read, in order; what fills up the last batch has the number -1.

  Reading and decoding go on while the network computes. Automatic tuning is off: with
  TensorFlow 2.15 the end of an iterator waits for its thread (data/pipeline.py).
  """

  def load_one(number, path):
    return number, classifier.prepare(tf.io.read_file(path))

  def filled(numbers, inputs):
    # One shape for all batches: nothing is traced or compiled again for the last one.
    missing = batch_size - tf.size(numbers)
    inputs = tf.pad(inputs, [[0, missing]] + [[0, 0]] * (inputs.shape.rank - 1))
    return (
      tf.ensure_shape(tf.pad(numbers, [[0, missing]], constant_values=-1), [batch_size]),
      tf.ensure_shape(inputs, [batch_size, *inputs.shape[1:]]),
    )

  options = tf.data.Options()
  options.autotune.enabled = False
  files = tf.data.Dataset.from_tensor_slices(
    (np.arange(len(paths)), [os.fsencode(path) for path in paths])
  )
  return (
    files.map(load_one, num_parallel_calls=min(os.cpu_count(), PARALLEL_CALLS), deterministic=True)
    .ignore_errors()
    .batch(batch_size)
    .map(filled)
    .prefetch(2)
    .with_options(options)
  )


def _write_lines(classifier, paths, write_line, batch_size, progress):
  """Writes a line for every file that can be read: bool `[len(paths)]`, which ones those are."""
  done = np.zeros(len(paths), bool)
  num_batches = math.ceil(len(paths) / batch_size)
  progress.start('predict', 0, num_batches, batch_size)
  for step, (numbers, inputs) in enumerate(_batches(classifier, paths, batch_size)):
    outputs = classifier.classify(inputs)
    top, probabilities = (
      outputs[name].numpy().tolist() for name in ('top_5_classes', 'top_5_probabilities')
    )
    for row, number in enumerate(numbers.numpy().tolist()):
      if number >= 0:
        write_line(paths[number], top[row], probabilities[row])
        done[number] = True
    progress.update(step + 1, {})
  return done


def _writer(file, kind, names):
  """A function (path, classes, their probabilities: the largest first) that writes a line."""
  if kind == 'jsonl':

    def write_json(path, classes, probabilities):
      rounded = [round(value, 6) for value in probabilities]
      found = [names[label] for label in classes]
      file.write(
        json.dumps(
          {
            'path': path,
            'class': found[0],
            'probability': rounded[0],
            'top_5_classes': found,
            'top_5_probabilities': rounded,
          }
        )
        + '\n'
      )

    return write_json
  table = csv.writer(file, lineterminator='\n')
  places = range(1, 1 + min(5, len(names)))
  table.writerow(
    ['path', 'class', 'probability']
    + [column for place in places for column in (f'class_{place}', f'probability_{place}')]
  )

  def write_row(path, classes, probabilities):
    pairs = [
      cell for label, value in zip(classes, probabilities) for cell in (names[label], f'{value:.6f}')
    ]
    table.writerow([path, *pairs[:2], *pairs])

  return write_row


def _reason(classifier, path):
  """Why a file that the pipeline left out cannot be read, in one line."""
  try:
    with tf.device('CPU:0'):
      content = tf.io.read_file(os.fsencode(path))
      if not tf.size(decode.decode(content)):
        return 'it has no pixels'
      classifier.prepare(content)
  except tf.errors.OpError as error:
    return storage.decoding_error(error)
  return 'it failed once and can be read now; try again'


def _write_unreadable(path, bad):
  """One line a file: path, tab, reason. Nothing unreadable, no file."""
  if not bad:
    if os.path.exists(path):
      os.remove(path)
    return
  with open(path, 'w', encoding='utf-8', errors='surrogateescape') as file:
    file.writelines(f'{name}\t{reason}\n' for name, reason in bad)
