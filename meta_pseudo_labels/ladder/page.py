"""The ladder's `report.html`, and lists of images that a person should look at, as CSV."""

import csv
import dataclasses
import os

from meta_pseudo_labels.data import input_pipeline
from meta_pseudo_labels.data.augment.views import ResizedCrop
from meta_pseudo_labels.features import spreading
from meta_pseudo_labels.files import atomic_write, write_text
from meta_pseudo_labels.ladder import findings, rungs
from meta_pseudo_labels.report import page, plots
from meta_pseudo_labels.training import view_samples

import numpy as np
import tensorflow as tf

SHOWN = 24  # Pictures of each list; the CSV has more.
DOUBTS = 0.2  # The part of the labeled images that the list of doubtful labels has.
_AT_ONCE = 64  # Images that are read at once.
SPLITS = ('labeled', 'unlabeled', 'validation', 'test')


def write(folder, climb, problem, *, title, sentence, tests):
  """Writes `report.html`, `label_errors.csv`, `near_duplicates.csv` and `strangers.csv`.

  Args:
    folder: str.
    climb: climb.Climb, at its end.
    problem: Problem of features, with all labeled images.
    title: str.
    sentence: str, what the unlabeled images added.
    tests: {name: float `[n, K]`}, logits of the test images, the best rung's last; {} without such.

  Returns:
    str, the path of the page.

  Raises:
    OSError: a file cannot be written.
  """
  pool = Pool(problem)
  sections = [
    ('ladder', 'What is worth how much', _ladder(climb)),
    ('mistakes', 'The most confident mistakes', _mistakes(tests, problem, pool)),
    ('doubts', 'Labels to look at', _doubts(folder, climb, problem, pool)),
    ('duplicates', 'Nearly the same in two splits', _duplicates(folder, pool)),
    ('strangers', 'Unlabeled images unlike all labeled ones', _strangers(folder, pool)),
    ('map', 'A map of the images', _map(problem, pool)),
    ('classes', 'Classes', _classes(climb, problem)),
  ]
  labels = problem.evaluated['test'].labels if tests else None
  what = 'balanced accuracy on' if climb.balanced else 'of'
  cards = [
    (
      f'{100 * climb.accuracy(logits.argmax(axis=1) == labels, labels)[0]:.1f}%',
      f'{what} {len(labels)} test images: {name}',
    )
    for name, logits in tests.items()
  ]
  cards += [(len(climb.labels), 'labeled images'), (len(pool.of('unlabeled')), 'unlabeled images')]
  lead = page.join(
    [
      page.tag('p', page.tag('b', sentence[0].upper() + sentence[1:] + '.')),
      page.tag(
        'div',
        *(
          page.tag('div', page.tag('b', value), page.tag('span', what), class_='card')
          for value, what in cards
        ),
        class_='cards',
      ),
    ]
  )
  path = os.path.join(folder, 'report.html')
  write_text(path, page.document(title, lead, [section for section in sections if section[2]]))
  return path


