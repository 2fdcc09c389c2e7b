"""Chooses the labeled and the validation examples of a training split, and records the choice.

All draws come from numpy's RandomState, whose streams never change (NEP 19). So a seed selects the
same examples under every version of numpy.
"""

import dataclasses
import hashlib
import json
import os

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import write_text

import numpy as np

# Do not change it: the validation images of all existing runs depend on it.
VALIDATION_SEED = 20210310


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Positions in the training split, each int64 and ascending.

  Attributes:
    labeled: [n], disjoint from `validation`.
    unlabeled: [m], the training split without `validation`; it includes `labeled`, as in the
      release.
    validation: [v].
  """

  labeled: np.ndarray
  unlabeled: np.ndarray
  validation: np.ndarray


def _class_order(labels, class_, seed):
  """Returns the positions of one class in an order that depends on the seed: int64 [count]."""
  positions = np.flatnonzero(labels == class_)
  return np.random.RandomState([seed, class_]).permutation(positions)


def _class_counts(labels, num_classes):
  """Counts the labeled examples of each class: int64 [num_classes]."""
  return np.bincount(labels[labels >= 0], minlength=num_classes)


def _stratified(labels, count, num_classes, seed):
  """Draws `count` examples so that every class has its share of the draw (largest remainder)."""
  counts = _class_counts(labels, num_classes)
  shares, remainders = np.divmod(counts * count, max(counts.sum(), 1))
  shares[np.argsort(-remainders, kind='stable')[: count - shares.sum()]] += 1
  return np.concatenate(
    [_class_order(labels, class_, seed)[:share] for class_, share in enumerate(shares)]
  )


def _balanced(labels, count, num_classes, seed):
  """Draws count / num_classes examples of every class, and one more of randomly drawn classes.

  With the same seed a larger draw contains every smaller one. Raises UserError.
  """
  if count < num_classes:
    raise UserError(
      f'--num_labeled={count}: too few for a class-balanced draw from {num_classes} classes; '
      f'give at least {num_classes}'
    )
  shares = np.full(num_classes, count // num_classes)
  order = np.random.RandomState([seed, num_classes]).permutation(num_classes)
  shares[order[: count % num_classes]] += 1
  short = np.flatnonzero(_class_counts(labels, num_classes) < shares)
  if short.size:
    have = np.count_nonzero(labels == short[0])
    raise UserError(
      f'--num_labeled={count}: needs {shares[short[0]]} examples of class {short[0]}, but the '
      f'training split has {have} of it left; give fewer labels or a smaller --num_validation'
    )
  return np.concatenate(
    [_class_order(labels, class_, seed)[:share] for class_, share in enumerate(shares)]
  )


def _first(labels, count, num_classes):
  """Returns the first `count` examples with a label, as in the release. Raises UserError."""
  chosen = np.flatnonzero(labels >= 0)[:count]
  missing = np.flatnonzero(_class_counts(labels[chosen], num_classes) == 0)
  if missing.size:
    raise UserError(
      f'--num_labeled={count}: the first {count} labels have no example of class {missing[0]} '
      f'({missing.size} of {num_classes} classes are missing); raise --num_labeled, or set '
      '--label_seed for a class-balanced draw'
    )
  return chosen


def split(labels, *, num_labeled, label_seed, num_validation, num_classes):
  """Chooses the labeled and the validation examples of a training split.

  Validation is drawn first, by a class-stratified draw that is the same for every `label_seed`.

  Args:
    labels: int [N], -1 where unknown; examples with -1 are only used as unlabeled ones.
    num_labeled: int, how many labels are used; None for all that are not held out.
    label_seed: int >= 0 for a class-balanced draw; None for the first `num_labeled` examples that are
      not held out (the release's choice).
    num_validation: int, how many examples are held out, 0 for none.
    num_classes: int.

  Returns:
    A `Split`.

  Raises:
    UserError: there are not enough labels, a class has too few examples or none, or a number is out
      of range.
  """
  labels = np.asarray(labels)
  if labels.size and not -1 <= labels.min() <= labels.max() < num_classes:
    raise UserError(
      f'labels: are from {labels.min()} to {labels.max()}, but there are {num_classes} classes; '
      f'give 0 to {num_classes - 1}, or -1 where unknown'
    )
  if label_seed is not None and not 0 <= label_seed < 2**32:
    raise UserError(f'--label_seed={label_seed}: out of range; give 0 to {2**32 - 1}')
  known = np.count_nonzero(labels >= 0)
  if not 0 <= num_validation < known:
    raise UserError(
      f'--num_validation={num_validation}: out of range; give 0 to {known - 1}, since the training '
      f'split has {known} labeled examples and training needs one or more'
    )
  take_all = num_labeled is None  # This needs no draw, and the classes may be uneven.
  if take_all:
    num_labeled = known - num_validation
  if not 0 < num_labeled <= known - num_validation:
    raise UserError(
      f'--num_labeled={num_labeled}: out of range; give 1 to {known - num_validation}, since the '
      f'training split has {known} labeled examples, of which {num_validation} are held out for '
      'validation'
    )

  validation = np.sort(_stratified(labels, num_validation, num_classes, VALIDATION_SEED))
  rest = np.setdiff1d(np.arange(len(labels), dtype=np.int64), validation)
  if label_seed is None or take_all:
    chosen = _first(labels[rest], num_labeled, num_classes)
  else:
    chosen = _balanced(labels[rest], num_labeled, num_classes, label_seed)
  return Split(labeled=rest[np.sort(chosen)], unlabeled=rest, validation=validation)


def _sha256(positions, names):
  """Computes the sha256 of the names at positions, or without names of the positions: hex str."""
  if names is None:
    return hashlib.sha256(positions.astype('<i8').tobytes()).hexdigest()
  return hashlib.sha256(
    '\n'.join(names[positions].tolist()).encode('utf-8', 'surrogateescape')
  ).hexdigest()


def identity(split_, *, labels, class_names, unlabeled, names=None):
  """Describes the data of a run, which must be the same when it resumes: JSON text in one line.

  Args:
    split_, labels, names: see `manifest`.
    class_names: tuple of str.
    unlabeled: int, number of unlabeled examples.
  """
  chosen = split_.labeled
  return json.dumps(
    {
      'labeled': _sha256(chosen, names),
      'validation': _sha256(split_.validation, names),
      'labels': hashlib.sha256(np.asarray(labels)[chosen].astype('<i4').tobytes()).hexdigest(),
      'unlabeled': unlabeled,
      'class_names': list(class_names),
    },
    sort_keys=True,
  )


def manifest(split_, *, dataset, labels, names=None):
  """Returns the record of a `Split` that a run writes: a dict of plain values.

  Args:
    split_: the `Split`.
    dataset: the dataset's name.
    labels: int [N], of the training split.
    names: str [N], the names of its examples, or None if they are identified by position.

  Returns:
    dict with the counts, the labeled examples per class (a list, by label), the labeled positions, and
    the sha256 of the labeled and the validation positions as little-endian int64. With `names` it also
    has the names of the labeled examples, and the sha256 is that of the names, one per line.
  """
  labels = np.asarray(labels)
  named = {} if names is None else {'labeled_files': names[split_.labeled].tolist()}
  return {
    'dataset': dataset,
    'num_labeled': len(split_.labeled),
    'num_unlabeled': len(split_.unlabeled),
    'num_validation': len(split_.validation),
    'labeled_per_class': _class_counts(labels[split_.labeled], labels.max() + 1).tolist(),
    'labeled_sha256': _sha256(split_.labeled, names),
    'validation_sha256': _sha256(split_.validation, names),
    'labeled': split_.labeled.tolist(),
    **named,
  }


def _write_json(path, value):
  """Writes JSON atomically, one key per line. Raises UserError if it cannot be written."""
  lines = ',\n'.join(f'  {json.dumps(key)}: {json.dumps(entry)}' for key, entry in value.items())
  try:
    write_text(path, '{\n' + lines + '\n}\n')
  except OSError as error:
    raise UserError(f'{path}: cannot be written ({error.strerror}); give another folder') from error


def write_manifest(path, split_, *, dataset, labels, names=None):
  """Writes the `manifest` of a split as JSON. Raises UserError if the file cannot be written."""
  _write_json(path, manifest(split_, dataset=dataset, labels=labels, names=names))


def write_selection(path, positions, *, dataset, count, names=None):
  """Writes the selection of unlabeled examples to train on, for `read_selection`.

  Args:
    path: str.
    positions: int64 `[n]`, ascending, among the unlabeled examples.
    dataset: the dataset's name.
    count: int, the number of its unlabeled examples.
    names: str `[count]`, their names, or None.

  Raises:
    UserError: the file cannot be written.
  """
  named = {} if names is None else {'files': names[positions].tolist()}
  _write_json(path, {'dataset': dataset, 'of': count, 'positions': positions.tolist(), **named})


def read_selection(path, *, dataset, count, names=None):
  """Reads the positions from a file of `write_selection`: int64 `[n]`.

  Args:
    path, dataset, count, names: see `write_selection`; of the data that are now used.

  Raises:
    UserError: it cannot be read, or was made from other data.
  """
  where = f'--unlabeled_manifest={path}'
  try:
    with open(os.path.expanduser(path), encoding='utf-8') as file:
      found = json.load(file)
    positions = np.array(found['positions'], np.int64)
    same = (found['dataset'], found['of']) == (dataset, count) and positions.ndim == 1
  except OSError as error:
    raise UserError(f'{where}: {error.strerror}; make it with --task_mode=select') from error
  except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
    raise UserError(f'{where}: not a list of examples; make it with --task_mode=select') from error
  same = same and positions.size and positions.min() >= 0 and positions.max() < count
  if same and names is not None:
    same = names[positions].tolist() == found.get('files')
  if not same:
    raise UserError(f'{where}: was made from other data; make a new one with --task_mode=select')
  return positions
