"""From datasets, arrays or folders of one's own to training batches with this project's views."""

import concurrent.futures
import os
from typing import Any, Optional

from meta_pseudo_labels import rng
from meta_pseudo_labels.data import input_pipeline
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.augment.views import PadCrop, Points
from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

_KINDS = 'give a tf.data.Dataset, arrays, or a folder'


def batches(
  labeled: Any,
  unlabeled: Any = None,
  *,
  batch_size: int,
  uda_data: int = 4,
  views: Any = None,
  image_size: Optional[int] = None,
  seed: int = 0,
  shuffle: int = 10000,
  with_positions: bool = False,
) -> tf.data.Dataset:
  """Makes endless training batches from labeled and unlabeled examples, which `fit` takes.

  Args:
    labeled: a tf.data.Dataset of single examples, (input, label) or a dict of `image` and `label`; a pair
      of arrays (inputs, labels `[n]` integers); or a folder with a folder of images per class, whose
      sorted names are classes 0, 1, ... Inputs are images uint8 `[H, W, C]` or points float `[D]`.
    unlabeled: a tf.data.Dataset of inputs (of tuples the first is taken, of dicts `image`); an array; or
      a folder of images at any depth. None: labeled batches alone, for `Supervised`.
    batch_size: int B, labeled examples in a global batch.
    uda_data: int U, unlabeled examples for each labeled one.
    views: an object with the methods of `PadCrop`, which makes the views; None: PadCrop() of images,
      whose pixels become 0 to 1, and Points() of points. `views.plain` is for evaluation.
    image_size: int S, pixels a side; images become `[S, S, C]`. None: they have one size already. Folders
      need it.
    seed: int, of the order and of the views.
    shuffle: int, how many elements of a Dataset are shuffled at a time; arrays and folders are shuffled
      as a whole.
    with_positions: bool, whether batches say which unlabeled examples they have, as `flexmatch` needs: of
      an array by row, of a folder by sorted path.

  Returns:
    An endless tf.data.Dataset, so `fit` needs steps_per_epoch: of (labeled `[B, ...]`, labels `[B]` int32,
    original `[B*U, ...]`, augmented `[B*U, ...]`), without the last two if there is no `unlabeled`; or of
    dicts by these names, with `positions` int64 `[B*U]` from 0 on. Of arrays and folders a batch depends
    on the seed and its number alone.

  Raises:
    UserError: inputs of another kind, shape or dtype, none, an unreadable file, or positions of a Dataset.

  Example:
    >>> images, labels = np.zeros([20, 8, 8, 3], np.uint8), np.arange(20) % 2
    >>> batches = mpl.data.batches((images, labels), images, batch_size=4, uda_data=3)
    >>> [part.shape[0] for part in next(iter(batches))]
    [4, 4, 12, 12]
    >>> found = next(iter(mpl.data.batches((images, labels), images, batch_size=4, with_positions=True)))
    >>> len(np.unique(found['positions']))
    16
  """
  sources = [_labeled_source(labeled, image_size)]
  sizes = [batch_size]
  if unlabeled is not None or with_positions:
    sources.append(_unlabeled_source(unlabeled, image_size, with_positions))
    sizes.append(batch_size * uda_data)
  inputs = [
    _batched(source, size, seed, kind, shuffle)
    for source, size, kind in zip(sources, sizes, ('labeled', 'unlabeled'))
  ]
  return _seen(inputs, sizes, views, seed)


def _seen(inputs, sizes, views, seed):
  """Returns training batches of Datasets of labeled and, maybe, unlabeled batches of these sizes."""
  rank = inputs[0].element_spec[0].shape.rank
  views = views or (Points() if rank == 2 else PadCrop())
  steps = tf.data.Dataset.range(np.iinfo(np.int64).max)
  with_positions = len(inputs) > 1 and len(inputs[1].element_spec) > 1

  @tf.autograph.experimental.do_not_convert
  def batch(step, labeled, unlabeled=None):
    key = rng.key(seed, step)
    result = views.labeled(labeled[0], key, 0, sizes[0]), tf.cast(labeled[1], tf.int32)
    if unlabeled is not None:
      result += tuple(views.unlabeled(unlabeled[0], key, 0, sizes[1]))
    if with_positions:
      return {**dict(zip(input_pipeline.PARTS, result)), 'positions': unlabeled[1]}
    return result

  return input_pipeline.in_parallel(tf.data.Dataset.zip((steps, *inputs)), batch, 2)


def _labeled_source(given, side):
  """Returns labeled examples as a Dataset of (input, label), or as a pair of arrays."""
  if isinstance(given, tf.data.Dataset):
    pick = lambda found: (found['image'], found['label']) if isinstance(found, dict) else found[:2]
    spec = given.element_spec
    named = isinstance(spec, dict) and {'image', 'label'} <= spec.keys()
    if not named and not (isinstance(spec, tuple) and len(spec) >= 2):
      raise UserError('labeled: give a dataset of (input, label), or of dicts of `image` and `label`')
    found = given.map(lambda *parts: pick(parts[0] if named else parts))
    label = found.element_spec[1]
    if label.shape.rank or not label.dtype.is_integer:
      raise UserError(
        f'labeled: labels of shape {label.shape} and dtype {label.dtype.name}; give single examples, not '
        'batches, with an integer as label'
      )
    return _single(found, 'labeled', side)
  if isinstance(given, (str, os.PathLike)):
    return _read_classes(os.fspath(given), side)
  if not isinstance(given, (tuple, list)) or len(given) != 2:
    raise UserError(f'labeled: is a {type(given).__name__}; {_KINDS} (inputs, labels)')
  inputs, labels = _array(given[0], 'labeled', side), np.asarray(given[1])
  if labels.dtype.kind not in 'iu' or labels.shape != inputs.shape[:1]:
    raise UserError(
      f'labeled: labels of shape {list(labels.shape)} and dtype {labels.dtype} for {len(inputs)} inputs; '
      'give one integer for each'
    )
  return inputs, labels


