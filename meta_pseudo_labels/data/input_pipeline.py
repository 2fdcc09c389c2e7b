"""Batches: which examples a step sees, and their views, as functions of (seed, step).

A step's batch is determined by its number. So the input's position is the step, a resumed run
starts the pipeline at its step, and replica r of R makes rows [r*b, (r+1)*b) of the global
batch. Nothing of the pipeline needs to be saved.
"""

import os

from meta_pseudo_labels import rng
from meta_pseudo_labels.data import service
from meta_pseudo_labels.data.augment.views import Ragged
from meta_pseudo_labels.data.store.reading import Prepared

import numpy as np
import tensorflow as tf

# Batches in the making at once, at most: each holds its images several times over.
PARALLEL_CALLS = 16
# What a batch has, in the order of `methods.Batch`, which is a layer above.
PARTS = ('labeled', 'labels', 'original', 'augmented', 'truth', 'predictions')


def order(count, seed, purpose, size, start=0):
  """Which examples each batch holds: an endless series of shuffled epochs, cut into batches.

  Args:
    count: int, or int64 scalar tensor: examples.
    seed: int.
    purpose: str, or int scalar tensor; independent orders for labeled and unlabeled examples.
    size: int, examples a batch; a batch may begin in one epoch and end in a later one.
    start: the number of the first batch.

  Returns:
    An endless tf.data.Dataset of int64 `[size]` in [0, count): within an epoch each example
    stands exactly once.
  """
  epoch, position = start * size // count, start * size % count

  def shuffled(number):
    key = rng.fold(rng.key(seed, number), purpose)
    return tf.data.Dataset.from_tensor_slices(
      tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), key)
    )

  epochs = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max)
  return epochs.flat_map(shuffled).skip(position).batch(size, drop_remainder=True)


def balanced_order(labels, seed, purpose, size, start=0):
  """Which examples each batch holds, if every class counts as much: an endless series, cut into batches.

  It consists of blocks in which each of the K classes that have examples stands once, in an order shuffled
  per block. Within a class the examples come in shuffled epochs, those of `order`.

  Args:
    labels: int `[n]`, n at least 1.
    seed, purpose, size, start: as of `order`.

  Returns:
    An endless tf.data.Dataset of int64 `[size]` in [0, n).
  """
  classes, counts = np.unique(labels, return_counts=True)
  block, position = divmod(start * size, len(classes))
  members = tf.constant(np.argsort(labels, kind='stable'), tf.int64)  # Class after class.
  firsts = tf.constant(np.cumsum(counts) - counts, tf.int64)
  counts = tf.constant(counts, tf.int64)
  purposes = tf.constant([rng.number(f'{purpose}/class {label}') for label in classes], tf.int64)

  def of_class(number):
    return order(counts[number], seed, purposes[number], 1, block)

  def shuffled(number, places):
    key = rng.fold(rng.key(seed, number), f'{purpose}/classes')
    chosen = tf.gather(members, firsts + places[:, 0])
    return tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(chosen, key))

  # All classes take turns in one dataset: a dataset for each would be as many graphs.
  turns = tf.data.Dataset.range(len(classes)).interleave(
    of_class, cycle_length=len(classes), block_length=1
  )
  blocks = tf.data.Dataset.range(block, np.iinfo(np.int64).max)
  blocks = tf.data.Dataset.zip((blocks, turns.batch(len(classes), drop_remainder=True)))
  return blocks.flat_map(shuffled).skip(position).batch(size, drop_remainder=True)


def reader(inputs):
  """A function of positions, int64 `[n]` -> these inputs. Arrays are held once on the host,
  outside of the graph, whatever the number of passes."""
  if hasattr(inputs, 'reader'):
    read = inputs.reader()
    return read if not isinstance(inputs, Prepared) or inputs.side else lambda at: Ragged(at, read)
  with tf.device('CPU:0'):
    held = tf.constant(inputs)
  return lambda positions: tf.gather(held, positions)


