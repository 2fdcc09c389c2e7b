"""Small image files and simple decoders for the tests of the store; as a program, it prepares a folder.

  python files_for_store.py FOLDER STORE SECONDS

decodes a file in SECONDS and saves after each, so that it can be killed half-way.
"""

import io
import sys
import time

import meta_pseudo_labels
from meta_pseudo_labels.data.store import layout, listing, prepare
from meta_pseudo_labels.data.store import store as stores

import numpy as np
import tensorflow as tf
from PIL import Image

PARAMETERS = {'side': 64}


def write_images(folder, count, first=0, sides=(20, 64), suffixes=('png', 'jpg', 'bmp')):
  """Writes images of differing sizes, with the suffixes in turn: {name: uint8 [h, w, 3]}."""
  folder.mkdir(exist_ok=True)
  pixels = {}
  for number in range(first, first + count):
    generator = np.random.default_rng(number)
    image = generator.integers(0, 256, (*generator.integers(*sides, 2), 3), np.uint8)
    name = f'{number:04d}.{suffixes[number % len(suffixes)]}'
    Image.fromarray(image).save(folder / name)
    pixels[name] = np.asarray(Image.open(folder / name).convert('RGB'))
  return pixels


def claimed_pixels(start):
  """Height times width, by Pillow."""
  try:
    with Image.open(io.BytesIO(start)) as image:
      return image.size[0] * image.size[1]
  except OSError:
    return 0


def in_python(content):
  """Decodes with Pillow."""
  try:
    with Image.open(io.BytesIO(content)) as image:
      pixels = np.asarray(image.convert('RGB'))
  except OSError as error:
    raise ValueError('Pillow cannot read it') from error
  return pixels, (*pixels.shape[:2], layout.TURNED, 300)


def in_graph(content):
  """Decodes with TensorFlow, as Pillow does."""
  return tf.io.decode_image(content, channels=3, expand_animations=False)


DECODERS = prepare.Decoders(in_graph, in_python, claimed_pixels)


def prepared(folder, store, decoders=DECODERS, parameters=None, **options):
  """Lists and prepares a folder."""
  found = listing.listing(str(folder))
  paths = [f'{folder}/{name}' for name in found.names]
  return prepare.prepare(
    paths,
    (found.sizes, found.mtimes_ns),
    str(store),
    parameters or PARAMETERS,
    decoders,
    names=found.names,
    **options,
  )


def pixels_of(images):
  """{name: uint8 [h, w, 3]} as read inside tf.data."""
  images = images[np.flatnonzero(images.readable)]
  if not len(images):
    return {}
  read = tf.data.Dataset.range(len(images)).map(images.reader(), num_parallel_calls=2)
  return {images.name(position): image.numpy() for position, image in enumerate(read)}


def same(found, expected):
  """Whether two {name: pixels} agree, but for what JPEG decoders differ in."""
  return found.keys() == expected.keys() and all(
    found[name].shape == image.shape
    and (
      np.abs(found[name].astype(int) - image).mean() < 3
      if name.endswith('jpg')
      else np.array_equal(found[name], image)
    )
    for name, image in expected.items()
  )


if __name__ == '__main__':
  stores.COMMIT_SECONDS = 0

  def slowly(content):
    time.sleep(float(sys.argv[3]))
    return in_python(content)

  slow = prepare.Decoders(in_graph, slowly, claimed_pixels, takes=lambda start: False)
  done = prepared(*sys.argv[1:3], slow, cores=1, say=lambda line: print(line, flush=True))
  print(f'decoded {done.decoded}', flush=True)
