"""Measures in one command what a GPU does with this program: a table, and all numbers in a JSON file.

    python benchmarks/gpu.py [--device=gpu] [--quick] [--minutes=10] [--only=peak,steps] [--match=uda]
        [--beside=8] [--json=gpu.json]

Sections, in this order, each as far as the minutes allow:

    machine   the card, its driver, TensorFlow, and what is known not to work or to be slow
    peak      matrix products in each precision: the most that the card does for this program
    steps     WRN-28-2, batch 128 + 896 + 896: images per second, share of the peak of that precision,
              memory, seconds to the end of the first step; each precision with and without XLA, then each
              method
    layout    the same step without TensorFlow's layout optimizer, which chooses NHWC or NCHW
    input     the same step fed by the input pipeline, beside the one of steps, on a constant batch
    resnet    ResNet-50 at 224 pixels, whole and in parts (--micro_batches)
    replicas  one and two cards (benchmarks/scaling.py), if there are two
    parity    a case of the release's own numbers (tools/parity.py), in float32
    resume    a run that is killed once and goes on, against an uninterrupted one (tools/chaos.py)

Each step has a process of its own. --beside of them are built beside each other, which takes most of the
time, mostly on the CPU. Then they are timed one after the other. So the seconds to the first step are
those of a busy machine. --match takes the steps whose names hold these letters.

A row that fails says so and the next one follows. --device=cpu measures the CPU. --quick takes tiny
networks and batches: for a test of this program. benchmarks/estimate.py counts a step's operations. Images
are all views of a step. Of float32 there are two kinds: tf32, as TensorFlow computes it on cards from
Ampere on, and float32, with that switched off.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import time
from typing import Tuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.distribution import devices, gpus
from meta_pseudo_labels.errors import UserError, one_line
from meta_pseudo_labels.files import write_json

import alone
import gpu_steps
import tensorflow as tf

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
SECTIONS = ('machine', 'peak', 'steps', 'layout', 'input', 'resnet', 'replicas', 'parity', 'resume')


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is measured.

  Attributes:
    products: sides of the square matrices of the peak.
    step, resnet: flags of the two networks' steps.
    parts: values of --micro_batches for the second.
    methods: the methods of steps; the first one in each precision.
    precisions: those of steps.
    seconds: that a measurement takes.
    case: a golden case.
    killed: flags of the run that is killed.
  """

  products: Tuple[int, ...]
  step: Tuple[str, ...]
  resnet: Tuple[str, ...]
  parts: Tuple[int, ...]
  methods: Tuple[str, ...]
  precisions: Tuple[str, ...]
  seconds: float
  case: str
  killed: Tuple[str, ...]


KILLED = (
  f'--flagfile={CHECKOUT}/flags/digits_mpl.flags',
  '--baselines=',
  '--num_train_steps=60',
  '--finetune_steps=20',
  '--save_every=5',
  '--log_every=5',
  '--num_validation=100',
  '--precision=float32',
)
FULL = Sizes(
  products=(4096, 8192),
  step=('--model_type=wrn-28-2', '--image_size=32', '--train_batch_size=128', '--uda_data=7'),
  resnet=('--model_type=resnet-50', '--image_size=224', '--train_batch_size=32', '--uda_data=4'),
  parts=(1, 4),
  methods=('release', 'soft', 'uda', 'supervised'),
  precisions=('bfloat16', 'tf32', 'float16', 'float32'),
  seconds=3.0,
  case='case2.npz',
  killed=(*KILLED, '--deterministic'),
)
QUICK = Sizes(
  products=(256,),
  step=('--model_type=mlp-8x1', '--image_size=8', '--train_batch_size=2', '--uda_data=2'),
  resnet=('--model_type=mlp-8x1', '--image_size=8', '--train_batch_size=2', '--uda_data=2'),
  parts=(1, 2),
  methods=('release',),
  precisions=('float32',),
  seconds=0.05,
  case='case2.npz',
  killed=(*KILLED, '--num_train_steps=2', '--finetune_steps=0', '--save_every=1', '--model_type=mlp-8x1'),
)


