"""The outer loop: phases (train, then finetune), evaluation, checkpoints, records, going on."""
import contextlib
import dataclasses
import math
import os
import signal
import time

from meta_pseudo_labels import checkpoints, evaluate, methods, release_checkpoints, samples, stopping
from meta_pseudo_labels import loop as loop_lib
from meta_pseudo_labels import progress as progress_lib
from meta_pseudo_labels.distribution import collectives, devices, spatial, workers
from meta_pseudo_labels.errors import Failure, UserError
from meta_pseudo_labels.optim import optimizers
from meta_pseudo_labels.stopping import Interrupted

import numpy as np
import tensorflow as tf

# Every so many evaluations TensorBoard gets a picture of views: they take the better part of a second.
EVALUATIONS_PER_PICTURE = 5
# A loop on the device returns to Python at least this often, to show progress and to be stopped.
SECONDS_PER_LOOP = 2.


@dataclasses.dataclass
class Phase:
  """A stretch of training with one method.

  Attributes:
    name: teacher, train or finetune.
    method: Method.
    num_steps, batch_size (GLOBAL), uda_data (0: labeled batches alone): ints.
    models: {name in tables: (Keras model, moving average to evaluate it with, or None)}.
  """
  name: str
  method: tf.keras.Model
  num_steps: int
  batch_size: int
  uda_data: int
  models: dict


def build_phases(config, problem):
  """The phases of a configuration, with fresh models; under the strategy's scope."""
  build = lambda number: methods.build_model(
      config, number, problem.input_shape, problem.num_classes)
  # A teacher is the first network, as the only one of UDA and Supervised is: so they start alike,
  # and a teacher that gets no feedback is the UDA baseline of the same seed, weight for weight.
  if config.method_name in ('mpl', 'reduced_mpl', 'pseudo_labels'):
    teacher, student = build(0), build(1)
  else:
    teacher, student = None, build(0)
  phases = []
  if config.method_name == 'pseudo_labels':
    # Fixed while the student trains: its moving average is copied into it in between.
    method = methods.from_config(config.replace(method='supervised'), teacher)
    phases.append(Phase('teacher', method, config.num_train_steps, config.train_batch_size, 0,
                        {'teacher': (teacher, method.average)}))
  method = methods.from_config(config, student, teacher)
  evaluated = {'student': (student, method.average), 'raw_student': (student, None)}
  # The release never moves the teacher's batch-norm averages: its accuracy would be chance.
  # That of reduced_mpl does not see images.
  if teacher is not None and config.method_name != 'reduced_mpl' and (
      getattr(method, 'mpl_feedback', '') != 'release'):
    evaluated['teacher'] = (teacher, None)
  uda_data = 0 if config.method_name == 'supervised' else config.uda_data
  phases.append(Phase('train', method, config.num_train_steps, config.train_batch_size, uda_data,
                      evaluated))
  if config.finetune_steps:
    finetune = methods.Supervised(
        student, seed=config.seed, num_train_steps=config.finetune_steps, remat=config.remat,
        loss_scaling=config.use_float16)
    finetune.set_optimizers(optimizers.SGD(config.finetune_lr))
    phases.append(Phase('finetune', finetune, config.finetune_steps,
                        config.finetune_batch_size, 0, {'student': (student, None)}))
  return phases


def selection(config, problem):
  """(which student is reported, the split that is evaluated while training): see `--select`.

  Raises:
    UserError: the split to select by is not there.
  """
  select = config.select
  if not select:
    # Whoever reports on validation tunes, and wants the last step's accuracy, not the best of many.
    both = config.eval_split == 'test' and 'validation' in problem.evaluated
    select = 'validation' if both else 'last'
  # Whatever is reported, the test split is left alone while training where it can be.
  last = 'validation' if 'validation' in problem.evaluated else problem.reported(config.eval_split)
  split = {'validation': 'validation', 'best_on_test': 'test', 'last': last}[select]
  if split not in problem.evaluated:
    hint = '--num_validation=300 or ' if split == 'validation' else ''
    raise UserError(f'--select={select}: there is no {split} split; give {hint}--select=last')
  return select, split


