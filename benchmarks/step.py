"""A training step's time, share of the processor's matmul peak, and memory.

    python benchmarks/step.py [--model=wrn-28-2] [--image_size=32] [--batch=16] [--uda_data=7]
        [--methods=release,...] [--precisions=float32,bfloat16] [--remat=false,true] [--rounds=5]
        [--flag=value ...]

Every combination runs in a process of its own. In each round that process measures, in turn, the
largest matrix products it can make in the precision (the peak) and the step on a constant batch;
the share is the step's operations by its time over the peak of the same round. Operations are those
that TensorFlow's profiler counts in the step's graph: convolutions and matrix products,
forward and backward, recomputed ones not counted twice: with --remat the count is that without.
Memory is what the process has had resident at most, over what it had before the first step's graph
was made, and the sum of both. `first step` is the time from an unbuilt model to the end of the first
step, in seconds of this machine: tracing, most of it.
"""
import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

PEAK_SIZE, SECONDS = 3072, 3.


def resident():
  """(now, most so far) resident memory of this process in GB."""
  with open('/proc/self/statm', encoding='ascii') as file:
    now = int(file.read().split()[1]) * resource.getpagesize()
  return now / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def timed(function, seconds=SECONDS):
  """Seconds a call, of calls in a row that take about `seconds` (two calls at least)."""
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < seconds or count < 2:
    function()
    count += 1
  return (time.perf_counter() - began) / count


def operations(function):
  """What TensorFlow's profiler counts in a traced function without arguments: float."""
  import tensorflow as tf  # pylint: disable=import-outside-toplevel
  profiler = tf.compat.v1.profiler
  options = profiler.ProfileOptionBuilder(
      profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
  graph = function.get_concrete_function().graph
  return float(profiler.profile(graph, options=options).total_float_ops)


def measure(name, flags, rounds):
  """One combination, in this process: a dict of numbers."""
  import step_cost  # pylint: disable=import-outside-toplevel
  import tensorflow as tf  # pylint: disable=import-outside-toplevel
  from meta_pseudo_labels import config as config_lib  # pylint: disable=import-outside-toplevel
  from meta_pseudo_labels import distribute  # pylint: disable=import-outside-toplevel
  config = config_lib.parse(['step', '--dataset_name=cifar10', '--output_dir=unused', *flags])
  config_lib.validate(config)
  distribute.set_up(0, use_bfloat16=config.use_bfloat16)
  dtype = tf.bfloat16 if config.use_bfloat16 else tf.float32
  before = resident()[0]
  began = time.perf_counter()
  step = step_cost.build_step(config, name)
  float(step()['global_step'])
  first = time.perf_counter() - began
  run = lambda: float(step()['global_step'])
  timed(run, 0.)
  most = resident()[1]
  # After the memory was read: the peak's matrices are not the step's.
  matrix = tf.cast(tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [0, 0]), dtype)
  product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(matrix, matrix)[0], tf.float32)))
  multiply = lambda: float(product())
  multiply()
  seconds, peaks = [], []
  for _ in range(rounds):
    peaks.append(2 * PEAK_SIZE**3 / timed(multiply, SECONDS / 2))
    seconds.append(timed(run))
  plain = step
  if config.remat:
    plain = step_cost.build_step(config.replace(remat=False), name)
  return {'operations': operations(plain), 'seconds': seconds, 'peaks': peaks, 'first': first,
          'before': before, 'most': most}


def line(numbers):
  """The part of the table that is measured, as text."""
  shares = sorted(numbers['operations'] / second / peak
                  for second, peak in zip(numbers['seconds'], numbers['peaks']))
  middle = lambda values: sorted(values)[len(values) // 2]
  return (f'{middle(numbers["seconds"]):6.3f} s  {numbers["operations"] / 1e9:6.0f} GFLOP  '
          f'{100 * middle(shares):3.0f} % of {middle(numbers["peaks"]) / 1e9:5.0f} GFLOP/s '
          f'({100 * shares[0]:.0f} to {100 * shares[-1]:.0f})  '
          f'{numbers["most"]:.2f} GB ({numbers["most"] - numbers["before"]:.2f} over the start\'s)  '
          f'first step {numbers["first"]:.1f} s')


def main():
  parser = argparse.ArgumentParser(allow_abbrev=False)
  for name, default in (('model', 'wrn-28-2'), ('image_size', '32'), ('batch', '16'),
                        ('uda_data', '7'), ('methods', 'release'),
                        ('precisions', 'float32,bfloat16'), ('remat', 'false'), ('rounds', '5')):
    parser.add_argument(f'--{name}', default=default)
  parser.add_argument('--one', help=argparse.SUPPRESS)
  given, others = parser.parse_known_args()
  if given.one:
    print(json.dumps(measure(given.one, others, int(given.rounds))))
    return
  flags = [f'--model_type={given.model}', f'--image_size={given.image_size}',
           f'--train_batch_size={given.batch}', f'--uda_data={given.uda_data}', *others]
  print(f'{given.model}, {given.image_size} pixels, batch {given.batch}, U {given.uda_data}, '
        f'{os.cpu_count()} cores, {given.rounds} rounds')
  for method, precision, remat in itertools.product(
      given.methods.split(','), given.precisions.split(','), given.remat.split(',')):
    command = [sys.executable, __file__, f'--one={method}', f'--rounds={given.rounds}', *flags,
               f'--use_bfloat16={"true" if precision == "bfloat16" else "false"}', f'--remat={remat}']
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False)
    name = f'{method}, {precision}' + (', remat' if remat == 'true' else '')
    if done.returncode:
      print(f'error: {name}: {done.stderr.strip().splitlines()[-1]}', file=sys.stderr)
      sys.exit(done.returncode)
    print(f'{name:28} {line(json.loads(done.stdout.splitlines()[-1]))}', flush=True)


if __name__ == '__main__':
  main()