def _unlabeled_source(given, side, with_positions=False):
  """Returns unlabeled examples as a Dataset of (input,), or as a tuple of an array (and its positions)."""
  if isinstance(given, tf.data.Dataset):
    if with_positions:
      raise UserError(
        'with_positions=True: a tf.data.Dataset has no positions; give the unlabeled examples as an '
        'array or a folder'
      )

    def first(*parts):
      found = parts[0]
      return (found['image'] if isinstance(found, dict) else found,)

    return _single(given.map(first), 'unlabeled', side)
  if given is None:
    raise UserError('with_positions=True: there are no unlabeled examples; give some, or leave it out')
  if isinstance(given, (str, os.PathLike)):
    found = _read(image_folder.images_below(os.fspath(given)), os.fspath(given), side)
  else:
    found = _array(given, 'unlabeled', side)
  return (found, np.arange(len(found))) if with_positions else (found,)


def _single(examples, name, side):
  """Returns a Dataset of (input, ...) whose images are side x side. Raises UserError: see `batches`."""
  spec = examples.element_spec[0]
  if side is not None and spec.shape.rank == 3:
    examples = examples.map(lambda image, *rest: (_fit(image, side), *rest))
    spec = examples.element_spec[0]
  _check(spec.shape, spec.dtype.as_numpy_dtype, name)
  if not spec.shape.is_fully_defined():
    raise UserError(
      f'{name}: images of shape {spec.shape}; give image_size, which brings them to one size'
    )
  if examples.cardinality() == 0:
    raise UserError(f'{name}: the dataset is empty')
  return examples


def _array(values, name, side):
  """Returns inputs as an array, its images side x side. Raises UserError: see `batches`."""
  values = np.asarray(values)
  if values.dtype.kind == 'f':
    values = values.astype(np.float32)
  _check(values.shape[1:], values.dtype, name)
  if not len(values):
    raise UserError(f'{name}: the array is empty')
  if side is not None and values.ndim == 4 and values.shape[1:3] != (side, side):
    values = np.stack([_fit(tf.constant(image), side).numpy() for image in values])
  return values


def _fit(image, side):
  """Returns an image uint8 `[H, W, C]`, C 1 or 3, as `crops.fit` brings it to side x side."""
  if image.shape[-1] == 1:
    return crops.fit(tf.image.grayscale_to_rgb(image), side)[..., :1]
  return crops.fit(image, side)


def _check(shape, dtype, name):
  """Raises UserError unless inputs of this shape and dtype are images or points."""
  rank, kind = len(shape), np.dtype(dtype).kind
  if not (rank == 3 and dtype == np.uint8 or rank == 1 and kind == 'f'):
    raise UserError(
      f'{name}: examples of shape {list(shape)} and dtype {np.dtype(dtype).name}; give images uint8 '
      '[H, W, C] or points float [D]'
    )


def _read_classes(folder, side):
  """Returns (inputs, labels) of a folder with a folder of images per class."""
  if not os.path.isdir(folder):
    raise UserError(f'labeled={folder}: no such folder')
  names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != '.')
  paths = [image_folder.images_below(os.path.join(folder, name)) for name in names]
  labels = np.repeat(np.arange(len(names)), list(map(len, paths)))
  return _read([path for found in paths for path in found], folder, side), labels


def _read(paths, folder, side):
  """Returns image files as uint8 `[N, S, S, 3]`. Raises UserError: see `batches`."""
  if side is None:
    raise UserError(f'{folder}: images in a folder have many sizes; give image_size')
  if not paths:
    raise UserError(f'{folder}: no images found')
  decoding = Decoding(side, square=True)

  def pixels(path):
    try:
      with open(path, 'rb') as file:
        return decoding.in_python(file.read())[0]
    except (ValueError, OSError) as error:
      raise UserError(f'{path}: cannot be read ({one_line(error)}); remove it') from error

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return np.stack(list(pool.map(pixels, paths)))


def _batched(source, size, seed, kind, shuffle):
  """Returns an endless Dataset of shuffled batches of what a source has: tuples of `[size, ...]`."""
  if isinstance(source, tf.data.Dataset):
    buffered = source.shuffle(shuffle, seed=seed, reshuffle_each_iteration=True).repeat()
    return buffered.batch(size, drop_remainder=True)
  readers = [input_pipeline.reader(values) for values in source]
  order = input_pipeline.order(len(source[0]), seed, f'order/{kind}', size)
  return order.map(lambda chosen: tuple(read(chosen) for read in readers))
