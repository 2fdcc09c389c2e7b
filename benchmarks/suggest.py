"""What it is worth to label the images that --task_mode=suggest names, instead of as many random ones.

  python benchmarks/suggest.py [--dataset_name=digits|fashion_mnist] [--per_class=3] [--count=100]

For each seed: a few random labels a class, logistic regression on the pixels, then --count more labels,
chosen in several ways, and logistic regression once more. Prints the test accuracies, and the differences
from random labels with their 95 % intervals, paired by seed. --all compares the other ways of choosing.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.features import linear, spreading, suggest

import numpy as np
from scipy import special, stats

SIZES = {'digits': 8, 'fashion_mnist': 28}


class Pool:
  """The training images of a dataset as points, of which some are labeled.

  Attributes:
    inputs, labels: float32 `[n, D]`, int `[n]`, of which the labels that are not `known` are unseen.
    scale: float32 `[D]`, deviations of the inputs.
    directions: float32 `[n, d]`.
    known, unknown: int64, positions of the images with and without a label.
    probabilities: float `[u, K]`, what logistic regression on the known labels says of the others.
    random: RandomState.
  """

  def __init__(self, inputs, labels):
    self.inputs, self.labels = inputs, labels
    self.scale, self.directions = linear.deviations(inputs), spreading.embed(inputs)

  def start(self, seed, per_class):
    """Labels `per_class` random images of each class."""
    self.random = np.random.RandomState(seed)
    drawn = [
      self.random.permutation(np.flatnonzero(self.labels == label))[:per_class]
      for label in np.unique(self.labels)
    ]
    self.known = np.concatenate(drawn)
    self.unknown = np.setdiff1d(np.arange(len(self.labels)), self.known)
    self.probabilities = special.softmax(self.fit(self.known).logits(self.inputs[self.unknown]), axis=1)

  def fit(self, chosen):
    """Returns logistic regression on the labels of the images at some positions."""
    num_classes = int(self.labels.max()) + 1
    return linear.logistic_regression(
      self.inputs[chosen], self.labels[chosen], num_classes, scale=self.scale
    )


def choose_random(pool, count):
  """Returns the positions among `pool.unknown` of random images."""
  return pool.random.permutation(len(pool.unknown))[:count]


def choose_unsure(pool, count):
  """Returns those of the images that the classifier is the least sure of."""
  return np.argsort(-suggest.uncertainty(pool.probabilities), kind='stable')[:count]


def choose_by_clusters(pool, count):
  """Returns those nearest to the centers of k-means, weighted by uncertainty (Zhdanov 2019)."""
  from sklearn.cluster import KMeans

  directions = pool.directions[pool.unknown]
  means = KMeans(count, n_init=1, random_state=pool.random.randint(2**31))
  means.fit(directions, sample_weight=suggest.uncertainty(pool.probabilities))
  return _nearest_to_centers(means, directions, range(count))


def choose_typical(pool, count):
  """Returns those in the largest clusters that have no label (TypiClust, Hacohen et al. 2022)."""
  from sklearn.cluster import KMeans

  directions = pool.directions[np.concatenate([pool.known, pool.unknown])]
  means = KMeans(count + len(pool.known), n_init=1, random_state=pool.random.randint(2**31)).fit(
    directions
  )
  clusters = np.arange(means.n_clusters)
  labeled = (means.labels_[: len(pool.known), np.newaxis] == clusters).sum(axis=0)
  means.labels_ = means.labels_[len(pool.known) :]
  sizes = (means.labels_[:, np.newaxis] == clusters).sum(axis=0)
  order = np.lexsort((-sizes, labeled))
  return _nearest_to_centers(means, pool.directions[pool.unknown], order[:count])


def _nearest_to_centers(means, directions, clusters):
  """Returns the position nearest to the center of each of some clusters, if it has any."""
  distances = means.transform(directions)
  members = {cluster: np.flatnonzero(means.labels_ == cluster) for cluster in clusters}
  return np.array([found[distances[found, c].argmin()] for c, found in members.items() if len(found)])


def choose_evenly(pool, count):
  """Returns the task's suggestions if the classifier were equally unsure of all images."""
  return _suggest(pool, count, np.ones(len(pool.unknown)))


def choose_suggested(pool, count):
  """Returns the task's suggestions."""
  return _suggest(pool, count, suggest.uncertainty(pool.probabilities))


def _suggest(pool, count, weights):
  known, unknown = pool.directions[pool.known], pool.directions[pool.unknown]
  return suggest.suggest(unknown, known, weights, count).positions


WAYS = {
  'random': choose_random,
  'the least sure': choose_unsure,
  'k-means, weighted': choose_by_clusters,
  'TypiClust': choose_typical,
  'suggested, without weights': choose_evenly,
  'suggested': choose_suggested,
}


def measure(pool, test, ways, seed, per_class, count):
  """Returns {way: test accuracy in percent} of one seed, 'start' among them."""
  pool.start(seed, per_class)
  accuracy = lambda chosen: 100 * np.mean(pool.fit(chosen).logits(test[0]).argmax(axis=1) == test[1])
  found = {'start': accuracy(pool.known)}
  for way in ways:
    pool.random.seed(seed)
    found[way] = accuracy(np.concatenate([pool.known, pool.unknown[WAYS[way](pool, count)]]))
  return found


def format_table(rows):
  """Returns a table in Markdown of [{way: accuracy}], one dict a seed."""
  lines = ['| labels | test accuracy | over random |', '|---|---|---|']
  for way in rows[0]:
    found = np.array([row[way] for row in rows])
    text = f'| {way} | {found.mean():.2f} ± {found.std(ddof=1):.2f} |'
    if way not in ('start', 'random'):
      gain = found - [row['random'] for row in rows]
      half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
      text += f' {gain.mean():+.2f} ± {half:.2f} |'
    lines.append(text if text.count('|') == 4 else f'{text} |')
  return '\n'.join(lines)


def load(name, images):
  """Returns (Pool of at most so many training images, (test inputs, test labels))."""
  problem = build.problem(Config(dataset_name=name, image_size=SIZES[name]))
  as_points = lambda inputs: np.asarray(inputs, np.float32).reshape([len(inputs), -1])
  chosen = np.random.RandomState(0).permutation(len(problem.inputs))[:images]
  test = problem.evaluated['test']
  return Pool(as_points(problem.inputs[chosen]), problem.labels[chosen]), (
    as_points(test.inputs),
    test.labels,
  )


def run():
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--dataset_name', default='digits', choices=SIZES)
  parser.add_argument('--images', type=int, default=5000, help='training images that there are, at most')
  parser.add_argument('--per_class', type=int, default=3, help='labels of each class to start from')
  parser.add_argument('--count', type=int, default=100, help='labels that are added')
  parser.add_argument('--seeds', default='0-9')
  parser.add_argument('--all', action='store_true', help='other ways of choosing too')
  flags = parser.parse_args()
  first, last = map(int, flags.seeds.split('-'))
  pool, test = load(flags.dataset_name, flags.images)
  ways = list(WAYS) if flags.all else ['random', 'suggested']
  rows = [measure(pool, test, ways, seed, flags.per_class, flags.count) for seed in range(first, last + 1)]
  print(format_table(rows))


if __name__ == '__main__':
  run()
