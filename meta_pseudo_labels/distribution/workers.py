"""Several workers, one process each, that train synchronously (MultiWorkerMirroredStrategy).

The chief writes the run's folder, and all workers resume from it. So all workers must be able to read
it. Decisions that depend on a clock, a signal or a file are made by all workers together or by the
chief. So no worker waits for a step that another one does not make.
"""

import contextlib
import functools
import os
import tempfile

from meta_pseudo_labels.errors import UserError

import tensorflow as tf

# File in a worker's own folder that holds the path of the run's folder, which the chief writes.
SHARED = '.shared'


def index_and_count(strategy):
  """Returns (this worker's index, number of workers): ints, (0, 1) without several workers.

  `strategy`: tf.distribute.Strategy, or None.
  """
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return 0, 1
  resolver = strategy.cluster_resolver
  workers = resolver.cluster_spec().as_dict()
  chief = len(workers.get('chief', ()))
  count = max(1, chief + len(workers.get('worker', ())))
  return (resolver.task_id or 0) + (chief if resolver.task_type == 'worker' else 0), count


def is_chief(strategy):
  """Returns whether this process is the chief, the worker that writes the run's folder: bool."""
  return index_and_count(strategy)[0] == 0


def sum_over_workers(strategy, value):
  """Returns the sum of all workers' values: int. Each worker waits here for the others."""
  if index_and_count(strategy)[1] == 1:
    return int(value)
  return int(_build_sum(strategy)(tf.constant(value, tf.int64)))


@functools.cache
def _build_sum(strategy):
  """Builds a traced function from one int64 scalar per worker to their sum."""

  @tf.function(autograph=False)
  def over_workers(value):

    def share():
      # Only the first of a worker's replicas contributes the value.
      replica = tf.distribute.get_replica_context().replica_id_in_sync_group
      local = strategy.num_replicas_in_sync // index_and_count(strategy)[1]
      return tf.where(replica % local == 0, value, tf.zeros_like(value))

    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(share), axis=None)

  return over_workers


def from_chief(strategy, value):
  """Returns the chief's value on all workers: int. Each worker waits here for the others."""
  return sum_over_workers(strategy, value if is_chief(strategy) else 0)


@contextlib.contextmanager
def folder(strategy, output_dir):
  """Yields the folder that this worker writes to: `output_dir` for the chief, else a temporary folder."""
  if is_chief(strategy):
    yield output_dir
    return
  with tempfile.TemporaryDirectory(prefix='meta_pseudo_labels_worker_') as own:
    with open(os.path.join(own, SHARED), 'w', encoding='utf-8') as file:
      file.write(os.path.abspath(output_dir))
    yield own


def path_in_run_folder(path):
  """Maps a path in a worker's own folder to the same path in the run's folder; else returns `path`."""
  place, below = path, ''
  while place != os.path.dirname(place):
    marker = os.path.join(place, SHARED)
    if os.path.isfile(marker):
      with open(marker, encoding='utf-8') as file:
        return os.path.join(file.read(), below) if below else file.read()
    below = os.path.join(os.path.basename(place), below) if below else os.path.basename(place)
    place = os.path.dirname(place)
  return path


def run_on_all(strategy, action):
  """Runs an action on every worker and returns when all workers have finished it.

  Args:
    strategy: tf.distribute.Strategy.
    action: function without arguments and without operations over workers.

  Returns:
    The result of `action`.

  Raises:
    UserError: `action` failed on another worker, whose own output says why.
    Exception: `action` failed here.
  """
  result = error = None
  try:
    result = action()
  except Exception as failure:  # noqa: BLE001 On any error: the others must not wait for this worker.
    error = failure
  failed = sum_over_workers(strategy, error is not None)
  if error is not None:
    raise error
  if failed:
    raise UserError('another worker failed; see its own output for the reason')
  return result


def run_on_chief(strategy, action):
  """Runs an action on the chief only; returns its result there and None elsewhere. See `run_on_all`."""
  return run_on_all(strategy, action if is_chief(strategy) else lambda: None)
