"""What a person should know of a folder of images: what is left out, what was changed, duplicates."""

import collections
import os

from meta_pseudo_labels.data.images import facts
from meta_pseudo_labels.data.store import hashes, layout
from meta_pseudo_labels.errors import UserError

import numpy as np

NAMED = 3  # Of a long list, how many are named on the screen.
SPLITS = ('labeled', 'unlabeled', 'validation', 'test')
DARK = 2**14  # A largest value of 16 bits below it leaves at most 64 of 256 levels.


def tell_left_out(left_out, skip, say):
  """Says which files are left out, by kind.

  Args:
    left_out: list of (name, what it is; '' for a file that is no image).
    skip: whether images may be left out of the labeled folders (--skip_bad_images).
    say: function of a line.

  Raises:
    UserError: an image of a kind that cannot be decoded is in a labeled folder.
  """
  others = [name for name, what in left_out if not what]
  by_kind = collections.defaultdict(list)
  for name, what in left_out:
    if what:
      by_kind[what].append(name)
  for what, names in by_kind.items():
    say(f'left out: {len(names)} ({what}): {_some(names)}')
  if others:
    say(f'left out: {len(others)} files that are no images: {_some(others)}')
  lost = [
    (name, what)
    for name, what in left_out
    if what and 'folder' not in what and not name.startswith('unlabeled/')
  ]
  if lost and not skip:
    name, what = lost[0]
    count, them = ('an image', 'it') if len(lost) == 1 else (f'{len(lost)} images', 'them')
    first = '' if len(lost) == 1 else 'the first is '
    raise UserError(
      f'{count} with labels cannot be decoded: {first}{name} ({what}); convert or remove {them}, or give '
      '--skip_bad_images'
    )


def _some(names):
  return ', '.join(names[:NAMED]) + (', ...' if len(names) > NAMED else '')


def tell(data_dir, images, splits, decoding, say):
  """Says what decoding did to the images, and which are there twice.

  Args:
    data_dir: str.
    images: `store.reading.Prepared` `[N]`, all readable.
    splits: int `[N]`, numbers of SPLITS.
    decoding: `images.decoding.Decoding` that was used.
    say: function of a line.
  """
  flags = images.entries['flags']
  parts = [
    f'{count} {what}'
    for bit, what in (
      (layout.ALPHA, 'with transparency, composed on #%02x%02x%02x' % decoding.background),
      (layout.TURNED, 'turned upright as their EXIF data say'),
      (layout.ANIMATED, 'with several frames or pages, of which the first is taken'),
    )
    if (count := int(np.count_nonzero(flags & bit)))
  ]
  if parts:
    say('images: ' + '; '.join(parts))
  _tell_dark(data_dir, images, splits, decoding, say)
  _tell_duplicates(images, splits, say)


def _tell_dark(data_dir, images, splits, decoding, say):
  """Warns of folders whose deep images use few of their bits: they would be nearly black."""
  if decoding.depth != facts.HIGH_BITS:
    return
  for number, split in enumerate(SPLITS):
    of_split = splits == number
    largest = images.entries['largest'][of_split & (images.entries['largest'] > 0)]
    if largest.size and largest.max() < DARK:
      top = int(largest.max())
      say(
        f'{os.path.join(data_dir, split)}: {largest.size} images of more than 8 bits have values up to '
        f'{top} of 65535, so they become 0 to {top >> 8} of 255, nearly black; --image_range=data scales '
        'them by the largest value'
      )


def _tell_duplicates(images, splits, say):
  """Warns of images that are there twice among labeled, validation and test images."""
  known = np.flatnonzero(splits != 1)
  entries = images.entries[known]
  for what, column in (('byte for byte', 'file_hash'), ('once decoded', 'pixel_hash')):
    pairs = hashes.duplicates(entries[column])
    if what == 'once decoded':  # Those that are not said yet.
      same = entries['file_hash'][pairs[:, 0]] == entries['file_hash'][pairs[:, 1]]
      pairs = pairs[~same]
    groups = splits[known][pairs]
    for first, second in ((0, 0), (0, 2), (0, 3), (2, 3)):
      chosen = pairs[(groups.min(axis=1) == first) & (groups.max(axis=1) == second)]
      if len(chosen):
        names = images.names[known[chosen[0]]]
        where = f'{SPLITS[first]}/ and {SPLITS[second]}/' if first != second else 'labeled/ twice'
        meaning = '' if first == second else '; what is measured on them is worthless'
        count = '1 image is' if len(chosen) == 1 else f'{len(chosen)} images are'
        say(f'WARNING: {count} in {where}, the same {what}{meaning}: {names[0]} and {names[1]}')
