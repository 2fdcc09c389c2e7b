"""The tasks by name: what each needs, and what it does.

A task is a function of a validated Config and a Progress. Those on a trained run take the settings
that they are not told from the `hparams.json` of its folder.
"""

import contextlib
import dataclasses
import json
import os
import time
from typing import Any

from meta_pseudo_labels import build, experiment
from meta_pseudo_labels.checkpoints import convert as conversion
from meta_pseudo_labels.checkpoints import run_folder, saver
from meta_pseudo_labels.config import Config, notes
from meta_pseudo_labels.data import registry, splits, teacher_predictions
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.distribution import devices, gpus, workers
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.files import read_json, write_json
from meta_pseudo_labels.inference import (
  classifier,
  export_run,
  formats,
  predict_files,
  saved_model,
  select_images,
)
from meta_pseudo_labels.ladder import answer as climber
from meta_pseudo_labels.ladder import suggestions
from meta_pseudo_labels.models import heads
from meta_pseudo_labels.report import document
from meta_pseudo_labels.training import evaluate as evaluation
from meta_pseudo_labels.training.logs import Progress
from meta_pseudo_labels.training.run import Run

import numpy as np
import tensorflow as tf

EVAL_FOREVER_SECONDS = 30
# What a training leaves in its folder: what it is to a person, and its name.
RESULTS = (
  ('checkpoints', 'ckpt_last'),
  ('best checkpoint', 'ckpt_best'),
  ('TensorBoard', 'logs'),
  ('metrics', 'metrics.jsonl'),
  ('settings', 'hparams.json'),
  ('labeled split', 'labeled_split.json'),
  ('results', 'results.json'),
  ('picture', 'decision_regions.png'),
  ('report', 'report.html'),
)


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a task on data and devices works with.

  Attributes:
    config: Config, with the data's own number of classes and this worker's own folder.
    problem: Problem.
    strategy: tf.distribute.Strategy.
    progress: Progress; of the chief alone it is seen.
  """

  config: Config
  problem: Any
  strategy: Any
  progress: Progress

  def run(self):
    """Returns the Run in `output_dir`, at its newest checkpoint. Raises UserError without one."""
    run = Run(self.config, self.problem, self.strategy, self.progress)
    run.require_checkpoint()
    return run


@contextlib.contextmanager
def set_up(config, progress, writes=False):
  """Yields a Setup: devices and strategy, the data, and the output folder.

  Args:
    config, progress: of the task.
    writes: whether the task trains: then the folder is locked, and made if need be.
  """
  devices.set_threads(config.intra_op_threads)
  machine = gpus.probe()
  gpus.prepare(machine)
  strategy = devices.create_strategy(
    config.strategy,
    use_tpu=config.use_tpu,
    num_virtual_devices=config.num_virtual_devices,
    master=config.master,
    tpu_topology=config.tpu_topology,
    cores_per_replica=config.num_cores_per_replica,
  )
  is_images = registry.info(config.dataset).kind != 'points'
  config = gpus.choose_precision(config, machine, is_images, run_folder.find_settings(config))
  devices.set_up(config.seed, config.deterministic, config.computes_in)
  if machine:
    for line in gpus.diagnose(machine, config.computes_in, gpus.is_known_for_nan(strategy)):
      progress.say(f'GPU: {line}')
  problem = workers.run_on_all(strategy, lambda: build.problem(config, progress.say))
  lines = notes(config)
  config = config.replace(num_classes=problem.num_classes)
  with contextlib.ExitStack() as stack:
    if writes:
      lines.insert(0, workers.run_on_chief(strategy, lambda: _lock_and_prepare(config, stack)))
    config = config.replace(output_dir=stack.enter_context(workers.folder(strategy, config.output_dir)))
    if not workers.is_chief(strategy):
      progress.say(
        'worker %d of %d, counted from 0: the chief, worker 0, tells the rest'
        % workers.index_and_count(strategy)
      )
      progress = Progress(stack.enter_context(open(os.devnull, 'w', encoding='utf-8')))
    for line in filter(None, lines):
      progress.say(line)
    what = {'ladder': 'ladder of', 'suggest': 'suggestions by'}.get(config.task, config.method_name)
    progress.say(
      f'{what} {config.model_type} on {config.dataset}, {strategy.num_replicas_in_sync} replica(s)'
    )
    yield Setup(config, problem, strategy, progress)


def _lock_and_prepare(config, stack):
  """Locks the output folder until the stack unwinds, and prepares it: the line about that, or ''."""
  stack.enter_context(run_folder.lock(config.output_dir))
  return run_folder.prepare_folder(config)


def train(config, progress, first_phase=None):
  """Trains, then prints the table and where everything is."""
  with set_up(config, progress, writes=True) as setup:
    config, problem, say = setup.config, setup.problem, setup.progress.say
    rows = experiment.train_and_compare(config, problem, setup.strategy, setup.progress, first_phase)
    reported = problem.reported(config.eval_split)
    say('')
    say(
      f'{len(problem.split.labeled)} labeled, {len(problem.unlabeled)} unlabeled, '
      f'{len(problem.evaluated[reported])} {reported} examples of {config.dataset}'
    )
    say(experiment.format_table(rows, reported))
    say('')
    for what, name in RESULTS:
      path = os.path.join(config.output_dir, name)
      if os.path.exists(path):
        say(f'{what + ":":17}{path}')


def finetune(config, progress):
  """Trains the finetune of a run that has been trained."""
  train(config, progress, first_phase='finetune')


def evaluate(config, progress):
  """Evaluates the newest checkpoint: prints it, writes `eval_<split>.json` and three pictures.

  The details, `eval_<split>_<what>.png` among them, are of the student, or of a teacher that has
  none yet.
  """
  with set_up(config, progress) as setup:
    _evaluate(setup, setup.run())


def _evaluate(setup, run):
  """Evaluates a Run as `evaluate` says; returns what was printed."""
  say, phase = setup.progress.say, run.current
  results = {
    'checkpoint': run.restored,
    'phase': phase.name,
    'step': phase.method.steps_made,
    'models': run.evaluate(phase),
  }
  say(json.dumps(results, indent=2))
  phase, name = document.find_student(run)
  details = evaluation.summarize(run.outcomes(phase, name), setup.problem.info.class_names)
  place = os.path.join(setup.config.output_dir, f'eval_{run.reported}')
  write_json(f'{place}.json', {**results, 'details': {'model': name, **details}})
  for what, png in document.draw_figures(details).items():
    with open(f'{place}_{what}.png', 'wb') as file:
      file.write(png)
  say(
    f'expected calibration error of the {name} {100 * details["calibration"]["ece"]:.2f}%; '
    f'per class, confusions, calibration: {place}.json, {place}_*.png'
  )
  return results


def evaluate_forever(config, progress):
  """Evaluates each new checkpoint until the one of the last step."""
  evaluated = None
  with set_up(config, progress) as setup:
    while True:
      run = Run(setup.config, setup.problem, setup.strategy, setup.progress)
      if run.restored and run.restored != evaluated:
        results = _evaluate(setup, run)
        evaluated, last = run.restored, run.phases[-1]
        if results['phase'] == last.name and results['step'] >= last.num_steps:
          return
      time.sleep(EVAL_FOREVER_SECONDS)


def report(config, progress):
  """Writes the run's `report.html` from what is in its folder."""
  with set_up(run_folder.load_trained_config(config), progress) as setup:
    setup.progress.say(f'report: {document.write(setup.run())}')


