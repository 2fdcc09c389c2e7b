"""What a store of prepared images looks like on disk, and how its small files are written.

  <cache_dir>/<digest of the parameters>/
    parameters.json      for people; the folder's name is made from them
    lock                 held by the one process that writes
    pixels-000000.bin    HEADER bytes, then images, uint8 [h, w, 3] each, from multiples of ALIGN on
    index                the entries, and why files could not be decoded
    index-000001         more of them, written since; they count over those before
    unreadable.txt       the files that cannot be decoded, for people

A shard is written by one process once and is never changed or cut afterwards: another process may have
mapped it into memory. What is no longer wanted is removed as a whole, which does not hurt who has it open.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import struct
import zlib

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import atomic_write

import numpy as np

VERSION = 2
HEADER = 65536  # A mapping may have to start at a multiple of this, on machines with large pages.
ALIGN = 64  # What TensorFlow wants of a tensor's address; then a slice is not copied.
SHARD_BYTES = 2 << 30

# One entry a file. `key` is the fingerprint of its name; `shard` is -1 if it cannot be decoded, and
# `offset` then numbers the reason. Offsets count from the end of the header.
ENTRY = np.dtype(
  [
    ('key', 'u8'),
    ('size', 'i8'),
    ('mtime_ns', 'i8'),
    ('offset', 'i8'),
    ('shard', 'i4'),
    ('height', 'i4'),
    ('width', 'i4'),
    ('full_height', 'i4'),
    ('full_width', 'i4'),
    ('flags', 'u2'),
    ('largest', 'u2'),
    ('file_hash', 'u8'),
    ('pixel_hash', 'u8'),
  ]
)
# What a decoder says of a file besides the pixels, int64 [4] in this order: height and width before any
# scaling; the flags below; the largest value of one with more than 8 bits a channel, else 0.
FACTS = ('full_height', 'full_width', 'flags', 'largest')
ANIMATED, DEEP, ALPHA, TURNED = 1, 2, 4, 8

INDEX = 'index'
_SHARD_HEAD = struct.Struct('<16sq16s')  # Magic, number, digest of the parameters.
_SHARD_MAGIC = b'prepared pixels\n'
_INDEX_HEAD = struct.Struct('<16sqqI')  # Magic, entries, bytes of reasons, checksum of all that follows.
_INDEX_MAGIC = b'prepared index1\n'
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def digest(parameters):
  """Returns 16 bytes that stand for a decoding's parameters (dict of JSON values)."""
  text = json.dumps([VERSION, parameters], sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).digest()


def folder_for(cache_dir, parameters):
  """Returns the folder (str) of the store for these parameters, within a cache folder.

  Args:
    cache_dir: str.
    parameters: dict of JSON values: all that the pixels depend on, and what else is to have a store of its
      own, such as the path of the folder of images.
  """
  return os.path.join(cache_dir, 'prepared-' + digest(parameters).hex()[:16])


def stride(height, width):
  """Returns the bytes that an image uint8 [height, width, 3] takes in a shard (ints or arrays)."""
  return -(-height * width * 3 // ALIGN) * ALIGN


def shard_path(folder, number):
  """Returns the path of a shard."""
  return os.path.join(folder, f'pixels-{number:06d}.bin')


def shard_numbers(folder):
  """Returns the numbers of the shards that lie in a store's folder, sorted (list of int)."""
  found = (re.fullmatch(r'pixels-(\d{6,})\.bin', name) for name in os.listdir(folder))
  return sorted(int(match[1]) for match in found if match)


def shard_header(number, parameters):
  """Returns the HEADER bytes that a shard starts with."""
  return _SHARD_HEAD.pack(_SHARD_MAGIC, number, digest(parameters)).ljust(HEADER, b'\0')


def shard_room(folder, number, parameters):
  """Returns how many bytes of pixels a shard holds (int); -1 if it is missing or not what it should be."""
  try:
    with open(shard_path(folder, number), 'rb') as file:
      head = file.read(_SHARD_HEAD.size)
      size = os.fstat(file.fileno()).st_size
  except OSError:
    return -1
  right = head == _SHARD_HEAD.pack(_SHARD_MAGIC, number, digest(parameters)) and size >= HEADER
  return size - HEADER if right else -1


def index_path(folder, number):
  """Returns the path of an index file; number 0 is the one that the others are added to."""
  return os.path.join(folder, f'{INDEX}-{number:06d}' if number else INDEX)


def index_numbers(folder):
  """Returns the numbers of the index files that lie in a store's folder, sorted (list of int)."""
  found = (re.fullmatch(INDEX + r'(-(\d{6,}))?', name) for name in os.listdir(folder))
  return sorted(int(match[2] or 0) for match in found if match)


def write_index(path, entries, reasons):
  """Writes entries (ENTRY [n]) and the reasons they number (list of str, one line each).

  Raises:
    OSError: it cannot be written.
  """
  words = '\n'.join(reasons).encode('utf-8', 'surrogateescape')
  entries = memoryview(np.ascontiguousarray(entries)).cast('B') if len(entries) else b''
  head = _INDEX_HEAD.pack(
    _INDEX_MAGIC, len(entries) // ENTRY.itemsize, len(words), zlib.crc32(words, zlib.crc32(entries))
  )
  with atomic_write(path, 'wb') as file:
    for part in (head, entries, words):
      file.write(part)


def read_index(path):
  """Reads what `write_index` has written.

  Returns:
    (ENTRY [n], list of str).

  Raises:
    ValueError: the file is damaged.
    OSError: it cannot be read.
  """
  with open(path, 'rb') as file:
    head, content = file.read(_INDEX_HEAD.size), file.read()
  if len(head) < _INDEX_HEAD.size:
    raise ValueError('it is too short')
  magic, count, words, checksum = _INDEX_HEAD.unpack(head)
  size = count * ENTRY.itemsize
  if magic != _INDEX_MAGIC or len(content) != size + words or zlib.crc32(content) != checksum:
    raise ValueError('its checksum or size is wrong')
  text = content[size:].decode('utf-8', 'surrogateescape')
  return np.frombuffer(content, ENTRY, count), text.split('\n') if text else []


def cannot_be_written(folder, error, needed=0):
  """Returns the UserError for an OSError met while writing to a store.

  Args:
    folder: str, the store's.
    error: the OSError.
    needed: how many bytes are still to be written, as far as known.
  """
  if error.errno not in FULL:
    return UserError(
      f'{folder}: the prepared images cannot be written ({error.strerror}): give '
      '--cache_dir a folder that can'
    )
  room = f'{max(needed, 1e8) / 1e9:.1f} GB'
  return UserError(
    f'{folder}: no room for the prepared images ({error.strerror}): free about {room}, or '
    'give --cache_dir a folder that has them; what is done is kept'
  )


@contextlib.contextmanager
def locked(folder, say):
  """Makes a store's folder if need be; within the context no other process writes in it.

  Waits for one that does, and says so. The lock is the operating system's, on an open file: it ends with
  the process, however that ends.

  Args:
    folder: str.
    say: function of a line (str).

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    os.makedirs(folder, exist_ok=True)
    file = open(os.path.join(folder, 'lock'), 'ab+', buffering=0)
  except OSError as error:
    raise cannot_be_written(folder, error) from error
  with file:
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        say(f'process {file.read().decode().strip()} is preparing images in {folder}: waiting for its end')
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
      # A file system without locks is used without.
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
        raise cannot_be_written(folder, error) from error
    with contextlib.suppress(OSError):  # A note for people; a full disk is met elsewhere.
      file.truncate(0)
      file.write(f'{os.getpid()}\n'.encode())
    yield
