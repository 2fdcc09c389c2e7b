"""Task suggest: which unlabeled images to label next, as a list and as a page to label them on."""

import dataclasses
import os

from meta_pseudo_labels.data.formats import label_file
from meta_pseudo_labels.data.images.facts import CannotDecode
from meta_pseudo_labels.errors import UserError, one_line
from meta_pseudo_labels.features import spreading, suggest
from meta_pseudo_labels.files import write_text
from meta_pseudo_labels.ladder import labeling_page, page, rungs

import numpy as np
from scipy import special  # scikit-learn needs it.

LIKELY = 3  # Classes of an image that the page has a button for.


def write(config, problem, say):
  """Writes `suggest/suggest.csv` and `suggest/suggest.html` into `config.output_dir`.

  Args:
    config: Config.
    problem: Problem of features of one's own images, with all labeled ones.
    say: function of a line (str).

  Raises:
    UserError: there are no unlabeled images, or one can no longer be read.
  """
  candidates = np.flatnonzero(problem.labels < 0)
  if not len(candidates):
    raise UserError(
      f'--data_dir={config.data_dir}: no image is without a label; add some to the folder unlabeled/'
    )
  features = lambda positions: np.asarray(problem.inputs[positions][:, 0], np.float32)
  logits = rungs.fit_logistic_regression(problem).logits(features(candidates))
  probabilities = special.softmax(logits, axis=1)
  labeled = problem.split.labeled
  directions = spreading.embed(features(np.concatenate([labeled, candidates])))
  found = suggest.suggest(
    directions[len(labeled) :],
    directions[: len(labeled)],
    suggest.uncertainty(probabilities),
    config.suggest_images,
    config.seed,
  )
  items = _items(problem, candidates[found.positions], probabilities[found.positions], found.stands_for)
  folder = os.path.join(config.output_dir, 'suggest')
  _write_list(folder, items)
  pictures = _pictures(config.data_dir, problem.decoding, [item['path'] for item in items])
  title = f'{os.path.basename(os.path.abspath(config.data_dir))}: {len(items)} images to label'
  for item, picture in zip(items, pictures):
    item['image'] = picture
  path = os.path.join(folder, 'suggest.html')
  given = label_file.read(config.labels, config.data_dir).items() if config.labels else ()
  write_text(path, labeling_page.fill_in(title, problem.info.class_names, items, given))
  say(f'{len(items)} of {len(candidates)} unlabeled images: {os.path.join(folder, "suggest.csv")}')
  say(f'label them in a browser: {path}; then add --labels=labels.csv, the file that the page saves')


def _items(problem, positions, probabilities, stands_for):
  """Returns what the list and the page say of each image, without its picture: list of dicts."""
  names = problem.info.class_names
  items = []
  for position, row, others in zip(positions, probabilities, stands_for):
    likely = np.argsort(-row, kind='stable')[:LIKELY]
    items.append(
      {
        'path': str(problem.names[position]),
        'likely': [[names[label], round(float(row[label]), 4)] for label in likely],
        'stands_for': int(others),
      }
    )
  return items


def _write_list(folder, items):
  """Writes `suggest.csv`."""
  os.makedirs(folder, exist_ok=True)
  rows = [(item['path'], *item['likely'][0], item['likely'][1][0], item['stands_for']) for item in items]
  header = ('path', 'guess', 'confidence', 'second_guess', 'stands_for')
  page.write_csv(folder, 'suggest.csv', header, rows)


def _pictures(data_dir, decoding, names):
  """Yields pictures of image files, all of each image, decoded as for training. Raises UserError."""
  decoding = dataclasses.replace(decoding, side=labeling_page.SIDE, square=False)
  for name in names:
    path = os.path.join(data_dir, name)
    try:
      with open(path, 'rb') as file:
        pixels = decoding.in_python(file.read())[0]
    except (OSError, CannotDecode) as error:
      raise UserError(f'{path}: cannot be read ({one_line(error)}); start again') from error
    yield labeling_page.encode_picture(pixels)