def percentages(evaluation):
  """'student 94.20%, teacher 95.10%' of an evaluation of several models."""
  return ', '.join(f'{name} {100 * measures["top1"]:.2f}%'
                   for name, measures in evaluation.items())


def steps_made(method):
  """The steps that a method has made: int, under any strategy."""
  return int(method.step.numpy())


class Run:
  """One method trained on one problem, in one output folder."""

  def __init__(self, config, problem, strategy, progress=None):
    """Builds models and restores the newest checkpoint of `config.output_dir`, if there is one.

    Raises:
      UserError: a batch size does not fit the replicas, or the folder holds another run.
    """
    self.config, self.problem, self.strategy = config, problem, strategy
    self.progress = progress or progress_lib.Progress()
    self.replicas = strategy.num_replicas_in_sync
    self.reported = problem.reported(config.eval_split)
    self.select, self.monitored = selection(config, problem)
    for name in ('train_batch_size', 'eval_batch_size') + (
        ('finetune_batch_size',) if config.finetune_steps else ()):
      devices.per_replica(getattr(config, name), self.replicas, name)
    spatial.check(strategy, problem.image_sizes)
    with strategy.scope():
      self.phases = build_phases(config, problem)
    # The loop's own, on the host.
    self.phase = tf.Variable(0, trainable=False, name='phase')
    self.best = tf.Variable(-1., trainable=False, name='best')
    self.seconds = tf.Variable(0., trainable=False, name='seconds')
    # Stored predictions are a part of the problem for the method that learns from them.
    identity = (problem if config.method_name == 'reduced_mpl' else
                dataclasses.replace(problem, predictions=None)).identity
    self.identity = tf.Variable(identity, trainable=False, name='identity')
    self.checkpoints = checkpoints.Checkpoints(
        config.output_dir, config.keep_checkpoints, self.progress.say, strategy, phase=self.phase,
        best=self.best, seconds=self.seconds, identity=self.identity,
        **{phase.name: phase.method for phase in self.phases})
    self.restored = self.checkpoints.restore()
    if self.restored:
      checkpoints.refuse_other_data(
          config.output_dir, self.identity.numpy().decode(), identity)
    else:
      for line in release_checkpoints.start_from(config, self.phases):
        self.progress.say(line)
    self._evaluators = {}

  @property
  def names(self):
    """The phases' names, in order."""
    return [phase.name for phase in self.phases]

  def steps_before(self, index):
    """The steps of all phases before this one: int."""
    return sum(phase.num_steps for phase in self.phases[:index])

  def evaluate(self, phase, split=None):
    """{model's name: {'top1', 'top5', 'loss', 'examples'}} of a phase's models now, on a split
    (None: the one that is reported)."""
    results, split = {}, split or self.reported
    for name, (model, average) in phase.models.items():
      with average.applied() if average else contextlib.nullcontext():
        results[name] = self._evaluator(model, split)()
    return results

  def outcomes(self, phase, name):
    """evaluate.Outcomes of one of a phase's models now, on the split that is reported."""
    model, average = phase.models[name]
    with average.applied() if average else contextlib.nullcontext():
      return self._evaluator(model, self.reported).outcomes()

  def _evaluator(self, model, split):
    if (id(model), split) not in self._evaluators:
      batch = self.config.eval_batch_size
      with self.strategy.scope():
        self._evaluators[id(model), split] = evaluate.Evaluator(
            self.strategy, model,
            lambda context: self.problem.eval_batches(
                split, batch_size=batch, replicas=self.replicas, context=context),
            math.ceil(len(self.problem.evaluated[split]) / batch))
    return self._evaluators[id(model), split]

  def train(self, first_phase=None):
    """Trains what is left of the phases, from `first_phase` (a name) on.

    Returns:
      {'method', 'seconds', 'steps': {phase: steps made at its end, those before it included},
      'phases': {phase: {model: evaluation at its end}}, and where the student is selected
      'selected': {'phase', 'step', 'by': split, 'models': {model: evaluation}}}, on the split that
      is reported ('phases' of a run that selects: on the split it selects by); it is also written
      to `results.json`.

    Raises:
      Interrupted: SIGINT or SIGTERM came; a checkpoint has been saved.
      Failure: it could not be saved, or steps without an update came in a row.
    """
    self.records = progress_lib.Records(self.config.output_dir, self.monitored)
    path = os.path.join(self.config.output_dir, 'results.json')
    results = checkpoints.read_json(workers.shared(path)) if self.restored else None
    results = results or {'method': self.config.method_name, 'phases': {}, 'steps': {}}
    if first_phase is not None:
      self.phase.assign(max(int(self.phase), self.names.index(first_phase)))
    index = int(self.phase)
    step = steps_made(self.phases[index].method)
    if self.restored:
      self.progress.say(f'Going on from step {step} of {self.names[index]} ({self.restored})')
    # Also where nothing was saved yet: a run that was killed before may have written lines.
    self.records.forget_after(self.names, self.names[index], step)
    with stopping.StopSignals() as self.signals:
      for index in range(int(self.phase), len(self.phases)):
        self._enter(index)
        phase = self.phases[index]
        evaluation = self._train_phase(index)
        if evaluation is not None:
          results.pop('selected', None)  # There are new students to choose from.
        shown = self.reported if self.select == 'last' else self.monitored
        if evaluation is None or shown != self.monitored:
          evaluation = self.evaluate(phase, shown)
        results['phases'][phase.name] = evaluation
        results['steps'][phase.name] = self.steps_before(index + 1)
        results['seconds'] = float(self.seconds)
        self._keep_trying(lambda: checkpoints.write_json(path, results))
      if self.select != 'last' and 'selected' not in results:
        results['selected'] = self._selected()
        self._keep_trying(lambda: checkpoints.write_json(path, results))
    return results

  def _selected(self):
    """Evaluates the checkpoint that was best on the monitored split, on the reported one."""
    if not self.checkpoints.restore_best():
      return None
    phase = self.phases[int(self.phase)]
    step = self.steps_before(int(self.phase)) + steps_made(phase.method)
    models = self.evaluate(phase)
    self.progress.say(
        f'best on the {self.monitored} split at step {step}: {self.reported} accuracy '
        + percentages(models))
    self.checkpoints.restore()
    return {'phase': phase.name, 'step': step, 'by': self.monitored, 'models': models}

  def _enter(self, index):
    """Goes to a phase: at its first step it takes over the average of the one before."""
    if index > 0 and int(self.phase) < index:
      previous = self.phases[index - 1].method
      if steps_made(previous):
        previous.average.copy_to_model()
    self.phase.assign(index)

  def _train_phase(self, index):
    """Trains one phase to its end: its last evaluation, or None if nothing was left to do."""
    phase, config = self.phases[index], self.config
    step = steps_made(phase.method)
    if step >= phase.num_steps:
      return None
    offset = self.steps_before(index)
    batches = devices.datasets(
        self.strategy, lambda context: self.problem.train_batches(
            batch_size=phase.batch_size, seed=config.seed + index, uda_data=phase.uda_data,
            start_step=step, replicas=self.replicas, context=context))
    iterator = iter(batches)
    loop = loop_lib.compiled(self.strategy, phase.method, config.jit_compile)
    self.progress.start(phase.name, step, phase.num_steps,
                        phase.batch_size * (1 + 2 * phase.uda_data))
    evaluation, num_steps = None, 1
    while step < phase.num_steps:
      began = time.time()
      to_log = config.log_every - step % config.log_every
      to_save = config.save_every - step % config.save_every
      num_steps = workers.of_chief(self.strategy, min(
          num_steps, to_log, to_save, phase.num_steps - step, config.steps_per_loop))
      logs = loop(iterator, tf.constant(num_steps), tf.constant(self.most_skipped, tf.int64))
      self._check_updates(phase, logs)
      step += num_steps
      if steps_made(phase.method) != step:
        raise RuntimeError(f'step {steps_made(phase.method)} after {step} steps of {phase.name}')
      taken = time.time() - began
      self.seconds.assign_add(np.float32(taken))  # As in progress.py: no Python number.
      # Enough steps to make a loop worthwhile, few enough to hear a signal.
      num_steps = max(1, int(num_steps * min(10., SECONDS_PER_LOOP / max(taken, 1e-6))))
      if step % config.log_every == 0 or step == phase.num_steps:
        self._log(phase, step, offset, logs, evaluation)
      if step % config.save_every == 0 or step == phase.num_steps:
        evaluation = self._evaluate_and_save(phase, step, offset)
      if workers.summed(self.strategy, self.signals.received is not None):
        self._save(offset + step)
        self.progress.say(f'Stopped at step {step} of {phase.name}, saved; the same command '
                          'goes on from here')
        # Another worker's signal, perhaps: one that is taken away stops them all.
        raise Interrupted(self.signals.received or signal.SIGTERM)
    return evaluation

  @property
  def most_skipped(self):
    """The steps in a row without an update that stop the run: int."""
    return self.config.max_nonfinite_steps or 2**62

  def _check_updates(self, phase, logs):
    """Raises Failure if the last steps, too many of them, had gradients that were not finite."""
    skipped = int(phase.method.skipped_in_a_row.numpy())
    if skipped >= self.most_skipped:
      losses = ', '.join(f'{name} {value:.4g}' for name, value in logs.items()
                         if 'loss' in name or 'cross_entropy' in name)
      raise Failure(
          f'step {steps_made(phase.method)} of {phase.name}: the gradient was not finite in {skipped} '
          f'steps in a row (--max_nonfinite_steps), {losses}; the last good checkpoint is '
          f'{self.checkpoints.newest or "not there yet"}; try a lower learning rate or --grad_bound')

  def _keep_trying(self, write):
    """Writes, again and again if need be: see `stopping.keep_trying`."""
    stopping.keep_trying(write, seconds=self.config.save_retry_seconds, signals=self.signals,
                         say=self.progress.say, newest=lambda: self.checkpoints.newest)

  def _save(self, number, best=False):
    """Writes what has been logged, then a checkpoint. Raises Failure if that cannot be done."""
    def write():
      self.records.flush()
      self.checkpoints.save(number, best, gathered)
    with self.checkpoints.gathered(number) as gathered:
      self._keep_trying(write)

  def _log(self, phase, step, offset, logs, evaluation):
    self.records.write('train', phase.name, step, offset, logs)
    shown = {name.rsplit('/', 1)[-1]: value for name, value in logs.items()
             if name in ('loss/total', 'cross_entropy/student_on_u', 'cross_entropy/teacher_on_l')}
    accuracy = evaluation['student']['top1'] if evaluation and 'student' in evaluation else None
    self.progress.update(step, shown, accuracy)

  def _evaluate_and_save(self, phase, step, offset):
    evaluation = self.evaluate(phase, self.monitored)
    self.records.write('eval', phase.name, step, offset, {
        f'{name}/{measure}': value for name, measures in evaluation.items()
        for measure, value in measures.items()})
    self._show_views(phase, step, offset)
    accuracy = evaluation.get('student', {}).get('top1', -1.)
    best = accuracy > float(self.best)
    if best:
      self.best.assign(accuracy)
    self._save(offset + step, best)
    self.progress.say(f'{phase.name} step {step}: {self.monitored} accuracy '
                      + percentages(evaluation))
    return evaluation

  def _show_views(self, phase, step, offset):
    """Some unlabeled images and their pseudo labels, for TensorBoard. One replica alone: they are
    no reason for several to wait for each other."""
    due = step % (self.config.save_every * EVALUATIONS_PER_PICTURE) == 0
    if not due or not phase.uda_data or self.replicas > 1:
      return
    taken = samples.take(phase.method, self.problem, self.config.seed)
    if taken is not None:
      names = self.problem.info.class_names
      labels = ', '.join(f'{names[label]} {100 * confidence:.0f}%' for label, confidence in zip(
          taken.predicted, taken.confidence))
      self.records.show('views', offset + step, samples.grid(taken), (
          f'Original views above augmented ones; labels by {taken.source}: {labels}'))


def require_checkpoint(run):
  """Raises UserError if the run's folder has no checkpoint (tasks finetune, eval)."""
  if not run.restored:
    raise UserError(f'--output_dir={run.config.output_dir}: no checkpoint there, which '
                    f'--task_mode={run.config.task} needs; train first')
