"""Devices, strategies and precision; the two operations that every replica does alike."""

import json
import os

from meta_pseudo_labels.distribution import spatial
from meta_pseudo_labels.errors import UserError

import tensorflow as tf
from absl import logging


def configure_devices(num_virtual_devices=0):
  """Splits the CPU into `num_virtual_devices`; before TensorFlow touches any device.

  Raises:
    UserError: TensorFlow has started with another number of them.
  """
  if num_virtual_devices < 2:
    return
  try:
    cpu = tf.config.list_physical_devices('CPU')[0]
    tf.config.set_logical_device_configuration(
      cpu, [tf.config.LogicalDeviceConfiguration()] * num_virtual_devices
    )
  except RuntimeError:
    pass  # Devices exist already: fine when they are as many as asked for.
  found = len(tf.config.list_logical_devices('CPU'))
  if found != num_virtual_devices:
    raise UserError(
      f'--num_virtual_devices={num_virtual_devices}: TensorFlow already runs with '
      f'{found} CPU device(s) in this process; start a new one'
    )


def set_threads(intra_op_threads=0):
  """Bounds the CPU threads of one operation (0: as many as cores); before TensorFlow starts.

  Raises:
    UserError: TensorFlow has started with another number of them.
  """
  threading = tf.config.threading
  if intra_op_threads and intra_op_threads != threading.get_intra_op_parallelism_threads():
    try:
      threading.set_intra_op_parallelism_threads(intra_op_threads)
    except RuntimeError as error:
      raise UserError(
        f'--intra_op_threads={intra_op_threads}: TensorFlow already runs with other '
        'threads in this process; start a new one'
      ) from error


def create_strategy(
  name='auto', *, use_tpu=False, num_virtual_devices=0, master=None, tpu_topology='', cores_per_replica=1
):
  """A `tf.distribute.Strategy` by `--strategy`.

  auto: a TPU where `use_tpu` asks for one and one answers; multi_worker where TF_CONFIG names
  several workers, mirrored where there are several GPUs or virtual devices, else one device (the
  GPU if there is one). With `cores_per_replica` above 1 it is a TPU or nothing (spatial.py).

  Raises:
    UserError: what was asked for is not there.
  """
  if cores_per_replica > 1 and name != 'tpu' and not (name == 'auto' and use_tpu):
    raise UserError(
      f'--num_cores_per_replica={cores_per_replica}: only the cores of a TPU share a '
      f'replica; give --strategy=tpu, or {spatial.INSTEAD}'
    )
  several = name == 'multi_worker' or (name == 'auto' and _count_workers() > 1)
  if several and num_virtual_devices > 1:
    raise UserError(
      f'--num_virtual_devices={num_virtual_devices}: not with several workers (TF_CONFIG); leave it out'
    )
  configure_devices(num_virtual_devices)
  if name == 'auto' and use_tpu:
    try:
      return _create_tpu_strategy(master, tpu_topology, cores_per_replica)
    except UserError as error:
      if cores_per_replica > 1:
        raise
      logging.warning('--use_tpu: %s', error)
  # Before the devices are listed: several workers must be known before TensorFlow starts them.
  if several:
    return _create_multi_worker()
  if name == 'tpu':
    return _create_tpu_strategy(master, tpu_topology, cores_per_replica)
  gpus = tf.config.list_logical_devices('GPU')
  devices = [device.name for device in gpus or tf.config.list_logical_devices('CPU')]
  if name == 'mirrored' or (name == 'auto' and len(devices) > 1):
    return create_mirrored(devices)
  return tf.distribute.OneDeviceStrategy(devices[0])


def create_mirrored(devices):
  """MirroredStrategy over these devices' names.

  Between CPU devices sums are taken by plain additions: TensorFlow's collective operations
  number their calls from the same start for every strategy of a process, so that a second one
  over the same devices would be mistaken for the first.
  """
  on_cpu = all('CPU' in device for device in devices)
  return tf.distribute.MirroredStrategy(
    devices, cross_device_ops=tf.distribute.ReductionToOneDevice() if on_cpu else None
  )


