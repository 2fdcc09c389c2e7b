"""One method trained on one problem in one folder: phases, evaluation, checkpoints, records."""

import contextlib
import math
import os
import signal

from meta_pseudo_labels import build
from meta_pseudo_labels.checkpoints import convert as conversion
from meta_pseudo_labels.checkpoints import release_format, run_folder, saver
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.distribution import devices, gpus, spatial, workers
from meta_pseudo_labels.errors import Failure, UserError
from meta_pseudo_labels.files import read_json, write_json
from meta_pseudo_labels.methods import parts
from meta_pseudo_labels.training import device_loop, evaluate, interrupts, selection, view_samples
from meta_pseudo_labels.training.logs import Progress, Records

import numpy as np
import tensorflow as tf

# Every so many evaluations TensorBoard gets a picture of views: they take the better part of a second.
EVALUATIONS_PER_PICTURE = 5


def percentages(evaluation):
  """Returns 'student 94.20%, teacher 95.10%' of an evaluation of several models."""
  return ', '.join(f'{name} {100 * measures["top1"]:.2f}%' for name, measures in evaluation.items())


class Run:
  """One method trained on one problem, in one output folder."""

  def __init__(self, config, problem, strategy, progress=None, settle=None):
    """Builds models and restores the newest checkpoint of `config.output_dir`, if there is one.

    Args:
      config: Config.
      problem: Problem.
      strategy: tf.distribute.Strategy.
      progress: logs.Progress.
      settle: see `build.phases`; the Config that it returns is the run's.

    Raises:
      UserError: a batch size does not fit the replicas, or the folder holds another run.
    """
    self.config, self.problem, self.strategy = config, problem, strategy
    self.progress = progress or Progress()
    self.replicas = strategy.num_replicas_in_sync
    self.select, self.monitored, self.reported = selection.choose(
      config.select, config.eval_split, problem
    )
    for name in ('train_batch_size', 'eval_batch_size') + (
      ('finetune_batch_size',) if config.finetune_steps else ()
    ):
      devices.divide_batch(getattr(config, name), self.replicas, name)
    if config.method_name != 'supervised':
      parts.check(config.micro_batch_count, config.train_batch_size // self.replicas * config.uda_data)
    spatial.check_sizes(strategy, problem.image_sizes)
    known = conversion.read_newest_serving(config.output_dir)
    self._build_phases(settle, known and known.architectures)
    # The loop's own, on the host.
    self.phase = tf.Variable(0, trainable=False, name='phase')
    self.best = tf.Variable(-1.0, trainable=False, name='best')
    self.seconds = tf.Variable(0.0, trainable=False, name='seconds')
    identity = build.identify(config, problem)
    self.identity = tf.Variable(identity, trainable=False, name='identity')
    serving = Serving.of(problem, known.architectures if known else build.architectures(config))
    self.serving = tf.Variable(serving.to_json(), trainable=False, name='serving')
    self.checkpoints = saver.Checkpoints(
      config.output_dir,
      config.keep_checkpoints,
      self.progress.say,
      strategy,
      phase=self.phase,
      best=self.best,
      seconds=self.seconds,
      identity=self.identity,
      serving=self.serving,
      **({'backbone': problem.backbone} if problem.backbone else {}),
      **{phase.name: phase.method for phase in self.phases},
    )
    self._evaluators = {}
    self._start_from(identity)

  def _build_phases(self, settle, architectures):
    """Builds `phases`, with the Config that `settle` returns, if it is given."""

    def settled(*args):
      self.config = settle(*args)
      return self.config

    with self.strategy.scope():
      self.phases = build.phases(
        self.config,
        self.problem.input_shape,
        self.problem.num_classes,
        views=self.problem.views,
        architectures=architectures,
        features=self.problem.inputs[:, 0] if self.problem.images else None,
        num_unlabeled=len(self.problem.unlabeled),
        settle=settle and settled,
      )

  def _start_from(self, identity):
    """Restores the newest checkpoint, or loads what the flags name; `identity`: of the problem."""
    self.restored = self.checkpoints.restore()
    if self.restored:
      run_folder.refuse_other_data(self.config.output_dir, self.identity.numpy().decode(), identity)
      return
    method = next(phase.method for phase in self.phases if phase.name == 'train')
    if self.config.head_weights:
      build.start_from_head(self.phases, self.config.head_weights, self.problem.num_classes)
    for line in release_format.start_from(self.config, method):
      self.progress.say(line)

  @property
  def names(self):
    """The phases' names, in order."""
    return [phase.name for phase in self.phases]

  @property
  def current(self):
    """The Phase that the run's weights stand in."""
    return self.phases[int(self.phase)]

  def steps_before(self, index):
    """Returns the steps of all phases before this one: int."""
    return sum(phase.num_steps for phase in self.phases[:index])

  def require_checkpoint(self):
    """Raises UserError if the run's folder has no checkpoint."""
    if not self.restored:
      raise UserError(
        f'--output_dir={self.config.output_dir}: no checkpoint there, which '
        f'--task_mode={self.config.task} needs; train first'
      )

  def evaluate(self, phase, split=None):
    """Evaluates a phase's models as they are now.

    Args:
      phase: build.Phase.
      split: name of a split; None: the one that is reported.

    Returns:
      {model's name: {'top1', 'top5', 'loss', 'examples'}}.
    """
    results, split = {}, split or self.reported
    for name, (model, average) in phase.models.items():
      with average.applied() if average else contextlib.nullcontext():
        results[name] = self._evaluator(model, split)()
    return results

  def outcomes(self, phase, name):
    """Returns evaluate.Outcomes of one of a phase's models now, on the split that is reported."""
    model, average = phase.models[name]
    with average.applied() if average else contextlib.nullcontext():
      return self._evaluator(model, self.reported).outcomes()

  def _evaluator(self, model, split):
    if (id(model), split) not in self._evaluators:
      batch = self.config.eval_batch_size
      with self.strategy.scope():
        self._evaluators[id(model), split] = evaluate.Evaluator(
          self.strategy,
          model,
          lambda context: self.problem.eval_batches(
            split, batch_size=batch, replicas=self.replicas, context=context
          ),
          math.ceil(len(self.problem.evaluated[split]) / batch),
        )
    return self._evaluators[id(model), split]

  def train(self, first_phase=None):
    """Trains what is left of the phases, from `first_phase` (a name) on.

    Returns:
      {'method', 'seconds', 'steps': {phase: steps made at its end, those before it included},
      'phases': {phase: {model: evaluation at its end}}, and where the student is selected
      'selected': {'phase', 'step', 'by': split, 'models': {model: evaluation}}}, on the split that
      is reported ('phases' of a run that selects: on the split it selects by). `results.json` has it.

    Raises:
      Interrupted: SIGINT or SIGTERM came; a checkpoint has been saved.
      Failure: it could not be saved, or too many steps in a row were without an update.
    """
    results = self._resume(first_phase)
    with interrupts.StopSignals() as self.signals:
      for index in range(int(self.phase), len(self.phases)):
        phase, evaluation = self._enter(index), None
        for steps in device_loop.train(self.strategy, phase.method, **self._loop_settings(index)):
          self.seconds.assign_add(np.float32(steps.seconds))  # TensorFlow keeps every Python number.
          self._check_updates(phase, steps.logs)
          self._log(phase, steps, evaluation)
          if self._due(phase, steps.step, self.config.save_every):
            evaluation = self._evaluate_and_save(phase, steps.step)
          self._stop_if_asked(phase, steps.step)
        self._record_results(results, phase, evaluation)
      if self.select != 'last' and 'selected' not in results:
        results['selected'] = self._evaluate_selected()
        self._write_results(results)
    return results

  def _resume(self, first_phase):
    """Goes to where the run stands; returns its results so far."""
    self.records = Records(self.config.output_dir, self.monitored)
    results = read_json(workers.path_in_run_folder(self._results_path)) if self.restored else None
    if first_phase is not None:
      self.phase.assign(max(int(self.phase), self.names.index(first_phase)))
    step = self.current.method.steps_made
    if self.restored:
      self.progress.say(f'Resuming at step {step} of {self.current.name} ({self.restored})')
    # Also where nothing was saved yet: a run that was killed before may have written lines.
    self.records.forget_after(self.names, self.current.name, step)
    return results or {'method': self.config.method_name, 'phases': {}, 'steps': {}}

  def _enter(self, index):
    """Goes to a phase and returns it; at its first step it takes over the average of the one before."""
    if index > 0 and int(self.phase) < index:
      previous = self.phases[index - 1].method
      if previous.steps_made:
        previous.average.copy_to_model()
    self.phase.assign(index)
    phase = self.phases[index]
    self.progress.start(
      phase.name, phase.method.steps_made, phase.num_steps, phase.batch_size * (1 + 2 * phase.uda_data)
    )
    return phase

  def _loop_settings(self, index):
    """Returns the arguments of `device_loop.train` for a phase."""
    phase, config, start = self.phases[index], self.config, self.phases[index].method.steps_made
    return dict(
      batches=lambda context: self.problem.train_batches(
        batch_size=phase.batch_size,
        seed=config.seed + index,
        uda_data=phase.uda_data,
        with_positions='positions' in phase.method.needs,
        start_step=start,
        replicas=self.replicas,
        context=context,
      ),
      num_steps=phase.num_steps,
      stops=(config.log_every, config.save_every),
      most_in_a_row=config.steps_per_loop,
      most_skipped=self.most_skipped,
      jit_compile=gpus.choose_xla(config.jit_compile, self.strategy, phase.num_steps),
    )

  @staticmethod
  def _due(phase, step, every):
    return step % every == 0 or step == phase.num_steps

  @property
  def most_skipped(self):
    """The steps in a row without an update that stop the run: int.

    It is one where such steps are a known fault of this TensorFlow. The loss scale of float16 makes them.
    """
    known = gpus.is_known_for_nan(self.strategy) and self.config.computes_in != 'float16'
    return 1 if known else self.config.max_nonfinite_steps or 2**62

  def _check_updates(self, phase, logs):
    """Raises Failure if the last steps, too many of them, had gradients that were not finite."""
    skipped = int(phase.method.skipped_in_a_row.numpy())
    if skipped >= self.most_skipped:
      losses = ', '.join(
        f'{name} {value:.4g}' for name, value in logs.items() if 'loss' in name or 'cross_entropy' in name
      )
      raise Failure(
        f'step {phase.method.steps_made} of {phase.name}: the gradient was not finite in {skipped} '
        f'steps in a row (--max_nonfinite_steps), {losses}; the last intact checkpoint is '
        f'{self.checkpoints.newest or "not there yet"}; try '
        f'{gpus.nan_remedy(self.strategy)}a lower learning rate or --grad_bound'
      )

  def _log(self, phase, steps, evaluation):
    if not self._due(phase, steps.step, self.config.log_every):
      return
    self._record('train', phase, steps.step, steps.logs)
    shown = {
      name.rsplit('/', 1)[-1]: value
      for name, value in steps.logs.items()
      if name in ('loss/total', 'cross_entropy/student_on_u', 'cross_entropy/teacher_on_l')
    }
    accuracy = evaluation['student']['top1'] if evaluation and 'student' in evaluation else None
    self.progress.update(steps.step, shown, accuracy)

  def _record(self, kind, phase, step, values):
    self.records.write(kind, phase.name, step, self._offset(phase), values)

  def _offset(self, phase):
    return self.steps_before(self.phases.index(phase))

  def _evaluate_and_save(self, phase, step):
    evaluation = self.evaluate(phase, self.monitored)
    self._record(
      'eval',
      phase,
      step,
      {
        f'{name}/{measure}': value
        for name, measures in evaluation.items()
        for measure, value in measures.items()
      },
    )
    self._show_views(phase, step)
    accuracy = evaluation.get('student', {}).get('top1', -1.0)
    best = accuracy > float(self.best)
    if best:
      self.best.assign(accuracy)
    self._save(self._offset(phase) + step, best)
    self.progress.say(f'{phase.name} step {step}: {self.monitored} accuracy {percentages(evaluation)}')
    return evaluation

  def _show_views(self, phase, step):
    """Shows some unlabeled images and their pseudo labels in TensorBoard.

    On one replica alone: they are no reason for several to wait for each other.
    """
    due = step % (self.config.save_every * EVALUATIONS_PER_PICTURE) == 0
    if not due or not phase.uda_data or self.replicas > 1:
      return
    shown = view_samples.take(phase.method, self.problem, self.config.seed)
    if shown is not None:
      names = self.problem.info.class_names
      labels = ', '.join(
        f'{names[label]} {100 * confidence:.0f}%'
        for label, confidence in zip(shown.predicted, shown.confidence)
      )
      self.records.show(
        'views',
        self._offset(phase) + step,
        view_samples.arrange(shown),
        (f'Original views above augmented ones; labels by {shown.source}: {labels}'),
      )

  def _stop_if_asked(self, phase, step):
    """Saves and raises Interrupted if a signal came, here or to another worker."""
    if workers.sum_over_workers(self.strategy, self.signals.received is not None):
      self._save(self._offset(phase) + step)
      self.progress.say(
        f'Stopped at step {step} of {phase.name}, saved; the same command continues from here'
      )
      raise interrupts.Interrupted(self.signals.received or signal.SIGTERM)

  def _save(self, number, best=False):
    """Writes what has been logged, then a checkpoint. Raises Failure if that cannot be done."""

    def write():
      self.records.flush()
      self.checkpoints.save(number, best, gathered)

    with self.checkpoints.gather(number) as gathered:
      self._keep_trying(write)

  def _keep_trying(self, write):
    interrupts.keep_trying(
      write,
      seconds=self.config.save_retry_seconds,
      signals=self.signals,
      say=self.progress.say,
      newest=lambda: self.checkpoints.newest,
    )

  @property
  def _results_path(self):
    return os.path.join(self.config.output_dir, 'results.json')

  def _write_results(self, results):
    self._keep_trying(lambda: write_json(self._results_path, results))

  def _record_results(self, results, phase, evaluation):
    """Writes how a phase ended; `evaluation`: the last one, None if nothing was left to train."""
    if evaluation is not None:
      results.pop('selected', None)  # There are new students to choose from.
    shown = self.reported if self.select == 'last' else self.monitored
    if evaluation is None or shown != self.monitored:
      evaluation = self.evaluate(phase, shown)
    results['phases'][phase.name] = evaluation
    results['steps'][phase.name] = self._offset(phase) + phase.num_steps
    results['seconds'] = float(self.seconds)
    self._write_results(results)

  def _evaluate_selected(self):
    """Evaluates the checkpoint that was best on the monitored split, on the reported one."""
    if not self.checkpoints.restore_best():
      return None
    phase = self.current
    step = self._offset(phase) + phase.method.steps_made
    models = self.evaluate(phase)
    self.progress.say(
      f'best on the {self.monitored} split at step {step}: {self.reported} accuracy ' + percentages(models)
    )
    self.checkpoints.restore()
    return {'phase': phase.name, 'step': step, 'by': self.monitored, 'models': models}
