"""Batches made on other machines, by tf.data service (`--dataset_service_address`)."""

import socket
import uuid

from meta_pseudo_labels.errors import UserError

import tensorflow as tf

SECONDS = 10  # That a dispatcher may take to answer; TensorFlow itself would try for ever.
_service = tf.data.experimental.service


def check_dispatcher(address):
  """The dispatcher's address as TensorFlow writes it: `grpc://host:port` of `[grpc://]host:port`.

  Raises:
    UserError: no such address, or nobody answers there.
  """
  host, _, port = address.split('://')[-1].rpartition(':')
  if not host or not port.isdigit() or address.split('://')[0] not in ('grpc', f'{host}:{port}'):
    raise UserError(
      f"--dataset_service_address={address}: must be the dispatcher's host:port or grpc://host:port"
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
  """Every W-th element of an endless dataset, another one's on each of the service's W workers;
  to be used in what `distribute` gets, before what takes time."""
  hint = tf.data.experimental.SHARD_HINT
  return elements.shard(hint, hint)


def distribute(address, elements):
  """The elements of a dataset that has `shard_across_workers` in it, made by the service's workers.

  The workers take turns, so that each element comes once, and a fast one does not run ahead; at
  the start, while not all have begun, some come too early. The dispatcher must have been told of
  its workers (`worker_addresses` of its DispatcherConfig), or they could not share the work.

  Args:
    address: as `check_dispatcher` returns it.
    elements: an endless tf.data.Dataset; what it reads must be there on the workers.

  Returns:
    An endless tf.data.Dataset.
  """
  # Taking turns is only for what never ends, and is said to.
  elements = elements.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
  # A name of its own: a run that goes on must not join what is left of the one before it.
  return elements.apply(
    _service.distribute(
      processing_mode=_service.ShardingPolicy.HINT,
      service=address,
      job_name=uuid.uuid4().hex,
      consumer_index=0,
      num_consumers=1,
    )
  )
