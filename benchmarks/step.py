"""Measures a training step's time, share of the processor's matmul peak, and memory.

    python benchmarks/step.py [--model=wrn-28-2] [--image_size=32] [--batch=16] [--uda_data=7]
        [--methods=release,...] [--precisions=float32,bfloat16] [--remat=false,true]
        [--micro_batches=1,8] [--original_view=together,separate] [--rounds=5] [--profile]
        [--flag=value ...]

Every combination runs in a process of its own. In each round that process measures, in turn, large
matrix products in the precision of the run (the peak) and the step on a constant batch. The share is
the step's operations per second divided by the peak of the same round. benchmarks/estimate.py counts the
operations: convolutions and dense layers, without those that --remat repeats. Memory is the maximum
resident memory of the process; the memory before the network was built is shown too, and how much the
tensors of a step take at most, as TensorFlow counts them: the activations. Time and the memory of a step
are also shown as ratios to the first combination. They run one after the other;
`benchmarks/step_cost.py` compares times in turn. `first step` is the time from there to the end of the
first step in seconds, mostly for tracing. With --profile the operations take turns, each on all cores,
and the time of a step is shown by their kinds.
"""

import argparse
import itertools
import os
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels.config import parse, validate

import alone

PEAK_SIZES, SECONDS = (2048, 4096), 3.0
OWN = {'remat': 'false', 'micro_batches': '1', 'original_view': 'together'}  # Flags and their defaults.


def get_memory():
  """Returns (current, maximum) resident memory of this process in GB."""
  with open('/proc/self/statm', encoding='ascii') as file:
    now = int(file.read().split()[1]) * resource.getpagesize()
  return now / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure_memory(function):
  """Measures the tensors that a call holds at most, above those that are there before it, in GB."""
  import tensorflow as tf

  device = 'GPU:0' if tf.config.list_physical_devices('GPU') else 'CPU:0'
  tf.config.experimental.reset_memory_stats(device)
  before = tf.config.experimental.get_memory_info(device)['current']
  function()
  return (tf.config.experimental.get_memory_info(device)['peak'] - before) / 1e9


def time_calls(function, seconds=SECONDS):
  """Measures the seconds per call over about `seconds` of successive calls, two or more."""
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < seconds or count < 2:
    function()
    count += 1
  return (time.perf_counter() - began) / count


def build_products(dtype):
  """Builds {size: compiled function that multiplies two square matrices of that size}."""
  import tensorflow as tf

  def product(size):
    matrix = tf.cast(tf.random.stateless_normal([size, size], [0, size]), dtype)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0], autograph=False)
    return lambda: float(multiply())

  return {size: product(size) for size in PEAK_SIZES}


def measure(name, rounds, profile, flags):
  """Measures one combination in this process: a dict of numbers."""
  # Imported here, since the parent process does not need TensorFlow.
  from meta_pseudo_labels.distribution import devices

  import estimate
  import op_times
  import step_cost
  import tensorflow as tf

  config = parse(['step', '--dataset_name=cifar10', '--output_dir=unused', *flags])
  validate(config)
  method = dict(method=name) if name in ('uda', 'supervised') else dict(method='mpl', mpl_feedback=name)
  operations = estimate.estimate(config.replace(**method)).step_flops
  if profile:
    tf.config.threading.set_inter_op_parallelism_threads(1)
  devices.set_up(0, dtype=config.computes_in)
  before, began = get_memory()[0], time.perf_counter()
  step = step_cost.build_step(config, name)
  run = lambda: float(step()['global_step'])
  run()
  first = time.perf_counter() - began
  time_calls(run, 0.0)
  # Measured before the matrices of the peak are allocated. The kernel counts pages in batches,
  # one for each core, so its peak can be some pages below what it said before.
  most = max(before, get_memory()[1])
  step_memory = measure_memory(run)
  multiply = build_products(tf.bfloat16 if config.computes_in == 'bfloat16' else tf.float32)
  seconds, peaks = [], []
  for _ in range(rounds):
    peaks.append(max(2 * size**3 / time_calls(product, SECONDS / 4) for size, product in multiply.items()))
    seconds.append(time_calls(run))
  return {
    'operations': operations,
    'seconds': seconds,
    'peaks': peaks,
    'first': first,
    'before': before,
    'most': most,
    'step_memory': step_memory,
    'kinds': op_times.measure_by_kind(run) if profile else {},
  }


