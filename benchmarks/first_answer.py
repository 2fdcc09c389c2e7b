"""What the first rungs of the ladder make of few labels, wrong ones, strangers and uneven classes.

  python benchmarks/first_answer.py --images=DIR --classes=animals,food,... --model_type=PATH
      [--case=plain|flipped|foreign|imbalanced|duplicates] [--labeled=4,10,20,40] [--seeds=1-5]
      [--flag=value ...]
  python benchmarks/first_answer.py --dataset_name=digits|fashion_mnist [...]

DIR has a folder of images for each category; those that are no class are strangers. Each seed draws
labeled images, 40 test images a class, and of the rest at most 500 a class and split as unlabeled ones, as
a person would find them in folders of their own. Logistic regression and label spreading are measured as
the ladder does, on the network's features; of scikit-learn's digits and Fashion-MNIST on the pixels.

Prints test accuracies of logistic regression, of label spreading, and of the one that the ladder chooses
by cross-validation. The cases:

  flipped     a tenth of the labels is wrong; also the share of them in the first fifth of the label errors
  foreign     half of the unlabeled images are of no class
  imbalanced  the most frequent class has ten times as many labeled and unlabeled images as the rarest
  duplicates  copies of 20 labeled and 20 test images are among the unlabeled ones, byte for byte and in
              each of ENCODINGS: the share of them in the ladder's list of near-duplicates, of these with a
              cosine as high as features alone need, and how many pairs it lists besides. Of a dataset,
              without copies: how many pairs it lists of two random halves
"""

import argparse
import dataclasses
import glob
import hashlib
import os
import random
import shutil
import sys
import tempfile
from typing import NamedTuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.data import splits, storage
from meta_pseudo_labels.data.augment.views import Features
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.ladder import climb, findings, page, rungs

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy import stats

RECIPE = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'flags', 'folder.flags')
SIZES = {'digits': 8, 'fashion_mnist': 28}
TEST, MOST = 40, 500  # Images a class.
POINTS = 5000  # Images of a dataset that are drawn from.
FITTED = [rung for rung in rungs.RUNGS if rung.fit]  # Those without a run.
COPIED = 20
ENCODINGS = {  # (suffix, what PIL.Image.save is given, part of the sides).
  'JPEG 95': ('.jpg', {'quality': 95}, 1),
  'JPEG 75': ('.jpg', {'quality': 75}, 1),
  'JPEG 50': ('.jpg', {'quality': 50}, 1),
  'half, PNG': ('.png', {}, 0.5),
  'half, WebP 80': ('.webp', {'quality': 80}, 0.5),
  'half, JPEG 75': ('.jpg', {'quality': 75}, 0.5),
}
CASES = ('plain', 'flipped', 'foreign', 'imbalanced')


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
  """Images to draw from.

  Attributes:
    config: Config.
    problem: Problem of features, whose inputs are those of all images; label -1 is of no class.
    order: function of a seed -> list with the positions of each class in the order of a draw.
  """

  config: object
  problem: object
  order: object


class Draw(NamedTuple):
  """What one person has: positions in the pool, int64 each, and the labels that are given.

  Attributes:
    labeled, unlabeled, test: positions.
    labels: int32 `[n]`, as given.
  """

  labeled: np.ndarray
  unlabeled: np.ndarray
  test: np.ndarray
  labels: np.ndarray


