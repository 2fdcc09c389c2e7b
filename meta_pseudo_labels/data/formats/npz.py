"""Reads a user's own data from one .npz file of NumPy arrays (numpy.savez):

  train_images          uint8 [N, H, W] or [N, H, W, C], C 1 or 3; or
  train_points          float32 [N, D]
  train_labels          integers [N], -1 where unknown
  unlabeled_images      more training images, without labels; optional
  validation_images, validation_labels, test_images, test_labels    optional
  class_names           str [K], in the order of the labels; optional

With train_points the other arrays are unlabeled_points, validation_points and test_points. Nothing is
unpickled.
"""

import collections

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.dataset_info import require_data_dir
from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

_SHAPES = {'images': 'uint8 [N, H, W] or [N, H, W, C], C 1 or 3', 'points': 'float32 [N, D]'}


def load(info, request):
  """Returns `read(request.data_dir)`. Raises UserError as `read` does, or without a `data_dir`."""
  require_data_dir(info, request)
  return read(request.data_dir)


def read(path):
  """Reads a .npz file as described above.

  Args:
    path: str, local or remote.

  Returns:
    A `storage.Data`. Inputs are uint8 [N, H, W, C] or float32 [N, D], labels int32. `train` has the
    training examples in the file's order, then the unlabeled ones with label -1. `validation` and
    `test` are None if the file does not have them. `class_names` are those of the file, or '0', '1',
    ... up to the highest label.

  Raises:
    UserError: the file cannot be read; an array is missing, unknown, empty or not as above; or a class
      has no labeled training example.
  """
  arrays = _read(path)
  kind = _find_kind(path, arrays)
  inputs, labels = {}, {}
  for split in ('train', 'unlabeled', 'validation', 'test'):
    name = f'{split}_{kind}'
    if name in arrays:
      inputs[split] = _check_inputs(path, name, arrays[name], kind)
      if inputs[split].shape[1:] != inputs['train'].shape[1:]:
        raise UserError(
          f'{path}: an example of {name} has the shape {list(inputs[split].shape[1:])}, one of '
          f'train_{kind} has {list(inputs["train"].shape[1:])}; make them equal'
        )
      labels[split] = (
        np.full(len(inputs[split]), -1, np.int32)
        if split == 'unlabeled'
        else _check_labels(path, split, name, arrays)
      )
  top = max(int(values.max()) for values in labels.values())
  class_names = _check_class_names(path, arrays.get('class_names'), top)
  _check_classes(path, labels['train'], class_names)
  found = {split: storage.Examples(inputs[split], labels[split].astype(np.int32)) for split in inputs}
  train = found['train']
  if 'unlabeled' in found:
    train = storage.Examples(
      storage.joined(train.inputs, found['unlabeled'].inputs),
      np.concatenate([train.labels, found['unlabeled'].labels]),
    )
  return storage.Data(
    train=train,
    validation=found.get('validation'),
    test=found.get('test'),
    facts=_describe_data(inputs['train'], class_names),
  )


def _describe_data(inputs, class_names):
  """Returns the fields of a DatasetInfo that the file defines.

  These are the class names, the kind of points, and the mean and the standard deviation of images.
  """
  if inputs.ndim == 2:
    return {'class_names': class_names, 'kind': 'points'}
  axes = tuple(range(inputs.ndim - 1))
  return {
    'class_names': class_names,
    'mean': tuple(inputs.mean(axes, dtype=np.float64).tolist()),
    'std': tuple(np.maximum(inputs.std(axes, dtype=np.float64), 1).tolist()),
  }


def _read(path):
  """Reads the whole file: {name: array}. Raises UserError."""
  arrays, name = {}, None
  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      archive = np.load(file, allow_pickle=False)
      for name in getattr(archive, 'files', ()):
        arrays[name] = archive[name]
  except Exception as error:  # numpy and zipfile raise many kinds of errors for a damaged file.
    if name and 'allow_pickle' in str(error):
      raise UserError(
        f'{path}: {one_line(name)} holds Python objects; save it as an '
        'array of numbers (or of str for class_names)'
      ) from error
    if 'pickle' in str(error):  # NumPy's message advises to trust the file.
      raise UserError(f'{path}: not a .npz file; make a new one with numpy.savez') from error
    what = one_line(name) if name else 'the file'
    raise UserError(
      f'{path}: {what} cannot be read ({one_line(error)}); make a new one with numpy.savez'
    ) from error
  if name is None:
    raise UserError(f'{path}: has no named arrays; make it with numpy.savez(path, train_images=...)')
  for name, array in arrays.items():
    if not isinstance(array, np.ndarray):
      raise UserError(f'{path}: {one_line(name)} is not an array; make the file with numpy.savez')
  return arrays


