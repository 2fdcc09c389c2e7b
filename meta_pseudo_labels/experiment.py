"""Trains the main method and its baselines on the same labeled examples and compares them in a table."""

import contextlib
import dataclasses
import functools
import os
import time
from typing import List, Optional

from meta_pseudo_labels import build
from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.data import semi_supervised, splits, storage
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import write_json
from meta_pseudo_labels.report import document, plots
from meta_pseudo_labels.training import fit_memory

import numpy as np
import tensorflow as tf

LABELS = {
  'supervised': 'supervised',
  'pseudo_labels': 'pseudo labels',
  'uda': 'UDA',
  'mpl': 'MPL',
  'reduced_mpl': 'Reduced MPL',
  'mpl_without_uda': 'MPL without UDA',
  'label_spreading': 'LabelSpreading',
}
GRID = 200  # Points per side of a picture of decision regions.


@dataclasses.dataclass
class Row:
  """A row of the table.

  Attributes:
    name: of the compared model or method.
    steps: number of optimizer steps, or None if there are none.
    seconds: training time, summed over seeds.
    accuracies: in [0, 1], one per seed.
  """

  name: str
  steps: Optional[int]
  seconds: float
  accuracies: List[float]

  def to_json(self):
    """Returns the fields and the mean `accuracy` as a dict."""
    return {**dataclasses.asdict(self), 'accuracy': float(np.mean(self.accuracies))}

  def accuracy(self):
    """Returns '94.20%', or for several seeds '94.20% +- 0.31' (standard deviation)."""
    percent = 100 * np.array(self.accuracies)
    mean = f'{percent.mean():.2f}%'
    return f'{mean} +- {percent.std(ddof=1):.2f}' if len(percent) > 1 else mean


def evaluate_label_spreading(problem, split):
  """Evaluates scikit-learn's LabelSpreading (knn, 7 neighbours, alpha 0.2) on the unaugmented inputs.

  It is a common first choice when labels are few. It sees the same labeled and unlabeled examples as
  the methods; no network is trained.

  Args:
    problem: Problem.
    split: name of the split whose accuracy is reported.

  Returns:
    Row.
  """
  from sklearn.semi_supervised import LabelSpreading

  began = time.time()
  flat = lambda inputs: np.asarray(inputs, np.float32).reshape(len(inputs), -1)
  inputs, labels = problem.labeled
  rest = np.setdiff1d(problem.split.unlabeled, problem.split.labeled)
  rest = problem.inputs[rest]
  model = LabelSpreading(kernel='knn', n_neighbors=7, alpha=0.2, max_iter=100)
  model.fit(np.concatenate([flat(inputs), flat(rest)]), np.concatenate([labels, np.full(len(rest), -1)]))
  evaluated = problem.evaluated[split]
  accuracy = np.mean(model.predict(flat(evaluated.inputs)) == evaluated.labels)
  return Row(LABELS['label_spreading'], None, time.time() - began, [float(accuracy)])


def make_rows(name, results):
  """Returns the table's rows of one run: `name` is a key of LABELS, `results` is from `Run.train`."""
  label, phases = LABELS[name], results['phases']
  both = results['method'] in ('mpl', 'reduced_mpl', 'pseudo_labels')
  student = f'{label} student' if both else label
  if results.get('selected'):
    models, step = results['selected']['models'], results['selected']['step']
    # The teacher is that of the step at which its student was selected; a finetune has no teacher.
    return [
      Row(what, step, results['seconds'], [models[model]['top1']])
      for what, model in ((f'{label} teacher', 'teacher'), (student, 'student'))
      if model in models
    ]
  row = lambda what, phase, model: Row(
    what, results['steps'][phase], results['seconds'], [phases[phase][model]['top1']]
  )
  found = []
  if 'teacher' in phases['train']:
    found.append(row(f'{label} teacher', 'train', 'teacher'))
  if 'finetune' in phases:
    found.append(row(f'{label} student before finetune', 'train', 'student'))
    found.append(row(f'{label} student', 'finetune', 'student'))
  else:
    found.append(row(student, 'train', 'student'))
  return found


def merge_seeds(seeds):
  """Merges a list of every seed's rows into rows over all seeds."""
  return [
    Row(
      same[0].name,
      same[0].steps,
      sum(row.seconds for row in same),
      [accuracy for row in same for accuracy in row.accuracies],
    )
    for same in zip(*seeds)
  ]


def format_table(lines, split):
  """Formats a list of rows as a text table."""
  cells = [('method', 'steps', 'seconds', f'{split} accuracy')] + [
    (row.name, '-' if row.steps is None else str(row.steps), f'{row.seconds:.0f}', row.accuracy())
    for row in lines
  ]
  widths = [max(len(line[column]) for line in cells) for column in range(4)]
  text = [
    '  '.join(
      cell.ljust(width) if column == 0 else cell.rjust(width)
      for column, (cell, width) in enumerate(zip(line, widths))
    )
    for line in cells
  ]
  return '\n'.join([text[0], '-' * len(text[0])] + text[1:])


def configure_baseline(config, name):
  """Returns the configuration of a baseline.

  It is the run's own except for the method. A baseline trains from scratch, without a finetune, in
  `output_dir/baselines/<name>`.
  """
  changes = dict(method='mpl', uda_weight=0.0) if name == 'mpl_without_uda' else dict(method=name)
  return config.replace(
    baselines='',
    finetune_steps=0,
    load_checkpoint=None,
    mpl_teacher_checkpoint=None,
    mpl_student_checkpoint=None,
    output_dir=os.path.join(config.output_dir, 'baselines', name),
    **changes,
  )


