"""Measures images per second by batch and replicas, as ratios to the first combination.

    python benchmarks/scaling.py [--model=wrn-28-2] [--image_size=32] [--batches=4,8,16]
        [--replicas=1,2] [--uda_data=7] [--method=release] [--rounds=3] [--flag=value ...]

Replicas are the GPUs, or without GPUs parts of the CPU. Parts of a CPU share its cores. So they show the
cost of synchronization (1.0 means none), not the gain from more devices. Every combination runs in a
process of its own. The processes take turns, once per round.
"""

import argparse
import itertools
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build
from meta_pseudo_labels.config import parse, validate

import alone

SECONDS = 5.0


def measure(name, replicas, flags):
  """Measures the images of all kinds per second of one combination, in this process: float."""
  import meta_pseudo_labels
  from meta_pseudo_labels import methods
  from meta_pseudo_labels.distribution import collectives, devices

  import numpy as np
  import tensorflow as tf

  config = parse(['scaling', '--dataset_name=cifar10', '--output_dir=unused', *flags])
  config = config.replace(
    **(dict(method=name) if name in ('uda', 'supervised') else dict(method='mpl', mpl_feedback=name))
  )
  validate(config)
  gpus = [device.name for device in tf.config.list_physical_devices('GPU')]
  if not gpus:
    devices.configure_devices(replicas)
  kind = 'GPU' if gpus else 'CPU'
  strategy = (
    devices.create_mirrored([f'{kind}:{index}' for index in range(replicas)])
    if (replicas > 1)
    else devices.create_strategy('one_device')
  )
  devices.set_up(0, dtype=config.computes_in)
  shape = (config.image_size, config.image_size, 3)
  with strategy.scope():
    make = lambda number: build.model(config, number, shape, 10)
    method = build.method(config, student=make(1), teacher=make(0) if config.method == 'mpl' else None)
  share = devices.divide_batch(config.train_batch_size, replicas, 'batches')
  unlabeled = share * config.uda_data
  draw = lambda count: np.random.RandomState(count).normal(size=(count, *shape)).astype(np.float32)
  batch = (draw(share), (np.arange(share) % 10).astype(np.int32), draw(unlabeled), draw(unlabeled))
  iterator = iter(
    devices.distribute_batches(strategy, lambda context: tf.data.Dataset.from_tensors(batch).repeat())
  )

  @tf.function(autograph=False)
  def step(iterator):
    logs = strategy.run(method.train_step, args=(next(iterator),))
    return strategy.experimental_local_results(logs['global_step'])[0]

  float(step(iterator))
  float(step(iterator))
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < SECONDS or count < 3:
    float(step(iterator))
    count += 1
  return config.train_batch_size * (1 + 2 * config.uda_data) * count / (time.perf_counter() - began)


def main(argv):
  if argv and argv[0].startswith(alone.ONE):
    alone.answer(argv[0], lambda name, replicas: measure(name, int(replicas), argv[1:]))
    return
  parser = argparse.ArgumentParser(allow_abbrev=False)
  for name, default in (
    ('model', 'wrn-28-2'),
    ('image_size', '32'),
    ('uda_data', '7'),
    ('method', 'release'),
  ):
    parser.add_argument(f'--{name}', default=default)
  for name, default in (('batches', [4, 8, 16]), ('replicas', [1, 2]), ('rounds', [3])):
    parser.add_argument(f'--{name}', type=alone.parse_numbers, default=default)
  given, others = parser.parse_known_args(argv)
  flags = [
    f'--model_type={given.model}',
    f'--image_size={given.image_size}',
    f'--uda_data={given.uda_data}',
    *others,
  ]
  grid = list(itertools.product(given.batches, given.replicas))
  rates = {combination: [] for combination in grid}
  for _ in range(given.rounds[0]):
    for batch, replicas in grid:
      rates[batch, replicas].append(
        alone.measure(__file__, f'{given.method},{replicas}', [*flags, f'--train_batch_size={batch}'])
      )
  print(
    f'{given.model}, {given.image_size} pixels, {given.method}, U {given.uda_data}, '
    f'{os.cpu_count()} cores, {given.rounds[0]} rounds'
  )
  for (batch, replicas), values in rates.items():
    ratios = sorted(value / first for value, first in zip(values, rates[grid[0]]))
    print(
      f'batch {batch:5}, {replicas} replica(s): {ratios[len(ratios) // 2]:.2f} of the images per second '
      f'of batch {grid[0][0]} on {grid[0][1]} ({ratios[0]:.2f} to {ratios[-1]:.2f})'
    )


if __name__ == '__main__':
  main(sys.argv[1:])