def read_folders(flags, argv):
  """Returns the Pool of the categories' folders."""
  files = sorted(glob.glob(f'{flags.images}/**/*.png', recursive=True))
  # In the same place each time: what is prepared is found by where it lies.
  folder = os.path.join(
    tempfile.gettempdir(), 'first_answer-' + hashlib.sha256('\n'.join(files).encode()).hexdigest()[:16]
  )
  for number, path in enumerate(files):
    category = os.path.join(folder, 'labeled', os.path.relpath(path, flags.images).split(os.sep)[0])
    os.makedirs(category, exist_ok=True)
    link = os.path.join(category, f'{number}.png')
    if not os.path.lexists(link):
      os.symlink(os.path.abspath(path), link)
  config = parse(['', f'--flagfile={RECIPE}', f'--data_dir={folder}', '--num_validation=0', *argv])
  validate(config)
  problem = build.take_features(config, build.problem(config, print), print, num_views=0)
  number_of = lambda name: int(os.path.splitext(os.path.basename(str(name)))[0])
  place = {files[number_of(name)]: position for position, name in enumerate(problem.names)}
  classes = flags.classes.split(',')
  paths = {
    name: [path for path in files if path.startswith(f'{flags.images}/{name}/')] for name in classes
  }
  digests = {path: _digest(path) for found in paths.values() for path in found}

  def order(seed):
    draw, seen, found = random.Random(seed), set(), []
    for name in classes:
      shuffled, kept = list(paths[name]), []
      draw.shuffle(shuffled)
      for path in shuffled:
        if digests[path] not in seen and len(kept) < MOST:
          seen.add(digests[path])
          kept.append(place.get(path, -1))
      found.append(np.array(kept))
    return found

  every = list(problem.info.class_names)
  labels = np.full(len(problem.labels), -1, np.int32)
  for label, name in enumerate(classes):
    labels[problem.labels == every.index(name)] = label
  info = dataclasses.replace(problem.info, class_names=tuple(classes))
  return Pool(config, dataclasses.replace(problem, info=info, labels=labels), order)


def _digest(path):
  with open(path, 'rb') as file:
    return hashlib.sha256(file.read()).digest()


def read_points(flags, argv):
  """Returns the Pool of a dataset's images, whose features are their pixels."""
  size = SIZES[flags.dataset_name]
  config = parse(['', f'--dataset_name={flags.dataset_name}', f'--image_size={size}', *argv])
  problem = build.problem(config)
  chosen = np.random.RandomState(0).permutation(len(problem.inputs))[:POINTS]
  inputs = np.asarray(problem.inputs[chosen], np.float16).reshape([len(chosen), 1, -1]) / 255
  labels = problem.labels[chosen]

  def order(seed):
    generator = np.random.RandomState(seed)
    return [
      generator.permutation(np.flatnonzero(labels == label))[:MOST] for label in range(problem.num_classes)
    ]

  views = Features(0, problem.views.dtype)
  return Pool(config, dataclasses.replace(problem, inputs=inputs, labels=labels, views=views), order)


def draw(pool, case, seed, count):
  """Returns the Draw of a seed: `count` labeled images a class."""
  generator, order = np.random.RandomState(seed), pool.order(seed)
  counts, most = [count] * len(order), [len(found) for found in order]
  if case == 'imbalanced':
    shares = 10.0 ** -(generator.permutation(len(order)) / (len(order) - 1))
    counts = np.maximum(1, np.round(count * len(order) * shares / shares.sum())).astype(int)
    most = np.round(shares * (max(most) - max(counts) - TEST)).astype(int)
  there = lambda parts: (found := np.concatenate(parts))[found >= 0]  # -1: could not be decoded.
  labeled = there([found[:n] for found, n in zip(order, counts)])
  test = there([found[n : n + TEST] for found, n in zip(order, counts)])
  unlabeled = there([found[n + TEST :][:m] for found, n, m in zip(order, counts, most)])
  labels = pool.problem.labels[labeled].copy()
  if case == 'flipped':
    wrong = generator.permutation(len(labels))[: round(len(labels) / 10)]
    labels[wrong] = (labels[wrong] + generator.randint(1, len(order), len(wrong))) % len(order)
  if case == 'foreign':
    foreign = np.flatnonzero(pool.problem.labels < 0)
    half = min(len(foreign), len(unlabeled))
    parts = [generator.permutation(found)[:half] for found in (unlabeled, foreign)]
    unlabeled = np.concatenate(parts)
  return Draw(labeled, unlabeled, test, labels)


def problem_of(pool, drawn):
  """Returns the Problem of features that a Draw is."""
  labels = pool.problem.labels.copy()
  labels[drawn.labeled] = drawn.labels
  none = np.empty(0, np.int64)
  return dataclasses.replace(
    pool.problem,
    labels=labels,
    names=None,
    split=splits.Split(labeled=drawn.labeled, unlabeled=none, validation=none),
    unlabeled=pool.problem.inputs[drawn.unlabeled],
    unlabeled_names=None,
    truth=np.full(len(drawn.unlabeled), -1, np.int32),
    evaluated={'test': storage.Examples(pool.problem.inputs[drawn.test], pool.problem.labels[drawn.test])},
    images=None,
  )


