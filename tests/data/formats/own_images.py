"""Folders of one's own images for tests: written, and read with a cache beside them."""

import io

from meta_pseudo_labels.data.formats import image_folder
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
from PIL import Image

TWO_CLASSES = {'labeled/cat/1.png': 10, 'labeled/dog/1.png': 20}
TINY = Decoding(2, square=True)


def noise(*shape):
  """uint8 of that shape, the same every time."""
  return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


def flat(value, width=2, height=2):
  """An image of one color."""
  return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def encoded(image, kind, **options):
  """The bytes of an image file. image: a Pillow image, or uint8 [H, W(, C)]."""
  file = io.BytesIO()
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
  image.save(file, kind, **options)
  return file.getvalue()


def write(root, files):
  """Writes {path under root: bytes, or a color for a PNG of 2 x 2 pixels}; returns str(root)."""
  for path, content in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content if isinstance(content, bytes) else encoded(flat(content), 'PNG'))
  return str(root)


def load(data_dir, decoding=TINY, **options):
  """image_folder.read, by default 2 x 2 pixels; the cache is a folder beside `data_dir`."""
  cache_dir = f'{str(data_dir).rstrip("/")}.cache'
  return image_folder.read(data_dir, decoding, **{'cache_dir': cache_dir, **options})


def said(data_dir, *args, **options):
  """What `load` says: a list of lines."""
  lines = []
  load(data_dir, *args, say=lines.append, **options)
  return lines


def refusal(data_dir, *args, **options):
  """The one line that `load` refuses with."""
  with pytest.raises(UserError) as caught:
    load(data_dir, *args, **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def values(found):
  """The value of each image of one color."""
  images = np.asarray(found.inputs)
  assert images.dtype == np.uint8 and np.all(images == images[:, :1, :1, :1])
  return images[:, 0, 0, 0].tolist()