def find_median(values):
  """Returns the median, for an even number the upper one of the two."""
  return sorted(values)[len(values) // 2]


def format_line(numbers, first):
  """Formats a measurement as a line of text, with its ratios to the first one."""
  shares = sorted(
    numbers['operations'] / second / peak for second, peak in zip(numbers['seconds'], numbers['peaks'])
  )
  return (
    f'{find_median(numbers["seconds"]):6.3f} s for {numbers["operations"] / 1e9:.0f} GFLOP: '
    f'{100 * find_median(shares):.0f} % of {find_median(numbers["peaks"]) / 1e9:.0f} GFLOP/s '
    f'({100 * shares[0]:.0f} to {100 * shares[-1]:.0f}); {numbers["most"]:.2f} GB '
    f'({numbers["before"]:.2f} before, {numbers["step_memory"]:.2f} by a step); '
    f'first step {numbers["first"]:.1f} s; '
    f'{find_median(numbers["seconds"]) / find_median(first["seconds"]):.3f} of the time, '
    f'{numbers["step_memory"] / first["step_memory"]:.3f} of the memory'
  )


def format_profile(numbers):
  """Formats the time by kinds, and the share of the peak that the products reach, as a line of text."""
  kinds = numbers['kinds']
  products = sum(kinds.get(kind, 0.0) for kind in ('convolutions', 'products'))
  share = numbers['operations'] / products / find_median(numbers['peaks'])
  return (
    ', '.join(f'{kind} {seconds:.3f} s' for kind, seconds in kinds.items())
    + f'; convolutions and products alone: {100 * share:.0f} % of the peak'
  )


def main(argv):
  if argv and argv[0].startswith(alone.ONE):
    alone.answer(
      argv[0], lambda name, rounds, profile: measure(name, int(rounds), profile == 'True', argv[1:])
    )
    return
  parser = argparse.ArgumentParser(allow_abbrev=False)
  for name, default in (
    ('model', 'wrn-28-2'),
    ('image_size', '32'),
    ('batch', '16'),
    ('uda_data', '7'),
    ('methods', 'release'),
    ('precisions', 'float32,bfloat16'),
    *OWN.items(),
  ):
    parser.add_argument(f'--{name}', default=default)
  parser.add_argument('--rounds', type=alone.parse_numbers, default=[5])
  parser.add_argument('--profile', action='store_true')
  given, others = parser.parse_known_args(argv)
  flags = [
    f'--model_type={given.model}',
    f'--image_size={given.image_size}',
    f'--train_batch_size={given.batch}',
    f'--uda_data={given.uda_data}',
    *others,
  ]
  print(
    f'{given.model}, {given.image_size} pixels, batch {given.batch}, U {given.uda_data}, '
    f'{os.cpu_count()} cores, {given.rounds[0]} rounds'
  )
  first = None
  for method, precision, *own in itertools.product(
    given.methods.split(','),
    given.precisions.split(','),
    *(getattr(given, name).split(',') for name in OWN),
  ):
    own = [f'--{flag}={value}' for flag, value in zip(OWN, own) if value != OWN[flag]]
    name = ', '.join([method, precision, *(flag.lstrip('-') for flag in own)])
    own += [f'--use_{precision}'] if precision != 'float32' else []
    numbers = alone.measure(__file__, f'{method},{given.rounds[0]},{given.profile}', [*flags, *own])
    first = first or numbers
    print(f'{name:26} {format_line(numbers, first)}', flush=True)
    if given.profile:
      print(f'{"":26} {format_profile(numbers)}', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