def measure(pool, case, seed, count):
  """Returns {what: number in percent} of one draw."""
  drawn = draw(pool, case, seed, count)
  problem = problem_of(pool, drawn)
  with tempfile.TemporaryDirectory() as folder:
    config = pool.config.replace(output_dir=folder, seed=seed)
    found = climb.Climb(config, problem, tf.distribute.get_strategy(), lambda line: None)
    found.go(0.0, FITTED)
  test = problem.evaluated['test']
  fits = {
    rung: found.fit(rung, problem, 'all').logits(test.inputs[:, 0]).argmax(axis=1) for rung in FITTED
  }
  accuracy = {rung.name: 100 * np.mean(fit == test.labels) for rung, fit in fits.items()}
  best = found.best()
  row = {**accuracy, 'chosen': accuracy[best.rung.name if best else FITTED[0].name]}
  if case == 'flipped' and best:
    doubts = findings.label_errors(rungs.spread_held_out(problem, found.folds), found.labels)
    first = {doubt.position for doubt in doubts[: round(len(doubts) / 5)]}
    wrong = np.flatnonzero(drawn.labels != pool.problem.labels[drawn.labeled])
    row['wrong labels found'] = 100 * np.mean([position in first for position in wrong])
  return row


def plant_duplicates(flags, seed, folder):
  """Writes a folder of images, some of them twice; returns {kind: names of the copies}."""
  draw_, copies = random.Random(seed), {'copied': [], **{kind: [] for kind in ENCODINGS}}
  for name in flags.classes.split(','):
    paths = sorted(glob.glob(f'{flags.images}/{name}/**/*.png', recursive=True))
    by_content = {_digest(path): path for path in paths if os.path.getsize(path) < 200_000}
    left = draw_.sample(sorted(by_content.values()), 5 * COPIED)
    for split, count in (('labeled', COPIED), ('test', COPIED), ('unlabeled', 3 * COPIED)):
      place = os.path.join(folder, split, name)
      os.makedirs(place)
      for number in range(count):
        shutil.copy(left.pop(), os.path.join(place, f'{number}.png'))
  for split in ('labeled', 'test'):
    paths = draw_.sample(sorted(glob.glob(f'{folder}/{split}/*/*.png')), len(copies) * COPIED)
    for kind, names in copies.items():
      for _ in range(COPIED):
        suffix, options, scale = ENCODINGS.get(kind, ('.png', {}, 1))
        path, name = paths.pop(), f'unlabeled/twice_{split}_{len(paths)}{suffix}'
        names.append(name)
        if kind == 'copied':
          shutil.copy(path, os.path.join(folder, name))
          continue
        image = Image.open(path).convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
        size = [max(1, round(scale * side)) for side in image.size]
        image.resize(size, Image.LANCZOS).save(os.path.join(folder, name), **options)
  return copies


def find_duplicates(flags, argv, seed):
  """Returns ({kind: shares in percent of its copies that are listed}, numbers of other pairs listed).

  Shares and numbers are (those with a cosine as high as features alone need, all).
  """
  with tempfile.TemporaryDirectory() as folder:
    copies = plant_duplicates(flags, seed, folder)
    config = parse(['', f'--flagfile={RECIPE}', f'--data_dir={folder}', '--num_validation=0', *argv])
    validate(config)
    pool = page.Pool(build.take_features(config, build.problem(config), print, num_views=0))
    pairs = pool.near_duplicates()
  by_features = [pair for pair in pairs if pair.cosine >= findings.SAME_FEATURES]
  listed = [{pool.names[end] for pair in found for end in pair[:2]} for found in (by_features, pairs)]
  shares = {
    kind: tuple(100 * np.mean([name in found for name in names]) for found in listed)
    for kind, names in copies.items()
  }
  planted = set(sum(copies.values(), []))
  others = [
    sum(not planted & {pool.names[end] for end in pair[:2]} for pair in found)
    for found in (by_features, pairs)
  ]
  return shares, others


