"""Writing files so that a reader sees all of a file or nothing of it."""

import contextlib
import json
import os

from meta_pseudo_labels.errors import UserError


@contextlib.contextmanager
def atomic_write(path, mode='w', **kwargs):
  """Yields a file to write; at the end it takes the place of `path` in one move.

  Nothing is left of it if the body raises; after a power failure the file is the old or the new one.

  Args:
    path: str.
    mode: 'w' for text (UTF-8 unless `encoding` says otherwise) or 'wb'.
    **kwargs: of `open`.

  Raises:
    OSError: it cannot be written.
  """
  partial = f'{path}.tmp'
  if 'b' not in mode:
    kwargs.setdefault('encoding', 'utf-8')
  try:
    with open(partial, mode, **kwargs) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(partial)
    raise


def write_text(path, text):
  """Writes a text file in one move. Raises OSError."""
  with atomic_write(path) as file:
    file.write(text)


def write_json(path, value):
  """Writes a value as JSON, indented and sorted by name, in one move. Raises OSError."""
  write_text(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def read_json(path):
  """Returns the value in a JSON file, or None where there is no such file.

  Raises:
    UserError: it is damaged.
  """
  if not os.path.isfile(path):
    return None
  try:
    with open(path, 'rb') as file:
      return json.load(file)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path}: cannot be read as JSON; remove it, and it is written again') from error
