"""Steps in a row on the devices, without returning to Python in between."""
import tensorflow as tf


def compiled(strategy, method, jit_compile):
  """The training loop, compiled.

  Args:
    strategy: tf.distribute.Strategy that `method` lives on.
    method: Method.
    jit_compile: compile its step with XLA.

  Returns:
    A function (iterator, number of steps, most steps in a row without an update; int32 and int64
    scalars) -> {log name: float} of the last step; it returns early when there were so many such steps.
  """
  train_step = tf.function(method.train_step, jit_compile=True, autograph=False) if (
      jit_compile) else method.train_step
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

  def loop(*args):
    values = steps(*args).numpy().tolist()
    return dict(zip(names, values))

  return loop
