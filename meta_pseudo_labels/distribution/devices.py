"""Devices, strategies and precision."""

import json
import os
import re

from meta_pseudo_labels.distribution import spatial
from meta_pseudo_labels.errors import UserError

import tensorflow as tf
from absl import logging
from tensorflow.python.client import device_lib


def configure_devices(num_virtual_devices=0):
  """Splits the CPU into `num_virtual_devices`; call it before TensorFlow uses any device.

  Raises:
    UserError: TensorFlow has started with another number of devices.
  """
  if num_virtual_devices < 2:
    return
  try:
    cpu = tf.config.list_physical_devices('CPU')[0]
    tf.config.set_logical_device_configuration(
      cpu, [tf.config.LogicalDeviceConfiguration()] * num_virtual_devices
    )
  except RuntimeError:
    pass  # Devices exist already. Their number is checked below.
  found = len(tf.config.list_logical_devices('CPU'))
  if found != num_virtual_devices:
    raise UserError(
      f'--num_virtual_devices={num_virtual_devices}: TensorFlow already runs with '
      f'{found} CPU device(s) in this process; start a new process'
    )


def set_threads(intra_op_threads=0):
  """Limits the CPU threads of one operation (0: one per core); call it before TensorFlow starts.

  Raises:
    UserError: TensorFlow has started with another number of threads.
  """
  threading = tf.config.threading
  if intra_op_threads and intra_op_threads != threading.get_intra_op_parallelism_threads():
    try:
      threading.set_intra_op_parallelism_threads(intra_op_threads)
    except RuntimeError as error:
      raise UserError(
        f'--intra_op_threads={intra_op_threads}: TensorFlow already runs with another '
        'number of threads in this process; start a new process'
      ) from error


def create_strategy(
  name='auto', *, use_tpu=False, num_virtual_devices=0, master=None, tpu_topology='', cores_per_replica=1
):
  """Creates a `tf.distribute.Strategy` by `--strategy`.

  auto: a TPU if `use_tpu` is set and a TPU answers; multi_worker if TF_CONFIG names several workers;
  mirrored if there are several GPUs or virtual devices; otherwise one device, the GPU if there is one.
  `cores_per_replica` above 1 requires a TPU (spatial.py).

  Raises:
    UserError: the devices do not exist, or the flags contradict each other.
  """
  if cores_per_replica > 1 and name != 'tpu' and not (name == 'auto' and use_tpu):
    raise UserError(
      f'--num_cores_per_replica={cores_per_replica}: only the cores of a TPU share a '
      f'replica; give --strategy=tpu, or {spatial.INSTEAD}'
    )
  several = name == 'multi_worker' or (name == 'auto' and _count_workers() > 1)
  if several and num_virtual_devices > 1:
    raise UserError(
      f'--num_virtual_devices={num_virtual_devices}: not possible with several workers (TF_CONFIG); '
      'leave it out'
    )
  configure_devices(num_virtual_devices)
  if name == 'auto' and use_tpu:
    try:
      return _create_tpu_strategy(master, tpu_topology, cores_per_replica)
    except UserError as error:
      if cores_per_replica > 1:
        raise
      logging.warning('--use_tpu: %s', error)
  # Listing the devices starts them, and TensorFlow must know of all workers before that.
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
  """Creates a MirroredStrategy over devices, given by name.

  Sums over CPU devices use plain additions. TensorFlow's collective operations number their calls from
  the same start for every strategy of a process. So they would confuse a second strategy over the same
  devices with the first.
  """
  on_cpu = all('CPU' in device for device in devices)
  return tf.distribute.MirroredStrategy(
    devices, cross_device_ops=tf.distribute.ReductionToOneDevice() if on_cpu else None
  )


def _count_workers():
  """Returns how many workers the environment variable TF_CONFIG names: int.

  Raises:
    UserError: it does not describe a cluster.
  """
  text = os.environ.get('TF_CONFIG') or '{}'
  try:
    cluster = json.loads(text).get('cluster', {})
    return sum(len(cluster.get(kind, ())) for kind in ('chief', 'worker'))
  except (ValueError, AttributeError, TypeError) as error:
    raise UserError(
      f'TF_CONFIG={text}: not a cluster; give JSON such as {{"cluster": {{"worker": ["host0:2222", '
      '"host1:2222"]}, "task": {"type": "worker", "index": 0}}'
    ) from error


