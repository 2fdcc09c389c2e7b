"""What preparing a folder of images costs, what later starts take, and what the store costs a step.

  python benchmarks/prepare.py [--files=51500] [--image_sizes=32,96,224] [--million] [--steps]

Makes a folder of JPEG files of 320 to 800 pixels and about 26 KB (500 labeled, 1,000 test, the others
unlabeled), and prints in one run:

  preparing    for each image size its speed against a bare tf.data loop that decodes scaled and resizes
               the same files and writes nothing, in turns; by the clock and by CPU seconds, for machines
               that others use too
  before       the speed of the version before the store: every file decoded in full, a file per thread,
               at every start, and below 96 pixels brought to its size
  first start  seconds for all files
  next start   seconds from the command to the first line of the training, when all is prepared
  --million    listing and finding a million tiny files, with the peak of its resident memory
  --steps      steps of UDA, WRN-10-1 at 96 pixels, fed from the store, against a constant batch
"""

import argparse
import concurrent.futures
import io
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build
from meta_pseudo_labels.build.data import RESIZED_CROP_FROM, STORED_SIDE
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.images import decoding
from meta_pseudo_labels.data.store import hashes, listing, prepare
from meta_pseudo_labels.data.store import store as stores

import numpy as np
import step_cost
import tensorflow as tf
from PIL import Image

CHECKOUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
DISTINCT = 200  # Pictures; the files are these with a comment of their own each.
FEW = 500  # Files per turn that are decoded as before.


def make_files(folder, count):
  """Writes `count` JPEG files as a folder of one's own; those that are there already are kept."""
  generator = np.random.default_rng(0)
  pictures = []
  for number in range(count):
    place = f'labeled/{number % 10}' if number < 500 else f'test/{number % 10}'
    if number >= 1500:
      place = f'unlabeled/{number // 1000:03d}'
    path = os.path.join(folder, place, f'{number:06d}.jpg')
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


def scaled(content, side):
  """Decodes a JPEG by a scaled DCT and brings its shorter side to `side`: uint8 [h, w, 3]."""
  shape = tf.io.extract_jpeg_shape(content)[:2]
  shorter = tf.reduce_min(shape)

  def at(ratio):
    return lambda: tf.io.decode_jpeg(content, channels=3, ratio=ratio, dct_method='INTEGER_ACCURATE')

  index = sum(tf.cast(shorter >= ratio * side, tf.int32) for ratio in (2, 4, 8))
  image = tf.switch_case(index, [at(1), at(2), at(4), at(8)])
  sides = tf.cast(tf.shape(image)[:2], tf.float32)
  target = tf.cast(tf.round(sides * side / tf.reduce_min(sides)), tf.int32)
  resized = tf.image.resize(image, target, antialias=True)
  return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def stored_side(image_size):
  """Returns the shorter side of the images in the store of a training at this size."""
  return math.ceil(STORED_SIDE * image_size)


def in_store(side):
  """Returns (the Decoding, its Decoders) of images whose shorter side is `side`."""
  how = decoding.Decoding(side)
  return how, prepare.Decoders(
    how.in_graph,
    how.in_python,
    decoding.claimed_pixels,
    decoding.takes_in_graph,
    decoding.is_plain_jpeg,
    how.plain_in_graph,
  )


def before(paths, size=None):
  """Decodes files as the version before the store did."""

  def read(path):
    with tf.device('CPU:0'):
      content = tf.io.read_file(path)
      image = crops.decode(content)
      content.numpy()
      if size:
        crops.fit(image, size).numpy()

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for _ in pool.map(read, paths):
      pass


def bare(paths, side):
  """The loop that preparing is measured against."""
  options = tf.data.Options()
  options.autotune.enabled = False
  options.deterministic = False
  for _ in (
    tf.data.Dataset.from_tensor_slices(paths)
    .map(lambda path: scaled(tf.io.read_file(path), side), num_parallel_calls=os.cpu_count())
    .prefetch(8 * os.cpu_count())
    .with_options(options)
  ):
    pass


def prepared(top, names, stats, cache, side):
  """Prepares files into an empty store."""
  shutil.rmtree(cache, ignore_errors=True)
  paths = [os.path.join(top, name) for name in names]
  how, decoders = in_store(side)
  return prepare.prepare(paths, stats, cache, how.parameters, decoders, names=names)


def measured(function, count):
  """Seconds for each of `count` files: (of the clock, of the CPUs in this process)."""
  start = time.perf_counter(), time.process_time()
  function()
  return (time.perf_counter() - start[0]) / count, (time.process_time() - start[1]) / count


def one_turn(top, found, part, cache, image_size, backwards):
  """Measures each on some of the files: {what: seconds as above}."""
  names = found.names[part]
  paths = [os.path.join(top, name) for name in names]
  stats = found.sizes[part], found.mtimes_ns[part]
  side, fitted = stored_side(image_size), image_size if image_size < RESIZED_CROP_FROM else None
  runs = {
    'bare': (lambda: bare(paths, side), len(paths)),
    'preparing': (lambda: prepared(top, names, stats, cache, side), len(paths)),
    'before': (lambda: before(paths[:FEW], fitted), len(paths[:FEW])),
  }
  return {what: measured(*runs[what]) for what in (sorted(runs)[::-1] if backwards else sorted(runs))}


