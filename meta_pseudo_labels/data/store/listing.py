"""The files below a folder with their sizes and times, for a million of them in seconds."""

import dataclasses
import os
import posixpath
from typing import List

from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
  """Files, sorted by name.

  Attributes:
    names: list of N str, relative to the folder, '/' between their parts.
    sizes: int64 [N], bytes.
    mtimes_ns: int64 [N], when they were last written, nanoseconds since 1970.
    ignored: int, how many other files there are; hidden ones do not count.
  """

  names: List[str]
  sizes: np.ndarray
  mtimes_ns: np.ndarray
  ignored: int

  def __len__(self):
    return len(self.names)


def listing(top, suffixes=('',)):
  """Returns the `Listing` of a folder, at any depth. Hidden files and folders are left out.

  Links are followed, except those to a folder that they lie in.

  Args:
    top: str; with '://' in it tf.io.gfile is asked, one file after the other.
    suffixes: tuple of str in small letters: the files that are wanted, in small or capital letters.

  Raises:
    UserError: a folder cannot be listed.
  """
  names, sizes, times = [], [], []
  counts = [0]

  def add(name, stat):
    if name.lower().endswith(suffixes):
      size, mtime_ns = stat()
      names.append(name)
      sizes.append(size)
      times.append(mtime_ns)
    else:
      counts[0] += 1

  try:
    if '://' in top:
      _remote(top, add)
    else:
      _local(top, add)
  except (OSError, UnicodeDecodeError, tf.errors.OpError) as error:
    raise UserError(f'cannot list {top}: {" ".join(str(error).split())[:300]}') from error
  order = sorted(range(len(names)), key=names.__getitem__)
  return Listing(
    [names[i] for i in order],
    np.array(sizes, np.int64)[order],
    np.array(times, np.int64)[order],
    counts[0],
  )


def _local(top, add):
  """Tells `add` of the files below a folder: (relative name, function -> (bytes, nanoseconds))."""
  folders = [('', frozenset())]
  while folders:
    folder, above = folders.pop()
    with os.scandir(os.path.join(top, folder)) as found:
      for entry in found:
        if entry.name.startswith('.'):
          continue
        name = folder + entry.name
        if not entry.is_dir():
          add(name, lambda entry=entry: _stat(entry))
        elif not entry.is_symlink():
          folders.append((name + '/', above))
        else:  # It may lead to where it lies, and so on for ever.
          target = os.path.realpath(entry.path)
          here = os.path.realpath(os.path.dirname(entry.path))
          if target not in above and not (here + '/').startswith(target.rstrip('/') + '/'):
            folders.append((name + '/', above | {target}))


def _stat(entry):
  """(bytes, nanoseconds); (0, 0) of a link to nothing, which cannot be read and is told of then."""
  try:
    found = entry.stat()
  except FileNotFoundError:
    return 0, 0
  return found.st_size, found.st_mtime_ns


def _remote(top, add):
  for folder, _, files in tf.io.gfile.walk(top):
    inner = folder[len(top) :].strip('/')
    if any(part.startswith('.') for part in inner.split('/')):
      continue
    for name in files:
      if not name.startswith('.'):
        path = posixpath.join(folder, name)
        add(posixpath.join(inner, name), lambda path=path: _remote_stat(path))


def _remote_stat(path):
  found = tf.io.gfile.stat(path)
  return found.length, found.mtime_nsec
