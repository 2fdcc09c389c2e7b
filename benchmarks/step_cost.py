"""Measures the time of a training step of each method, as a ratio to the release's step.

    python benchmarks/step_cost.py [--model_type=wrn-28-2] [--image_size=32] [--train_batch_size=16]
        [--uda_data=7] [--rounds=5] [--methods=release,soft,...] [--flag=value ...]

It uses a constant batch and one device. A method may have flags of its own: `release/micro_batches=8`,
`release/original_view=separate/remat=true`. A method written as `release+input` reads from the input
pipeline instead: 50,000 shuffled images in memory, and both views of CIFAR's recipe for each. The methods
take turns in every round, so that other load on the machine affects all equally. Absolute times are
meaningless on a shared machine. The results are the ratios and their spread over the rounds.
"""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels import build, methods
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.config.choices import FEEDBACKS
from meta_pseudo_labels.data import input_pipeline, registry
from meta_pseudo_labels.data.augment.views import PadCrop
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf

CLASSES, SECONDS_A_TURN = 10, 2.0
KNOWN = (*FEEDBACKS, 'uda', 'supervised')
INFO = registry.info('cifar10')


def build_input(config, supervised):
  """Builds an iterator over training batches of 4,000 labeled and 50,000 unlabeled noise images."""
  random, size = np.random.RandomState(0), config.image_size
  images = random.randint(0, 256, [50000, size, size, 3]).astype(np.uint8)
  dtype = tf.bfloat16 if config.computes_in == 'bfloat16' else tf.float32
  return iter(
    input_pipeline.train_batches(
      images[:4000],
      random.randint(CLASSES, size=4000),
      None if supervised else images,
      views=PadCrop(mean=INFO.mean, std=INFO.std, magnitude=config.augment_magnitude, dtype=dtype),
      batch_size=config.train_batch_size,
      uda_data=config.uda_data,
      seed=0,
    )
  )


def with_flags(config, settings):
  """Returns a Config with some flags changed; `settings`: list of `name=value`. Raises UserError."""
  known, changes = parse(['step_cost', *(f'--{setting}' for setting in settings)]), {}
  for setting in settings:
    flag = setting.partition('=')[0]
    changes[flag] = getattr(known, flag)
  changed = config.replace(**changes)
  validate(changed)
  return changed


def build_step(config, name, jit_compile=None):
  """Builds a compiled step of `name`, a feedback or a method, with its flags behind it.

  It uses a constant batch, or with `<name>+input` the batches of the input pipeline. `jit_compile`: as of
  tf.function.
  """
  name, *own = name.split('/')
  name, _, fed = name.partition('+')
  config = with_flags(config, own)
  config = (
    config.replace(method='mpl', mpl_feedback=name) if name in FEEDBACKS else config.replace(method=name)
  )
  shape = [config.image_size, config.image_size, 3]
  model = lambda number: build.model(config, number, tuple(shape), CLASSES)
  method = build.method(config, student=model(0), teacher=model(1) if name in FEEDBACKS else None)
  if fed:
    iterator = build_input(config, supervised=name == 'supervised')
    step = tf.function(method.train_step, autograph=False, jit_compile=jit_compile)
    return tf.function(lambda: step(next(iterator)), autograph=False)
  dtype = tf.bfloat16 if config.computes_in == 'bfloat16' else tf.float32
  draw = lambda count: tf.cast(tf.random.stateless_normal([count, *shape], [0, count]), dtype)
  size = config.train_batch_size
  labels = tf.range(size) % CLASSES
  data = (
    (draw(size), labels)
    if name == 'supervised'
    else (draw(size), labels, draw(size * config.uda_data), draw(size * config.uda_data))
  )
  return tf.function(lambda: method.train_step(data), autograph=False, jit_compile=jit_compile)


def measure(steps, rounds):
  """Measures {name: seconds per step, one number for each round}."""
  seconds = {name: [] for name in steps}
  for step in steps.values():
    step()
    step()
  for _ in range(rounds):
    for name, step in steps.items():
      began, count = time.perf_counter(), 0
      while time.perf_counter() - began < SECONDS_A_TURN or count < 3:
        logs = step()
        count += 1
      float(logs['global_step'])  # Waits for the end of the step.
      seconds[name].append((time.perf_counter() - began) / count)
  return seconds


def main(argv):
  own = {'rounds': '5', 'methods': 'release,sampled,argmax,sampled_dot,soft,uda,supervised'}
  flags = [
    'step_cost',
    '--dataset_name=cifar10',
    '--output_dir=unused',
    '--model_type=wrn-28-2',
    '--train_batch_size=16',
    '--uda_data=7',
  ]
  for argument in argv:
    name, _, value = argument.lstrip('-').partition('=')
    if name in own:
      own[name] = value
    else:
      flags.append(argument)
  names = own['methods'].split(',')
  try:
    for name in names:
      if name.split('/')[0].replace('+input', '', 1) not in KNOWN:
        raise UserError(
          f'--methods={name}: unknown; use some of {", ".join(KNOWN)}, or one with +input appended'
        )
    if not own['rounds'].isdigit() or own['rounds'] == '0':
      raise UserError(f'--rounds={own["rounds"]}: not a positive integer; give 1 or more')
    config = parse(flags)
    validate(config)
    for name in names:
      with_flags(config, name.split('/')[1:])
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  devices.set_up(0, dtype=config.computes_in)
  steps = {name: build_step(config, name) for name in names}
  seconds = measure(steps, int(own['rounds']))
  first = next(iter(steps))
  print(
    f'{config.model_type}, {config.image_size} pixels, batch {config.train_batch_size}, '
    f'U {config.uda_data}, {config.computes_in}, TensorFlow {tf.__version__}, '
    f'{os.cpu_count()} cores; {own["rounds"]} rounds'
  )
  for name, values in seconds.items():
    ratios = np.array(values) / np.array(seconds[first])
    print(f'{name:12}  {np.median(ratios):.3f} of {first} ({ratios.min():.3f} to {ratios.max():.3f})')


if __name__ == '__main__':
  main(sys.argv[1:])
