"""What a trained network said of the labeled and the unlabeled examples, in a file.

`--task_mode=label` writes it; reduced_mpl trains on it. One .npz file (numpy.savez) of

  labeled     float32 [n, C]   log probabilities, in the order of the labeled examples
  unlabeled   float32 [M, C]   likewise
  data        str []           JSON: which data they are of
"""

import dataclasses
import hashlib
import json
import os

from meta_pseudo_labels.data import storage
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import atomic_write

import numpy as np

TOLERANCE = 1e-3  # Of the sum of an example's probabilities.


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """A teacher's predictions.

  Attributes:
    labeled, unlabeled: float32 `[n, C]`, `[M, C]`: log probabilities.
  """

  labeled: np.ndarray
  unlabeled: np.ndarray

  @property
  def sha256(self):
    """Of both: text."""
    return _sha256(self.labeled, self.unlabeled)


def _sha256(*arrays):
  found = hashlib.sha256()
  for array in arrays:
    found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def description(identity, *, dataset, labeled, unlabeled, truth, names=None):
  """Which data predictions are of: a dict of plain values, that must be the same for both runs.

  Args:
    identity: `splits.identity`'s text.
    dataset: the dataset's name.
    labeled, unlabeled: their inputs.
    truth: int32 `[M]`, labels of the unlabeled ones, -1 where unknown.
    names: str `[M]`, what the unlabeled ones are called, or None.
  """
  if names is not None and len(names) == len(unlabeled):
    said = {'unlabeled_names': hashlib.sha256('\n'.join(names.tolist()).encode()).hexdigest()}
  elif not storage.of_one_size(unlabeled):
    said = {'unlabeled_labels': _sha256(truth)}
  else:
    said = {'inputs': _sha256(labeled, unlabeled)}
  return {'dataset': dataset, 'labeled_examples': len(labeled), **json.loads(identity), **said}


def write(path, predictions, data):
  """Writes the file in one move.

  Args:
    path: str.
    predictions: Predictions.
    data: `description`.

  Raises:
    UserError: it cannot be written.
  """
  try:
    with atomic_write(path, 'wb') as file:
      np.savez(
        file,
        labeled=predictions.labeled,
        unlabeled=predictions.unlabeled,
        data=json.dumps(data, sort_keys=True),
      )
  except OSError as error:
    raise UserError(f'cannot write {path}: {error.strerror}') from error


def read(path, data):
  """The Predictions in a file of `write`.

  Args:
    path: str.
    data: `description` of the data at hand.

  Raises:
    UserError: it cannot be read, holds something else, or is of other data.
  """
  where, remedy = f'--teacher_predictions={path}', 'make it with --task_mode=label'
  try:
    with np.load(os.path.expanduser(path), allow_pickle=False) as archive:
      found = Predictions(archive['labeled'], archive['unlabeled'])
      said = json.loads(str(archive['data']))
      before = {name: said.get(name) for name in data}
  except Exception as error:  # A damaged file makes numpy, zipfile and json raise all sorts.
    reason = getattr(error, 'strerror', None) or 'not a whole file of predictions'
    raise UserError(f'{where}: {reason}; {remedy}') from error
  differences = [name.replace('_', ' ') for name in data if before[name] != data[name]]
  if differences:
    raise UserError(
      f'{where}: of other data ({", ".join(differences)} differ); {remedy} of a '
      'teacher of this data, split and --image_size'
    )
  for name, count in (('labeled', data['labeled_examples']), ('unlabeled', data['unlabeled'])):
    _check(f'{where}: {name}', getattr(found, name), (count, len(data['class_names'])), remedy)
  return found


def _check(what, log_probs, shape, remedy):
  """Raises UserError unless an array holds log probabilities, float32 of this shape."""
  if log_probs.dtype != np.float32 or log_probs.shape != shape:
    raise UserError(
      f'{what} is {log_probs.dtype} {list(log_probs.shape)}, not float32 {list(shape)}; {remedy}'
    )
  with np.errstate(over='ignore', invalid='ignore'):
    sums = np.exp(log_probs).sum(axis=1)
  if not (np.isfinite(log_probs).all() and (abs(sums - 1) < TOLERANCE).all()):
    raise UserError(f'{what} does not hold log probabilities; {remedy}')
