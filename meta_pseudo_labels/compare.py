"""The main run and its baselines on the same labeled examples and test images, in one table."""
import os
import time

import numpy as np

from meta_pseudo_labels import checkpoints
from meta_pseudo_labels import train

LABELS = {'supervised': 'supervised', 'pseudo_labels': 'pseudo labels', 'uda': 'UDA',
          'mpl': 'MPL'}


def label_spreading(problem):
  """scikit-learn's LabelSpreading (knn, 7 neighbours, alpha .2) on the plain inputs.

  What someone with few labels would reach for first (issue 2). It sees the same labeled and
  unlabeled examples as the methods; no network is trained.

  Args:
    problem: Problem.

  Returns:
    {'top1': accuracy in [0, 1], 'seconds': float}.
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
  accuracy = np.mean(model.predict(flat(problem.eval_inputs)) == problem.eval_labels)
  return {'top1': float(accuracy), 'seconds': time.time() - began}


def rows(method, results):
  """One method's rows of the table: [(name, steps, seconds, accuracy in [0, 1])]."""
  name, phases = LABELS[method], results['phases']
  line = lambda what, phase, model: (what, results['steps'][phase], results['seconds'],
                                     phases[phase][model]['top1'])
  found = []
  if 'teacher' in phases['train']:
    found.append(line(f'{name} teacher', 'train', 'teacher'))
  if 'finetune' in phases:
    found.append(line(f'{name} student before finetune', 'train', 'student'))
    found.append(line(f'{name} student', 'finetune', 'student'))
  else:
    both = method in ('mpl', 'pseudo_labels')
    found.append(line(f'{name} student' if both else name, 'train', 'student'))
  return found


def table(lines, split):
  """The table as text; `lines` as `rows` returns them, None where there is no number."""
  cells = [('method', 'steps', 'seconds', f'{split} accuracy')] + [
      (name, '-' if steps is None else str(steps), f'{seconds:.0f}', f'{100 * accuracy:.2f}%')
      for name, steps, seconds, accuracy in lines]
  widths = [max(len(line[column]) for line in cells) for column in range(4)]
  text = ['  '.join(cell.ljust(width) if column == 0 else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(line, widths))) for line in cells]
  return '\n'.join([text[0], '-' * len(text[0])] + text[1:])


def train_and_compare(config, problem, strategy, progress, first_phase=None):
  """Trains the baselines and the main method, and writes and returns the table's lines.

  Each baseline runs in `output_dir/baselines/<name>`, with the same configuration but for the
  method, and without a finetune. `output_dir/table.json` holds the lines.

  Raises:
    Interrupted: a signal came.
    UserError: see `train.Run`.
  """
  lines = []
  for name in config.baseline_names:
    progress.say(f'Baseline {name}')
    if name == 'label_spreading':
      result = label_spreading(problem)
      lines.append(('LabelSpreading', None, result['seconds'], result['top1']))
      continue
    # From scratch: what the main run may start from is another method's.
    baseline = config.replace(
        method=name, baselines='', finetune_steps=0, load_checkpoint=None,
        mpl_teacher_checkpoint=None, mpl_student_checkpoint=None,
        output_dir=os.path.join(config.output_dir, 'baselines', name))
    checkpoints.prepare_folder(baseline)
    lines += rows(name, train.Run(baseline, problem, strategy, progress).train())
  run = train.Run(config, problem, strategy, progress)
  if first_phase is not None:
    train.require_checkpoint(run)
  lines += rows(config.method_name, run.train(first_phase))
  checkpoints.write_json(os.path.join(config.output_dir, 'table.json'), [
      dict(zip(('name', 'steps', 'seconds', 'accuracy'), line)) for line in lines])
  return lines