def restore_trained(config, progress, problem=None):
  """Returns (Serving, Keras model, backbone, phases) of the run in `output_dir`.

  The model is the selected student, if any. Of a run on features the model takes these, and the backbone
  gives them; else the backbone is None. The phases are those that the checkpoint has reached.

  The data need not be there: the checkpoint knows what the network sees and what its classes are. Those
  of earlier versions do not; then the data are read.
  """
  gpus.prepare(gpus.probe())
  devices.create_strategy('one_device')
  devices.set_up(config.seed, config.deterministic, config.computes_in)
  newest = conversion.find_newest(config.output_dir, progress.say, config.task)
  serving = conversion.read_serving(newest) or Serving.of(problem or build.problem(config, progress.say))
  shape, backbone = serving.input_shape, None
  known = dict(views=serving.views, architectures=serving.architectures)
  if config.features:
    backbone = build.backbone(config, shape, len(serving.class_names), **known)
    shape = backbone.output_shape[1:]
  phases = build.phases(config, shape, len(serving.class_names), **known)
  phase = tf.Variable(0, trainable=False)
  checkpoints = saver.Checkpoints(
    config.output_dir,
    config.keep_checkpoints,
    progress.say,
    phase=phase,
    **({'backbone': backbone} if backbone else {}),
    **{found.name: found.method for found in phases},
  )
  results = read_json(os.path.join(config.output_dir, 'results.json')) or {}
  path = (results.get('selected') and checkpoints.restore_best()) or checkpoints.restore()
  reached = phases[: int(phase) + 1]
  model = classifier.take_weights(reached, config.export_weights)
  progress.say(
    f'{config.export_weights} weights of {path} (step {reached[-1].method.steps_made} of '
    f'{reached[-1].name})'
  )
  return serving, model, backbone, reached


def _classifier(config, progress):
  """Returns classifier.Classifier of the run in `output_dir`."""
  serving, model, backbone, _ = restore_trained(config, progress)
  return classifier.Classifier(heads.join(backbone, model) if backbone else model, serving)