class Pool:
  """All images of a Problem, labeled ones first, each with its split, name and direction."""

  def __init__(self, problem):
    images, split = problem.images, problem.split
    rest = np.setdiff1d(split.unlabeled, split.labeled)
    parts = [(0, problem, images, split.labeled), (1, problem, images, rest)]
    self.class_names, self.views = images.info.class_names, images.views
    inputs, names, groups, sources = [], [], [], []
    for group, features, pictures, chosen in parts:
      inputs.append(np.asarray(features.inputs[chosen][:, 0], np.float32))
      names += _names(pictures.inputs, pictures.names, chosen)
      groups += [group] * len(chosen)
      sources += [(pictures.inputs, position) for position in chosen]
    for split_name, found in problem.evaluated.items():
      if split_name == 'labeled':
        continue
      pictures = images.evaluated[split_name]
      inputs.append(np.asarray(found.inputs[:, 0], np.float32))
      names += _names(pictures.inputs, pictures.names, np.arange(len(found)))
      groups += [SPLITS.index(split_name)] * len(found)
      sources += [(pictures.inputs, position) for position in range(len(found))]
    self.names, self.groups, self._sources = names, np.array(groups), sources
    self.directions = spreading.embed(np.concatenate(inputs))
    raw = np.concatenate(inputs)
    raw = raw - raw.mean(axis=0)
    self.raw = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)

  def of(self, split):
    """Returns the positions of a split's images: int64 `[n]`."""
    return np.flatnonzero(self.groups == SPLITS.index(split))

  def _read(self, positions, views):
    """Yields (positions, views `[n, H, W, C]`) of images, read a split at a time."""
    by_source = {}
    for position in dict.fromkeys(positions):
      inputs, place = self._sources[position]
      by_source.setdefault(id(inputs), (inputs, [], []))[1].append(position)
      by_source[id(inputs)][2].append(place)
    for inputs, chosen, places in by_source.values():
      at_once = min(_AT_ONCE, len(places))
      batches = input_pipeline.eval_batches(
        inputs[np.array(places)], np.zeros(len(places), np.int32), views=views, batch_size=at_once
      )
      for number, (shown, _, _) in enumerate(batches):  # The last one is filled up.
        part = chosen[number * at_once : (number + 1) * at_once]
        yield part, shown[: len(part)]

  def near_duplicates(self):
    """Returns the images that are nearly the same in two splits: list of findings.Pair."""
    views, size = self.views, findings.THUMBNAIL
    if isinstance(views, ResizedCrop):
      views = dataclasses.replace(views, eval_size=size, whole=True)
    order, thumbnails = [], []
    for chosen, shown in self._read(range(len(self.names)), views):
      order += chosen
      # Not rounded: a faint drawing is a few levels of its thumbnail.
      small = tf.image.resize(tf.cast(shown, tf.float32) * views.std + views.mean, [size, size], 'area')
      thumbnails.append(findings.thumbnail_directions(small.numpy()))
    thumbnails = np.concatenate(thumbnails)[np.argsort(order)]
    return findings.near_duplicates(self.raw, thumbnails, self.groups)

  def _pictures(self, positions):
    """Returns images as the network sees them: {position: PNG bytes}."""
    return {
      position: tf.io.encode_png(image).numpy()
      for chosen, shown in self._read(positions, self.views)
      for position, image in zip(chosen, view_samples.restore_pixels(self.views, shown))
    }

  def tiles(self, captions):
    """Returns pictures with what is said of them, and their names, as one element.

    Args:
      captions: list of (position, what is said: list of str).
    """
    pictures = self._pictures([position for position, _ in captions])
    return page.tag(
      'div',
      *(
        page.tag(
          'figure',
          page.image(pictures[position], self.names[position]),
          page.tag('figcaption', *said, page.Markup('<br>'), page.tag('small', self.names[position])),
        )
        for position, said in captions
      ),
      class_='tiles',
    )


def _names(inputs, names, chosen):
  """Returns what people call the images at some positions: list of str."""
  if names is not None:
    return [str(name) for name in names[chosen]]
  if hasattr(inputs, 'name'):
    return [inputs.name(position) for position in chosen]
  return [f'image {position}' for position in chosen]


def write_csv(folder, name, header, rows):
  """Writes a table; names that are no text keep their bytes."""
  with atomic_write(os.path.join(folder, name), newline='', errors='surrogateescape') as file:
    csv.writer(file).writerows([header, *rows])


def _ladder(climb):
  """Builds the chart and the table of the rungs."""
  if not climb.measured:
    return ''
  rows, bars = [], []
  for found in climb.measured:
    share = climb.accuracy(found.right(climb.labels), climb.labels)
    gain = (
      '' if found is climb.measured[0] else ' to '.join(f'{100 * v:+.1f}' for v in climb.gain(found)[1:])
    )
    bars.append((found.rung.name, found.rung.unlabeled, *share))
    rows.append(
      (
        found.rung.name,
        'yes' if found.rung.unlabeled else 'no',
        f'{100 * share[0]:.1f}%',
        f'{100 * share[1]:.1f} to {100 * share[2]:.1f}',
        gain,
        f'{found.seconds:.0f} s',
      )
    )
  header = ('', 'learns from unlabeled', climb.compared_by, '95 % interval', 'gain over the first', 'time')
  left_out = ', '.join(
    f'{name} (about {seconds / 60:.0f} min)' if seconds else name for name, seconds in climb.left_out
  )
  return page.join(
    [
      page.tag(
        'p',
        f'{climb.folds.max() + 1}-fold cross-validation: each of the {len(climb.labels)} labeled images '
        'was classified by networks that had not seen it.',
        class_='note',
      ),
      page.tag(
        'figure',
        page.image(
          plots.draw_ladder(bars, climb.compared_by),
          f'{climb.compared_by.capitalize()} of each rung with its interval',
        ),
      ),
      page.table(header, rows, True),
      page.tag('p', f'Left out for want of time: {left_out}.', class_='note') if left_out else '',
    ]
  )


def _mistakes(tests, problem, pool):
  """Shows the test images that the best rung is the most sure of, and wrong."""
  if not tests:
    return ''
  shown = findings.mistakes(list(tests.values())[-1], problem.evaluated['test'].labels)[:SHOWN]
  if not shown:
    return ''
  bold, at = lambda label: page.tag('b', pool.class_names[label]), pool.of('test')
  captions = [
    (at[m.position], [bold(m.predicted), f' {100 * m.probability:.0f}%; is ', bold(m.given)])
    for m in shown
  ]
  note = 'Test images that the chosen classifier gets wrong, those first of which it is the most sure.'
  return page.join([page.tag('p', note, class_='note'), pool.tiles(captions)])