def in_parallel(elements, function, prefetched):
  """`elements` mapped in order, on several cores, some of them ahead.

  tf.data's own choice of the parallelism is switched off: the thread that makes it wakes up
  every minute at last, and with TensorFlow 2.15 dropping an iterator waits for it to do so.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return (
    elements.map(function, num_parallel_calls=min(os.cpu_count(), PARALLEL_CALLS), deterministic=True)
    .prefetch(prefetched)
    .with_options(options)
  )


def _steps(labels, num_unlabeled, sizes, seed, start_step, balanced):
  """(step, positions of the labeled examples[, of the unlabeled]), from `start_step` on.

  `labels`: of the labeled examples; `num_unlabeled`: 0 for batches without such; `sizes`: of both kinds
  of examples in a batch.
  """
  ordered, of = (balanced_order, labels) if balanced else (order, len(labels))
  orders = [ordered(of, seed, 'order/labeled', sizes[0], start_step)]
  if num_unlabeled:
    orders.append(order(num_unlabeled, seed, 'order/unlabeled', sizes[1], start_step))
  return tf.data.Dataset.zip((tf.data.Dataset.range(start_step, np.iinfo(np.int64).max), *orders))


def _made(steps, batch, first_replica, local_replicas, service_address):
  """What `batch` makes of each replica's share of the steps, here or by a tf.data service."""

  def replicas_of(step, *chosen):
    numbers = tf.data.Dataset.range(first_replica, first_replica + local_replicas)
    return numbers.map(lambda replica: (step, replica, *chosen))

  if not service_address:
    return in_parallel(steps.flat_map(replicas_of), batch, 2 * local_replicas)
  # All replicas' shares of a step come from one worker, together.
  shares = in_parallel(service.shard_across_workers(steps).flat_map(replicas_of), batch, local_replicas)
  return (
    service.distribute(service_address, shares.batch(local_replicas))
    .unbatch()
    .prefetch(2 * local_replicas)
  )


def train_batches(
  labeled,
  labels,
  unlabeled,
  *,
  views,
  batch_size,
  uda_data,
  seed,
  truth=None,
  predictions=None,
  with_positions=False,
  balanced=False,
  start_step=0,
  replicas=1,
  first_replica=0,
  local_replicas=None,
  service_address=None,
):
  """Training batches, one replica's share an element, the replicas of a step in a row.

  Args:
    labeled: inputs of the labeled examples: uint8 `[n, H, W, C]`, float32 `[n, D]`, `storage.Prepared`
      images, or encoded ones in `storage.Records`.
    labels: int32 `[n]`.
    unlabeled: inputs of the m unlabeled examples, or None for labeled batches alone.
    views: one of data/views.py that takes such inputs.
    batch_size: GLOBAL labeled batch B; the unlabeled one is B * uda_data.
    uda_data: unlabeled examples per labeled one.
    seed: int.
    truth: int32 `[m]`, the unlabeled examples' labels, -1 where unknown, for the logs alone; or None.
    predictions: predictions.Predictions of the examples, if there are truth and unlabeled; or None.
    with_positions: whether batches say which of the unlabeled examples they have.
    balanced: whether the labeled examples come by `balanced_order`, and not by `order`.
    start_step: the step of the first element.
    replicas: over all workers; divides batch_size.
    first_replica, local_replicas: those that this worker feeds (default: all).
    service_address: of a tf.data service whose workers make the batches, or None. Of several of them
      batches can come early or late.

  Returns:
    An endless tf.data.Dataset of (labeled `[b, ...]`, labels `[b]` int32[, original
    `[b*uda_data, ...]`, augmented `[b*uda_data, ...]`[, truth `[b*uda_data]` int32[, (log
    probabilities of the labeled `[b, C]`, of the unlabeled `[b*uda_data, C]` float32)]]]), in the
    order of `methods.Batch`; b = batch_size / replicas. With positions: a dict by the names of that, with
    `positions` int64 `[b*uda_data]` in [0, m).
  """
  local_replicas = replicas if local_replicas is None else local_replicas
  batch = _batch_maker(
    *(labeled, labels, unlabeled, truth, predictions),
    views=views,
    batch_size=batch_size,
    uda_data=uda_data,
    seed=seed,
    share=batch_size // replicas,
    with_positions=with_positions,
  )
  num_unlabeled, sizes = 0 if unlabeled is None else len(unlabeled), (batch_size, batch_size * uda_data)
  steps = _steps(labels, num_unlabeled, sizes, seed, start_step, balanced)
  return _made(steps, batch, first_replica, local_replicas, service_address)


