"""A folder of one's own images as arrays: mpl.data.load_folder."""

import dataclasses
import os
from typing import Callable, Dict, Optional, Tuple, Union

from meta_pseudo_labels.data.dataset_info import CACHE_DIR
from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.errors import UserError

import numpy as np

Pair = Tuple[np.ndarray, np.ndarray]  # Images and their labels.


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
  """The images of a folder in memory, which `load_folder` reads.

  Attributes:
    class_names: tuple of C str, sorted; label n is class_names[n].
    labeled: (images uint8 `[N, S, S, 3]`, labels int32 `[N]`).
    unlabeled: images uint8 `[M, S, S, 3]`, those of labeled/ not among them; None without the folder.
    validation, test: as `labeled`; None without their folders.
    names: {'labeled', 'unlabeled', 'validation', 'test': tuple of str}: the files of these images, in the
      same order, relative to the folder; () without any.

  Example:
    >>> for name in ('labeled/cat/1', 'labeled/dog/1', 'unlabeled/1'):
    ...   tf.io.write_file(f'photos/{name}.png', tf.io.encode_png(np.ones([20, 30, 3], np.uint8)))
    >>> folder = mpl.data.load_folder('photos', image_size=16)
    >>> folder.names['labeled'], folder.labeled[1].tolist(), folder.unlabeled.shape
    (('labeled/cat/1.png', 'labeled/dog/1.png'), [0, 1], (1, 16, 16, 3))
  """

  class_names: Tuple[str, ...]
  labeled: Pair
  unlabeled: Optional[np.ndarray]
  validation: Optional[Pair]
  test: Optional[Pair]
  names: Dict[str, Tuple[str, ...]]


def load_folder(
  folder: Union[str, os.PathLike],
  *,
  image_size: int,
  labels: Union[str, os.PathLike, None] = None,
  skip_bad_images: bool = False,
  cache_dir: Union[str, os.PathLike] = CACHE_DIR,
  say: Optional[Callable[[str], None]] = None,
) -> ImageFolder:
  """Reads a folder with labeled/<class>/, unlabeled/, validation/<class>/ and test/<class>/ into memory.

  The last three may be missing. Files are read as `--dataset_name=folder` reads them: the same kinds, the
  same classes, and the same store of decoded images, so a second call is quick. Of each image the central
  square is taken.

  Args:
    folder: its path, see docs/data.md.
    image_size: int S, pixels a side.
    labels: a CSV file with labels of images in unlabeled/, as of `--labels`.
    skip_bad_images: whether images that cannot be read are left out, or are an error.
    cache_dir: where decoded images are stored.
    say: function of a line such as `print`, told what was found; None: nothing is said.

  Returns:
    ImageFolder of images uint8 `[N, S, S, 3]`. `batches` and `run.evaluate(*folder.test)` take its parts.

  Raises:
    UserError: a folder or class is missing or empty, an image cannot be read, or there is no such size.

  Example:
    >>> for name in ('labeled/cat/1', 'labeled/cat/2', 'labeled/dog/1', 'test/dog/1'):
    ...   tf.io.write_file(f'images/{name}.png', tf.io.encode_png(np.ones([20, 30, 3], np.uint8)))
    >>> folder = mpl.data.load_folder('images', image_size=16)
    >>> folder.class_names, folder.labeled[0].shape, folder.test[1]
    (('cat', 'dog'), (3, 16, 16, 3), array([1], dtype=int32))
  """
  if isinstance(image_size, bool) or not isinstance(image_size, (int, np.integer)) or image_size < 1:
    raise UserError(f'image_size={image_size!r}: not a number of pixels; give a positive integer')
  found = image_folder.read(
    os.fspath(folder),
    Decoding(int(image_size), square=True),
    cache_dir=os.fspath(cache_dir),
    labels=os.fspath(labels) if labels else None,
    skip_bad_images=skip_bad_images,
    say=say or (lambda line: None),
  )
  known = found.train.labels >= 0
  labeled = found.train.chosen(np.flatnonzero(known))
  others = None if known.all() else found.train.chosen(np.flatnonzero(~known))
  parts = dict(labeled=labeled, unlabeled=others, validation=found.validation, test=found.test)
  return ImageFolder(
    class_names=tuple(found.facts['class_names']),
    labeled=(np.asarray(labeled.inputs), labeled.labels),
    unlabeled=None if others is None else np.asarray(others.inputs),
    validation=_pair(found.validation),
    test=_pair(found.test),
    names={name: () if part is None else tuple(map(str, part.names)) for name, part in parts.items()},
  )


def _pair(examples):
  """Returns (images, labels) of Examples; None of None."""
  return None if examples is None else (np.asarray(examples.inputs), examples.labels)
