"""One's own images, in folders:

  data_dir/labeled/<class>/*       one folder for every class
  data_dir/unlabeled/**            at any depth; may be missing
  data_dir/validation/<class>/*    may be missing
  data_dir/test/<class>/*          may be missing

Files are listed through tf.io.gfile, so that the folder may be a remote one.
"""

import concurrent.futures
import dataclasses
import os
import struct
from typing import List

from meta_pseudo_labels import errors
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.data.augment import decode
from meta_pseudo_labels.data.dataset_info import require_data_dir
from meta_pseudo_labels.errors import UserError, did_you_mean, one_line

import numpy as np
import tensorflow as tf

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif')

_KINDS = 'images (.jpg .jpeg .png .bmp .gif)'
_LAYOUT = 'images go into labeled/<class>/ and unlabeled/ (validation/<class>/ and test/<class>/)'
_NAMED = 3  # How many of the images left out are told by name.


def load(info, request):
  """Returns `read` of `request.data_dir`. Raises UserError as it does, or if there is none."""
  require_data_dir(info, request)
  return read(
    request.data_dir,
    image_size=request.image_size,
    in_memory=not request.encoded,
    skip_bad_images=request.skip_bad_images,
    say=request.say,
  )


def read(data_dir, *, image_size, in_memory, skip_bad_images=False, say=None):
  """Reads a folder of images; every image is decoded once, to find those that are damaged.

  Args:
    data_dir: str, a folder as above. Hidden files and those with other suffixes are ignored.
    image_size: int, the side of the squares in pixels; not used unless `in_memory`.
    in_memory: whether the pixels are kept, or the names of the files only.
    skip_bad_images: whether images that cannot be decoded are left out, or are an error.
    say: a function that is told in lines (str) what was found, or None.

  Returns:
    An `storage.Data`. Inputs are uint8 [N, image_size, image_size, 3], each
    `decode.fit(decode.decode(...))`, or `storage.Files`. `train` has the labeled images, class
    by class, then the unlabeled ones with label -1; within a class, and among those without, they
    are sorted by name. `validation` and `test` are None without their folders. `class_names` are
    the names of the folders in labeled/, sorted.

  Raises:
    UserError: a folder is missing or has no images, there are fewer than two classes or one that
      labeled/ does not have, or an image cannot be read.
  """
  say = say or (lambda line: None)
  if in_memory and (not image_size or image_size < 1):
    raise UserError(f'image_size={image_size} is out of range: give 1 pixel or more')
  groups, class_names, ignored = _find(data_dir)
  counts = np.array([len(group.paths) for group in groups])
  paths = np.array([path for group in groups for path in group.paths])
  images, reasons = _read(paths, image_size if in_memory else None)
  inputs = images if in_memory else storage.Files(paths)
  bad = np.flatnonzero(np.array(reasons) != '')
  if bad.size:
    _leave_out(paths[bad], reasons[bad[0]], skip_bad_images, say)
    inputs = inputs[np.setdiff1d(np.arange(len(paths)), bad)]
    counts -= np.bincount(np.repeat(np.arange(len(groups)), counts)[bad], minlength=len(groups))
    for group, count in zip(groups, counts):
      if not count:
        raise UserError(
          f'{group.folder} has no image left that can be read: add {_KINDS}, or remove the folder'
        )
  say(_summary(data_dir, _split_counts(groups, counts), ignored))
  kept = paths if not bad.size else np.delete(paths, bad)
  return _data(data_dir, groups, counts, inputs, kept, class_names)


def _split_counts(groups, counts):
  """{split: images in each of its groups}."""
  return {
    split: [int(count) for group, count in zip(groups, counts) if group.split == split]
    for split in ('labeled', 'unlabeled', 'validation', 'test')
  }


def _data(data_dir, groups, counts, inputs, paths, class_names):
  """The `storage.Data` of what was read; `counts`: int `[groups]`, of images that are left."""
  labels = np.repeat(np.array([group.label for group in groups], np.int32), counts)
  ends = np.cumsum([0] + [sum(found) for found in _split_counts(groups, counts).values()])
  names = np.array([path[len(data_dir) :].lstrip('/') for path in paths])

  def between(start, end):
    if start == end:
      return None
    return storage.Examples(inputs[start:end], labels[start:end], names[start:end])

  return storage.Data(
    train=between(0, ends[2]),
    validation=between(ends[2], ends[3]),
    test=between(ends[3], ends[4]),
    facts={'class_names': class_names},
  )


@dataclasses.dataclass(frozen=True)
class _Group:
  """The images in one class folder, or all of unlabeled/ (label -1)."""

  split: str
  folder: str
  label: int
  paths: List[str]


def _find(data_dir):
  """(groups: labeled, unlabeled, validation, test; class names; how many files are ignored)."""
  if not data_dir or not tf.io.gfile.isdir(data_dir):
    raise UserError(f'{data_dir!r} is not a folder: point --data_dir at one whose {_LAYOUT}')
  labeled = os.path.join(data_dir, 'labeled')
  if not tf.io.gfile.isdir(labeled):
    raise UserError(f'{data_dir} has no folder labeled/: {_LAYOUT}')
  class_names, _ = _subfolders(labeled)
  if len(class_names) < 2:
    raise UserError(
      f'{labeled} has {len(class_names)} class folders: make at least two, each '
      'with the images of one class'
    )
  groups, ignored = _class_groups(data_dir, 'labeled', class_names)
  unlabeled = os.path.join(data_dir, 'unlabeled')
  if tf.io.gfile.isdir(unlabeled):
    paths, more = images_below(unlabeled)
    groups.append(_Group('unlabeled', unlabeled, -1, _some(paths, unlabeled)))
    ignored += more
  for split in ('validation', 'test'):
    if tf.io.gfile.isdir(os.path.join(data_dir, split)):
      found, more = _class_groups(data_dir, split, class_names)
      groups += found
      ignored += more
  return groups, class_names, ignored