def compare(top, cache, turns, sample, image_size):
  """Prints preparing and the version before against the bare loop, in turns over parts of the files."""
  found = listing.listing(top)
  times = []
  for turn in range(turns + 1):
    first = turn * sample % max(len(found) - sample + 1, 1)
    part = slice(first, first + sample)
    times.append(one_turn(top, found, part, cache, image_size, turn % 2))
  values = {what: np.array([turn[what] for turn in times[1:]]) for what in times[0]}  # The first warms up.
  for what in sorted(times[0]):
    ratios = values['bare'] / values[what]
    middle, low, high = np.median(ratios, 0), ratios.min(0), ratios.max(0)
    print(
      f'{image_size:4} {what:10}{1 / np.median(values[what][:, 0]):6.0f} images a second; speed against '
      f'the bare loop {middle[0]:.2f} ({low[0]:.2f} to {high[0]:.2f}), by CPU seconds {middle[1]:.2f} '
      f'({low[1]:.2f} to {high[1]:.2f})',
      flush=True,
    )


def command(top, cache, *flags):
  """Returns the command line of a training on the folder at 224 pixels."""
  return [
    *(sys.executable, '-m', 'meta_pseudo_labels.main', '--dataset_name=folder_uda'),
    *(f'--data_dir={top}', f'--cache_dir={cache}', '--image_size=224', '--model_type=wrn-10-1'),
    *('--num_train_steps=1', f'--output_dir={cache}/run', *flags),
  ]


def start(top, cache, what):
  """Prints the seconds from the command to its line before the networks are built."""
  began = time.perf_counter()
  environment = {**os.environ, 'PYTHONPATH': CHECKOUT, 'TF_CPP_MIN_LOG_LEVEL': '3'}
  with subprocess.Popen(
    command(top, cache), stdout=subprocess.PIPE, text=True, env=environment, stderr=subprocess.STDOUT
  ) as process:
    for line in process.stdout:
      if 'replica(s)' in line:
        break
    else:
      sys.exit(f'error: the training did not start: {line}')
    took = time.perf_counter() - began
    process.kill()
  print(f'{what:15}{took:.1f} s from the command to the first line of the training', flush=True)


def million(top, cache):
  """Prints how long it takes to list the files and to find all of them in the store."""
  began = time.perf_counter()
  found = listing.listing(top)
  paths = [f'{top}/{name}' for name in found.names]
  how, decoders = in_store(stored_side(224))
  outcome = prepare.prepare(
    paths, (found.sizes, found.mtimes_ns), cache, how.parameters, decoders, names=found.names
  )
  took = time.perf_counter() - began
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  print(
    f'{len(found):,} tiny files, {outcome.decoded} decoded: {took:.1f} s, at most {peak:.2f} GB resident'
  )


def steps(top, cache, rounds):
  """Prints the time of a step fed from the store against one on a constant batch, in turns."""
  config = parse([
    'prepare', '--dataset_name=folder_uda', f'--data_dir={top}', f'--cache_dir={cache}', '--image_size=96',
    '--model_type=wrn-10-1', '--train_batch_size=16', '--uda_data=7', '--output_dir=unused'])  # fmt: skip
  problem = build.problem(config, print)
  batches = iter(problem.train_batches(batch_size=16, uda_data=7, seed=0))
  constant = next(batches)
  methods = [
    build.method(config, student=build.model(config, 0, problem.input_shape, problem.num_classes))
    for _ in range(2)
  ]
  runs = {
    'constant': tf.function(lambda: methods[0].train_step(constant), autograph=False),
    'store': tf.function(lambda: methods[1].train_step(next(batches)), autograph=False),
  }
  seconds = step_cost.measure(runs, rounds)
  ratios = np.array(seconds['store']) / np.array(seconds['constant'])
  print(
    f'a step from the store takes {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f}) of '
    f'one on a constant batch, which takes {np.median(seconds["constant"]):.2f} s'
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
  parameters = in_store(stored_side(224))[0].parameters
  store = stores.Store(cache, parameters, print)
  pixel = np.zeros((1, 1, 3), np.uint8)
  keys = hashes.of_strings(found.names).tolist()
  for key, size, mtime in zip(keys, found.sizes.tolist(), found.mtimes_ns.tolist()):
    store.append(key, size, mtime, pixel, (1, 1, 0, 0), 0, 0)
  store.finish()
  store.close()


def main():
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--files', type=int, default=51500)
  parser.add_argument('--turns', type=int, default=3)
  parser.add_argument('--sample', type=int, default=6000, help='files a turn')
  parser.add_argument('--image_sizes', default='32,96,224')
  parser.add_argument('--folder', help='where to keep the files; default: a temporary folder')
  parser.add_argument('--million', action='store_true', help='also many tiny files')
  parser.add_argument('--tiny', type=int, default=1_000_000, help='how many those are')
  parser.add_argument('--steps', action='store_true', help='also steps fed from the store')
  parser.add_argument('--find_million', nargs=2, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.find_million:
    million(*flags.find_million)
    return
  with tempfile.TemporaryDirectory() as temporary:
    base = flags.folder or temporary
    top, cache = os.path.join(base, 'images'), os.path.join(base, 'cache')
    make_files(top, flags.files)
    for size in map(int, flags.image_sizes.split(',')):
      compare(top, os.path.join(base, 'turns'), flags.turns, min(flags.sample, flags.files), size)
    shutil.rmtree(cache, ignore_errors=True)
    start(top, cache, 'first start')
    start(top, cache, 'next start')
    if flags.steps:
      steps(top, cache, flags.turns)
    if flags.million:
      top, cache = os.path.join(base, 'tiny'), os.path.join(base, 'tiny_cache')
      make_million(top, cache, flags.tiny)
      subprocess.run([sys.executable, __file__, '--find_million', top, cache], check=True)


if __name__ == '__main__':
  main()
