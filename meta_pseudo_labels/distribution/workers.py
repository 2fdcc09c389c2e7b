"""Several workers, one process each, that train in step (MultiWorkerMirroredStrategy).

The chief writes the run's folder, and all workers go on from it: it must be one that they all see.
What depends on a clock, a signal or a file is decided by all together or by the chief, so that
no worker waits for a step that another one does not make.
"""

import contextlib
import functools
import os
import tempfile

from meta_pseudo_labels.errors import UserError

import tensorflow as tf

# In a worker's own folder: the one of the run, which the chief writes.
SHARED = '.shared'


def index_and_count(strategy):
  """(this worker's index, how many there are): ints; (0, 1) unless there are several.

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
  """Whether this process is the one of several workers that writes what all of them share."""
  return index_and_count(strategy)[0] == 0


def sum_over_workers(strategy, value):
  """The sum of all workers' values: int. Each worker waits here for the others."""
  if index_and_count(strategy)[1] == 1:
    return int(value)
  return int(_build_sum(strategy)(tf.constant(value, tf.int64)))


@functools.cache
def _build_sum(strategy):
  """A traced function of one int64 scalar a worker to their sum."""

  @tf.function(autograph=False)
  def over_workers(value):

    def share():
      # Of a worker's replicas the first one speaks.
      replica = tf.distribute.get_replica_context().replica_id_in_sync_group
      local = strategy.num_replicas_in_sync // index_and_count(strategy)[1]
      return tf.where(replica % local == 0, value, tf.zeros_like(value))

    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(share), axis=None)

  return over_workers


def from_chief(strategy, value):
  """The chief's value: int, the same on all workers, which wait here for it."""
  return sum_over_workers(strategy, value if is_chief(strategy) else 0)


@contextlib.contextmanager
def folder(strategy, output_dir):
  """Where this worker writes: `output_dir` itself for the chief, else a folder that goes at the end."""
  if is_chief(strategy):
    yield output_dir
    return
  with tempfile.TemporaryDirectory(prefix='meta_pseudo_labels_worker_') as own:
    with open(os.path.join(own, SHARED), 'w', encoding='utf-8') as file:
      file.write(os.path.abspath(output_dir))
    yield own


def path_in_run_folder(path):
  """The path in the run's folder that one in a worker's own folder stands for; the chief's: itself."""
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
  """Does something on every worker; goes on when all have done it.

  Args:
    strategy: tf.distribute.Strategy.
    action: function without arguments and without operations over workers.

  Returns:
    What it returns.

  Raises:
    UserError: another worker could not; it says why itself. What `action` raises here.
  """
  result = error = None
  try:
    result = action()
  except Exception as failure:  # noqa: BLE001 Whatever it is: others must not wait for this one.
    error = failure
  failed = sum_over_workers(strategy, error is not None)
  if error is not None:
    raise error
  if failed:
    raise UserError('another worker cannot go on: its own output says why')
  return result


def run_on_chief(strategy, action):
  """`run_on_all` with something that the chief alone does: its result there, None elsewhere."""
  return run_on_all(strategy, action if is_chief(strategy) else lambda: None)
