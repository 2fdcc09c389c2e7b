"""Features on disk, in chunks, found by the fingerprint of the image that they are of.

A chunk is one file, `features-<number>.npz`, written in one move, so a kill loses one chunk at most. An
image that moves from one folder to another, or comes twice, keeps its features.
"""

import contextlib
import os
import re

from meta_pseudo_labels.data.store import layout
from meta_pseudo_labels.files import atomic_write, write_json

import numpy as np

_CHUNK = re.compile(r'features-(\d+)\.npz$')


class FeatureCache:
  """The chunks in a folder.

  Attributes:
    folder: str.
    parameters: dict of JSON values, all that the features depend on besides the image.
    next_chunk: int, the number of the next chunk to add.
  """

  def __init__(self, cache_dir, parameters, say):
    """Reads what is there; damaged chunks are removed, and said.

    Args:
      cache_dir: str.
      parameters: dict of JSON values, all that the features depend on besides the image.
      say: function of a line (str).

    Raises:
      UserError: the folder cannot be written.
    """
    self.parameters, self._say = parameters, say
    self.folder = os.path.join(
      os.path.expanduser(cache_dir), 'features-' + layout.digest(parameters).hex()[:16]
    )
    try:
      os.makedirs(self.folder, exist_ok=True)
      write_json(os.path.join(self.folder, 'parameters.json'), parameters)
    except OSError as error:
      raise layout.cannot_be_written(self.folder, error) from error
    self._keys, self._rows = [], []
    self.next_chunk = 0
    self._read_new()

  @contextlib.contextmanager
  def locked(self):
    """Keeps other processes from adding chunks in this context; knows before what they have added.

    Raises:
      UserError: the folder cannot be written.
    """
    with layout.locked(self.folder, self._say):
      self._read_new()
      yield

  def _read_new(self):
    """Takes over the chunks that were not there before."""
    numbers = sorted(int(found[1]) for found in map(_CHUNK.match, os.listdir(self.folder)) if found)
    for number in numbers:
      if number >= self.next_chunk:
        self._read(number)

  def _path(self, number):
    return os.path.join(self.folder, f'features-{number:06d}.npz')

  def _read(self, number):
    """Takes over a chunk from its file."""
    path = self._path(number)
    try:
      with np.load(path, allow_pickle=False) as chunk:
        keys, rows = chunk['keys'], chunk['features']
      if len(keys) != len(rows):
        raise ValueError('lengths differ')
    except Exception:  # noqa: BLE001 numpy and zipfile raise many kinds for a damaged file.
      self._say(f'{path} is damaged: its features are computed again')
      os.remove(path)
    else:
      self._keys.append(keys)
      self._rows.append(rows)
    self.next_chunk = number + 1

  def missing(self, keys):
    """Returns the positions of keys that are not there, the first of each: int64 `[m]`, ascending.

    Args:
      keys: uint64 `[N]`, fingerprints of images.
    """
    known = np.concatenate([*self._keys, np.empty(0, np.uint64)])
    _, first = np.unique(keys, return_index=True)
    return np.sort(first[~np.isin(keys[first], known)])

  def add(self, keys, features):
    """Adds a chunk: keys uint64 `[n]`, features float16 `[n, V, D]`. Raises UserError if it cannot."""
    path = self._path(self.next_chunk)
    try:
      with atomic_write(path, 'wb') as file:
        np.savez(file, keys=keys, features=features)
    except OSError as error:
      raise layout.cannot_be_written(self.folder, error, features.nbytes) from error
    self._keys.append(keys)
    self._rows.append(features)
    self.next_chunk += 1

  def take(self, keys):
    """Returns the features of images, all of which must be there: float16 `[N, V, D]`."""
    found = np.empty([len(keys), *self._rows[0].shape[1:]], np.float16)
    for known, rows in zip(self._keys, self._rows):  # One by one: together they may be half of the memory.
      order = np.argsort(known)
      place = np.minimum(np.searchsorted(known[order], keys), len(known) - 1)
      here = known[order[place]] == keys
      found[here] = rows[order[place[here]]]
    return found
