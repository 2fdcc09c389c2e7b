"""What preparing a folder of images costs, and what later starts take.

  python benchmarks/prepare.py [--files=51500] [--million]

Makes JPEG files of 320 to 800 pixels and about 26 KB, and prints in one run:

  preparing    its speed against a bare tf.data loop that decodes scaled and resizes the same files and
               writes nothing, in turns; by the clock and by CPU seconds, for machines that others use too
  today        the speed of decoding in full, one file a thread, nothing resized (data/folder.py)
  first start  seconds for all files
  next start   seconds for listing the folder and finding all in the store, in a process of its own
  --million    the same for a million tiny files, with the peak of its resident memory
"""

import argparse
import io
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # pylint: disable=unused-import  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels.data import folder as folders
from meta_pseudo_labels.data.store import hashes, listing, prepare
from meta_pseudo_labels.data.store import store as stores

import numpy as np
import tensorflow as tf
from PIL import Image

SIDE = 256
DISTINCT = 200  # Pictures; the files are these with a comment of their own each.
TODAY = 500  # Files a turn that are decoded as today.


def make_files(folder, count):
  """Writes `count` JPEG files, 1000 a subfolder; those that are there already are kept."""
  generator = np.random.default_rng(0)
  pictures = []
  for number in range(count):
    path = os.path.join(folder, f'{number // 1000:03d}', f'{number:06d}.jpg')
    if os.path.exists(path):
      continue
    if not pictures:
      pictures = [_picture(generator) for _ in range(min(DISTINCT, count))]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    content = pictures[number % len(pictures)]
    note = b'number %d' % number
    with open(path, 'wb') as file:
      file.write(content[:2] + b'\xff\xfe' + struct.pack('>H', 2 + len(note)) + note + content[2:])


def _picture(generator):
  """A JPEG of about 26 KB: smooth colors with some detail."""
  height, width = generator.integers(320, 801, 2)
  coarse = generator.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
  image = Image.fromarray(coarse).resize((int(width), int(height)), Image.BICUBIC)
  best = b''
  for quality in (95, 90, 80, 70, 50):
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=quality)
    best = file.getvalue()
    if len(best) <= 30000:
      break
  return best


