"""Trains every method for some steps on any number of replicas: used by test_replicas.py.

    python tests/distribution/replicas.py PATH KIND ...      in each of several workers, TF_CONFIG set

The network is small but has all that could differ between replicas: synchronized batch norm, dropout,
a gradient that is clipped, momentum with Nesterov, and a moving average.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))

import meta_pseudo_labels
from meta_pseudo_labels import build, methods
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.config.choices import FEEDBACKS
from meta_pseudo_labels.distribution import collectives, devices, workers
from meta_pseudo_labels.models import batch_norm, layers
from meta_pseudo_labels.training import device_loop

import numpy as np
import tensorflow as tf

BATCH, UDA_DATA, CLASSES, STEPS = 8, 3, 5, 5
SHAPE = (6, 6, 2)
KINDS = ('supervised', 'pseudo_labels', 'uda', *FEEDBACKS)


def model(number, norm=lambda name: batch_norm.BatchNorm(name, decay=0.9), shape=SHAPE, classes=CLASSES):
  """A network with dropout and layers made by `norm`, its weights by `number`."""
  inputs = tf.keras.Input(shape)
  x = layers.conv2d(6, 3, 'conv_1', seed=number)(inputs)
  x = tf.nn.relu(norm('one/batch_norm')(x))
  x = layers.conv2d(8, 3, 'conv_2', strides=2, seed=number)(x)
  x = tf.nn.relu(norm('two/batch_norm')(x))
  x = layers.Dropout(0.3, name='dropout')(tf.keras.layers.GlobalAveragePooling2D()(x))
  return tf.keras.Model(inputs, layers.dense(classes, 'dense', seed=number)(x))


def config(kind, **changes):
  """The Config of one of KINDS."""
  method = dict(method='mpl', mpl_feedback=kind) if kind in FEEDBACKS else dict(method=kind)
  return Config(
    **{
      **dict(
        dataset_name='digits',
        output_dir='unused',
        train_batch_size=BATCH,
        uda_data=UDA_DATA,
        num_train_steps=STEPS,
        lr=8.0,
        mpl_student_lr=8.0,
        mpl_teacher_lr=6.0,
        num_warmup_steps=0,
        mpl_student_lr_wait_steps=0,
        mpl_student_lr_warmup_steps=0,
        mpl_teacher_lr_warmup_steps=0,
        weight_decay=1e-3,
        grad_bound=0.1,
        label_smoothing=0.1,
        ema_decay=0.9,
        uda_steps=2,
        uda_threshold=0.2,
        lr_decay_type='constant',
        mpl_weight=6.0,
      ),
      **method,
      **changes,
    }
  )


def batch(step):
  """The GLOBAL batch of a step: numpy arrays as `train_step` takes them."""
  random = np.random.RandomState(step)
  draw = lambda count: random.normal(size=(count, *SHAPE)).astype(np.float32)
  count = BATCH * UDA_DATA
  original = draw(count)
  return (
    draw(BATCH),
    random.randint(CLASSES, size=BATCH).astype(np.int32),
    original,
    original + 0.1 * draw(count),
    random.randint(-1, CLASSES, size=count).astype(np.int32),
  )


def train(strategy, kind, jit_compile=False, **options):
  """Trains STEPS steps of one of KINDS.

  Args:
    strategy: tf.distribute.Strategy.
    kind: of KINDS.
    jit_compile: compile the step with XLA.
    **options: flags that differ from `config`'s.

  Returns:
    ({name: float32 `[STEPS]`} of the logs, list of all variables' values at the end).
  """
  settings, replicas = config(kind, **options), strategy.num_replicas_in_sync
  with strategy.scope():
    student, teacher = model(1), model(0)
    method = build.method(
      settings, student=student, teacher=teacher if settings.method in ('mpl', 'pseudo_labels') else None
    )

  def shares(context):
    local = replicas // context.num_input_pipelines
    first = local * context.input_pipeline_id
    rows = [
      tuple(
        array[len(array) // replicas * replica : len(array) // replicas * (replica + 1)]
        for array in batch(step)
      )
      for step in range(STEPS)
      for replica in range(first, first + local)
    ]
    return tf.data.Dataset.from_tensor_slices(tuple(map(np.stack, zip(*rows))))

  iterator = iter(devices.distribute_batches(strategy, shares))
  loop = device_loop.compiled(strategy, method, jit_compile)
  logs = [loop(iterator, tf.constant(1), tf.constant(STEPS, tf.int64)) for _ in range(STEPS)]
  variables = [*student.variables, *teacher.variables, *method.average.averages]
  return (
    {name: np.array([float(line[name]) for line in logs]) for name in logs[0]},
    [v.numpy() for v in variables],
  )


def save(path, strategy, kinds):
  """Writes what `train` returns for some of KINDS to an .npz file."""
  arrays = {}
  for kind in kinds:
    logs, values = train(strategy, kind)
    arrays.update({f'{kind} log {name}': value for name, value in logs.items()})
    arrays.update({f'{kind} variable {number}': value for number, value in enumerate(values)})
  if workers.is_chief(strategy):
    np.savez(path, **arrays)


if __name__ == '__main__':
  save(sys.argv[1], devices.create_strategy('multi_worker'), sys.argv[2:])
