"""The training steps that benchmarks/gpu.py measures, each in a process of its own.

`python benchmarks/gpu_steps.py --device=gpu CASE` is such a process, with a Case as JSON. It builds the
step, prints the seconds to the end of the first one, waits for a line on stdin, and prints what it
measured.
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from typing import Tuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.distribution import devices, gpus
from meta_pseudo_labels.errors import UserError, one_line

import estimate
import step as step_benchmark
import step_cost
import tensorflow as tf

PRECISIONS = ('float32', 'tf32', 'bfloat16', 'float16')
DTYPES = {'bfloat16': tf.bfloat16, 'float16': tf.float16}


@dataclasses.dataclass(frozen=True)
class Case:
  """A step that is measured in a process of its own.

  Attributes:
    section, name: of its row.
    method: method or feedback, as of `step_cost.build_step`.
    precision: one of PRECISIONS.
    flags: of the command line.
    xla, layout: bool, whether it is compiled with XLA; whether TensorFlow may choose the layout.
    seconds: that the measurement takes.
  """

  section: str
  name: str
  method: str
  precision: str
  flags: Tuple[str, ...]
  xla: bool = False
  layout: bool = True
  seconds: float = 3.0


def list_cases(sizes):
  """Lists the steps to measure, in the order of the sections."""
  first, best = sizes.methods[0], sizes.precisions[0]
  make = functools.partial(Case, seconds=sizes.seconds, flags=sizes.step)
  pairs = [(first, precision) for precision in sizes.precisions]
  pairs += [(method, best) for method in sizes.methods[1:]]
  found = [
    make('steps', f'{method}, {precision}{", XLA" if xla else ""}', method, precision, xla=xla)
    for method, precision in pairs
    for xla in (False, True)
  ]
  found += [
    make('layout', f'{first}, {precision}, as written', first, precision, layout=False)
    for precision in sizes.precisions[:2]
  ]
  found += [
    make('input', f'{first}, {best}{", XLA" if xla else ""}, fed', f'{first}+input', best, xla=xla)
    for xla in (False, True)
  ]
  return found + [
    make(
      'resnet',
      f'{first}, {best}, XLA, {count} part(s)',
      first,
      best,
      xla=True,
      flags=(*sizes.resnet, f'--micro_batches={count}'),
    )
    for count in sizes.parts
  ]


def start_device(device):
  """Hides the GPUs, or lets TensorFlow take their memory as it needs it; `device`: 'gpu' or 'cpu'."""
  if device == 'cpu':
    tf.config.set_visible_devices([], 'GPU')
  gpus.prepare(gpus.probe() if device == 'gpu' else None)


def use_precision(precision):
  """Sets what networks that are built after it compute in; `precision`: one of PRECISIONS."""
  tf.config.experimental.enable_tensor_float_32_execution(precision != 'float32')
  devices.set_up(0, dtype=precision if precision in DTYPES else 'float32')


def time_calls(function, seconds):
  """Returns the seconds per call of a function of a tensor; only the last call is waited for."""
  count, most = 1, 2**14
  while True:
    began = time.perf_counter()
    for _ in range(count):
      result = function()
    float(result)  # Waits for the device.
    took = time.perf_counter() - began
    if took > seconds / 2 or count >= most:
      return took / count
    count = min(most, max(2 * count, int(count * seconds / max(took, 1e-6))))


def answer(case):
  """Builds a step, prints how long that took, waits for a line on stdin, and prints what was measured."""
  try:
    print(json.dumps(_measure_step(case)), flush=True)
  except (tf.errors.OpError, UserError, ValueError, RuntimeError) as error:
    print(json.dumps({'failed': one_line(error)}), flush=True)


def _measure_step(case):
  """Measures a training step: dict of numbers."""
  tf.config.optimizer.set_experimental_options({'layout_optimizer': case.layout})
  use_precision(case.precision)
  kind = case.precision if case.precision in DTYPES else 'float32'
  config = parse(
    ['gpu', '--dataset_name=cifar10', '--output_dir=unused', f'--precision={kind}', *case.flags]
  )
  method = case.method.partition('+')[0]
  own = dict(method=method) if method in ('uda', 'supervised') else dict(method='mpl', mpl_feedback=method)
  operations = estimate.estimate(config.replace(**own)).step_flops
  began = time.perf_counter()
  step = step_cost.build_step(config, case.method, jit_compile=case.xla or None)
  run = lambda: step()['global_step']
  float(run())
  first = time.perf_counter() - began
  print(json.dumps({'first_step_s': first}), flush=True)
  input()
  float(run())
  memory = step_benchmark.measure_memory(lambda: float(run()))
  seconds = time_calls(run, case.seconds)
  images = config.train_batch_size * (1 + (2 * config.uda_data if method != 'supervised' else 0))
  return {
    'images_per_s': images / seconds,
    'ms': 1e3 * seconds,
    'TFLOP_per_s': operations / seconds / 1e12,
    'step_GB': memory,
    'first_step_s': first,
  }


class Child:
  """The process of a case."""

  def __init__(self, case, device):
    """Starts it."""
    self.case = case
    self._process = subprocess.Popen(
      [
        sys.executable,
        __file__,
        f'--device={device}',
        json.dumps(dataclasses.asdict(case)),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    self._built = None

  def wait(self):
    """Waits until it is built, or has failed."""
    self._built = self._read()

  def measure(self):
    """Lets it measure; returns its dict, or None if it has been stopped."""
    if self._built and 'failed' not in self._built:
      print(file=self._process.stdin, flush=True)
      self._built = self._read()
    self._process.stdin.close()
    status = self._process.wait()
    return self._built or {'failed': f'its process ended with status {status}'}

  def stop(self):
    """Ends it."""
    self._process.kill()
    self._process.wait()

  def _read(self):
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    return None


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--device', choices=('gpu', 'cpu'), default='gpu')
  parser.add_argument('case')
  given = parser.parse_args(argv)
  start_device(given.device)
  answer(Case(**json.loads(given.case)))


if __name__ == '__main__':
  main(sys.argv[1:])