def _class_groups(data_dir, split, class_names):
  """(the groups of data_dir/split, by class; how many files there are ignored)."""
  parent = os.path.join(data_dir, split)
  found, ignored = _subfolders(parent)
  if not found:
    raise UserError(f'{parent} has no class folders: put images into {split}/<class>/, or remove it')
  groups = []
  for name in found:
    folder = os.path.join(parent, name)
    if name not in class_names:
      raise UserError(
        f'{folder}: a class that {os.path.join(data_dir, "labeled")} does not have'
        f'{did_you_mean(name, class_names)}; rename the folder or remove it'
      )
    names = _listed(folder)
    images = [os.path.join(folder, entry) for entry in names if _is_image(entry)]
    groups.append(_Group(split, folder, class_names.index(name), _some(images, folder)))
    ignored += len(names) - len(images)
  return groups, ignored


def _subfolders(folder):
  """(the names of the folders in a folder, sorted; how many other things are there)."""
  names = _listed(folder)
  folders = tuple(
    name for name in names if not name.startswith('.') and tf.io.gfile.isdir(os.path.join(folder, name))
  )
  return folders, len(names) - len(folders)


def _listed(folder):
  """The names in a folder, sorted. Raises UserError."""
  try:
    return sorted(name.rstrip('/') for name in tf.io.gfile.listdir(folder))
  except (OSError, UnicodeDecodeError, tf.errors.OpError) as error:
    raise UserError(f'cannot list {folder}: {one_line(error)}') from error


def images_below(top):
  """(the paths of all images at any depth, sorted: list of str; how many other files are there).

  Hidden files and folders are left out. Raises UserError if a folder cannot be listed.
  """
  images, ignored = [], 0
  try:
    for folder, _, names in tf.io.gfile.walk(top):
      hidden = any(part.startswith('.') for part in folder[len(top) :].split('/'))
      found = [] if hidden else [os.path.join(folder, name) for name in names if _is_image(name)]
      images += found
      ignored += len(names) - len(found)
  except (OSError, UnicodeDecodeError, tf.errors.OpError) as error:
    raise UserError(f'cannot list {top}: {one_line(error)}') from error
  return sorted(images), ignored


def _is_image(name):
  return name.lower().endswith(SUFFIXES) and not name.startswith('.')


def _some(paths, folder):
  if not paths:
    raise UserError(f'{folder} has no {_KINDS}: add some, or remove the folder')
  return paths


def _read(paths, size):
  """Decodes every image.

  Returns:
    (uint8 [N, size, size, 3], or None without a size; a list of N str: why an image cannot be
    read, or '').
  """
  try:
    images = None if size is None else np.empty([len(paths), size, size, 3], np.uint8)
  except MemoryError as error:
    raise UserError(
      f'--image_size={size}: {len(paths)} images of that size do not fit into memory; '
      'give a smaller one, or --views=resized_crop'
    ) from error

  def read(position):
    try:
      with tf.device('CPU:0'):  # of this thread
        content = tf.io.read_file(paths[position])
        image = decode.decode(content)
        reason = _misread(content.numpy(), image)
        if images is not None and not reason:
          images[position] = decode.fit(image, size)
      return reason
    except tf.errors.OpError as error:
      return storage.decoding_error(error)

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return images, list(pool.map(read, range(len(paths))))


def _misread(content, image):
  """Why what TensorFlow has decoded is not what the file shows (str, '' if it is).

  Its BMP decoder takes no notice of palettes and of the order of the channels.
  """
  if not tf.size(image):
    return f'it has no pixels ({image.shape[1]} x {image.shape[0]})'
  if content[:2] != b'BM':
    return ''
  start, header, bits, compression = struct.unpack_from('<10x2I10xHI', content.ljust(34, b'\0'))
  if bits == 8:
    levels = np.unique(image[..., 0])
    palette = np.frombuffer(content[14 + header : start], np.uint8)
    palette = palette[: len(palette) // 4 * 4].reshape(-1, 4)[:, :3]
    if levels[-1] >= len(palette) or np.any(palette[levels] != levels[:, np.newaxis]):
      return 'it is a BMP with a color palette, which TensorFlow takes for gray levels'
  if compression in (3, 6) and content[54:66] != bytes.fromhex('0000ff00 00ff0000 ff000000'):
    return 'it is a BMP with its channels in an order that TensorFlow does not know'
  return ''


def _leave_out(paths, reason, skip_bad_images, say):
  """Tells of images that cannot be read; raises UserError unless they may be skipped."""
  if skip_bad_images:
    names = ', '.join(paths[:_NAMED]) + (', ...' if len(paths) > _NAMED else '')
    say(f'left out {len(paths)} that cannot be read: {names}')
  elif len(paths) == 1:
    raise UserError(f'cannot read the image {paths[0]}: {reason}: remove it, or give --skip_bad_images')
  else:
    raise UserError(
      f'cannot read {len(paths)} images, the first is {paths[0]}: {reason}: remove '
      'them, or give --skip_bad_images'
    )


def _summary(data_dir, counts, ignored):
  """One line for people. counts: {split: list of images per folder}."""
  labeled = counts['labeled']
  rest = ', '.join(f'{sum(counts[split])} {split}' for split in ('unlabeled', 'validation', 'test'))
  return (
    f'{data_dir}: {sum(labeled)} labeled images in {len(labeled)} classes ({min(labeled)} to '
    f'{max(labeled)} each), {rest}' + (f'; {ignored} other files ignored' if ignored else '')
  )