def _count_workers():
  """How many workers the environment variable TF_CONFIG names: int.

  Raises:
    UserError: it is no cluster's description.
  """
  text = os.environ.get('TF_CONFIG') or '{}'
  try:
    cluster = json.loads(text).get('cluster', {})
    return sum(len(cluster.get(kind, ())) for kind in ('chief', 'worker'))
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(
      f'TF_CONFIG={text}: must be JSON such as {{"cluster": {{"worker": ["host0:2222", '
      '"host1:2222"]}, "task": {"type": "worker", "index": 0}}'
    ) from error


def _create_multi_worker():
  if not _count_workers():
    raise UserError(
      '--strategy=multi_worker: the environment variable TF_CONFIG names no workers; '
      'set it on each of them, see docs/scaling.md'
    )
  try:
    return tf.distribute.MultiWorkerMirroredStrategy()
  except (ValueError, KeyError, RuntimeError) as error:
    raise UserError(
      f'TF_CONFIG={os.environ["TF_CONFIG"]}: TensorFlow refuses it ({str(error).strip().splitlines()[0]})'
    ) from error


def _create_tpu_strategy(master, tpu_topology, cores_per_replica):
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=master or 'local')
    tf.config.experimental_connect_to_cluster(resolver)
    topology = tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, tf.errors.OpError, RuntimeError) as error:
    reason = str(error).strip().splitlines()[0].split(' with these attrs')[0]
    raise UserError(
      f'--strategy=tpu --master={master or "local"}: no TPU answers ({reason}); '
      'use --strategy=auto on a machine without one'
    ) from error
  if tpu_topology:
    logging.info('--tpu_topology=%s is not needed: the TPU tells its own.', tpu_topology)
  if cores_per_replica > 1:
    return spatial.SplitReplicas(resolver, topology, cores_per_replica)
  return tf.distribute.TPUStrategy(resolver)


def set_up(seed, deterministic=False, use_bfloat16=False, use_float16=False):
  """What holds for the whole process: seed, order of operations, precision.

  Args:
    seed: int; what is drawn statelessly has its own, this is for third parties' layers.
    deterministic: bit-identical results at some cost (`--deterministic`).
    use_bfloat16, use_float16: compute in that with float32 variables; neither: in float32.
  """
  tf.keras.utils.set_random_seed(seed)
  if deterministic:
    tf.config.experimental.enable_op_determinism()
  tf.keras.mixed_precision.set_global_policy(
    'mixed_bfloat16' if use_bfloat16 else 'mixed_float16' if use_float16 else 'float32'
  )


def divide_batch(global_size, replicas, what):
  """The share of one replica of a global batch.

  Raises:
    UserError: it does not divide.
  """
  if global_size % replicas:
    raise UserError(
      f'--{what}={global_size} cannot be divided among {replicas} replicas: use a '
      f'multiple of {replicas}, such as {(global_size // replicas + 1) * replicas}'
    )
  return global_size // replicas


def distribute_batches(strategy, dataset_fn):
  """What `strategy.run` can be fed from: an iterable of every replica's share of a batch.

  One CPU device reads the dataset itself: tf.distribute would put an iterator of its own before
  it, whose thread of automatic tuning makes whoever drops it wait, for as long as the run took or
  a minute (TensorFlow 2.15).

  Args:
    strategy: tf.distribute.Strategy.
    dataset_fn: function of a tf.distribute.InputContext to a tf.data.Dataset of one replica's
      shares, the replicas of a batch in a row.
  """
  devices = strategy.extended.worker_devices
  if len(devices) == 1 and strategy.num_replicas_in_sync == 1 and 'CPU' in devices[0]:
    return dataset_fn(tf.distribute.InputContext())
  # Endless ones: of others several workers would take the last batch to be of unknown size.
  return strategy.distribute_datasets_from_function(lambda context: dataset_fn(context).repeat())
