"""Files of a trained network's predictions for the labeled and the unlabeled examples.

`--task_mode=label` writes such a file; reduced_mpl trains on it. It is a .npz file (numpy.savez) of

  labeled     float32 [n, C]   log probabilities, in the order of the labeled examples
  unlabeled   float32 [M, C]   log probabilities, in the order of the unlabeled examples
  data        str []           JSON description of the data that they are for
"""

import dataclasses
import hashlib
import json
import os

from meta_pseudo_labels.data import storage
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import atomic_write

import numpy as np

TOLERANCE = 1e-3  # For the sum of an example's probabilities.


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
    """The sha256 of both arrays: hex str."""
    return _sha256(self.labeled, self.unlabeled)


def _sha256(*arrays):
  """Computes the sha256 of the bytes of arrays: hex str."""
  found = hashlib.sha256()
  for array in arrays:
    found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def describe(identity, *, dataset, labeled, unlabeled, truth, names=None):
  """Describes the data that predictions are for: a dict of plain values, the same for both runs.

  Args:
    identity: str, from `splits.identity`.
    dataset: the dataset's name.
    labeled, unlabeled: the inputs of these examples.
    truth: int32 `[M]`, labels of the unlabeled examples, -1 where unknown.
    names: str `[M]`, names of the unlabeled examples, or None.
  """
  if names is not None and len(names) == len(unlabeled):
    said = {'unlabeled_names': hashlib.sha256('\n'.join(names.tolist()).encode()).hexdigest()}
  elif not storage.of_one_size(unlabeled):
    said = {'unlabeled_labels': _sha256(truth)}
  else:
    said = {'inputs': _sha256(labeled, unlabeled)}
  return {'dataset': dataset, 'labeled_examples': len(labeled), **json.loads(identity), **said}


def write(path, predictions, data):
  """Writes the file atomically.

  Args:
    path: str.
    predictions: Predictions.
    data: dict, from `describe`.

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
    raise UserError(f'{path}: cannot be written ({error.strerror}); give another path') from error


def read(path, data):
  """Reads the Predictions from a file of `write`.

  Args:
    path: str.
    data: dict, from `describe`, of the data that are now used.

  Raises:
    UserError: it cannot be read, is not such a file, or is for other data.
  """
  where, remedy = f'--teacher_predictions={path}', 'make it with --task_mode=label'
  try:
    with np.load(os.path.expanduser(path), allow_pickle=False) as archive:
      found = Predictions(archive['labeled'], archive['unlabeled'])
      said = json.loads(str(archive['data']))
      before = {name: said.get(name) for name in data}
  except Exception as error:  # numpy, zipfile and json raise many kinds of errors for a damaged file.
    reason = getattr(error, 'strerror', None) or 'not an intact file of predictions'
    raise UserError(f'{where}: {reason}; {remedy}') from error
  differences = [name.replace('_', ' ') for name in data if before[name] != data[name]]
  if differences:
    raise UserError(
      f'{where}: is for other data ({", ".join(differences)} differ); {remedy} from a '
      'teacher with the same data, split and --image_size'
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