class Report:
  """Prints rows as they come, and keeps all of them in a JSON file.

  Attributes:
    rows: list of dicts, each with `section` and `name`.
  """

  def __init__(self, path, minutes):
    """Stores the path, or None for no file, and the minutes after which nothing more is begun."""
    self.rows, self._path, self._end = [], path, time.monotonic() + 60 * minutes

  def add(self, section, name, **values):
    """Prints a row and writes the file."""
    self.rows.append({'section': section, 'name': name, **values})
    shown = ', '.join(
      f'{key.replace("_", " ")} {value:.4g}'
      if isinstance(value, float)
      else f'{key.replace("_", " ")} {value}'
      for key, value in values.items()
    )
    print(f'{section:9} {name:34} {shown}', flush=True)
    self.write()

  def write(self):
    """Writes the file, if there is one. Raises OSError."""
    if self._path:
      write_json(self._path, {'date': time.strftime('%Y-%m-%d'), 'rows': self.rows})

  def is_over(self):
    """Returns whether the minutes are over: bool."""
    return time.monotonic() > self._end

  def measure(self, section, name, function):
    """Adds the dict that `function` returns; a failure or the end of the time becomes the row."""
    if self.is_over():
      self.add(section, name, skipped='the minutes are over')
      return None
    try:
      values = function()
    except (tf.errors.OpError, UserError, ValueError, RuntimeError) as error:
      values = {'failed': one_line(error)}
    except SystemExit as error:  # Of a measurement in a process of its own, which has said why.
      values = {'failed': f'status {error.code}'}
    self.add(section, name, **values)
    return values

  def find(self, section, name, key):
    """Returns a number measured before, or None."""
    rows = [row for row in self.rows if (row['section'], row['name']) == (section, name)]
    return rows[0].get(key) if rows else None


def measure_peak(precision, sizes):
  """Measures the TFLOP/s of matrix products in a precision: dict."""
  tf.config.experimental.enable_tensor_float_32_execution(precision != 'float32')
  found = []
  for size in sizes.products:
    matrix = tf.cast(
      tf.random.stateless_normal([size, size], [0, size]), gpu_steps.DTYPES.get(precision, tf.float32)
    )
    multiply = tf.function(
      lambda matrix=matrix: tf.cast(tf.matmul(matrix, matrix)[0, 0], tf.float32), autograph=False
    )
    multiply()
    found.append(2 * size**3 / gpu_steps.time_calls(multiply, sizes.seconds / 2) / 1e12)
  return {'TFLOP_per_s': max(found)}


