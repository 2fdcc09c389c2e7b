"""Computes batches on other machines with tf.data service (`--dataset_service_address`)."""

import socket
import uuid

from meta_pseudo_labels.errors import UserError

import tensorflow as tf

SECONDS = 10  # Time limit for a dispatcher's answer; TensorFlow itself would try forever.
_service = tf.data.experimental.service


def check_dispatcher(address):
  """Checks that a dispatcher answers; returns its address in TensorFlow's form, `grpc://host:port`.

  Args:
    address: str, `[grpc://]host:port`.

  Raises:
    UserError: the address is malformed, or nothing answers there.
  """
  host, _, port = address.split('://')[-1].rpartition(':')
  if not host or not port.isdigit() or address.split('://')[0] not in ('grpc', f'{host}:{port}'):
    raise UserError(
      f"--dataset_service_address={address}: not an address; give the dispatcher's host:port or "
      'grpc://host:port'
    )
  try:
    socket.create_connection((host.strip('[]'), int(port)), SECONDS).close()
  except (OSError, OverflowError) as error:
    raise UserError(
      f'--dataset_service_address={address}: no dispatcher answers ({error}); start '
      'one, or leave the flag out'
    ) from error
  return f'grpc://{host}:{port}'


def shard_across_workers(elements):
  """Returns every W-th element of an endless dataset, different ones on each of the service's W workers.

  Use it in the dataset that is passed to `distribute`, before the expensive operations.
  """
  hint = tf.data.experimental.SHARD_HINT
  return elements.shard(hint, hint)


def distribute(address, elements):
  """Lets the service's workers compute the elements of a dataset that uses `shard_across_workers`.

  The workers take turns. So each element comes once, and a fast worker does not run ahead. At the
  start, before all workers have begun, some elements come too early. The dispatcher needs the list of
  its workers (`worker_addresses` of its DispatcherConfig), or they cannot divide the work.

  Args:
    address: str, from `check_dispatcher`.
    elements: an endless tf.data.Dataset; the workers must have access to the files it reads.

  Returns:
    An endless tf.data.Dataset.
  """
  # Workers can only take turns for a dataset whose declared cardinality is infinite.
  elements = elements.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
  # A unique job name, since a run that resumes must not join the remaining job of its predecessor.
  return elements.apply(
    _service.distribute(
      processing_mode=_service.ShardingPolicy.HINT,
      service=address,
      job_name=uuid.uuid4().hex,
      consumer_index=0,
      num_consumers=1,
    )
  )
