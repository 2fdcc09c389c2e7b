"""One's own images, in folders:

  data_dir/labeled/<class>/*       one folder for every class
  data_dir/unlabeled/**            at any depth; may be missing
  data_dir/validation/<class>/*    may be missing
  data_dir/test/<class>/*          may be missing

A file of labels (label_file.py) gives images in unlabeled/ a class, beside labeled/ or in place of it.
They are decoded once, into a store on disk (data/store/); later starts list names and times alone.
"""

import collections
import dataclasses
import os
from typing import List

from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.dataset_info import require_data_dir
from meta_pseudo_labels.data.formats import folder_notes, label_file
from meta_pseudo_labels.data.images import decoding as decodings
from meta_pseudo_labels.data.images import facts, kinds
from meta_pseudo_labels.data.store import decoding as store_decoding
from meta_pseudo_labels.data.store import layout, listing, prepare
from meta_pseudo_labels.errors import UserError, did_you_mean, one_line

import numpy as np
import tensorflow as tf

SPLITS = ('labeled', 'unlabeled', 'validation', 'test')
# Folders that other programs leave beside images.
HELPERS = ('__macosx', '@eadir', '.thumbnails', '$recycle.bin', 'lost+found')
_LAYOUT = 'images go into labeled/<class>/ and unlabeled/ (validation/<class>/ and test/<class>/)'
_NAMED = 3  # How many of the images left out are named on the screen.


def load(info, request):
  """Returns `read` of what is asked for. Raises UserError as it does, or if there is no --data_dir."""
  require_data_dir(info, request)
  return read(
    request.data_dir,
    request.decoding,
    labels=request.labels,
    cache_dir=request.cache_dir,
    own_range=request.own_range,
    skip_bad_images=request.skip_bad_images,
    say=request.say,
  )


def read(
  data_dir,
  decoding,
  *,
  cache_dir,
  labels=None,
  own_range=False,
  skip_bad_images=False,
  say=lambda line: None,
):
  """Reads a folder of images; those that the store does not have are decoded first.

  Args:
    data_dir: str, a folder as above. Hidden files are left out.
    decoding: `decoding.Decoding`.
    cache_dir: str, where stores are kept.
    labels: str, a file of labels of images in unlabeled/, or None.
    own_range: whether images of more than 8 bits are scaled by the largest value in the folder.
    skip_bad_images: whether images that cannot be decoded are left out, or are an error.
    say: function of a line, told what was found.

  Returns:
    A `storage.Data`. Inputs are `store.reading.Prepared`. `train` has the labeled images, class by
    class, then the unlabeled ones with label -1; within a class, and among those without, they are
    sorted by name. `validation` and `test` are None without their folders. `facts` has the class
    names: those of the folders in labeled/ and of the file of labels, sorted.

  Raises:
    UserError: a folder is missing or has no images, there are fewer than two classes or one that
      labeled/ does not have, the file of labels is wrong, an image cannot be read, or there is no room for
      the store.
  """
  groups, class_names, left_out = _find(data_dir, labels, say)
  folder_notes.tell_left_out(left_out, skip_bad_images, say)
  images, decoding = _prepared(data_dir, groups, decoding, cache_dir, own_range, say)
  numbers = np.concatenate([np.full(len(group.names), group.label, np.int32) for group in groups])
  splits = np.concatenate([np.full(len(group.names), SPLITS.index(group.split)) for group in groups])
  unreadable, report = images.unreadable, images.report
  images = images.images
  if unreadable:
    _leave_out(unreadable, report, skip_bad_images, say)
  good = np.flatnonzero(images.readable)
  _require_some(groups, images.readable)
  images, numbers, splits = images[good], numbers[good], splits[good]
  say(_summary(data_dir, numbers, splits))
  folder_notes.tell(data_dir, images, splits, decoding, say)
  found = storage.Examples(images, numbers, images.names.astype(str))
  part = lambda *those: (
    found.chosen(np.flatnonzero(np.isin(splits, those))) if np.isin(splits, those).any() else None
  )
  return storage.Data(
    train=part(0, 1),
    validation=part(2),
    test=part(3),
    facts={'class_names': class_names},
    decoding=decoding,
  )


@dataclasses.dataclass(frozen=True)
class _Group:
  """The images in one class folder, or all of unlabeled/ (label -1).

  Attributes:
    split: one of SPLITS.
    folder: str, relative to data_dir.
    label: int.
    names: list of str, relative to data_dir, sorted.
    sizes, mtimes_ns: int64, of the files.
  """

  split: str
  folder: str
  label: int
  names: List[str]
  sizes: np.ndarray
  mtimes_ns: np.ndarray

  def chosen(self, positions):
    """Returns the _Group of some of the images."""
    names = [self.names[position] for position in positions]
    return dataclasses.replace(
      self, names=names, sizes=self.sizes[positions], mtimes_ns=self.mtimes_ns[positions]
    )