def measure_parity(sizes):
  """Compares a case of the release's numbers: dict."""
  command = [
    sys.executable,
    str(CHECKOUT / 'tools/parity.py'),
    str(CHECKOUT / 'tests/golden' / sizes.case),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  lines = [line for line in done.stdout.splitlines() if line.strip()]
  bad = [line.strip() for line in lines if 'NOT OK' in line]
  return {'status': done.returncode, 'lines': len(lines), **({'first_bad': bad[0]} if bad else {})}


def measure_cases(cases, beside, device, report):
  """Measures cases in processes, of which `beside` are built beside each other."""
  for first in range(0, len(cases), beside):
    group = cases[first : first + beside]
    if report.is_over():
      for case in group:
        report.add(case.section, case.name, skipped='the minutes are over')
      continue
    children = [gpu_steps.Child(case, device) for case in group]
    try:
      for child in children:
        child.wait()
      for child in children:
        values = child.measure()
        peak = report.find('peak', child.case.precision, 'TFLOP_per_s')
        if peak and 'TFLOP_per_s' in values:
          values['share_of_peak'] = values['TFLOP_per_s'] / peak
        report.add(child.case.section, child.case.name, **values)
    finally:
      for child in children:
        child.stop()


def choose_beside():
  """Chooses how many processes there is room for: cores and memory for 10 GB each on the card."""
  machine = gpus.probe()
  memory = min(card.memory for card in machine.cards) if machine else 0
  return max(1, min((os.cpu_count() or 1) // 2, int(memory / 10e9)))


def measure_replicas(sizes, report):
  """Measures two cards against one."""
  if len(tf.config.list_physical_devices('GPU')) < 2:
    report.add('replicas', 'one card', skipped='there is one device')
    return

  def rate(replicas):
    name = f'{sizes.methods[0]},{replicas}'
    return alone.measure(
      str(CHECKOUT / 'benchmarks/scaling.py'), name, [*sizes.step, '--precision=bfloat16']
    )

  report.measure('replicas', 'images per second of two', lambda: {'ratio_to_one': rate(2) / rate(1)})


def measure_resume(sizes):
  """Kills a run once and lets it go on: dict."""
  began = time.perf_counter()
  done = subprocess.run(
    [sys.executable, str(CHECKOUT / 'tools/chaos.py'), '--kills=1', '--seed=2', *sizes.killed],
    capture_output=True,
    text=True,
    check=False,
  )
  lines = (done.stdout + done.stderr).strip().splitlines() or ['no output']
  said = next((line for line in lines if 'compared' in line), lines[-1])
  return {'status': done.returncode, 'said': said, 'seconds': time.perf_counter() - began}


def describe_machine(device, report):
  """Adds what is known of the machine."""
  machine = gpus.probe()
  if device == 'gpu' and machine:
    for number, line in enumerate(gpus.diagnose(machine)):
      report.add('machine', f'GPU {number}' if not number else 'note', says=line)
  build = tf.sysconfig.get_build_info()
  report.add(
    'machine',
    device,
    TensorFlow=tf.__version__,
    CUDA=build.get('cuda_version', 'none'),
    cuDNN=build.get('cudnn_version', 'none'),
    cores=os.cpu_count(),
  )


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--device', choices=('gpu', 'cpu'), default='gpu')
  parser.add_argument('--quick', action='store_true', help='tiny networks and batches')
  parser.add_argument('--minutes', type=float, default=10.0, help='nothing is begun after these')
  parser.add_argument('--only', default=','.join(SECTIONS), help='sections, separated by commas')
  parser.add_argument('--match', default='', help='letters in the names of steps to measure')
  parser.add_argument('--beside', type=alone.parse_numbers, help='steps that are built at a time')
  parser.add_argument('--json', default='gpu.json', help='where all numbers go')
  given = parser.parse_args(argv)
  gpu_steps.start_device(given.device)
  wanted = given.only.split(',')
  unknown = sorted(set(wanted) - set(SECTIONS))
  if unknown:
    parser.error(f'--only={given.only}: unknown section {unknown[0]}; use some of {", ".join(SECTIONS)}')
  if given.device == 'gpu' and not tf.config.list_logical_devices('GPU'):
    parser.error('--device=gpu: TensorFlow sees no GPU here; give --device=cpu')
  sizes, report = QUICK if given.quick else FULL, Report(given.json, given.minutes)
  try:
    report.write()
  except OSError as error:
    parser.error(f'--json={given.json}: cannot be written ({error.strerror}); give another path')
  if 'machine' in wanted:
    describe_machine(given.device, report)
  for precision in gpu_steps.PRECISIONS if 'peak' in wanted else ():
    report.measure('peak', precision, functools.partial(measure_peak, precision, sizes))
  cases = [
    case for case in gpu_steps.list_cases(sizes) if case.section in wanted and given.match in case.name
  ]
  measure_cases(cases, given.beside[0] if given.beside else choose_beside(), given.device, report)
  if 'replicas' in wanted:
    measure_replicas(sizes, report)
  if 'parity' in wanted:
    report.measure('parity', sizes.case, lambda: measure_parity(sizes))
  if 'resume' in wanted:
    report.measure('resume', 'killed once', lambda: measure_resume(sizes))


if __name__ == '__main__':
  main(sys.argv[1:])