def export(config, progress):
  """Writes a SavedModel, with other files in it if asked for, and prints where it is."""
  config = run_folder.load_trained_config(config)
  folder = config.export_dir or os.path.join(config.output_dir, 'saved_model')
  saved_model.require_free(folder)
  formats.require(config.exported_formats)
  exported = _classifier(config, progress)
  export_run.write(config, exported, folder, config.exported_formats, progress.say)
  progress.say(f'SavedModel with the signatures {", ".join(exported.signatures)}: {folder}')


def select(config, progress):
  """Writes which unlabeled examples are the most probable ones of each class."""
  config = run_folder.load_trained_config(config)
  path = config.output or os.path.join(config.output_dir, 'selected.json')
  problem = build.problem(config, progress.say)
  _, model, *_ = restore_trained(config, progress, problem)
  log_probs = select_images.log_probabilities(
    model, problem.unlabeled, problem.views, config.eval_batch_size
  )
  positions = select_images.most_probable(np.exp(log_probs), config.select_per_class)
  splits.write_selection(
    path, positions, dataset=problem.info.name, count=len(problem.unlabeled), names=problem.unlabeled_names
  )
  progress.say(
    f'{len(positions)} of {len(problem.unlabeled)} unlabeled examples: --unlabeled_manifest={path}'
  )


def label(config, progress):
  """Writes what the run's network says of the labeled and the unlabeled examples."""
  config = run_folder.load_trained_config(config)
  path = config.output or os.path.join(config.output_dir, 'teacher_predictions.npz')
  problem = build.problem(config, progress.say)
  _, model, *_ = restore_trained(config, progress, problem)
  found = teacher_predictions.Predictions(
    *(
      select_images.log_probabilities(model, inputs, problem.views, config.eval_batch_size)
      for inputs in (problem.labeled[0], problem.unlabeled)
    )
  )
  teacher_predictions.write(path, found, problem.described)
  known = problem.truth >= 0
  right = found.unlabeled.argmax(axis=1)[known] == problem.truth[known]
  accuracy = f' ({100 * right.mean():.2f}% of those with a known label right)' if known.any() else ''
  progress.say(
    f'{len(found.labeled)} labeled and {len(found.unlabeled)} unlabeled examples'
    f'{accuracy}: --teacher_predictions={path}'
  )


def predict(config, progress):
  """Writes a line for every image, and prints how many there are."""
  paths = predict_files.find(config.input)
  output, kind = predict_files.default_output(config.output, config.format, config.output_dir)
  if config.saved_model:
    gpus.prepare(gpus.probe())
    loaded = predict_files.load(config.saved_model)
  else:
    config = run_folder.load_trained_config(config)
    loaded = _classifier(config, progress)
  predict_files.write(loaded, paths, output, kind, batch_size=config.eval_batch_size, progress=progress)


def convert(config, progress):
  """Writes the newest checkpoint in the official release's format."""
  config = run_folder.load_trained_config(config).replace(
    load_checkpoint=None, mpl_teacher_checkpoint=None, mpl_student_checkpoint=None
  )
  if config.features:
    raise UserError(
      f'--output_dir={config.output_dir}: its run learned from features, for which the release has no '
      'format; use --task_mode=export'
    )
  newest = conversion.find_newest(config.output_dir, progress.say)
  serving = conversion.read_serving(newest)
  phases = build.phases(
    config,
    conversion.get_input_shape(registry.info(config.dataset), config.image_size),
    len(conversion.read_class_names(newest)),
    architectures=serving and serving.architectures,
  )
  method = next(phase.method for phase in phases if phase.name == 'train')
  conversion.convert(newest, method, config.output)
  progress.say(f"{config.output}: the checkpoint of step {method.steps_made} under the release's names")


def prepare(config, progress):
  """Decodes the images that are not prepared yet, and says what the dataset has."""
  problem = build.problem(config, progress.say)
  progress.say(
    f'{config.dataset}: {len(problem.split.labeled)} labeled, {len(problem.unlabeled)} unlabeled, '
    + ', '.join(f'{len(found)} {name}' for name, found in problem.evaluated.items())
    + ' examples are ready'
  )


def ladder(config, progress):
  """Measures what is worth how much on these images, and exports the best; see `ladder.climb`."""
  began, config = time.monotonic(), config.replace(features=True)
  with set_up(config, progress, writes=True) as setup:
    climber.run(setup.config, setup.problem, setup.strategy, setup.progress.say, began)


def suggest(config, progress):
  """Writes which unlabeled images to label next, and the page on which to do it."""
  with set_up(config.replace(features=True), progress, writes=True) as setup:
    suggestions.write(setup.config, setup.problem, setup.progress.say)


TASKS = {
  'train': train,
  'finetune': finetune,
  'eval': evaluate,
  'eval_forever': evaluate_forever,
  'export': export,
  'predict': predict,
  'report': report,
  'select': select,
  'label': label,
  'convert': convert,
  'prepare': prepare,
  'ladder': ladder,
  'suggest': suggest,
}