def _create_multi_worker():
  """Creates a MultiWorkerMirroredStrategy by TF_CONFIG. Raises UserError if TF_CONFIG is wrong."""
  if not _count_workers():
    raise UserError(
      '--strategy=multi_worker: the environment variable TF_CONFIG names no workers; '
      'set it on each worker, see docs/scaling.md'
    )
  try:
    return tf.distribute.MultiWorkerMirroredStrategy()
  except (ValueError, KeyError, RuntimeError) as error:
    raise UserError(
      f'TF_CONFIG={os.environ["TF_CONFIG"]}: TensorFlow rejects it '
      f'({str(error).strip().splitlines()[0]}); see docs/scaling.md'
    ) from error


def _create_tpu_strategy(master, tpu_topology, cores_per_replica):
  """Connects to a TPU and creates its strategy. Raises UserError if no TPU answers."""
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
    logging.info('--tpu_topology=%s: not used; the TPU reports its own topology', tpu_topology)
  if cores_per_replica > 1:
    return spatial.SplitReplicas(resolver, topology, cores_per_replica)
  return tf.distribute.TPUStrategy(resolver)


def set_up(seed, deterministic=False, dtype='float32'):
  """Sets the seed, the order of operations and the precision for the whole process.

  Args:
    seed: int, for third-party layers; stateless draws have seeds of their own.
    deterministic: bool, whether results are bit-identical, at some cost (`--deterministic`).
    dtype: that networks compute in, with float32 variables: 'float32', 'bfloat16' or 'float16'.
  """
  tf.keras.utils.set_random_seed(seed)
  if deterministic:
    tf.config.experimental.enable_op_determinism()
  tf.keras.mixed_precision.set_global_policy('float32' if dtype == 'float32' else f'mixed_{dtype}')


def find_usable_memory(strategy):
  """Returns the bytes that a run may take on each of this process's devices; None: not known.

  Of a GPU it is nine tenths of what TensorFlow may take there; the rest is for what is not in its pool and
  for gaps. Of CPUs it is four fifths of what the machine has free (Linux), shared among them.
  """
  names = strategy.extended.worker_devices
  if any('GPU' in name for name in names):
    # The public functions tell what is in use, not what there is.
    found = [
      device.memory_limit for device in device_lib.list_local_devices() if device.device_type == 'GPU'
    ]
    return 0.9 * min(found) if found else None
  if not all('CPU' in name for name in names):
    return None
  try:
    with open('/proc/meminfo', encoding='ascii') as file:
      free = re.search(r'^MemAvailable: +(\d+) kB$', file.read(), re.MULTILINE)
  except OSError:
    return None
  return 0.8 * 1024 * int(free.group(1)) / len(names) if free else None


def divide_batch(global_size, replicas, what):
  """Returns one replica's share of a global batch: int.

  Args:
    global_size: int, the value of the flag.
    replicas: int.
    what: str, the flag's name.

  Raises:
    UserError: the batch cannot be divided evenly.
  """
  if global_size % replicas:
    raise UserError(
      f'--{what}={global_size}: cannot be divided among {replicas} replicas; use a '
      f'multiple of {replicas}, such as {(global_size // replicas + 1) * replicas}'
    )
  return global_size // replicas


def distribute_batches(strategy, dataset_fn):
  """Returns an iterable of every replica's share of a batch, as input for `strategy.run`.

  With one CPU device the dataset is returned itself. tf.distribute would add an iterator of its own.
  Deleting that iterator waits for its autotuning thread, for up to a minute (TensorFlow 2.15).

  Args:
    strategy: tf.distribute.Strategy.
    dataset_fn: function from a tf.distribute.InputContext to a tf.data.Dataset. Each element is the
      share of one replica; the replicas of a batch follow each other.
  """
  devices = strategy.extended.worker_devices
  if len(devices) == 1 and strategy.num_replicas_in_sync == 1 and 'CPU' in devices[0]:
    return dataset_fn(tf.distribute.InputContext())
  # Endless datasets, since with a finite one several workers treat the last batch as of unknown size.
  return strategy.distribute_datasets_from_function(lambda context: dataset_fn(context).repeat())
