"""The main run and its baselines on the same labeled examples and test images, in one table."""
import contextlib
import dataclasses
import functools
import os
import time
from typing import List, Optional

from meta_pseudo_labels import checkpoints, pictures, report, train
from meta_pseudo_labels.data import semi_supervised, splits, storage
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf

LABELS = {'supervised': 'supervised', 'pseudo_labels': 'pseudo labels', 'uda': 'UDA',
          'mpl': 'MPL', 'reduced_mpl': 'Reduced MPL', 'mpl_without_uda': 'MPL without UDA',
          'label_spreading': 'LabelSpreading'}
GRID = 200  # Points a side of a picture of decision regions.


@dataclasses.dataclass
class Row:
  """A line of the table.

  Attributes:
    name: what is compared.
    steps: optimizer steps made for it, or None where there are none.
    seconds: of training, summed over seeds.
    accuracies: in [0, 1], one a seed.
  """
  name: str
  steps: Optional[int]
  seconds: float
  accuracies: List[float]

  def to_json(self):
    """A dict with the mean `accuracy` too."""
    return {**dataclasses.asdict(self), 'accuracy': float(np.mean(self.accuracies))}

  def accuracy(self):
    """'94.20%', over several seeds '94.20% +- 0.31' (standard deviation)."""
    percent = 100 * np.array(self.accuracies)
    mean = f'{percent.mean():.2f}%'
    return f'{mean} +- {percent.std(ddof=1):.2f}' if len(percent) > 1 else mean


def label_spreading(problem, split):
  """scikit-learn's LabelSpreading (knn, 7 neighbours, alpha .2) on the plain inputs.

  What someone with few labels would reach for first (issue 2). It sees the same labeled and
  unlabeled examples as the methods; no network is trained.

  Args:
    problem: Problem.
    split: name of the split whose accuracy is reported.

  Returns:
    Row.
  """
  from sklearn.semi_supervised import LabelSpreading  # pylint: disable=import-outside-toplevel
  began = time.time()
  flat = lambda inputs: np.asarray(inputs, np.float32).reshape(len(inputs), -1)
  inputs, labels = problem.labeled
  rest = np.setdiff1d(problem.split.unlabeled, problem.split.labeled)
  rest = problem.inputs[rest]
  model = LabelSpreading(kernel='knn', n_neighbors=7, alpha=.2, max_iter=100)
  model.fit(np.concatenate([flat(inputs), flat(rest)]),
            np.concatenate([labels, np.full(len(rest), -1)]))
  evaluated = problem.evaluated[split]
  accuracy = np.mean(model.predict(flat(evaluated.inputs)) == evaluated.labels)
  return Row(LABELS['label_spreading'], None, time.time() - began, [float(accuracy)])


def rows(name, results):
  """The table's rows of one run: `name` as in LABELS, `results` as `train.Run.train` returns."""
  label, phases = LABELS[name], results['phases']
  both = results['method'] in ('mpl', 'reduced_mpl', 'pseudo_labels')
  student = f'{label} student' if both else label
  if results.get('selected'):
    models, step = results['selected']['models'], results['selected']['step']
    # The teacher stands where its student was chosen; a finetune has none.
    return [Row(what, step, results['seconds'], [models[model]['top1']])
            for what, model in ((f'{label} teacher', 'teacher'), (student, 'student'))
            if model in models]
  row = lambda what, phase, model: Row(what, results['steps'][phase], results['seconds'],
                                       [phases[phase][model]['top1']])
  found = []
  if 'teacher' in phases['train']:
    found.append(row(f'{label} teacher', 'train', 'teacher'))
  if 'finetune' in phases:
    found.append(row(f'{label} student before finetune', 'train', 'student'))
    found.append(row(f'{label} student', 'finetune', 'student'))
  else:
    found.append(row(student, 'train', 'student'))
  return found


def merged(seeds):
  """Rows over seeds, from a list of every seed's rows."""
  return [Row(same[0].name, same[0].steps, sum(row.seconds for row in same),
              [accuracy for row in same for accuracy in row.accuracies])
          for same in zip(*seeds)]


def table(lines, split):
  """The table of a list of rows, as text."""
  cells = [('method', 'steps', 'seconds', f'{split} accuracy')] + [
      (row.name, '-' if row.steps is None else str(row.steps), f'{row.seconds:.0f}',
       row.accuracy()) for row in lines]
  widths = [max(len(line[column]) for line in cells) for column in range(4)]
  text = ['  '.join(cell.ljust(width) if column == 0 else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(line, widths))) for line in cells]
  return '\n'.join([text[0], '-' * len(text[0])] + text[1:])


def baseline(config, name):
  """The configuration of a baseline: the run's own but for the method, from scratch, without a
  finetune, in `output_dir/baselines/<name>`."""
  changes = (dict(method='mpl', uda_weight=0.) if name == 'mpl_without_uda'
             else dict(method=name))
  return config.replace(
      baselines='', finetune_steps=0, load_checkpoint=None, mpl_teacher_checkpoint=None,
      mpl_student_checkpoint=None,
      output_dir=os.path.join(config.output_dir, 'baselines', name), **changes)


