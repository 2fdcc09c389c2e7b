"""Steps in a row on the devices, without returning to Python in between."""

import time
from typing import Dict, NamedTuple

from meta_pseudo_labels.distribution import devices, workers
from meta_pseudo_labels.errors import one_line

import numpy as np
import tensorflow as tf

# The loop returns to Python at least this often, to show progress and to be stopped.
SECONDS_PER_LOOP = 2.0


class OutOfMemory(Exception):
  """A step did not fit into the memory of a device; its message is the reason in one line."""


class Steps(NamedTuple):
  """What some steps in a row leave behind.

  Attributes:
    step: int, the steps made so far.
    logs: {log name: float} of the last one.
    seconds: float, that these steps took.
  """

  step: int
  logs: Dict[str, float]
  seconds: float


def train(strategy, method, batches, *, num_steps, stops, most_in_a_row, most_skipped, jit_compile):
  """Trains a method to `num_steps`, and yields after every few steps.

  Args:
    strategy: tf.distribute.Strategy that `method` lives on.
    method: Method; nothing is done if it has made that many steps.
    batches: function of a tf.distribute.InputContext to a dataset of one replica's shares, the
      replicas of a batch in a row; it starts at the method's step.
    num_steps: int.
    stops: ints; it yields at all their multiples.
    most_in_a_row: int, steps between two yields.
    most_skipped: int, steps in a row without an update after which it yields at once.
    jit_compile: compile the method's step with XLA.

  Yields:
    Steps.

  Raises:
    OutOfMemory: in a step, of which a part may have been done.
  """
  step, count = method.steps_made, 1
  if step >= num_steps:
    return
  iterator = iter(devices.distribute_batches(strategy, batches))
  loop = compiled(strategy, method, jit_compile)
  while step < num_steps:
    began = time.time()
    # The chief decides for all workers, whose clocks differ.
    count = workers.from_chief(
      strategy, min(count, num_steps - step, most_in_a_row, *(s - step % s for s in stops))
    )
    try:
      logs = loop(iterator, tf.constant(count), tf.constant(most_skipped, tf.int64))
    except tf.errors.ResourceExhaustedError as error:
      raise OutOfMemory(one_line(error)) from None
    step, seconds = method.steps_made, time.time() - began
    yield Steps(step, logs, seconds)
    # Enough steps to make a loop worthwhile, few enough to hear a signal.
    count = max(1, int(count * min(10.0, SECONDS_PER_LOOP / max(seconds, 1e-6))))


def compiled(strategy, method, jit_compile):
  """Returns the training loop, compiled.

  It is a function (iterator, number of steps, most steps in a row without an update; int32 and
  int64 scalars) -> {log name: float} of the last step; it returns early after so many such steps.
  """
  train_step = (
    tf.function(method.train_step, jit_compile=True, autograph=False)
    if (jit_compile)
    else method.train_step
  )
  names = []

  @tf.function(autograph=False)
  def step(iterator):
    logs = strategy.run(train_step, args=(next(iterator),))
    names[:] = logs
    # In one: TensorFlow 2.15 loses some bytes for every tensor that it hands to Python.
    return tf.stack([strategy.experimental_local_results(value)[0] for value in logs.values()])

  @tf.function
  def steps(iterator, num_steps, most_skipped):
    # Traced once, here; the loop needs the number of the logs before it begins.
    logs = tf.zeros_like(step.get_concrete_function(iterator).structured_outputs)
    for _ in tf.range(num_steps):
      logs = step(iterator)
      if method.skipped_in_a_row >= most_skipped:
        break
    return logs

  return lambda *args: dict(zip(names, np.asarray(steps(*args)).tolist()))
