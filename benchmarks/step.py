"""A training step's time, share of the processor's matmul peak, and memory.

    python benchmarks/step.py [--model=wrn-28-2] [--image_size=32] [--batch=16] [--uda_data=7]
        [--methods=release,...] [--precisions=float32,bfloat16] [--remat=false,true] [--rounds=5]
        [--profile] [--flag=value ...]

Every combination runs in a process of its own. In each round that process measures, in turn, the
largest matrix products it can make in the precision (the peak) and the step on a constant batch;
the share is the step's operations by its time over the peak of the same round. Operations are
counted by benchmarks/estimate.py: convolutions and dense layers, without what --remat makes again.
Memory is the most that the process has had resident; what it had before the network was built is
named too. `first step` is the time from there to the end of the first step in seconds of this machine:
tracing, most of it. With --profile operations take turns, each on all cores, and the time of a step is
told by their kinds.
"""

import argparse
import itertools
import os
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels.config import parse, validate

import alone  # noqa: E402 pylint: disable=wrong-import-position

PEAK_SIZES, SECONDS = (2048, 4096), 3.0


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


def products(dtype):
  """{size: function that multiplies two square matrices of that size}, compiled."""
  import tensorflow as tf

  def product(size):
    matrix = tf.cast(tf.random.stateless_normal([size, size], [0, size]), dtype)
    multiply = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0], autograph=False)
    return lambda: float(multiply())

  return {size: product(size) for size in PEAK_SIZES}


def measure(name, rounds, profile, flags):
  """One combination, in this process: a dict of numbers."""
  # Here, since the parent has no use for TensorFlow.
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
  devices.set_up(0, use_bfloat16=config.use_bfloat16, use_float16=config.use_float16)
  before, began = resident()[0], time.perf_counter()
  step = step_cost.build_step(config, name)
  run = lambda: float(step()['global_step'])
  run()
  first = time.perf_counter() - began
  timed(run, 0.0)
  most = resident()[1]  # Before the matrices of the peak are there.
  multiply = products(tf.bfloat16 if config.use_bfloat16 else tf.float32)
  seconds, peaks = [], []
  for _ in range(rounds):
    peaks.append(max(2 * size**3 / timed(product, SECONDS / 4) for size, product in multiply.items()))
    seconds.append(timed(run))
  return {
    'operations': operations,
    'seconds': seconds,
    'peaks': peaks,
    'first': first,
    'before': before,
    'most': most,
    'kinds': op_times.by_kind(run) if profile else {},
  }


def median(values):
  """The middle one, the upper one of two."""
  return sorted(values)[len(values) // 2]


def line(numbers):
  """What was measured, as text."""
  shares = sorted(
    numbers['operations'] / second / peak for second, peak in zip(numbers['seconds'], numbers['peaks'])
  )
  return (
    f'{median(numbers["seconds"]):6.3f} s for {numbers["operations"] / 1e9:.0f} GFLOP: '
    f'{100 * median(shares):.0f} % of {median(numbers["peaks"]) / 1e9:.0f} GFLOP/s '
    f'({100 * shares[0]:.0f} to {100 * shares[-1]:.0f}); {numbers["most"]:.2f} GB '
    f'({numbers["before"]:.2f} before); first step {numbers["first"]:.1f} s'
  )


def profile_line(numbers):
  """Where the time goes, and what the peak would leave to all but the products, as text."""
  kinds = numbers['kinds']
  products = sum(kinds.get(kind, 0.0) for kind in ('convolutions', 'products'))
  share = numbers['operations'] / products / median(numbers['peaks'])
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
    ('remat', 'false'),
  ):
    parser.add_argument(f'--{name}', default=default)
  parser.add_argument('--rounds', type=alone.whole_numbers, default=[5])
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
  for method, precision, remat in itertools.product(
    given.methods.split(','), given.precisions.split(','), given.remat.split(',')
  ):
    own = [f'--use_{precision}'] if precision != 'float32' else []
    name = f'{method}, {precision}' + (', remat' if remat == 'true' else '')
    numbers = alone.measure(
      __file__, f'{method},{given.rounds[0]},{given.profile}', [*flags, *own, f'--remat={remat}']
    )
    print(f'{name:26} {line(numbers)}', flush=True)
    if given.profile:
      print(f'{"":26} {profile_line(numbers)}', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
