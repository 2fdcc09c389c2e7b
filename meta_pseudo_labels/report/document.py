"""Writes the report of a run in one file, `report.html`: task report, and the end of every training."""

import dataclasses
import datetime
import os
import platform
import shlex
import sys

from meta_pseudo_labels.config import FLAGS_BY_NAME, Config
from meta_pseudo_labels.data.augment.views import Points
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import one_line
from meta_pseudo_labels.files import read_json, write_text
from meta_pseudo_labels.report import curves, exports, page, plots
from meta_pseudo_labels.training import evaluate, view_samples

import numpy as np
import tensorflow as tf

MISTAKES = 12


def try_write(run, progress):
  """Calls `write`; reports an error in one line, since it does not invalidate a finished training."""
  try:
    return write(run)
  except Exception as error:
    progress.say(
      f'report.html was not written ({type(error).__name__}: {one_line(error)}); '
      'try again with --task_mode=report'
    )
    return None


def write(run):
  """Writes `report.html` into the run's folder, about the student that the run reports.

  Args:
    run: Run whose weights are those of its newest checkpoint; they are restored at the end.

  Returns:
    str, the path.

  Raises:
    OSError: the file cannot be written.
  """
  folder = run.config.output_dir
  results = read_json(workers.path_in_run_folder(os.path.join(folder, 'results.json'))) or {}
  selected = results.get('selected') and run.checkpoints.restore_best()
  try:
    text = _build_page(run, results)
  finally:
    if selected:
      run.checkpoints.restore()
  path = os.path.join(folder, 'report.html')
  write_text(path, text)
  return path


def find_student(run):
  """Returns (phase of the run's current weights, name of the model that the report describes)."""
  phase = run.current
  return phase, 'student' if 'student' in phase.models else next(iter(phase.models))


def _build_page(run, results):
  """Builds the page: str."""
  problem, config = run.problem, run.config
  phase, name = find_student(run)
  outcomes = run.outcomes(phase, name)
  found = evaluate.summarize(outcomes, problem.info.class_names)
  logged = curves.read_metrics(os.path.join(config.output_dir, 'metrics.jsonl'))
  sections = [
    ('results', 'Results', _build_results(run, results)),
    ('what', 'What was run', _build_facts(run)),
    ('curves', 'Learning curves', curves.draw_learning(run, logged)),
    ('losses', 'Losses', curves.draw_charts(run, logged, 'losses')),
    ('feedback', 'Feedback', curves.draw_charts(run, logged, 'feedback')),
    ('pseudo_labels', 'Pseudo labels', curves.draw_charts(run, logged, 'pseudo_labels')),
    ('views', 'Views and their pseudo labels', _build_views(run)),
    ('classes', 'Classes and confidence', _build_classes(found)),
    ('mistakes', 'Most confident mistakes', _build_mistakes(problem, run.reported, outcomes)),
    ('regions', 'Decision regions', _build_regions(config.output_dir)),
    ('export', 'Exported files', exports.build(config.output_dir)),
  ]
  cards = [
    (f'{100 * outcomes.right.mean():.2f}%', f'{run.reported} accuracy of the {name}'),
    (f'{int((~outcomes.right).sum())} of {len(outcomes.labels)}', 'mistakes'),
    (f'{100 * found["calibration"]["ece"]:.2f}%', 'expected calibration error'),
    (len(problem.split.labeled), 'labeled examples'),
    (len(problem.unlabeled), 'unlabeled examples'),
    (_duration(float(run.seconds)), 'of training'),
  ]
  lead = page.tag(
    'div',
    *(
      page.tag('div', page.tag('b', value), page.tag('span', what), class_='card') for value, what in cards
    ),
    class_='cards',
  )
  title = f'{config.method_name.upper()}, {config.model_type} on {config.dataset}'
  return page.document(title, lead, [section for section in sections if section[2]])


def _duration(seconds):
  """Formats a duration: '48 s', '3 min', '2.1 h'."""
  if seconds < 120:
    return f'{seconds:.0f} s'
  return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def list_settings(config):
  """Returns [(flag, value, default)] for flags that differ from their defaults, in the order of --help."""
  default = Config()
  return [
    (name, getattr(config, name), getattr(default, name))
    for name, flag in FLAGS_BY_NAME.items()
    if flag.in_report and getattr(config, name) != getattr(default, name)
  ]


def format_command(config):
  """Returns the command line of this run, one flag per line."""
  flags = [f'--{name}={value}' for name, value, _ in list_settings(config)]
  return ' \\\n  '.join(['python -m meta_pseudo_labels.main'] + [shlex.quote(f) for f in flags])