def _find_kind(path, arrays):
  """Returns the kind of the file, 'images' or 'points'. Raises UserError if a name does not fit it."""
  kinds = [kind for kind in _SHAPES if f'train_{kind}' in arrays]
  if not kinds:
    names = one_line(', '.join(arrays))
    raise UserError(f'{path}: has neither train_images nor train_points, only {names}; rename its arrays')
  kind = kinds[0]
  known = {'class_names', f'unlabeled_{kind}'}
  known.update(f'{split}_{what}' for split in ('train', 'validation', 'test') for what in (kind, 'labels'))
  # An unknown name may be a typing error, and the array that was meant would be missing.
  for name in arrays:
    if name not in known:
      raise UserError(
        f'{path}: has an unknown array {name!r}; rename it or leave it out, the optional arrays with '
        f'train_{kind} are {", ".join(sorted(known - {f"train_{kind}"}))}'
      )
  for split in ('train', 'validation', 'test'):
    pair = [f'{split}_{kind}', f'{split}_labels']
    missing = [name for name in pair if name not in arrays]
    if len(missing) == 1:
      other = pair[1 - pair.index(missing[0])]
      raise UserError(f'{path}: has {other} but no {missing[0]}; give both or neither')
  return kind


def _check_inputs(path, name, array, kind):
  """Checks an array of inputs; returns it contiguous, images with an axis of channels."""
  if kind == 'images':
    fits = array.dtype == np.uint8 and (array.ndim == 3 or array.ndim == 4 and array.shape[3] in (0, 1, 3))
  else:
    fits = array.dtype == np.float32 and array.ndim == 2
  if not fits:
    raise UserError(f'{path}: {name} is {_describe(array)}; make it {_SHAPES[kind]}')
  if not array.size:
    raise UserError(f'{path}: {name} is empty ({_describe(array)}); fill it or leave it out')
  if kind == 'points' and not np.isfinite(array).all():
    first = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
    raise UserError(f'{path}: {name} has numbers that are not finite, first in row {first}; replace them')
  return np.ascontiguousarray(array[..., np.newaxis] if array.ndim == 3 else array)


def _check_labels(path, split, inputs_name, arrays):
  """Checks and returns the labels of a split as they are in the file. Raises UserError."""
  name = f'{split}_labels'
  labels, count = arrays[name], len(arrays[inputs_name])
  if labels.dtype.kind not in 'iu' or labels.ndim != 1:
    raise UserError(f'{path}: {name} is {_describe(labels)}; make it integers [N]')
  if len(labels) != count:
    raise UserError(
      f'{path}: has {count} {inputs_name}, but {len(labels)} {name}; give one label for each'
    )
  lowest = -1 if split == 'train' else 0
  if labels.min() < lowest:
    meaning = '0 and up, or -1 where unknown' if split == 'train' else '0 and up'
    raise UserError(f'{path}: {name} has {labels.min()} at {labels.argmin()}; labels are {meaning}')
  return labels


def _check_class_names(path, names, top):
  """Checks the class names and returns them as a tuple of more than `top` str. Raises UserError."""
  if names is None:
    # A check before the names are made, since a label may be any number.
    if top >= 2**20:
      raise UserError(f'{path}: has a label {top}; number the classes from 0')
    return tuple(str(label) for label in range(top + 1))
  if names.dtype.kind != 'U' or names.ndim != 1:
    raise UserError(f'{path}: class_names is {_describe(names)}; make it str [K]')
  names = tuple(str(name) for name in names)
  if not names:
    raise UserError(f'{path}: class_names is empty; fill it or leave it out')
  name, count = collections.Counter(names).most_common(1)[0]
  if count > 1:
    raise UserError(f'{path}: class_names has {name!r} {count} times; give every class its own name')
  if top >= len(names):
    raise UserError(
      f'{path}: has a label {top}, but {len(names)} class_names; labels are 0 to {len(names) - 1}'
    )
  return names


def _check_classes(path, labels, class_names):
  """Raises UserError unless every class has a labeled training example, and there are two."""
  if labels.max() < 0:
    raise UserError(f'{path}: all train_labels are -1; label some examples of every class')
  if len(class_names) < 2:
    raise UserError(f'{path}: has {len(class_names)} class; give two or more')
  counts = np.bincount(labels[labels >= 0].astype(np.int64), minlength=len(class_names))
  missing = np.flatnonzero(counts == 0)
  if missing.size:
    name = class_names[missing[0]]
    raise UserError(
      f'{path}: no training example has label {missing[0]} ({name!r}; {missing.size} '
      f'of {len(class_names)} classes are missing); label some, or renumber the '
      'classes'
    )


def _describe(array):
  """Returns the dtype and the shape of an array as text."""
  return f'{array.dtype} {list(array.shape)}'