def compute_decision_regions(run, problem):
  """Computes the student's probability of class 1 on a grid over points in a plane.

  Returns:
    float32 `[GRID, GRID]` over `plane_bounds(problem)`, rows from low to high y; None for other data.
  """
  if problem.info.kind != 'points' or problem.num_classes != 2 or problem.input_shape != (2,):
    return None
  (left, right), (low, high) = plane_bounds(problem)
  x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(low, high, GRID))
  points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
  model, average = run.phases[-1].models['student']
  with average.applied() if average else contextlib.nullcontext():
    probabilities = tf.nn.softmax(model(points, training=False)).numpy()
  return probabilities[:, 1].reshape(GRID, GRID)


def plane_bounds(problem):
  """Returns ((left, right), (low, high)) around all points of a problem in the plane."""
  lowest, highest = problem.inputs.min(axis=0) - 0.3, problem.inputs.max(axis=0) + 0.3
  return tuple(zip(lowest.tolist(), highest.tolist()))


def configure_seed(config, number):
  """Returns the configuration of a seed, counted from 0; the first one is the run's own."""
  if not number:
    return config
  return config.replace(
    seed=config.seed + number,
    num_seeds=1,
    label_seed=None if config.label_seed is None else config.label_seed + number,
    output_dir=os.path.join(config.output_dir, f'seed_{config.seed + number}'),
  )


def train_and_compare(config, problem, strategy, progress, first_phase=None):
  """Trains the baselines and the main method with every seed; writes and returns the table's rows.

  The first of `config.num_seeds` seeds is written to `output_dir`, each further one to
  `output_dir/seed_<n>`. `--seed` and `--label_seed` increase by one per seed. Each folder gets a
  `table.json` and a `report.html` of its seed; the table in `output_dir` is that of all seeds. For
  points in a plane `decision_regions.png` shows the first seed.

  Args:
    config, problem: of the first seed.
    strategy: tf.distribute.Strategy.
    progress: Progress.
    first_phase: name of the phase that the main method starts with (None: the first).

  Returns:
    list of Row.

  Raises:
    Interrupted: a signal came.
    UserError: see `Run`; or LabelSpreading is a baseline, but the images are not in memory.
  """
  _check_baselines(config, problem)
  seeds, regions, first = [], {}, None
  for number in range(config.num_seeds):
    own = configure_seed(config, number)
    if number:
      problem = _prepare_seed(own, strategy)
    if config.num_seeds > 1:
      progress.say(f'Seed {own.seed} ({number + 1} of {config.num_seeds})')
    splits.write_manifest(
      os.path.join(own.output_dir, 'labeled_split.json'),
      problem.split,
      dataset=own.dataset,
      labels=problem.labels,
      names=problem.names,
    )
    rows = []
    for name in own.baseline_names:
      progress.say(f'Baseline {LABELS[name]}')
      if name == 'label_spreading':
        rows.append(evaluate_label_spreading(problem, problem.reported(own.eval_split)))
        continue
      settings = configure_baseline(own, name)
      workers.run_on_all(strategy, functools.partial(run_folder.prepare_folder, settings))
      run, results = fit_memory.train(settings, problem, strategy, progress)
      rows += make_rows(name, results)
      regions.setdefault(name, compute_decision_regions(run, problem))
    run, results = fit_memory.train(own, problem, strategy, progress, first_phase)
    rows += make_rows(own.method_name, results)
    regions.setdefault(own.method_name, compute_decision_regions(run, problem))
    seeds.append(rows)
    first = first or run
    if number:
      _finish_seed(run, rows, progress)
  rows = merge_seeds(seeds)
  _draw_regions(first, regions, rows)
  _finish_seed(first, rows, progress)
  return rows


def _check_baselines(config, problem):
  """Raises UserError if a baseline cannot use the data, before anything is trained."""
  if 'label_spreading' in config.baseline_names and not storage.of_one_size(problem.inputs):
    raise UserError(
      '--baselines=label_spreading: needs images of one size in memory; leave it out, '
      'or give --views=pad_crop'
    )


def _prepare_seed(config, strategy):
  """Creates the folder of a further seed; returns its Problem."""
  workers.run_on_all(strategy, functools.partial(run_folder.prepare_folder, config))
  return workers.run_on_all(strategy, functools.partial(build.problem, config))


def _finish_seed(run, rows, progress):
  """Writes `table.json` and `report.html` into a run's folder."""
  write_json(os.path.join(run.config.output_dir, 'table.json'), [row.to_json() for row in rows])
  document.try_write(run, progress)


def _draw_regions(run, regions, rows):
  """Draws `decision_regions.png` of the first seed's Run, if there are regions to draw."""
  config, problem = run.config, run.problem
  drawn = {name: region for name, region in regions.items() if region is not None}
  if not drawn:
    return
  accuracy = {row.name: row.accuracy() for row in rows}
  title = lambda name: accuracy.get(LABELS[name]) or accuracy[f'{LABELS[name]} student']
  plots.draw_decision_regions(
    os.path.join(config.output_dir, 'decision_regions.png'),
    {f'{LABELS[name]}\n{title(name)}': region for name, region in drawn.items()},
    plane=plane_bounds(problem),
    unlabeled=problem.inputs,
    labeled=problem.labeled,
    note=f'{problem.reported(config.eval_split)} accuracy of {config.num_seeds} seed(s); '
    'regions of the first',
  )
