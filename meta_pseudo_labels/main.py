"""The command line: flags -> Config -> one task. `python -m meta_pseudo_labels.main --help`."""
import contextlib
import json
import os
import sys
import time

import meta_pseudo_labels  # pylint: disable=unused-import  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels import (
  checkpoint_files,
  checkpoints,
  compare,
  evaluate,
  export,
  predict,
  report,
  run_folder,
  select_images,
  train,
)
from meta_pseudo_labels import config as config_lib
from meta_pseudo_labels import progress as progress_lib
from meta_pseudo_labels.data import semi_supervised, splits, teacher_predictions
from meta_pseudo_labels.distribution import devices, workers
from meta_pseudo_labels.errors import Failure, UserError

import numpy as np
import tensorflow as tf
from absl import logging

EVAL_FOREVER_SECONDS = 30
RESTARTS = 'META_PSEUDO_LABELS_RESTARTS'  # Environment variable: how many there were.
RESTART_SECONDS = 5.  # Before the first one; each further one waits twice as long.


def _train(config, problem, strategy, progress):
  """Tasks train and finetune: trains, then prints the table and where everything is."""
  first_phase = 'finetune' if config.task == 'finetune' else None
  lines = compare.train_and_compare(config, problem, strategy, progress, first_phase)
  progress.say('')
  reported = problem.reported(config.eval_split)
  progress.say(f'{len(problem.split.labeled)} labeled, {len(problem.unlabeled)} unlabeled, '
               f'{len(problem.evaluated[reported])} {reported} examples of {config.dataset}')
  progress.say(compare.table(lines, reported))
  progress.say('')
  for what, name in (('checkpoints', 'ckpt_last'), ('best checkpoint', 'ckpt_best'),
                     ('TensorBoard', 'logs'), ('metrics', 'metrics.jsonl'),
                     ('settings', 'hparams.json'), ('labeled split', 'labeled_split.json'),
                     ('results', 'results.json'), ('picture', 'decision_regions.png'),
                     ('report', 'report.html')):
    path = os.path.join(config.output_dir, name)
    if os.path.exists(path):
      progress.say(f'{what + ":":17}{path}')


def _evaluate(config, problem, strategy, progress):
  """Task eval: evaluates the newest checkpoint, prints it, and writes `eval_<split>.json` and three
  pictures, `eval_<split>_<what>.png`. Their details are of the student, or of a teacher that has
  none yet."""
  run = train.Run(config, problem, strategy, progress)
  train.require_checkpoint(run)
  phase = run.phases[int(run.phase)]
  results = {'checkpoint': run.restored, 'phase': phase.name,
             'step': train.steps_made(phase.method),
             'models': run.evaluate(phase)}
  progress.say(json.dumps(results, indent=2))
  phase, name = report.student(run)
  details = evaluate.details(run.outcomes(phase, name), problem.info.class_names)
  place = os.path.join(config.output_dir, f'eval_{run.reported}')
  checkpoints.write_json(f'{place}.json', {**results, 'details': {'model': name, **details}})
  for what, png in report.figures(details).items():
    with open(f'{place}_{what}.png', 'wb') as file:
      file.write(png)
  progress.say(f'expected calibration error of the {name} {100 * details["calibration"]["ece"]:.2f}%; '
               f'per class, confusions, calibration: {place}.json, {place}_*.png')
  return results


def _report(config, problem, strategy, progress):
  """Task report: writes the run's `report.html` from what is in its folder."""
  run = train.Run(config, problem, strategy, progress)
  train.require_checkpoint(run)
  progress.say(f'report: {report.write(run)}')


def _evaluate_forever(config, problem, strategy, progress):
  """Task eval_forever: evaluates each new checkpoint until the one of the last step."""
  evaluated = None
  while True:
    run = train.Run(config, problem, strategy, progress)
    if run.restored and run.restored != evaluated:
      evaluated = run.restored
      results = _evaluate(config, problem, strategy, progress)
      last = run.phases[-1]
      if results['phase'] == last.name and results['step'] >= last.num_steps:
        return
    time.sleep(EVAL_FOREVER_SECONDS)


