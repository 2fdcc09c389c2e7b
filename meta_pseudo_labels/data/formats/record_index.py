"""Where records lie and what their labels are, found once and kept: shards are read at one start."""

import contextlib
import hashlib
import json
import os
import zipfile

from meta_pseudo_labels.files import atomic_write

import numpy as np
import tensorflow as tf


def cached(cache_dir, paths, what, make):
  """Returns arrays that are made from files, from the cache where the files are unchanged.

  Args:
    cache_dir: str, or None: nothing is kept.
    paths: list of str, the files; their sizes and times of change are compared.
    what: JSON value, all else that the arrays depend on.
    make: function without arguments to {name: array}.

  Returns:
    {name: array}.
  """
  if not cache_dir:
    return make()
  stats = [tf.io.gfile.stat(path) for path in paths]
  described = [what, paths, [stat.length for stat in stats], [stat.mtime_nsec for stat in stats]]
  name = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
  folder = os.path.join(os.path.expanduser(cache_dir), 'records')
  path = os.path.join(folder, f'{name}.npz')
  # A damaged file is made again.
  with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    with np.load(path, allow_pickle=False) as found:
      return {key: found[key] for key in found.files}
  arrays = make()
  # A cache that cannot be written costs time at the next start, and no more.
  with contextlib.suppress(OSError):
    os.makedirs(folder, exist_ok=True)
    with atomic_write(path, 'wb') as file:
      np.savez(file, **arrays)
  return arrays
