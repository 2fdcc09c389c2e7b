"""Preparing images: what a store does not have yet is decoded, on all cores, and written to it."""

import contextlib
import dataclasses
import itertools
import os
import shutil
from typing import Callable, List, Optional, Tuple

from meta_pseudo_labels.data.store import decoding, hashes, layout, reading
from meta_pseudo_labels.data.store import store as stores
from meta_pseudo_labels.data.store.progress import Progress
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import atomic_write

import numpy as np

_SAMPLE = 100  # Files that are looked at to tell how much room all will take.


@dataclasses.dataclass(frozen=True)
class Decoders:
  """How files become pixels.

  Attributes:
    in_graph: function of a file's bytes, string [], of TensorFlow's own operations -> uint8 [h, w, 3], or
      (that, int64 [4] as layout.FACTS). Without facts they are the height and width in the file's head. An
      operation that fails leaves the file to `in_python`.
    in_python: function of a file's bytes -> (pixels uint8 [h, w, 3], ints [4] as layout.FACTS); raises
      ValueError, OSError, MemoryError or tf.errors.OpError with the reason in one line. Called by several
      threads.
    claimed_pixels: function of a file's first bytes -> int, height * width before decoding; 0 if they do
      not say. Raises nothing.
    takes: function of a file's first bytes -> whether `in_graph` is tried; None: of all JPEG and PNG.
    takes_plain: the same of `plain_in_graph`, which is tried before; None: of no file. It gets the first
      4096 bytes.
    plain_in_graph: as `in_graph`, for the files that are most, in fewer operations; or None.
  """

  in_graph: Callable
  in_python: Callable
  claimed_pixels: Callable
  takes: Optional[Callable] = None
  takes_plain: Optional[Callable] = None
  plain_in_graph: Optional[Callable] = None

  @property
  def stages(self):
    """Pairs (which files, function) of those that decode in TensorFlow, in the order they are tried."""
    general = self.takes or decoding.is_jpeg_or_png, self.in_graph
    return (general,) if self.takes_plain is None else ((self.takes_plain, self.plain_in_graph), general)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """What there is after preparing.

  Attributes:
    images: reading.Prepared [N]; those that cannot be decoded have no pixels (`images.readable`).
    unreadable: list of (path, reason), in the order of the paths.
    decoded: int, how many files were decoded in this call.
    report: str, the text file with all that is unreadable; None if nothing is.
  """

  images: reading.Prepared
  unreadable: List[Tuple[str, str]]
  decoded: int
  report: Optional[str]


def prepare(
  paths,
  stats,
  folder,
  parameters,
  decoders,
  *,
  names=None,
  side=None,
  say=None,
  progress=None,
  check=False,
  cores=None,
):
  """Returns the `Outcome` for files, decoding those that the store does not have.

  One process at a time prepares into a folder; others wait. What is finished survives a kill. Files that
  cannot be decoded are remembered while they are unchanged. Raises UserError: no room, or the folder
  cannot be written.

  Args:
    paths: list of N str.
    stats: (sizes in bytes, times of change in nanoseconds), int64 [N] each, as listed before.
    folder: str, made if need be; one for each `parameters` (layout.folder_for).
    parameters: dict of JSON values, all that the pixels depend on.
    decoders: Decoders.
    names: list of N str that the files are known by in the store; None for the paths.
    side: int, if all images are made [side, side, 3]; else None.
    say, progress: functions of a line, for what is found and for how far it is; None: the same.
    check: whether the pixels that are there are compared with their checksums.
    cores: int, images decoded at once; None for all.
  """
  say = say or (lambda line: None)
  names = paths if names is None else names
  keys = hashes.of_strings(names)
  sizes, mtimes_ns = (np.asarray(values, np.int64) for values in stats)
  most = side or parameters.get('side')
  work = _Work(paths, names, keys, sizes, mtimes_ns, decoders, side, most, cores or os.cpu_count())
  with layout.locked(folder, say), contextlib.ExitStack() as at_end:
    store = stores.Store(folder, parameters, say)
    at_end.callback(store.close)
    return _completed(store, work, parameters, say, progress or say, check)


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
  """The files, [N] each, and how they are decoded."""

  paths: List[str]
  names: List[str]
  keys: np.ndarray
  sizes: np.ndarray
  mtimes_ns: np.ndarray
  decoders: Decoders
  side: Optional[int]
  side_at_most: Optional[int]  # Of the shorter sides.
  cores: int

  def found_in(self, store):
    """Returns where the files stand in a store: int64 [N], -1 of those that it does not have."""
    return store.find(self.keys, self.sizes, self.mtimes_ns)


