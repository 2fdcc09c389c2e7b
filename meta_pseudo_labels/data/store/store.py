"""A store of prepared images: finding entries, and adding some so that a kill loses little."""

import concurrent.futures
import contextlib
import mmap
import os
import time

from meta_pseudo_labels.data.store import hashes, layout
from meta_pseudo_labels.files import write_json

import numpy as np

# What a kill can lose, at most: that many seconds or bytes of work.
COMMIT_SECONDS, COMMIT_BYTES = 2.0, 256 << 20


class Store:
  """A store's folder, held by the process that has its lock (`layout.locked`).

  Attributes:
    folder: str.
    parameters: dict of JSON values, what the pixels depend on.
    entries: layout.ENTRY [M], one a name; of two with one name the later counts.
    reasons: list of str, why files cannot be decoded; entries without pixels number them.
    bytes_added: int, of pixels, by this process.
  """

  def __init__(self, folder, parameters, say):
    """Reads what is there; what is damaged is left out, and said.

    Args:
      folder: str.
      parameters: dict of JSON values.
      say: function of a line (str).

    Raises:
      UserError: the folder cannot be read or written.
    """
    self.folder, self.parameters, self._say = folder, parameters, say
    self._file, self._shard, self._written, self.bytes_added = None, -1, 0, 0
    self._pending, self._pending_bytes, self._pending_reasons = [], 0, []
    self._added = []  # What was committed, but is not among the entries yet.
    self._last_commit = time.monotonic()
    self._saver = concurrent.futures.ThreadPoolExecutor(1)  # Waits for the disk beside the decoding.
    self._saved = []
    try:
      self._tidy()
      self._read()
    except OSError as error:
      raise layout.cannot_be_written(folder, error) from error

  def _tidy(self):
    for name in os.listdir(self.folder):
      if name.endswith('.tmp'):
        os.remove(os.path.join(self.folder, name))
    path = os.path.join(self.folder, 'parameters.json')
    if not os.path.exists(path):
      write_json(path, self.parameters)

  def _read(self):
    parts, self.reasons = [np.empty(0, layout.ENTRY)], []
    numbers = layout.index_numbers(self.folder)
    for number in numbers:
      path = layout.index_path(self.folder, number)
      try:
        entries, reasons = layout.read_index(path)
      except ValueError as error:
        self._say(f'{path} is damaged ({error}): its images are prepared again')
        continue
      parts.append(_numbered_from(entries, len(self.reasons)))
      self.reasons += reasons
    self._indices = numbers
    self._next_index = max(numbers, default=0) + 1
    self._set_entries(_latest(np.concatenate(parts)))
    self._leave_out_damaged()
    self._remove_unused_shards()  # Of a run that was killed before it had saved anything of them.
    self._next_shard = max(layout.shard_numbers(self.folder), default=-1) + 1

  def _leave_out_damaged(self):
    """Leaves out the entries whose pixels are not there: of shards that are missing, cut or not ours."""
    whole = np.ones(len(self.entries), bool)
    ends = self.entries['offset'] + _bytes(self.entries)
    for number in np.unique(self.entries['shard'][self.entries['shard'] >= 0]):
      of_shard = self.entries['shard'] == number
      lost = of_shard & (ends > layout.shard_room(self.folder, int(number), self.parameters))
      if lost.any():
        self._say(
          f'{layout.shard_path(self.folder, number)} is damaged: {lost.sum()} images are prepared again'
        )
        whole &= ~lost
    if not whole.all():
      self._set_entries(self.entries[whole])

  def _set_entries(self, entries):
    self.entries = entries
    self._order = np.argsort(entries['key'], kind='stable')
    self._sorted = entries['key'][self._order]

  def find(self, keys, sizes, mtimes_ns):
    """Returns where the entries of files are, int64 [N]; -1 for files that are new or have changed.

    Args:
      keys: uint64 [N], the names' fingerprints.
      sizes, mtimes_ns: int64 [N].
    """
    if not len(self.entries):
      return np.full(len(keys), -1, np.int64)
    place = np.searchsorted(self._sorted, keys)
    place[place == len(self._sorted)] = 0
    found = self._order[place]
    entries = self.entries[found]
    same = (entries['key'] == keys) & (entries['size'] == sizes) & (entries['mtime_ns'] == mtimes_ns)
    return np.where(same, found, -1)

  def append(self, key, size, mtime_ns, pixels, facts, file_hash, pixel_hash=None):
    """Adds an image; it counts from the next `commit` on.

    Args:
      key, size, mtime_ns: ints: fingerprint of the name, bytes, nanoseconds.
      pixels: uint8 [h, w, 3], anything with a buffer.
      facts: ints [4], as layout.FACTS.
      file_hash: int in [0, 2**64), the fingerprint of the file's bytes.
      pixel_hash: that of the pixels; None: it is computed here.

    Raises:
      OSError: no room.
    """
    view = memoryview(pixels)
    height, width, _ = view.shape
    room = layout.stride(height, width)
    if self._file is None or self._written and self._written + room > layout.SHARD_BYTES:
      self._open_shard()
    if pixel_hash is None:
      pixel_hash = hashes.of_pixels(view)
    self._file.write(view.cast('B'))
    self._file.write(bytes(room - view.nbytes))
    self._pending.append(
      (key, size, mtime_ns, self._written, self._shard, height, width, *facts, file_hash, pixel_hash)
    )
    self._written += room
    self.bytes_added += room
    self._pending_bytes += room
    if self._pending_bytes >= COMMIT_BYTES or time.monotonic() - self._last_commit >= COMMIT_SECONDS:
      self.commit()

  def add_reason(self, key, size, mtime_ns, file_hash, reason):
    """Remembers that a file cannot be decoded, from the next `commit` on (reason: str)."""
    number = len(self._pending_reasons)
    self._pending.append((key, size, mtime_ns, number, -1, 0, 0, 0, 0, 0, 0, file_hash, 0))
    self._pending_reasons.append(' '.join(reason.split()))

  def _open_shard(self):
    self.commit()
    self._close_shard()
    self._shard, self._written = self._next_shard, 0
    self._next_shard += 1
    # Small images are gathered; large ones go past this buffer.
    self._file = open(layout.shard_path(self.folder, self._shard), 'xb', buffering=1 << 20)
    self._file.write(layout.shard_header(self._shard, self.parameters))

  def _close_shard(self):
    """Closes the shard behind what is to be saved of it."""
    if self._file is not None:
      self._saved.append(self._saver.submit(self._file.close))
      self._file = None

  def commit(self):
    """Makes what was added count: saves it in the background.

    Raises:
      OSError: this or an earlier saving failed.
    """
    for saved in [saved for saved in self._saved if saved.done()]:
      self._saved.remove(saved)
      saved.result()
    self._last_commit = time.monotonic()
    if not self._pending:
      return
    if self._file is not None:
      self._file.flush()
    entries, reasons = np.array(self._pending, layout.ENTRY), self._pending_reasons
    self._pending, self._pending_bytes, self._pending_reasons = [], 0, []
    path = layout.index_path(self.folder, self._next_index)
    self._indices.append(self._next_index)
    self._next_index += 1
    self._saved.append(self._saver.submit(_save, self._file, path, entries, reasons))
    self._added.append(_numbered_from(entries, len(self.reasons)))
    self.reasons = self.reasons + reasons

  def finish(self):
    """Waits until all that was added is saved, and makes one index of it.

    Raises:
      OSError: no room.
    """
    self.commit()
    self._close_shard()
    for saved in self._saved:
      saved.result()
    self._saved = []
    if self._indices not in ([], [0]):
      self._set_entries(_latest(np.concatenate([self.entries, *self._added])))
      self._added = []
      self._write_one_index()

  def _write_one_index(self):
    self._drop_unused_reasons()
    layout.write_index(layout.index_path(self.folder, 0), self.entries, self.reasons)
    for number in self._indices:
      if number:
        os.remove(layout.index_path(self.folder, number))
    self._indices = [0]
    self._remove_unused_shards()

  def _remove_unused_shards(self):
    for number in np.setdiff1d(layout.shard_numbers(self.folder), self.entries['shard']).tolist():
      os.remove(layout.shard_path(self.folder, int(number)))

  def _drop_unused_reasons(self):
    failed = self.entries['shard'] < 0
    if not failed.any():
      self.reasons = []
      return
    words = np.array(self.reasons, object)[self.entries['offset'][failed]]
    self.reasons, numbers = np.unique(words.astype(str), return_inverse=True)
    self.reasons = self.reasons.tolist()
    entries = self.entries.copy()
    entries['offset'][failed] = numbers.ravel()
    self._set_entries(entries)

  def close(self):
    """Keeps what is finished, when the work ends early; without room that is what was saved before."""
    with contextlib.suppress(OSError):
      self.commit()
    self._close_shard()
    self._saver.shutdown()

  def forget(self, positions):
    """Removes entries (int64 positions), so that their files are prepared again.

    Raises:
      OSError: no room.
    """
    self._set_entries(np.delete(self.entries, positions))
    self._write_one_index()

  def reclaim(self, wanted):
    """Gives back the space of shards of which less than half is still wanted; call it after `finish`.

    Args:
      wanted: int64 [n], positions of entries; when something is given back, all others are forgotten.

    Returns:
      int, the bytes that were given back; 0 also where the disk has no room for moving what is wanted.

    Raises:
      OSError: no room.
    """
    wanted = np.unique(wanted)
    entries = self.entries[wanted]
    sizes = {
      number: os.path.getsize(layout.shard_path(self.folder, number))
      for number in layout.shard_numbers(self.folder)
    }
    numbers = np.array(sorted(sizes), np.int64)
    used = np.bincount(
      np.searchsorted(numbers, entries['shard'][entries['shard'] >= 0]),
      weights=_room(entries[entries['shard'] >= 0]),
      minlength=len(numbers),
    )
    wasteful = [
      number for number, part in zip(numbers.tolist(), used) if part + layout.HEADER < sizes[number] / 2
    ]
    moved = np.flatnonzero(np.isin(entries['shard'], wasteful))
    free = os.statvfs(self.folder)
    if not wasteful or _room(entries[moved]).sum() > free.f_bavail * free.f_frsize:
      return 0
    before = sum(sizes.values())
    self._set_entries(entries)
    for number in wasteful:
      self._move(self.entries[self.entries['shard'] == number])
    self.finish()
    self._write_one_index()
    return before - sum(
      os.path.getsize(layout.shard_path(self.folder, number))
      for number in layout.shard_numbers(self.folder)
    )

  def _move(self, entries):
    """Writes the images of entries of one shard once more."""
    if not len(entries):
      return
    with (
      open(layout.shard_path(self.folder, entries['shard'][0]), 'rb') as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
      for entry in entries:
        begin = layout.HEADER + int(entry['offset'])
        height, width = int(entry['height']), int(entry['width'])
        pixels = np.frombuffer(mapped[begin : begin + height * width * 3], np.uint8)
        values = entry.item()
        self.append(*values[:3], pixels.reshape(height, width, 3), values[7:11], *values[11:13])


def _save(file, path, entries, reasons):
  """Brings the shard to the disk, then the index file that counts on it."""
  if file is not None:
    os.fsync(file.fileno())
  layout.write_index(path, entries, reasons)


def _bytes(entries):
  return entries['height'].astype(np.int64) * entries['width'] * 3


def _room(entries):
  return layout.stride(entries['height'].astype(np.int64), entries['width'])


def _numbered_from(entries, first):
  """Entries with the numbers of their reasons counted on from `first`."""
  entries = entries.copy()
  entries['offset'][entries['shard'] < 0] += first
  return entries


def _latest(entries):
  """The last entry of each name, in the order of the keys."""
  _, places = np.unique(entries['key'][::-1], return_index=True)
  return entries[len(entries) - 1 - places]