def _find(data_dir, labels, say):
  """Returns (groups: labeled, unlabeled, validation, test; class names; what is left out).

  What is left out is a list of (name relative to data_dir, what it is or '').
  """
  if not data_dir or not tf.io.gfile.isdir(data_dir):
    raise UserError(f'--data_dir={data_dir}: not a folder; {_LAYOUT}')
  there = [split for split in SPLITS if tf.io.gfile.isdir(os.path.join(data_dir, split))]
  given = label_file.read(labels, data_dir) if labels else {}
  if 'labeled' not in there and not (given and 'unlabeled' in there):
    more = f'; the images of --labels={labels} go into unlabeled/' if given else ''
    raise UserError(f'--data_dir={data_dir}: no folder labeled/; {_LAYOUT}{more}')
  groups, left_out = [], []
  own = _class_folders(data_dir, 'labeled', left_out, 0 if given else 2) if 'labeled' in there else []
  class_names = tuple(sorted({*own, *given.values()}))
  if len(class_names) < 2:
    raise UserError(f'--labels={labels}: all labels are {class_names[0]!r}; give images of a second class')
  for split in there:
    names = {'labeled': own, 'unlabeled': ['']}.get(split)
    for name in _class_folders(data_dir, split, left_out) if names is None else names:
      label = -1 if split == 'unlabeled' else _label(data_dir, split, name, class_names)
      groups.append(_group(data_dir, split, name, label, left_out))
  if given:
    label_of = {name: class_names[g.label] if g.label >= 0 else None for g in groups for name in g.names}
    label_file.check_folders(given, label_of, labels, data_dir)
    label_file.tell_new_classes(given, own, labels, say)
    groups = _labeled(groups, {name: class_names.index(label) for name, label in given.items()})
  return groups, class_names, left_out


def _labeled(groups, given):
  """Returns the groups with the images of unlabeled/ that have a label behind those of its folder.

  Args:
    groups: list of _Group.
    given: {name: label}.
  """
  rest = next((group for group in groups if group.label < 0), None)
  if rest is None:
    return groups
  numbers = np.array([given.get(name, -1) for name in rest.names])
  parts = {number: rest.chosen(np.flatnonzero(numbers == number)) for number in np.unique(numbers)}
  moved = [
    dataclasses.replace(part, split='labeled', label=int(number))
    for number, part in parts.items()
    if number >= 0
  ]
  ordered = sorted([g for g in groups if g.split == 'labeled'] + moved, key=lambda group: group.label)
  unlabeled = [parts[-1]] if -1 in parts else []
  return ordered + unlabeled + [g for g in groups if g.split not in ('labeled', 'unlabeled')]


def _class_folders(data_dir, split, left_out, least=1):
  """Returns the names of the class folders of a split, sorted; helper folders are left out."""
  parent = os.path.join(data_dir, split)
  try:
    names = sorted(name.rstrip('/') for name in tf.io.gfile.listdir(parent))
  except (OSError, UnicodeDecodeError, tf.errors.OpError) as error:
    raise UserError(f'{parent}: cannot be listed ({one_line(error)})') from error
  classes = []
  for name in names:
    if name.startswith('.'):
      continue
    if not tf.io.gfile.isdir(os.path.join(parent, name)):
      what = _what(os.path.join(parent, name))
      left_out.append((f'{split}/{name}', 'outside of the class folders' if what == 'image' else what))
    elif name.lower() in HELPERS:
      left_out.append((f'{split}/{name}/', 'a helper folder of another program'))
    else:
      classes.append(name)
  if len(classes) < least:
    raise UserError(
      f'{parent}: {len(classes)} class folders; make at least {least}, each with the images of one class'
      + ('' if split == 'labeled' else ', or remove the folder')
    )
  return classes


def _label(data_dir, split, name, class_names):
  """Returns the label of a class folder. Raises UserError if labeled/ has no such class."""
  if name not in class_names:
    raise UserError(
      f'{os.path.join(data_dir, split, name)}: a class that {os.path.join(data_dir, "labeled")} does not '
      f'have{did_you_mean(name, class_names)}; rename the folder or remove it'
    )
  return class_names.index(name)