def scaled(content):
  """Decodes a JPEG by a scaled DCT and brings its shorter side to SIDE: uint8 [h, w, 3]."""
  shape = tf.io.extract_jpeg_shape(content)[:2]
  shorter = tf.reduce_min(shape)

  def at(ratio):
    return lambda: tf.io.decode_jpeg(content, channels=3, ratio=ratio, dct_method='INTEGER_ACCURATE')

  index = sum(tf.cast(shorter >= ratio * SIDE, tf.int32) for ratio in (2, 4, 8))
  image = tf.switch_case(index, [at(1), at(2), at(4), at(8)])
  sides = tf.cast(tf.shape(image)[:2], tf.float32)
  target = tf.cast(tf.round(sides * SIDE / tf.reduce_min(sides)), tf.int32)
  resized = tf.image.resize(image, target, antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def claimed_pixels(start):
  """Returns height times width as a JPEG's first bytes have it; 0 if they do not."""
  place = 2
  while place + 9 <= len(start):
    marker, length, _, height, width = struct.unpack_from('>xBHBHH', start, place)
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      return height * width
    place += 2 + length
  return 0


def in_python(content):
  """Decodes any image with Pillow."""
  image = Image.open(io.BytesIO(content)).convert('RGB')
  height, width = image.size[::-1]
  image.thumbnail((SIDE * max(width, height) // min(width, height),) * 2)
  return np.asarray(image), (height, width, 0, 0)


DECODERS = prepare.Decoders(scaled, in_python, claimed_pixels)


def bare(paths):
  """The loop that preparing is measured against."""
  options = tf.data.Options()
  options.autotune.enabled = False
  options.deterministic = False
  for _ in (
    tf.data.Dataset.from_tensor_slices(paths)
    .map(lambda path: scaled(tf.io.read_file(path)), num_parallel_calls=os.cpu_count())
    .prefetch(8 * os.cpu_count())
    .with_options(options)
  ):
    pass


def prepared(top, names, stats, cache):
  """Prepares files into an empty store."""
  shutil.rmtree(cache, ignore_errors=True)
  paths = [os.path.join(top, name) for name in names]
  return prepare.prepare(paths, stats, cache, {'side': SIDE}, DECODERS, names=names)


def measured(function, count):
  """Seconds for each of `count` files: (of the clock, of the CPUs in this process)."""
  start = time.perf_counter(), time.process_time()
  function()
  return (time.perf_counter() - start[0]) / count, (time.process_time() - start[1]) / count


def one_turn(top, found, part, cache, backwards):
  """Measures the three on some of the files: {what: seconds as above}."""
  names = found.names[part]
  paths = [os.path.join(top, name) for name in names]
  stats = found.sizes[part], found.mtimes_ns[part]
  runs = {
    'bare': (lambda: bare(paths), len(paths)),
    'preparing': (lambda: prepared(top, names, stats, cache), len(paths)),
    'today': (lambda: folders._read(np.array(paths[:TODAY]), None), len(paths[:TODAY])),
  }
  return {what: measured(*runs[what]) for what in (sorted(runs)[::-1] if backwards else sorted(runs))}


def compare(top, cache, turns, sample):
  """Prints preparing and today's way against the bare loop, in turns over parts of the files."""
  found = listing.listing(top, folders.SUFFIXES)
  times = []
  for turn in range(turns + 1):
    first = turn * sample % max(len(found) - sample + 1, 1)
    times.append(one_turn(top, found, slice(first, first + sample), cache, turn % 2))
  values = {what: np.array([turn[what] for turn in times[1:]]) for what in times[0]}  # The first warms up.
  for what, text in (('bare', 'bare loop'), ('preparing', 'preparing'), ('today', "today's decode")):
    ratios = values['bare'] / values[what]
    middle, low, high = np.median(ratios, 0), ratios.min(0), ratios.max(0)
    print(
      f'{text:15}{1 / np.median(values[what][:, 0]):6.0f} images a second; speed against the bare '
      f'loop {middle[0]:.2f} ({low[0]:.2f} to {high[0]:.2f}), by CPU seconds {middle[1]:.2f} '
      f'({low[1]:.2f} to {high[1]:.2f})'
    )


def next_start(top, cache):
  """Prints how long it takes to list the files and to find all of them in the store."""
  start = time.perf_counter()
  found = listing.listing(top, folders.SUFFIXES)
  paths = [f'{top}/{name}' for name in found.names]
  outcome = prepare.prepare(
    paths, (found.sizes, found.mtimes_ns), cache, {'side': SIDE}, DECODERS, names=found.names
  )
  took = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  print(
    f'next start     {len(found):,} files, {outcome.decoded} decoded, {took:.1f} s, at most '
    f'{peak:.2f} GB resident'
  )


def make_million(top, cache, count):
  """Makes many tiny files (no images), and a store that has an entry of one pixel for each."""
  for number in range(count):
    if not number % 1000:
      os.makedirs(f'{top}/{number // 1000:04d}', exist_ok=True)
    with open(f'{top}/{number // 1000:04d}/{number:07d}.jpg', 'wb') as file:
      file.write(b'%d' % number)
  found = listing.listing(top)
  os.makedirs(cache, exist_ok=True)
  parameters = {'side': SIDE}
  store = stores.Store(cache, parameters, print)
  pixel = np.zeros((1, 1, 3), np.uint8)
  keys = hashes.of_strings(found.names).tolist()
  for key, size, mtime in zip(keys, found.sizes.tolist(), found.mtimes_ns.tolist()):
    store.append(key, size, mtime, pixel, (1, 1, 0, 0), 0)
  store.finish()
  store.close()


def main():
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--files', type=int, default=51500)
  parser.add_argument('--turns', type=int, default=3)
  parser.add_argument('--sample', type=int, default=3000, help='files a turn')
  parser.add_argument('--folder', help='where to keep the files; default: a temporary folder')
  parser.add_argument('--million', action='store_true', help='also many tiny files')
  parser.add_argument('--tiny', type=int, default=1_000_000, help='how many those are')
  parser.add_argument('--next_start', nargs=2, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.next_start:
    next_start(*flags.next_start)
    return
  again = [sys.executable, __file__, '--next_start']
  with tempfile.TemporaryDirectory() as temporary:
    base = flags.folder or temporary
    top, cache = os.path.join(base, 'images'), os.path.join(base, 'cache')
    make_files(top, flags.files)
    compare(top, cache, flags.turns, min(flags.sample, flags.files))
    found = listing.listing(top, folders.SUFFIXES)
    stats = found.sizes, found.mtimes_ns
    took = measured(lambda: prepared(top, found.names, stats, cache), 1)[0]
    print(f'first start    {len(found):,} files, {took:.1f} s', flush=True)
    subprocess.run([*again, top, cache], check=True)
    if flags.million:
      top, cache = os.path.join(base, 'tiny'), os.path.join(base, 'tiny_cache')
      make_million(top, cache, flags.tiny)
      subprocess.run([*again, top, cache], check=True)


if __name__ == '__main__':
  main()