def _trained(config, progress):
  """(Problem, Keras model) of the run in `output_dir`: its selected student, where it selected one.

  The data are read again, although the checkpoint has the names of the classes: what an .npz file's
  channels are normalized with is in the file alone, and `train.Run` goes on with nothing else.
  """
  strategy = devices.create_strategy('one_device')
  devices.set_up(config.seed, config.deterministic, config.use_bfloat16, config.use_float16)
  problem = semi_supervised.build(config, progress.say)
  run = train.Run(config, problem, strategy, progress)
  train.require_checkpoint(run)
  results = checkpoints.read_json(os.path.join(config.output_dir, 'results.json')) or {}
  path = (results.get('selected') and run.checkpoints.restore_best()) or run.restored
  reached = run.phases[:int(run.phase) + 1]
  model = export.take_weights(reached, config.export_weights)
  progress.say(f'{config.export_weights} weights of {path} (step '
               f'{train.steps_made(reached[-1].method)} of {reached[-1].name})')
  return problem, model


def _classifier(config, progress):
  """export.Classifier of the run in `output_dir`."""
  problem, model = _trained(config, progress)
  return export.Classifier(model, problem.views, problem.input_shape, problem.info.class_names,
                           problem.fit)


def _export(config, progress):
  """Task export: writes a SavedModel, and prints where it is."""
  config = export.as_trained(config)
  folder = config.export_dir or os.path.join(config.output_dir, 'saved_model')
  export.require_free(folder)
  classifier = _classifier(config, progress)
  export.write(classifier, folder, tflite=config.export_tflite)
  progress.say(f'SavedModel with the signatures {", ".join(classifier.signatures)}: {folder}')


def _select(config, progress):
  """Task select: writes which unlabeled examples are the most probable ones of each class."""
  config = export.as_trained(config)
  path = config.output or os.path.join(config.output_dir, 'selected.json')
  problem, model = _trained(config, progress)
  log_probs = select_images.log_probabilities(
      model, problem.unlabeled, problem.views, config.eval_batch_size)
  positions = select_images.most_probable(np.exp(log_probs), config.select_per_class)
  splits.write_selection(path, positions, dataset=problem.info.name, count=len(problem.unlabeled),
                         names=problem.unlabeled_names)
  progress.say(f'{len(positions)} of {len(problem.unlabeled)} unlabeled examples: '
               f'--unlabeled_manifest={path}')


def _label(config, progress):
  """Task label: writes what the run's network says of the labeled and the unlabeled examples."""
  config = export.as_trained(config)
  path = config.output or os.path.join(config.output_dir, 'teacher_predictions.npz')
  problem, model = _trained(config, progress)
  found = teacher_predictions.Predictions(*(select_images.log_probabilities(
      model, inputs, problem.views, config.eval_batch_size) for inputs in (
          problem.labeled[0], problem.unlabeled)))
  teacher_predictions.write(path, found, problem.described)
  known = problem.truth >= 0
  right = found.unlabeled.argmax(axis=1)[known] == problem.truth[known]
  accuracy = f' ({100 * right.mean():.2f}% of those with a known label right)' if known.any() else ''
  progress.say(f'{len(found.labeled)} labeled and {len(found.unlabeled)} unlabeled examples'
               f'{accuracy}: --teacher_predictions={path}')


def _predict(config, progress):
  """Task predict: writes a line for every image, and prints how many there are."""
  paths = predict.find(config.input)
  output, kind = predict.default_output(config)
  if config.saved_model:
    classifier = predict.load(config.saved_model)
  else:
    config = export.as_trained(config)
    classifier = _classifier(config, progress)
  predict.write(classifier, paths, output, kind, batch_size=config.eval_batch_size,
                progress=progress)


def _in_one_line(error):
  """A message as any terminal can show it: line ends and control characters, which a path or a
  flag's value may have, as Python writes them (str)."""
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))


