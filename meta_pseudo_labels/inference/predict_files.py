"""Task predict: the classes of a folder of images, one line an image."""

import concurrent
import csv
import glob
import json
import math
import os
import time

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.data.images import decode, decoding
from meta_pseudo_labels.data.serving import Serving
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
    found.update(image_folder.images_below(place) if os.path.isdir(place) else [place])
  if not found:
    raise UserError(f'--input={pattern}: no images found; give a file, a folder, or a pattern in quotes')
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
      found, reasons = classify(classifier, paths, batch_size, progress)
      write_line = _writer(file, kind, names)
      for number in sorted(found):
        write_line(paths[number], *found[number])
    taken = time.time() - began
    bad = [(paths[number], reasons[number]) for number in sorted(reasons)]
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


def _filled(numbers, inputs, batch_size):
  """Returns a batch of one shape, so that nothing is traced anew for the last one; number -1: no image."""
  missing = batch_size - tf.size(numbers)
  inputs = tf.pad(inputs, [[0, missing]] + [[0, 0]] * (inputs.shape.rank - 1))
  return (
    tf.ensure_shape(tf.pad(numbers, [[0, missing]], constant_values=-1), [batch_size]),
    tf.ensure_shape(inputs, [batch_size, *inputs.shape[1:]]),
  )


def _batches(classifier, paths, chosen, batch_size):
  """Yields (numbers int64 `[batch_size]`, inputs `[batch_size, ...]`) of files that TensorFlow decodes.

  Those that it cannot decode are left out. Reading and decoding run while the network computes.
  Automatic tuning is off: with TensorFlow 2.15 the end of an iterator waits for its thread.
  """

  def load_one(number, path):
    return number, classifier.prepare(tf.io.read_file(path))

  options = tf.data.Options()
  options.autotune.enabled = False
  files = tf.data.Dataset.from_tensor_slices(
    (np.array(chosen, np.int64), np.array([os.fsencode(paths[number]) for number in chosen], object))
  )
  yield from (
    files.map(load_one, num_parallel_calls=min(os.cpu_count(), PARALLEL_CALLS), deterministic=True)
    .ignore_errors()
    .batch(batch_size)
    .map(lambda numbers, inputs: _filled(numbers, inputs, batch_size))
    .prefetch(2)
    .with_options(options)
  )


def _content(source):
  """Returns the bytes of an image: those of the file at a path, or bytes as they are."""
  if isinstance(source, bytes):
    return source
  with open(os.fsencode(source), 'rb') as file:
    return file.read()


def _python_batches(classifier, sources, chosen, batch_size, reasons):
  """Yields likewise of images that Python decodes; `reasons`: {number: why not} of the others."""
  options = Serving.from_json(classifier.options().numpy().decode())

  def pixels(number):
    try:
      content = _content(sources[number])
      if options.decoding is not None:
        return options.decoding.in_python(content)[0]
      return decode.decode(content).pixels
    except (ValueError, OSError, MemoryError) as error:
      reasons[number] = one_line(error)
      return None

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for first in range(0, len(chosen), batch_size):
      numbers = chosen[first : first + batch_size]
      images = list(pool.map(pixels, numbers))
      good = [number for number, image in zip(numbers, images) if image is not None]
      if good:
        inputs = tf.stack([classifier.prepare_pixels(image) for image in images if image is not None])
        yield _filled(tf.constant(good, tf.int64), inputs, batch_size)


def classify(classifier, sources, batch_size, progress, columns=('top_5_classes', 'top_5_probabilities')):
  """Classifies every image that can be read.

  Args:
    classifier, batch_size, progress: see `write`.
    sources: list of str, paths, or of bytes, encoded images.
    columns: names of what `Classifier.classify` returns.

  Returns:
    ({number: a tuple of one list or number per column}, {number: why an image cannot be read}).
  """
  found, reasons = {}, {}
  progress.start('predict', 0, math.ceil(len(sources) / batch_size), batch_size)

  def take(batches):
    for numbers, inputs in batches:
      outputs = classifier.classify(inputs)
      rows = list(zip(*(outputs[name].numpy().tolist() for name in columns)))
      for row, number in enumerate(numbers.numpy().tolist()):
        if number >= 0:
          found[number] = rows[row]
      progress.update(math.ceil(len(found) / batch_size), {})

  everything = range(len(sources))
  has_options = hasattr(classifier, 'options')  # Not in models exported by earlier versions.
  take(
    _batches(
      classifier,
      sources,
      [n for n in everything if not has_options or _for_tensorflow(sources[n])],
      batch_size,
    )
  )
  rest = [number for number in everything if number not in found]
  if has_options:
    take(_python_batches(classifier, sources, rest, batch_size, reasons))
  for number in rest:
    if number not in found:
      reasons.setdefault(number, 'it cannot be decoded')
  return found, reasons


def _for_tensorflow(path):
  """Whether a file is decoded by TensorFlow's operations, as in training; bytes never are."""
  if isinstance(path, bytes):
    return False
  try:
    with open(os.fsencode(path), 'rb') as file:
      return decoding.takes_in_graph(file.read(4096))
  except OSError:
    return False


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


def _write_unreadable(path, bad):
  """One line a file: path, tab, reason. Nothing unreadable, no file."""
  if not bad:
    if os.path.exists(path):
      os.remove(path)
    return
  with open(path, 'w', encoding='utf-8', errors='surrogateescape') as file:
    file.writelines(f'{name}\t{reason}\n' for name, reason in bad)