def _build_facts(run):
  """Builds the section with the data, the network, the versions and the settings."""
  config, problem = run.config, run.problem
  info, split = problem.info, problem.split
  devices = sorted({device.device_type for device in tf.config.list_logical_devices()})
  model = find_student(run)[0].models[find_student(run)[1]][0]
  per_class = np.bincount(problem.labeled[1], minlength=problem.num_classes)
  # The module that tf.keras is from; tf.keras itself has no version.
  keras = sys.modules.get('tf_keras') or sys.modules['keras']
  spread = f'{per_class.min()} to {per_class.max()} per class'
  facts = [
    ('data', f'{info.name}, {problem.num_classes} classes. License: {info.license}'),
    (
      'split',
      f'{len(split.labeled)} labeled ({spread}), {len(problem.unlabeled)} unlabeled, '
      + ', '.join(f'{len(found)} {name}' for name, found in problem.evaluated.items())
      + f' examples; label_seed {config.label_seed}; which ones: labeled_split.json',
    ),
    ('network', f'{config.model_type}, {model.count_params():,} parameters'),
    ('devices', f'{", ".join(devices)}; {run.replicas} replica(s)'),
    (
      'versions',
      f'Python {platform.python_version()}, TensorFlow {tf.__version__}, '
      f'Keras {keras.__version__}, NumPy {np.__version__}, {sys.platform}',
    ),
    ('folder', os.path.abspath(config.output_dir)),
    ('this page', datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC')),
  ]
  differing = [
    (page.tag('code', f'--{name}'), str(value), str(default))
    for name, value, default in list_settings(config)
  ]
  return page.join(
    [
      page.table((), facts),
      page.tag('pre', format_command(config)),
      page.tag(
        'details',
        page.tag('summary', f'{len(differing)} settings that differ from the defaults'),
        page.table(('flag', 'value', 'default'), differing),
      ),
    ]
  )


def _build_results(run, results):
  """Builds the section with the table, the finetune and the selected student."""
  rows = read_json(os.path.join(run.config.output_dir, 'table.json')) or []
  parts = []
  if rows:
    seeds = max(len(row['accuracies']) for row in rows)
    cells = []
    for row in rows:
      percent = 100 * np.array(row['accuracies'])
      deviation = f' ± {percent.std(ddof=1):.2f}' if len(percent) > 1 else ''
      cells.append(
        (
          row['name'],
          '–' if row['steps'] is None else row['steps'],
          _duration(row['seconds']),
          f'{percent.mean():.2f}%{deviation}',
        )
      )
    parts.append(page.table(('method', 'steps', 'training', f'{run.reported} accuracy'), cells, True))
    if seeds > 1:
      parts.append(
        page.tag(
          'p',
          f'Mean ± standard deviation over {seeds} seeds. Everything else on this '
          f'page is about seed {run.config.seed}.',
          class_='note',
        )
      )
  phases = results.get('phases', {})
  if 'finetune' in phases and 'student' in phases.get('train', {}):
    line = lambda what, values: (
      what,
      f'{100 * values["top1"]:.2f}%',
      f'{100 * values["top5"]:.2f}%',
      f'{values["loss"]:.4f}',
    )
    split = run.reported if run.select == 'last' else run.monitored
    parts += [
      page.tag('h3', 'Finetune on the labeled examples'),
      page.table(
        (f'student, {split} split', 'top-1', 'top-5', 'loss'),
        [line('before', phases['train']['student']), line('after', phases['finetune']['student'])],
        True,
      ),
    ]
  chosen = results.get('selected')
  if chosen:
    parts.append(
      page.tag(
        'p',
        f'The student of step {chosen["step"]} ({chosen["phase"]}) was the best on the '
        f'{chosen["by"]} split; it is the one that is reported.',
        class_='note',
      )
    )
  return page.join(parts)


def encode_png(image):
  """Encodes an image, uint8 `[H, W, 1 or 3]`, as PNG bytes."""
  return tf.io.encode_png(image).numpy()


def _build_views(run):
  """Builds the section with original and augmented views and their pseudo labels, or ''."""
  phase = next((phase for phase in reversed(run.phases) if phase.uda_data), None)
  taken = phase and view_samples.take(phase.method, run.problem, run.config.seed)
  if not taken:
    return ''
  names, tiles = run.problem.info.class_names, []
  for original, augmented, truth, label, confidence in zip(
    taken.original, taken.augmented, taken.truth, taken.predicted, taken.confidence
  ):
    caption = [page.tag('b', names[label]), f' {100 * confidence:.1f}%']
    if truth >= 0:
      right = label == truth
      caption += [
        ' ',
        page.tag('span', '✓' if right else f'✗ is {names[truth]}', class_='right' if right else 'wrong'),
      ]
    tiles.append(
      page.tag(
        'figure',
        page.tag(
          'div',
          page.image(encode_png(original), 'original view'),
          page.image(encode_png(augmented), 'augmented view'),
          class_='pair',
        ),
        page.tag('figcaption', *caption),
      )
    )
  return page.join(
    [
      page.tag(
        'p',
        f'Unlabeled images: the original view on the left, the augmented one on the '
        f'right. Labels by {taken.source}; ✓ and ✗ by the true label, where it is known.',
        class_='note',
      ),
      page.tag('div', *tiles, class_='tiles wide'),
    ]
  )


def draw_figures(found):
  """Draws the pictures of `evaluate.summarize`: {name: PNG bytes}."""
  names = [entry['class'] for entry in found['per_class']]
  return {
    'confusion': plots.draw_confusion(found['confusion'], names),
    'per_class': plots.draw_per_class(found['per_class']),
    'reliability': plots.draw_reliability(found['calibration']),
  }


def _build_classes(found):
  """Builds the section with the confusions, the classes and the calibration."""
  drawn = draw_figures(found)
  alts = {
    'confusion': 'Confusion matrix: true classes down, predicted ones across',
    'per_class': 'Accuracy of each class',
    'reliability': 'Reliability: accuracy over confidence',
  }
  matrix, names = np.array(found['confusion']), [entry['class'] for entry in found['per_class']]
  np.fill_diagonal(matrix, 0)
  order = np.argsort(-matrix, axis=None, kind='stable')[:5]
  pairs = [
    f'{names[true]} as {names[taken]} ({matrix[true, taken]})'
    for true, taken in zip(*np.unravel_index(order, matrix.shape))
    if matrix[true, taken]
  ]
  parts = [
    page.tag(
      'div',
      *(page.tag('figure', page.image(drawn[name], alt)) for name, alt in alts.items()),
      class_='charts',
    )
  ]
  if pairs:
    parts.append(page.tag('p', f'Most frequent confusions: {", ".join(pairs)}.'))
  rows = [
    (
      entry['class'],
      entry['examples'],
      entry['right'],
      '–' if entry['accuracy'] is None else f'{100 * entry["accuracy"]:.1f}%',
    )
    for entry in found['per_class']
  ]
  parts.append(
    page.tag(
      'details',
      page.tag('summary', f'{len(rows)} classes in numbers'),
      page.table(('class', 'examples', 'right', 'accuracy'), rows, True),
    )
  )
  return page.join(parts)


def _build_mistakes(problem, split, outcomes):
  """Builds the section with the most confident mistakes as images, or '' for points or no mistakes."""
  chosen, problem = outcomes.mistakes(MISTAKES), problem.images or problem
  if isinstance(problem.views, Points) or not len(chosen):
    return ''
  found, names = problem.evaluated[split], problem.info.class_names
  data = dataclasses.replace(found, inputs=found.inputs[chosen], labels=found.labels[chosen])
  inputs, _, _ = next(
    iter(dataclasses.replace(problem, evaluated={split: data}).eval_batches(split, batch_size=len(chosen)))
  )
  tiles = []
  for position, image in zip(chosen, view_samples.restore_pixels(problem.views, inputs)):
    name = (
      found.inputs.name(position)
      if hasattr(found.inputs, 'name')
      else (None if found.names is None else found.names[position])
    )
    tiles.append(
      page.tag(
        'figure',
        page.image(encode_png(image), f'example {position}'),
        page.tag(
          'figcaption',
          page.tag('b', names[outcomes.predicted[position]]),
          f' {100 * outcomes.confidence[position]:.1f}%',
          page.Markup('<br>'),
          'is ',
          page.tag('b', names[outcomes.labels[position]]),
          page.Markup('<br>'),
          page.tag('small', name or f'{split} example {position}'),
        ),
      )
    )
  return page.join(
    [
      page.tag(
        'p',
        f'Of {len(outcomes.labels)} {split} examples, those whose wrong class got '
        'the highest probability: the predicted and the true class.',
        class_='note',
      ),
      page.tag('div', *tiles, class_='tiles'),
    ]
  )


def _build_regions(folder):
  """Builds the section with `decision_regions.png`, or '' if there is no such file."""
  path = os.path.join(folder, 'decision_regions.png')
  if not os.path.isfile(path):
    return ''
  with open(path, 'rb') as file:
    return page.tag('figure', page.image(file.read(), 'Decision regions of the methods'))
