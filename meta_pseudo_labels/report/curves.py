"""Draws the report's charts from a run's metrics.jsonl."""

import json
import os

from meta_pseudo_labels.report import page, plots

import numpy as np

POINTS = 300  # The maximum number of points of a curve; of a longer one each point is a mean.
# Charts of the training logs: (section, title, in percent, {log name: label}).
CHARTS = (
  (
    'losses',
    'Training losses',
    False,
    {
      'cross_entropy/student_on_u': 'student, pseudo labels',
      'cross_entropy/student_on_l': 'student, labeled',
      'cross_entropy/teacher_on_u': 'teacher, consistency',
      'cross_entropy/teacher_on_l': 'teacher, labeled',
      'loss/cross_entropy': 'labeled',
      'uda/cross_entropy': 'consistency',
      'uda/fairness': 'fairness',
      'pseudo_labels/loss': 'pseudo labels',
    },
  ),
  (
    'losses',
    'Gradient norms',
    False,
    {
      'grad_norm/student': 'student',
      'grad_norm/teacher': 'teacher',
      'loss/grad_norm': 'of the whole loss',
    },
  ),
  (
    'losses',
    'Learning rates',
    False,
    {'lr/student': 'student', 'lr/teacher': 'teacher', 'loss/lr': 'of the whole loss'},
  ),
  (
    'feedback',
    'Feedback of the student',
    False,
    {
      'mpl/dot_product': 'h, above its average',
      'mpl/moving_dot_product': 'moving average',
      'mpl/dot_product_std': 'standard deviation',
    },
  ),
  (
    'feedback',
    "Pull on the teacher's last layer",
    False,
    {
      'teacher_grad/feedback': 'feedback',
      'teacher_grad/labeled': 'labeled loss',
      'teacher_grad/unlabeled': 'consistency loss',
    },
  ),
  (
    'feedback',
    'Cosine of the feedback with the gradient of',
    False,
    {
      'teacher_grad/cosine_feedback_labeled': 'the labeled loss',
      'teacher_grad/cosine_feedback_unlabeled': 'the consistency loss',
    },
  ),
  (
    'pseudo_labels',
    'Examples above the confidence mask',
    True,
    # Of weights between 0 and 1 it is the mean.
    {'uda/u_ratio': 'unlabeled', 'uda/l_ratio': 'labeled (logged only)'},
  ),
  (
    'pseudo_labels',
    'Thresholds of the unlabeled loss',
    True,
    {
      'uda/threshold_max': 'highest of a class',
      'uda/threshold_mean': 'mean',
      'uda/threshold_min': 'lowest of a class',
      'uda/gaussian_mean': "weights' mean",
      'uda/gaussian_deviation': "weights' deviation",
    },
  ),
  (
    'pseudo_labels',
    'Targets of the unlabeled loss',
    True,
    {
      'uda/u_accuracy': 'right',
      'uda/u_accuracy_used': 'right, of those that count',
      'uda/u_confidence': 'confidence',
    },
  ),
  (
    'pseudo_labels',
    'Pseudo labels',
    True,
    {
      'pseudo_labels/accuracy': 'right',
      'pseudo_labels/agreement': 'student agrees',
      'pseudo_labels/confidence': "teacher's confidence",
      'pseudo_labels/student_confidence': "student's confidence",
    },
  ),
)
ROLES = {'student': 'student, averaged', 'raw_student': 'student', 'teacher': 'teacher'}
NOTES = {
  'losses': 'As logged in training, in nats; the horizontal axis counts the steps of all phases.',
  'feedback': "The feedback of the student's progress on the labeled examples to its teacher, and its "
  'strength (docs/method.md explains how to read it).',
  'pseudo_labels': 'Shares of the unlabeled batch. The true labels are only used to compute the '
  'accuracy, never for training.',
}


def read_metrics(path):
  """Reads the lines of a metrics.jsonl as dicts, without truncated lines; [] if there is no file."""
  lines = []
  if os.path.isfile(path):
    with open(path, encoding='utf-8') as file:
      for line in file:
        try:
          lines.append(json.loads(line))
        except ValueError:
          pass
  return lines


def collect_series(run, logged, kind, names):
  """Collects the logged values: {label: (steps, values)} for those of `names` that were logged.

  Args:
    run: Run.
    logged: list of dicts, from `read_metrics`.
    kind: train or eval.
    names: {log name: label}.
  """
  offsets = {phase.name: run.steps_before(index) for index, phase in enumerate(run.phases)}
  found = {}
  for name, label in names.items():
    points = np.array(
      [
        (offsets[line['phase']] + line['step'], line[name])
        for line in logged
        if line['kind'] == kind and name in line and line['phase'] in offsets
      ],
      float,
    ).reshape(-1, 2)
    if len(points):
      blocks = np.array_split(points, min(len(points), POINTS))
      found[label] = np.array([block.mean(axis=0) for block in blocks]).T
  return found


def _chart(title, found, **kwargs):
  """Draws a chart of `series` as a figure: Markup."""
  alt = f'{title}, by step: {", ".join(found)}'
  return page.tag('figure', page.image(plots.draw_lines(title, found, **kwargs), alt))


def draw_learning(run, logged):
  """Draws the learning curves of the evaluations: Markup, or '' if there are none."""
  drawn = []
  for measure, title, percent in (('top1', 'Accuracy', True), ('loss', 'Loss', False)):
    names = {f'{model}/{measure}': label for model, label in ROLES.items()}
    found = collect_series(run, logged, 'eval', names)
    if found:
      drawn.append(_chart(f'{title} on the {run.monitored} split', found, percent=percent))
  return page.tag('div', *drawn, class_='charts') if drawn else ''


def draw_charts(run, logged, section):
  """Draws the charts of one section of CHARTS: Markup, or '' if nothing of it was logged."""
  drawn = []
  for where, title, percent, names in CHARTS:
    if where == section:
      if not (run.problem.truth >= 0).any():
        names = {name: label for name, label in names.items() if '_accuracy' not in name.replace('/', '_')}
      found = collect_series(run, logged, 'train', names)
      if found:
        drawn.append(_chart(title, found, percent=percent))
  if not drawn:
    return ''
  return page.join(
    [page.tag('p', NOTES[section], class_='note'), page.tag('div', *drawn, class_='charts')]
  )