def _group(data_dir, split, name, label, left_out):
  """Returns the _Group of a folder; files that are no images are added to `left_out`."""
  folder = f'{split}/{name}'.rstrip('/')
  found = listing.listing(os.path.join(data_dir, folder))
  taken = []
  for position, inner in enumerate(found.names):
    # Of a class, what lies in its folder alone; of a helper folder nothing.
    deep = split != 'unlabeled' and '/' in inner
    helper = any(part.lower() in HELPERS for part in inner.split('/')[:-1])
    if helper or deep:
      left_out.append((f'{folder}/{inner}', 'in a helper folder' if helper else 'in a folder of a class'))
      continue
    what = '' if inner.lower().endswith(_PLAIN) else _what(os.path.join(data_dir, folder, inner))
    if what == 'image' or inner.lower().endswith(_PLAIN):
      taken.append(position)
    else:
      left_out.append((f'{folder}/{inner}', what))
  if not taken:
    lost = collections.Counter(what for name, what in left_out if what and name.startswith(f'{folder}/'))
    there = '' if not lost else ' but ' + ', '.join(f'{count} ({what})' for what, count in lost.items())
    raise UserError(
      f'{os.path.join(data_dir, folder)}: no images{there}; add some (JPEG, PNG, WebP, TIFF, ...), or '
      'remove the folder'
    )
  return _Group(
    split, folder, label, [f'{folder}/{found.names[i]}' for i in taken], found.sizes[taken],
    found.mtimes_ns[taken])  # fmt: skip


def images_below(top):
  """Returns the paths of all images in a folder, at any depth, sorted. Raises UserError."""
  found = listing.listing(top)
  return [
    os.path.join(top, name)
    for name in found.names
    if name.lower().endswith(_PLAIN) or _what(os.path.join(top, name)) == 'image'
  ]


# Suffixes of files that are taken without a look at them: a folder has a million of these.
_PLAIN = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')


def _what(path):
  """Returns 'image' for what can be decoded, a kind of image that cannot, or '' for another file."""
  kind = kinds.kind_of(store_decoding.head(path)[: kinds.HEAD])
  if kind in (None, 'tiff') and (
    foreign := kinds.foreign_kind(path)
  ):  # Most camera raws begin as TIFF does.
    return foreign
  if kind == 'heic' and not kinds.heic_is_there():
    return "HEIC, which needs 'pip install pillow-heif'"
  if kind in kinds.DECODED or (kind is None and kinds.looks_like_an_image(path)):
    return 'image'
  if kind == 'text':
    return 'SVG' if path.lower().endswith('.svg') else ''
  return kind or ''


def _prepared(data_dir, groups, decoding, cache_dir, own_range, say):
  """Returns (store's Outcome for all images of all groups, the Decoding with its range known)."""
  names = [name for group in groups for name in group.names]
  stats = tuple(
    np.concatenate([getattr(group, what) for group in groups]) for what in ('sizes', 'mtimes_ns')
  )
  prepared = lambda how: prepare.prepare(
    [os.path.join(data_dir, name) for name in names],
    stats,
    layout.folder_for(
      os.path.expanduser(cache_dir), {**how.parameters, 'root': os.path.abspath(data_dir)}
    ),
    how.parameters,
    prepare.Decoders(
      how.in_graph,
      how.in_python,
      decodings.claimed_pixels,
      decodings.takes_in_graph,
      decodings.is_plain_jpeg,
      how.plain_in_graph,
    ),
    names=names,
    side=how.fixed_side,
    say=say,
  )
  outcome = prepared(decoding)
  if own_range and decoding.depth == facts.HIGH_BITS:
    largest = int(outcome.images.entries['largest'].max(initial=0))
    if largest:
      decoding = dataclasses.replace(decoding, depth=(0, largest))
      say(f'--image_range=data: values of more than 8 bits are scaled from 0..{largest} to 0..255')
      outcome = prepared(decoding)
  return outcome, decoding


def _leave_out(unreadable, report, skip_bad_images, say):
  """Names images that cannot be read; raises UserError unless they may be skipped."""
  names = '; '.join(f'{path} ({reason})' for path, reason in unreadable[:_NAMED])
  more = f'; all are in {report}' if len(unreadable) > _NAMED else ''
  count, them = ('an image', 'it') if len(unreadable) == 1 else (f'{len(unreadable)} images', 'them')
  if not skip_bad_images:
    raise UserError(f'{count} cannot be read: {names}{more}; remove {them}, or give --skip_bad_images')
  say(f'left out {count} that cannot be read: {names}{more}')


def _require_some(groups, readable):
  """Raises UserError if a folder, or a class, has no image left that can be read."""
  start, left = 0, collections.Counter()
  for group in groups:
    end = start + len(group.names)
    left[group.split, group.label] += np.count_nonzero(readable[start:end])
    start = end
  for group in groups:
    if not left[group.split, group.label]:
      raise UserError(f'{group.folder}: no image in it can be read; add some, or remove the folder')


def _summary(data_dir, labels, splits):
  """Returns one line for people; labels, splits: int `[N]`."""
  per_class = collections.Counter(labels[splits == 0].tolist()).values()
  rest = ', '.join(f'{np.count_nonzero(splits == number)} {SPLITS[number]}' for number in (1, 2, 3))
  return (
    f'{data_dir}: {sum(per_class)} labeled images in {len(per_class)} classes ({min(per_class)} to '
    f'{max(per_class)} each), {rest}'
  )