def _completed(store, work, parameters, say, progress, check):
  """Brings a store up to date; returns the `Outcome`. Args as of `prepare`."""
  needed, passing = 0, {}
  try:
    found = work.found_in(store)
    if check:
      _forget_damaged(store, found, work.side, say)
      found = work.found_in(store)
    missing = np.flatnonzero(found < 0)
    if missing.size:
      needed = _check_room(store.folder, work.paths, missing, parameters, work.decoders, work.side)
      passing = _add(store, work, missing, Progress(missing.size, progress))
    store.finish()
    found = work.found_in(store)
    freed = store.reclaim(found[found >= 0])
    if freed:
      say(f'{store.folder}: gave back {freed / 1e6:.0f} MB of images that are no longer there')
      found = work.found_in(store)
    return _outcome(store, work, found, passing, missing.size)
  except OSError as error:
    raise layout.cannot_be_written(store.folder, error, needed - store.bytes_added) from error


def _forget_damaged(store, found, side, say):
  entries = store.entries[found[found >= 0]]
  images = reading.opened(store.folder, entries, np.full(len(entries), ''), side)
  damaged = reading.verify(images)
  if damaged.size:
    say(f'{store.folder}: {damaged.size} images are damaged and are prepared again')
    store.forget(found[found >= 0][damaged])


def _check_room(folder, paths, missing, parameters, decoders, side):
  """About how many bytes the missing images take, judged by some of the files.

  Raises UserError if the disk has less.
  """
  if side is not None:
    needed = missing.size * layout.stride(side, side)
  else:
    longest = parameters.get('side') or 0
    sample = missing[np.linspace(0, missing.size - 1, min(_SAMPLE, missing.size)).astype(int)]
    pixels = [decoders.claimed_pixels(decoding.head(paths[position])) for position in sample]
    # An image whose shorter side is brought to `side` is rarely smaller than the square of it.
    needed = 3 * missing.size * np.mean(np.minimum(pixels, longest**2 or np.inf))
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise UserError(
      f'{folder}: {missing.size} images take about {needed / 1e9:.1f} GB when they are '
      f'prepared, and {free / 1e9:.1f} GB are free: free {(needed - free) / 1e9 + 0.1:.1f} '
      'GB more, or give --cache_dir a folder that has them'
    )
  return needed


def _add(store, work, missing, progress):
  """Decodes files (positions int64 [n]) into the store.

  Returns:
    {position: reason} of those that cannot be read, which may pass.
  """
  passing, rest, huge = {}, missing.tolist(), []

  def in_graph():
    for stage in work.decoders.stages:
      positions, rest[:] = np.array(rest, np.int64), []
      yield from decoding.in_graph(work, positions, stage, rest, huge)

  def in_python():  # The lists are complete when the first part has ended.
    yield from decoding.in_python(work, rest, work.cores)
    if huge:
      progress.slower(f'{len(huge)} images of more than 20 megapixels are decoded last, one at a time')
    yield from decoding.in_python(work, huge, 1)

  for done in itertools.chain(in_graph(), in_python()):
    place = done.position
    key = int(work.keys[place]), int(work.sizes[place]), int(work.mtimes_ns[place])
    if done.pixels is not None:
      store.append(*key, done.pixels, done.facts, done.file_hash, done.pixel_hash)
    elif done.file_hash is not None:
      store.add_reason(*key, done.file_hash, done.reason)
    else:
      passing[place] = done.reason
    progress.step()
  progress.end()
  return passing


def _outcome(store, work, found, passing, decoded):
  entries = np.zeros(len(found), layout.ENTRY)
  entries['shard'] = -1
  entries[found >= 0] = store.entries[found[found >= 0]]
  unreadable = []
  for position in np.flatnonzero(entries['shard'] < 0).tolist():
    reason = (
      passing.get(position, 'it is in the list twice')
      if found[position] < 0
      else (store.reasons[entries['offset'][position]])
    )
    unreadable.append((work.paths[position], reason))
  report = os.path.join(store.folder, 'unreadable.txt')
  if unreadable:
    lines = ''.join(f'{path}\t{reason}\n' for path, reason in unreadable)
    with atomic_write(report, errors='surrogateescape') as file:
      file.write(lines)
  else:
    with contextlib.suppress(FileNotFoundError):
      os.remove(report)
  return Outcome(
    reading.opened(store.folder, entries, work.names, work.side),
    unreadable,
    int(decoded),
    report if unreadable else None,
  )