def _doubts(folder, climb, problem, pool):
  """Writes the labels that are in doubt, and shows the first of them."""
  if climb.best() is None:
    return ''
  doubts = findings.label_errors(rungs.spread_held_out(problem, climb.folds), climb.labels)
  doubts = doubts[: max(1, round(DOUBTS * len(doubts)))]
  names = pool.class_names
  write_csv(
    folder,
    'label_errors.csv',
    ('path', 'label', 'predicted', 'probability_of_label'),
    [(pool.names[d.position], names[d.given], names[d.predicted], f'{d.probability:.4f}') for d in doubts],
  )
  shown = [doubt for doubt in doubts if doubt.given != doubt.predicted][:SHOWN]
  bold = lambda label: page.tag('b', names[label])
  captions = [
    (d.position, [bold(d.given), f' {100 * d.probability:.0f}%; rather ', bold(d.predicted)])
    for d in shown
  ]
  note = (
    'Labeled images whose label the other images speak against most: it may be wrong, or the image hard. '
    'More of them: label_errors.csv.'
  )
  return page.join([page.tag('p', note, class_='note'), pool.tiles(captions)])


def _duplicates(folder, pool):
  """Writes the images that are nearly the same in two splits, and shows the first of them."""
  pairs = pool.near_duplicates()
  where = lambda position: SPLITS[pool.groups[position]]
  write_csv(
    folder,
    'near_duplicates.csv',
    ('path', 'other', 'split', 'other_split', 'cosine', 'correlation'),
    [
      (pool.names[a], pool.names[b], where(a), where(b), f'{cosine:.4f}', f'{correlation:.4f}')
      for a, b, cosine, correlation in pairs
    ],
  )
  # Those in the test split make it easier than it is.
  pairs = sorted(pairs, key=lambda pair: where(pair.second) != 'test')[: SHOWN // 2]
  if not pairs:
    return ''
  captions = [(p, [page.tag('b', where(p))]) for pair in pairs for p in pair[:2]]
  note = (
    'Pairs, side by side. A test image that is in labeled/ too measures nothing. All: near_duplicates.csv.'
  )
  return page.join([page.tag('p', note, class_='note'), pool.tiles(captions)])


def _strangers(folder, pool):
  """Writes the unlabeled images that are unlike all labeled ones, and shows the first of them."""
  unlabeled = pool.of('unlabeled')
  if not len(unlabeled):
    return ''
  far = findings.strangers(pool.directions[unlabeled], pool.directions[pool.of('labeled')])
  order = np.argsort(-far, kind='stable')
  rows = [(pool.names[unlabeled[i]], f'{far[i]:.4f}') for i in order[: max(SHOWN, len(order) // 5)]]
  write_csv(folder, 'strangers.csv', ('path', 'distance'), rows)
  captions = [(unlabeled[i], [f'distance {far[i]:.2f}']) for i in order[:SHOWN]]
  note = 'They may be of no class at all. More of them: strangers.csv.'
  return page.join([page.tag('p', note, class_='note'), pool.tiles(captions)])


def _map(problem, pool):
  """Draws the images in the plane of their two strongest directions."""
  from sklearn.decomposition import PCA

  if len(pool.directions) < 3:
    return ''
  plane = PCA(2, random_state=0).fit_transform(pool.directions)
  png = plots.draw_map(
    plane[pool.of('unlabeled')], plane[pool.of('labeled')], problem.labeled[1], pool.class_names
  )
  note = 'Large: labeled images, by class. Small: unlabeled ones. Two directions of many (PCA).'
  return page.join(
    [page.tag('p', note, class_='note'), page.tag('figure', page.image(png, 'Images in a plane'))]
  )


def _classes(climb, problem):
  """Builds the accuracy of each class, and notes on classes with few images."""
  names = problem.info.class_names
  lines = findings.class_notes(climb.labels, names)
  best, rows = climb.best(), []
  for label, name in enumerate(names):
    of_class = climb.labels == label
    right = best.right(climb.labels)[of_class].mean() if best and of_class.any() else None
    rows.append((name, int(of_class.sum()), '–' if right is None else f'{100 * right:.0f}%'))
  table = page.table(('class', 'labeled images', 'accuracy'), rows, True)
  if best:
    share = findings.balanced_accuracy(best.right(climb.labels), climb.labels)
    lines.append(f'balanced accuracy, the mean over the classes: {100 * share:.1f}%')
  return page.join([*(page.tag('p', line) for line in lines), table])
