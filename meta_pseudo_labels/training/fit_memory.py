"""Trains a run in the memory that there is, and goes on with less once it was too much."""

import gc

from meta_pseudo_labels.build import memory
from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.distribution import devices, workers
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training.device_loop import OutOfMemory
from meta_pseudo_labels.training.run import Run


class Settle:
  """Settles the parts of a batch and the remat of a run: its own if it has been started, else the best."""

  def __init__(self, problem, strategy, say):
    """Stores the arguments: Problem, tf.distribute.Strategy, function of a line."""
    self._problem, self._strategy, self._say = problem, strategy, say

  def __call__(self, config, teacher, student):
    """Returns the Config with which a run trains, after writing it into its folder.

    Args:
      config: Config; its folder is prepared (`run_folder.prepare_folder`).
      teacher, student: Keras models; None for no teacher.

    Raises:
      UserError: the memory is not enough (`memory.choose`).
    """
    views, small = self._problem.views, config.method_name == 'reduced_mpl'
    side = getattr(views, 'size', None)
    # The teacher of reduced_mpl is no network of images.
    self._networks = tuple(
      model and memory.measure(model, side) for model in (None if small else teacher, student)
    )
    self._replicas = self._strategy.num_replicas_in_sync
    found, line = workers.run_on_chief(self._strategy, lambda: self._choose(config)) or (config, '')
    shared = lambda value: workers.from_chief(self._strategy, int(value or 0))
    config = config.replace(micro_batches=shared(found.micro_batches), remat=bool(shared(found.remat)))
    workers.run_on_chief(self._strategy, lambda: run_folder.write_settings(config))
    if line:
      self._say(line)
    return config

  def _choose(self, config):
    """Returns (Config, line) as of `memory.choose`, the folder's own if its run has chosen."""
    before = run_folder.read_settings(config.output_dir)
    own = run_folder.keep_choices(before, config)
    if before.micro_batches:
      chosen = own != config and memory.describe(own, *self._networks)
      return own, f'goes on as it began: {chosen}' if chosen else ''
    usable = devices.find_usable_memory(self._strategy) if own.memory is None else 1e9 * own.memory
    return memory.choose(own, *self._networks, usable, self._replicas)

  def less(self, config, used):
    """Returns the next Config that takes less memory than `used`, or None; `config`: as given."""
    return memory.choose_less(config, used, *self._networks, self._replicas)

  def describe(self, config):
    """Returns the flags of a Config that save memory: str."""
    return memory.describe(config, *self._networks)


def train(config, problem, strategy, progress, first_phase=None):
  """Trains a run in a prepared folder.

  Out of memory it goes on once, from the newest checkpoint, with half of the activations.

  Args:
    config: Config, with `micro_batches` and `remat` as they were given.
    problem: Problem.
    strategy: tf.distribute.Strategy.
    progress: Progress.
    first_phase: name of the phase to start with, of a run that has been trained; None: the first.

  Returns:
    (Run, what its `train` returns).

  Raises:
    UserError: it needs more memory than there is; see also `Run`.
  """
  settle, wanted, tries = Settle(problem, strategy, progress.say), config, 2
  while True:
    run = Run(wanted, problem, strategy, progress, settle)
    if first_phase is not None:
      run.require_checkpoint()
    try:
      return run, run.train(first_phase)
    except OutOfMemory as error:
      reason = str(error)
    used, newest, tries = run.config, run.checkpoints.newest, tries - 1
    less = settle.less(config, used)
    if not tries or not less or workers.index_and_count(strategy)[1] > 1:
      raise _error(reason, used, settle.less(config.replace(micro_batches=0, remat=None), used))
    progress.say(
      f'out of memory ({reason}): going on from {newest or "the start"} with {settle.describe(less)}'
    )
    wanted = less
    del run
    gc.collect()  # Its weights take the memory that the next ones need.


def _error(reason, used, less):
  """Returns the UserError of a run that was out of memory; `less`: the Config to try, or None."""
  flags = memory.describe(less, None, None) if less else ''
  if flags and less.micro_batch_count > used.micro_batch_count:  # The run in this folder has others.
    flags += ' with another --output_dir'
  return UserError(
    f'--micro_batches={used.micro_batch_count}: out of memory ({reason}); give {flags}'
    f'{", or " if flags else ""}a smaller --train_batch_size, --uda_data or --model_type'
  )