def _batch_maker(
  labeled,
  labels,
  unlabeled,
  truth,
  predictions,
  *,
  views,
  batch_size,
  uda_data,
  seed,
  share,
  with_positions,
):
  """Returns a function of (step, replica, positions of the labeled[, of the unlabeled] examples of
  the global batch) to what `train_batches` yields; `share`: labeled examples per replica."""
  read = reader(labeled)
  read_unlabeled = None if unlabeled is None else reader(unlabeled)
  with tf.device('CPU:0'):
    labels = tf.constant(labels, tf.int32)
    truth = None if truth is None else tf.constant(truth, tf.int32)
    stored = (
      None
      if predictions is None
      else (tf.constant(predictions.labeled), tf.constant(predictions.unlabeled))
    )

  @tf.autograph.experimental.do_not_convert  # Nothing to convert; looking for it takes seconds.
  def batch(step, replica, chosen, chosen_unlabeled=None):
    key = rng.key(seed, step)
    offset = tf.cast(replica, tf.int32) * share
    chosen = tf.ensure_shape(chosen[offset : offset + share], [share])
    view = views.labeled(read(chosen), key, offset, batch_size)
    result = _of_count(view, share), tf.gather(labels, chosen)
    if chosen_unlabeled is None:
      return result
    offset *= uda_data
    chosen_unlabeled = tf.ensure_shape(
      chosen_unlabeled[offset : offset + share * uda_data], [share * uda_data]
    )
    both = views.unlabeled(read_unlabeled(chosen_unlabeled), key, offset, batch_size * uda_data)
    result += tuple(_of_count(view, share * uda_data) for view in both)
    if truth is not None:
      result += (tf.gather(truth, chosen_unlabeled),)
    if stored is not None:
      result += ((tf.gather(stored[0], chosen), tf.gather(stored[1], chosen_unlabeled)),)
    if with_positions:
      return {**dict(zip(PARTS, result)), 'positions': chosen_unlabeled}
    return result

  return batch


def _of_count(view, count):
  """Returns a view with its static batch size: TensorFlow loses one of 1, and dropout needs it."""
  return tf.ensure_shape(view, [count, *view.shape[1:]])


def eval_batches(inputs, labels, *, views, batch_size, replicas=1, first_replica=0, local_replicas=None):
  """Evaluation batches, one replica's share an element, the replicas of a batch in a row.

  The last batch is filled up with examples of weight zero, so that each counts exactly once
  (release: evaluation).

  Args:
    inputs: n of the kinds that `train_batches` takes; labels: int32 `[n]`.
    views: one of data/views.py.
    batch_size: GLOBAL evaluation batch; divided by `replicas`.
    replicas, first_replica, local_replicas: as in `train_batches`.

  Returns:
    A tf.data.Dataset of (inputs `[b, ...]`, labels `[b]` int32, weights `[b]` float32) with
    ceil(n / batch_size) * local_replicas elements.
  """
  local_replicas = replicas if local_replicas is None else local_replicas
  share, count = batch_size // replicas, len(labels)
  read = reader(inputs)
  with tf.device('CPU:0'):
    labels = tf.constant(labels, tf.int32)

  def batch(element):
    first = (element // local_replicas) * batch_size + (first_replica + element % local_replicas) * share
    rows = first + tf.range(share, dtype=tf.int64)
    weights = tf.cast(rows < count, tf.float32)
    rows = tf.minimum(rows, count - 1)
    return views.plain(read(rows)), tf.gather(labels, rows), weights

  elements = tf.data.Dataset.range(-(-count // batch_size) * local_replicas)
  return in_parallel(elements, batch, 2)
