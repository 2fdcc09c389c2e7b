"""From a folder of images to a classifier, its accuracy, and what the unlabeled images were worth."""

import os

from meta_pseudo_labels import build
from meta_pseudo_labels.config import seconds_of
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.features.linear import Linear
from meta_pseudo_labels.files import write_json
from meta_pseudo_labels.inference import classifier, saved_model
from meta_pseudo_labels.ladder import climb as climbing
from meta_pseudo_labels.ladder import intervals, page, rungs
from meta_pseudo_labels.models import heads

import numpy as np


def run(config, problem, strategy, say, began):
  """Climbs the ladder, trains the best rung on all labeled images, measures and exports it.

  Writes `ladder.json`, `ladder.npz`, `saved_model`, and what `page.write` does, into `config.output_dir`.

  Args:
    config: Config.
    problem: Problem of features of plain views.
    strategy: tf.distribute.Strategy.
    say: function of a line (str).
    began: float, when the time limit began (time.monotonic).

  Raises:
    UserError: the folder holds the ladder of other data.
  """
  climb = climbing.Climb(config, problem, strategy, say, began)
  folds = climb.folds.max() + 1
  if folds > 1:
    say(
      f'{climb.compared_by} in {folds}-fold cross-validation of {len(climb.labels)} labeled images, with '
      'its 95 % interval, and the gain over the first'
    )
  climb.go(seconds_of(config.time_limit))
  best = climb.best()
  rung = best.rung if best else rungs.RUNGS[0]
  say(climbing.sentence(climb))
  say(f'training the best of them on all labeled images: {rung.name}')
  whole = climbing.all_labels(climb.problem_for(rung))
  found = climb.fit(rung, whole, 'all')
  logits = _test_logits(climb, rung, found, whole) if 'test' in problem.evaluated else {}
  labels = problem.evaluated['test'].labels if logits else np.empty(0, np.int32)
  tests = {name: values.argmax(axis=1) == labels for name, values in logits.items()}
  for name, right in tests.items():
    share, lower, upper = climb.accuracy(right, labels)
    what = 'balanced accuracy on' if climb.balanced else 'of'
    say(
      f'{name}: {100 * share:.1f} % {what} {len(right)} test images [{100 * lower:.1f}, {100 * upper:.1f}]'
    )
  folder = os.path.join(config.output_dir, 'saved_model')
  serving = Serving.of(problem, build.architectures(config))
  saved_model.write(classifier.Classifier(_model(found, whole, config), serving), folder)
  write_json(os.path.join(config.output_dir, 'ladder.json'), _facts(climb, rung, tests, labels))
  title = f'{os.path.basename(os.path.normpath(config.data_dir or config.dataset))}: a first answer'
  report = page.write(
    config.output_dir, climb, whole, title=title, sentence=climbing.sentence(climb), tests=logits
  )
  say(f'report: {report}; beside it label_errors.csv, near_duplicates.csv, strangers.csv')
  say(f'SavedModel: {folder}')
  say(f'predict with --task_mode=predict --saved_model={folder} --input=FOLDER --output=predictions.csv')


def _model(found, problem, config):
  """Returns the Keras model from views of images to logits of what `Climb.fit` returned."""
  if not isinstance(found, Linear):
    return classifier.take_weights(found.phases, 'ema')
  head = heads.head('linear', num_classes=problem.num_classes, num_features=problem.input_shape[0])
  heads.set_linear(head, *found)
  return heads.join(problem.backbone, head)


def _test_logits(climb, rung, found, problem):
  """Returns {name: float `[n, K]`}: of the test images, by the first rung and the best one."""
  inputs, first = problem.evaluated['test'].inputs, rungs.RUNGS[0]
  logits = {first.name: rungs.fit_logistic_regression(problem).logits(inputs[:, 0])}
  if rung is not first:
    logits[rung.name] = climb.logits(found, inputs)
  return logits


def _facts(climb, rung, tests, test_labels):
  """Returns what `ladder.json` says: a dict of JSON values."""
  as_dict = lambda values: dict(zip(('value', 'lower', 'upper'), values))
  return {
    'labeled': len(climb.labels),
    'folds': int(climb.folds.max() + 1),
    'compared_by': climb.compared_by.replace(' ', '_'),
    'rungs': [
      {
        'name': found.rung.name,
        'unlabeled': found.rung.unlabeled,
        'accuracy': as_dict(intervals.accuracy(found.right(climb.labels))),
        'balanced_accuracy': as_dict(intervals.accuracy(found.right(climb.labels), climb.labels)),
        'gain': as_dict(climb.gain(found)),
        'seconds': found.seconds,
      }
      for found in climb.measured
    ],
    'left_out': dict(climb.left_out),
    'best': rung.name,
    'sentence': climbing.sentence(climb),
    'test': {
      name: {
        **as_dict(intervals.accuracy(right)),
        'balanced_accuracy': as_dict(intervals.accuracy(right, test_labels)),
        'examples': len(right),
      }
      for name, right in tests.items()
    },
    'test_gain': as_dict(climb.difference(*reversed(list(tests.values())), test_labels))
    if len(tests) == 2
    else None,
  }
