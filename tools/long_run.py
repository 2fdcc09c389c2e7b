"""Trains two moons for 100,000 steps in one process, and checks its memory and its records.

    python tools/long_run.py [--steps=100000]

It prints the resident memory at step 5,000 and at the end. It ends with status 1 if the memory has grown
by more than 5 %, or if a line of metrics.jsonl or an event is missing.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from meta_pseudo_labels import main as program
from meta_pseudo_labels.training.run import Run

import tensorflow as tf

FIRST, MOST = 5000, 1.05
FLAGS = [
  '--dataset_name=two_moons_6_mpl',
  '--model_type=mlp-8x2',
  '--label_seed=1',
  '--uda_data=4',
  '--train_batch_size=6',
  '--mpl_feedback=soft',
  '--save_every=1000',
  '--log_every=10',
  '--mpl_student_lr_wait_steps=0',
  '--intra_op_threads=1',
  '--strategy=one_device',
  '--eval_batch_size=1000',
]


def measure_memory():
  """Returns the resident memory of this process in MB."""
  with open('/proc/self/statm', encoding='ascii') as file:
    return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


def read_event_steps(folder):
  """Reads the steps of the events of one scalar in a folder, in order."""
  steps = []
  for path in sorted(folder.glob('*tfevents*')):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      steps += [event.step for value in event.summary.value if value.tag == 'global_step']
  return steps


def main():
  """Runs the command line; returns 0 if the memory is stable and the records are complete."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--steps', type=int, default=100_000)
  steps = parser.parse_args().steps
  memory, save = {}, Run._save

  def measured(run, number, *args):
    save(run, number, *args)
    memory[number] = measure_memory()

  Run._save = measured
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    if program.run(['long_run', *FLAGS, f'--output_dir={folder}', f'--num_train_steps={steps}']):
      return 1
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    wanted = list(range(10, steps + 1, 10))
    whole = [line['step'] for line in lines if line['kind'] == 'train'] == wanted
    whole = whole and read_event_steps(folder / 'logs' / 'train') == wanted
  growth = memory[steps] / memory[FIRST]
  print(
    'memory in MB: '
    + ', '.join(
      f'{memory[step]:.1f} at step {step}' for step in sorted({FIRST, *range(20000, steps, 20000), steps})
    )
    + f'; {100 * (growth - 1):+.1f} %'
  )
  print('metrics.jsonl and events are ' + ('complete' if whole else 'incomplete'))
  return 0 if whole and growth <= MOST else 1


if __name__ == '__main__':
  sys.exit(main())