def _run_task(config, progress):
  """Carries out a task on a problem and a strategy: train, finetune, eval, eval_forever, report."""
  if config.task == 'report':
    config = export.as_trained(config)
  devices.set_threads(config.intra_op_threads)
  strategy = devices.create_strategy(
      config.strategy, use_tpu=config.use_tpu, num_virtual_devices=config.num_virtual_devices,
      master=config.master, tpu_topology=config.tpu_topology,
      cores_per_replica=config.num_cores_per_replica)
  devices.set_up(config.seed, config.deterministic, config.use_bfloat16, config.use_float16)
  problem = workers.together(strategy, lambda: semi_supervised.build(config, progress.say))
  notes = config_lib.notes(config)
  config = config.replace(num_classes=problem.num_classes)
  with contextlib.ExitStack() as stack:
    if config.task in ('train', 'finetune'):
      notes.insert(0, workers.prepare(strategy, lambda: _take_folder(config, stack)))
    config = config.replace(
        output_dir=stack.enter_context(workers.folder(strategy, config.output_dir)))
    if not workers.is_chief(strategy):
      progress.say('worker %d of %d, counted from 0: the chief, worker 0, tells the rest'
                   % workers.number(strategy))
      progress = progress_lib.Progress(stack.enter_context(open(os.devnull, 'w', encoding='utf-8')))
    for note in filter(None, notes):
      progress.say(note)
    progress.say(f'{config.method_name} {config.model_type} on {config.dataset}, '
                 f'{strategy.num_replicas_in_sync} replica(s)')
    task = {'train': _train, 'finetune': _train, 'eval': _evaluate,
            'eval_forever': _evaluate_forever, 'report': _report}[config.task]
    task(config, problem, strategy, progress)


def _take_folder(config, stack):
  """Locks the output folder until the stack unwinds, and prepares it: the line about that, or ''."""
  stack.enter_context(run_folder.lock(config.output_dir))
  return checkpoints.prepare_folder(config)


def restart_process(argv):
  """Starts this process anew: after a worker was lost, TensorFlow's own state is of no more use."""
  # What has been trained is not to be removed, and the newest checkpoint is there to go on from.
  os.execv(sys.executable, [sys.executable, '-m', 'meta_pseudo_labels.main', *argv[1:],
                            '--noreset_output_dir'])


def _restart(config, argv, error, restart):
  """Restarts after a failure that passes by itself; 1 if it has done so too often."""
  reason = f'{type(error).__name__}: {checkpoint_files.reason(error)}'
  made = int(os.environ.get(RESTARTS, '0'))
  if restart is None or config.task not in ('train', 'finetune') or made >= config.max_restarts:
    print(f'error: {reason}; restarted {made} times (--max_restarts={config.max_restarts}); the same '
          'command goes on from the newest checkpoint', file=sys.stderr)
    return 1
  seconds = RESTART_SECONDS * 2 ** made
  print(f'{reason}: restarting from the newest checkpoint in {seconds:g} s ({made + 1} of '
        f'{config.max_restarts})', file=sys.stderr, flush=True)
  time.sleep(seconds)
  os.environ[RESTARTS] = str(made + 1)
  restart(argv)
  return 1


def run(argv, restart=None):
  """Carries out a command line, program name first; returns the exit status.

  0 done; 1 a failure that was foreseen, 2 a request that cannot be carried out (one line on stderr
  each); 130 or 143 stopped by SIGINT or SIGTERM after saving. What fails otherwise raises.

  Args:
    argv: list of str.
    restart: function of `argv` that starts the process anew, or None: never.
  """
  config = None
  try:
    config = config_lib.parse(argv)
    config_lib.validate(config)
    logging.use_absl_handler()
    # One process trains several methods, each in functions of its own: no reason to warn.
    tf.get_logger().addFilter(lambda record: 'retracing' not in record.getMessage())
    progress = progress_lib.Progress()
    {'export': _export, 'predict': _predict, 'select': _select, 'label': _label}.get(
        config.task, _run_task)(config, progress)
  except UserError as error:
    print(f'error: {_in_one_line(error)}', file=sys.stderr)
    return 2
  except Failure as error:
    print(f'error: {_in_one_line(error)}', file=sys.stderr)
    return 1
  except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
    return _restart(config, argv, error, restart)
  except tf.errors.ResourceExhaustedError as error:
    print(f'error: out of memory or disk ({checkpoint_files.reason(error)}); try a smaller '
          '--train_batch_size, --uda_data or --model_type; the same command goes on from the newest '
          'checkpoint', file=sys.stderr)
    return 1
  except OSError as error:
    # The files that saving does not wait for, such as table.json; others are a fault of ours.
    if not config or not str(error.filename).startswith(config.output_dir or '/'):
      raise
    print(f'error: {error.filename}: {error.strerror}; the same command goes on when that is mended',
          file=sys.stderr)
    return 1
  except train.Interrupted as stop:
    return 128 + stop.signal
  except KeyboardInterrupt:
    print('stopped at once; what was saved before is there', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  sys.exit(run(sys.argv, restart_process))
