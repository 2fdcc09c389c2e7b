"""Labels of one's own images in a CSV file with the columns path and class, beside folders or alone."""

import csv
import os
import posixpath

from meta_pseudo_labels.errors import UserError, did_you_mean, one_line

COLUMNS = ('path', 'class')
_NAMED = 5  # New classes that are named on the screen.


def read(path, data_dir):
  """Reads a file of labels.

  Args:
    path: str, a CSV file in UTF-8 with the columns path and class, in any order. Paths are relative to
      `data_dir`, or absolute.
    data_dir: str.

  Returns:
    {name relative to data_dir: class}.

  Raises:
    UserError: it cannot be read, has other columns or an incomplete row, a path is outside of the folder,
      or an image has two classes.
  """
  where = f'--labels={path}'
  found = {}
  try:
    # What is no UTF-8 keeps its bytes, as in the names of files.
    with open(
      os.path.expanduser(path), newline='', encoding='utf-8-sig', errors='surrogateescape'
    ) as file:
      rows = csv.reader(file, strict=True)
      columns = _columns(next(rows, []), where)
      for row in filter(None, rows):
        name, label = _entry(row, columns, f'{where}, line {rows.line_num}', data_dir)
        if found.setdefault(name, label) != label:
          raise UserError(
            f'{where}, line {rows.line_num}: {name} is {label!r} here and {found[name]!r} before; '
            'remove one of the two lines'
          )
  except OSError as error:
    raise UserError(
      f'{where}: cannot be read ({one_line(error)}); give a CSV file of path,class'
    ) from error
  except csv.Error as error:
    raise UserError(f'{where}: not CSV ({one_line(error)}); save it as CSV with commas') from error
  if not found:
    raise UserError(f'{where}: has no labels; add a line for each image, or leave the flag out')
  return found


def _columns(header, where):
  """Returns the places of path and class in the rows. Raises UserError unless there are just these."""
  names = [name.strip() for name in header]
  if sorted(names) != sorted(COLUMNS):
    shown = ','.join(names)[:60]
    unknown = next((name for name in names if name not in COLUMNS), '')
    hint = did_you_mean(unknown, COLUMNS) if unknown else ''
    raise UserError(f'{where}: its first line is {shown!r}{hint}; it must be path,class')
  return [names.index(name) for name in COLUMNS]


def _entry(row, columns, where, data_dir):
  """Returns (name relative to data_dir, class) of a row. Raises UserError."""
  if len(row) != len(COLUMNS) or not all(row):
    raise UserError(f'{where}: has not just a path and a class; complete the line or remove it')
  path, label = (row[column] for column in columns)
  top = os.path.abspath(data_dir)
  name = os.path.relpath(os.path.join(top, path), top).replace(os.sep, posixpath.sep)
  if name.split('/')[0] == '..':
    raise UserError(f'{where}: {path} is outside of --data_dir={data_dir}; move the image, or the line')
  return name, label


def check_folders(given, label_of, path, data_dir):
  """Compares the file with the folders.

  Args:
    given: {name: class}, of `read`.
    label_of: {name: class of its folder, None of unlabeled/}, of all images that there are.
    path, data_dir: of `read`.

  Raises:
    UserError: an image is not there, or lies in the folder of another class.
  """
  for name, label in given.items():
    if name not in label_of:
      near = did_you_mean(name, label_of) if len(label_of) <= 10_000 else ''
      raise UserError(
        f'--labels={path}: no image {name} in {data_dir}{near}; correct the line or remove it'
      )
    if label_of[name] not in (None, label):
      raise UserError(
        f'--labels={path}: {name} is {label!r}, but lies in a folder of {label_of[name]!r}; '
        'move the image or correct the line'
      )


def tell_new_classes(given, known, path, say):
  """Says which classes have no folder: a name that is misspelled makes a class, too.

  Args:
    given: {name: class}.
    known: list of str, the classes that have folders.
    path: str, of the file.
    say: function of a line.
  """
  labels = list(given.values())
  new = sorted(set(labels) - set(known))
  if new and known:
    named = [f'{label!r} ({labels.count(label)}){did_you_mean(label, known)}' for label in new[:_NAMED]]
    more = ', ...' if len(new) > _NAMED else ''
    say(f'--labels={path}: {len(new)} classes without a folder: {", ".join(named)}{more}')
