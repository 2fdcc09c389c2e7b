"""Measures what a step costs besides its arithmetic, beside Keras' own `fit`.

    python benchmarks/overhead.py [--methods=release,soft,uda,supervised] [--rounds=5] [--flag=value ...]

The networks are mlp-8x1 on two_moons: they have almost no work, so a step takes what TensorFlow and the
input pipeline take. A card that is fast enough waits for just that. The loop of 100 steps is the program's
own (training/device_loop.py), with its input pipeline. The peer is `fit` of the same two networks, on
batches of the same sizes from memory, 100 steps in a row without returning to Python. Its milliseconds are
the sum of both. They take turns in every round.
"""

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels import build
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.config.choices import FEEDBACKS
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training import device_loop

import alone
import tensorflow as tf

STEPS = 100  # Of a loop.


def build_loop(name, flags):
  """Builds a function without arguments that makes STEPS training steps of a method or feedback."""
  own = [f'--mpl_feedback={name}', '--method=mpl'] if name in FEEDBACKS else [f'--method={name}']
  config = parse(
    ['overhead', '--dataset_name=two_moons_6', '--model_type=mlp-8x1', '--output_dir=unused', *own, *flags]
  )
  validate(config)
  strategy = devices.create_strategy('one_device')
  problem = build.problem(config)
  phase = build.phases(config, problem.input_shape, problem.num_classes, views=problem.views)[-1]
  iterator = iter(
    devices.distribute_batches(
      strategy,
      lambda context: problem.train_batches(
        batch_size=phase.batch_size, seed=0, uda_data=phase.uda_data, context=context
      ),
    )
  )
  loop = device_loop.compiled(strategy, phase.method, False)
  return lambda: loop(iterator, tf.constant(STEPS), tf.constant(2**62, tf.int64))


def build_fit(batch_sizes):
  """Builds a function that makes STEPS steps of `fit` with one mlp-8x1 for each of the batch sizes."""

  def one(size):
    network = tf.keras.Sequential([tf.keras.layers.Dense(8, 'relu'), tf.keras.layers.Dense(2)])
    network.compile(
      tf.keras.optimizers.SGD(0.1, momentum=0.9),
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      steps_per_execution=STEPS,
    )
    examples = (tf.random.stateless_normal([size, 2], [0, size]), tf.range(size) % 2)
    data = tf.data.Dataset.from_tensors(examples).repeat().prefetch(tf.data.AUTOTUNE)
    return lambda: network.fit(data, steps_per_epoch=STEPS, verbose=0)

  runs = [one(size) for size in batch_sizes]
  return lambda: [run() for run in runs]


def find_milliseconds(function):
  """Returns the milliseconds per step of a call that makes STEPS steps."""
  began = time.perf_counter()
  function()
  return 1e3 * (time.perf_counter() - began) / STEPS


def measure(methods, rounds, flags=()):
  """Measures {name: milliseconds per step, one number for each round}; `fit` is one of the names."""
  config = parse(['overhead', *flags])
  labeled = config.train_batch_size
  runs = {'fit': build_fit([labeled * (1 + 2 * config.uda_data), labeled * (1 + config.uda_data)])}
  runs.update({name: build_loop(name, flags) for name in methods})
  for run in runs.values():
    run()
  found = {name: [] for name in runs}
  for _ in range(rounds):
    for name, run in runs.items():
      found[name].append(find_milliseconds(run))
  return found


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--methods', default='release,soft,uda,supervised')
  parser.add_argument('--rounds', type=alone.parse_numbers, default=[5])
  given, flags = parser.parse_known_args(argv)
  try:
    found = measure(given.methods.split(','), given.rounds[0], flags)
  except UserError as error:
    parser.error(str(error))
  print(f'TensorFlow {tf.__version__}, {os.cpu_count()} cores, {given.rounds[0]} rounds of {STEPS} steps')
  for name, values in found.items():
    values = sorted(values)
    ratios = sorted(value / fit for value, fit in zip(found[name], found['fit']))
    print(
      f'{name:12} {values[len(values) // 2]:6.2f} ms a step ({values[0]:.2f} to {values[-1]:.2f}), '
      f'{ratios[len(ratios) // 2]:.2f} of fit'
    )


if __name__ == '__main__':
  main(sys.argv[1:])