def train_one_seed(config, problem, strategy, progress, first_phase=None):
  """Trains the baselines and the main method: (rows, {name in LABELS: its regions or None}, the
  main method's train.Run).

  Raises:
    Interrupted: a signal came.
    UserError: see `train.Run`; or LabelSpreading is asked for, but the images are not in memory.
  """
  if 'label_spreading' in config.baseline_names and storage.is_encoded(problem.inputs):
    # Before anything is trained, wherever in the list it stands.
    raise UserError('--baselines=label_spreading: needs images of one size in memory; leave it out, '
                    'or give --views=pad_crop')
  lines, regions = [], {}
  for name in config.baseline_names:
    progress.say(f'Baseline {LABELS[name]}')
    if name == 'label_spreading':
      lines.append(label_spreading(problem, problem.reported(config.eval_split)))
      continue
    settings = baseline(config, name)
    workers.together(strategy, functools.partial(checkpoints.prepare_folder, settings))
    run = train.Run(settings, problem, strategy, progress)
    lines += rows(name, run.train())
    regions[name] = decision_regions(run, problem)
  run = train.Run(config, problem, strategy, progress)
  if first_phase is not None:
    train.require_checkpoint(run)
  lines += rows(config.method_name, run.train(first_phase))
  regions[config.method_name] = decision_regions(run, problem)
  return lines, regions, run


def decision_regions(run, problem):
  """The student's probability of class 1 on a grid over points in a plane, or None.

  Returns:
    float32 `[GRID, GRID]`, rows from low to high y, over `plane(problem)`; None for other data.
  """
  if problem.info.kind != 'points' or problem.num_classes != 2 or problem.input_shape != (2,):
    return None
  (left, right), (low, high) = plane(problem)
  x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(low, high, GRID))
  points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
  model, average = run.phases[-1].models['student']
  with average.applied() if average else contextlib.nullcontext():
    probabilities = tf.nn.softmax(model(points, training=False)).numpy()
  return probabilities[:, 1].reshape(GRID, GRID)


def write_table(folder, lines):
  """Writes a list of rows to `table.json` in a folder."""
  checkpoints.write_json(os.path.join(folder, 'table.json'), [row.to_json() for row in lines])


def plane(problem):
  """((left, right), (low, high)) around all points of a problem in the plane."""
  lowest, highest = problem.inputs.min(axis=0) - .3, problem.inputs.max(axis=0) + .3
  return tuple(zip(lowest.tolist(), highest.tolist()))


def train_and_compare(config, problem, strategy, progress, first_phase=None):
  """Trains baselines and main method with every seed; writes and returns the table's rows.

  The first of `config.num_seeds` seeds lives in `output_dir`, each further one in
  `output_dir/seed_<n>`, with `--seed` and `--label_seed` counted up. Each folder gets a `table.json`
  and a `report.html` of its seed; the first one's table is that of all seeds. For points in a plane
  `decision_regions.png` shows the first seed.

  Args:
    config, problem: of the first seed.
    strategy: tf.distribute.Strategy.
    progress: Progress.
    first_phase: name of the phase to start with (None: the first).

  Returns:
    list of Row.

  Raises:
    Interrupted, UserError: as `train_one_seed`.
  """
  seeds, first = [], config
  for number in range(config.num_seeds):
    if number:
      config = first.replace(
          seed=first.seed + number, num_seeds=1, label_seed=(
              None if first.label_seed is None else first.label_seed + number),
          output_dir=os.path.join(first.output_dir, f'seed_{first.seed + number}'))
      workers.together(strategy, functools.partial(checkpoints.prepare_folder, config))
      problem = workers.together(strategy, functools.partial(semi_supervised.build, config))
    if first.num_seeds > 1:
      progress.say(f'Seed {config.seed} ({number + 1} of {first.num_seeds})')
    splits.write_manifest(os.path.join(config.output_dir, 'labeled_split.json'), problem.split,
                          dataset=config.dataset, labels=problem.labels, names=problem.names)
    lines, regions, run = train_one_seed(config, problem, strategy, progress, first_phase)
    if not number:
      first_problem, first_regions, first_run = problem, regions, run
    else:
      write_table(config.output_dir, lines)
      report.attempt(run, progress)
    seeds.append(lines)
  lines = merged(seeds)
  write_table(first.output_dir, lines)
  drawn = {name: region for name, region in first_regions.items() if region is not None}
  if drawn:
    accuracy = {row.name: row.accuracy() for row in lines}
    title = lambda name: accuracy.get(LABELS[name]) or accuracy[f'{LABELS[name]} student']
    pictures.decision_regions(
        os.path.join(first.output_dir, 'decision_regions.png'),
        {f'{LABELS[name]}\n{title(name)}': region for name, region in drawn.items()},
        plane=plane(first_problem), unlabeled=first_problem.inputs, labeled=first_problem.labeled,
        note=f'{first_problem.reported(first.eval_split)} accuracy of {first.num_seeds} seed(s); '
             'regions of the first')
  report.attempt(first_run, progress)
  return lines