def count_duplicates(pool, seed):
  """Returns how many pairs are listed of two random halves of a dataset, with its pixels as features."""
  inputs = pool.problem.inputs[:, 0].astype(np.float32)
  side = SIZES[pool.problem.info.name]
  images = 255 * inputs.reshape([len(inputs), side, side, 1])
  small = tf.image.resize(images, [findings.THUMBNAIL] * 2, 'area').numpy()
  centered = inputs - inputs.mean(axis=0)
  directions = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
  groups = np.random.RandomState(seed).permutation(len(inputs)) % 2
  return len(findings.near_duplicates(directions, findings.thumbnail_directions(small), groups))


def run_duplicates(flags, argv):
  """Prints what `find_duplicates` or `count_duplicates` find, of each seed and of all."""
  if flags.dataset_name:
    pool = read_points(flags, argv)
    counts = [count_duplicates(pool, seed) for seed in flags.seeds]
    print(f'pairs listed of {len(pool.problem.inputs)} images in two halves: {counts}')
    return
  rows = []
  for seed in flags.seeds:
    rows.append(find_duplicates(flags, argv, seed))
    print(f'seed {seed}: {rows[-1]}', flush=True)
  print('| copies | by features | listed |\n|---|---|---|')
  for kind in rows[0][0]:
    means = np.mean([shares[kind] for shares, _ in rows], axis=0)
    print(f'| {kind} | {means[0]:.1f} % | {means[1]:.1f} % |')
  print(f'other pairs: {[others for _, others in rows]}')


def format_row(case, count, rows):
  """Returns a line of a table in Markdown: means over draws, and gains with their 95 % intervals."""
  values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
  base = values['logistic regression']
  cells = [case, str(count), f'{base.mean():.1f} ± {base.std(ddof=1):.1f}']
  wrong = values.pop('wrong labels found', None)
  for name, found in values.items():
    if name == 'logistic regression':
      continue
    half = stats.t.ppf(0.975, len(found) - 1) * (found - base).std(ddof=1) / len(found) ** 0.5
    cells.append(f'{found.mean():.1f} ({np.mean(found - base):+.1f} ± {half:.1f})')
  found = '' if wrong is None else f' {wrong.mean():.0f} % of the wrong labels are found'
  return '| ' + ' | '.join(cells) + ' |' + found


def parse_arguments():
  """Returns (what the command line says, flags for the network)."""

  def seeds(text):
    first, _, last = text.partition('-')
    return list(range(int(first), int(last or first) + 1))

  def counts(text):
    return [int(count) for count in text.split(',')]

  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', help='folder with a folder of images for each category')
  parser.add_argument('--classes', help='the categories that are classes, separated by commas')
  parser.add_argument('--dataset_name', choices=SIZES, help='instead of --images')
  parser.add_argument('--case', default='plain', choices=(*CASES, 'duplicates'))
  parser.add_argument('--labeled', type=counts, default='20', help='images a class, separated by commas')
  parser.add_argument('--seeds', type=seeds, default='1-5')
  flags, others = parser.parse_known_args()
  if bool(flags.images and flags.classes) == bool(flags.dataset_name):
    parser.error('give --images and --classes, or --dataset_name')
  if flags.dataset_name and flags.case == 'foreign':
    parser.error(f'--case={flags.case}: needs --images')
  for name in (flags.classes or '').split(',') if flags.images else ():
    if not os.path.isdir(os.path.join(flags.images, name)):
      parser.error(f'--classes={name}: {flags.images} has no such folder')
  return flags, others


def run(flags, others):
  """Runs what the command line asks for. Raises UserError."""
  if flags.case == 'duplicates':
    run_duplicates(flags, others)
    return
  pool = (read_points if flags.dataset_name else read_folders)(flags, others)
  lines = [
    '| case | labels a class | logistic regression | label spreading | chosen |',
    '|---|---|---|---|---|',
  ]
  for count in flags.labeled:
    rows = []
    for seed in flags.seeds:
      rows.append(measure(pool, flags.case, seed, count))
      said = ', '.join(f'{name} {value:.1f}' for name, value in rows[-1].items())
      print(f'{count} labels, seed {seed}: {said}', flush=True)
    lines.append(format_row(flags.case, count, rows))
  print('\n'.join(lines))


if __name__ == '__main__':
  try:
    run(*parse_arguments())
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
