"""A step's batch in parts, one after the other, so that one part's activations at a time are in memory.

Losses and gradients are sums over examples. So the sums over the parts are those of the whole batch, where
nothing mixes its examples. Batch norms that normalize by their batch do: then their statistics are those
of a part, and of one replica ("ghost batch norm", Hoffer et al. 2017).

A part has the same place in its batch as a replica has in the global batch. A loss is divided by the size
of the global batch (`Method.global_size`). An example's dropout mask is that of its position there.
"""

import contextlib
import contextvars
import math
from typing import NamedTuple

from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.methods.batch import Batch
from meta_pseudo_labels.models import batch_norm, layers

import tensorflow as tf

_PART = contextvars.ContextVar('part', default=None)


class Part(NamedTuple):
  """A part of a replica's batch.

  The unlabeled examples are divided among the parts. The labeled ones are divided into as many groups as
  their number and that of the parts allow, and each group goes along with several parts in a row. So the
  mean over the parts of the means over their labeled examples is the mean over all labeled examples.

  Attributes:
    index: int32 scalar tensor.
    count: int, how many parts there are.
    labeled, unlabeled: ints, rows of the whole batch.
  """

  index: tf.Tensor
  count: int  # type: ignore[assignment]  # In place of a tuple's method.
  labeled: int
  unlabeled: int

  def section(self, purpose, view):
    """Returns the `layers.Section` of a view's examples in this part."""
    whole = self.labeled if view == 'labeled' else self.unlabeled
    groups = math.gcd(whole, self.count)
    first = self.index // (self.count // groups) * (whole // groups)
    return layers.Section(purpose, whole // groups, first, whole)

  def take(self, values, view='augmented'):
    """Returns this part's rows of `values` `[whole, ...]`, which belong to a view; None of None."""
    if values is None:
      return None
    section, values = self.section('', view), tf.convert_to_tensor(values)
    begin = [section.first] + [0] * (values.shape.rank - 1)
    return tf.slice(values, begin, [section.count, *values.shape[1:]])

  def of(self, batch):
    """Returns this part of a Batch."""
    labeled = lambda values: self.take(values, 'labeled')
    return Batch(
      labeled(batch.labeled),
      labeled(batch.labels),
      self.take(batch.original),
      self.take(batch.augmented),
      self.take(batch.truth),
      batch.predictions and (labeled(batch.predictions[0]), self.take(batch.predictions[1])),
      self.take(batch.positions),
    )


def count():
  """Returns how many parts there are in the surrounding `add_up`: int, 1 outside of one."""
  return _PART.get().count if _PART.get() else 1


def section(purpose, view, inputs):
  """Returns the `layers.Section` of a view's inputs `[n, ...]` in the surrounding part, if any."""
  if _PART.get():
    return _PART.get().section(purpose, view)
  if inputs.shape[0] is not None:
    return layers.Section(purpose, inputs.shape[0])
  place = collectives.find_place(inputs)
  return layers.Section(purpose, place.count, place.first, total=place.total)


def fewest(size, most):
  """Returns the smallest divisor of `size` that makes parts of at most `most` rows: int; `most` >= 1."""
  return next(n for n in range(1, size + 1) if size % n == 0 and size // n <= most)


def check(micro_batches, unlabeled):
  """Raises UserError unless a replica's unlabeled examples (int, None) can be divided among the parts."""
  if unlabeled is None:
    raise UserError(
      f'--micro_batches={micro_batches}: needs batches of a known size; batch the dataset with '
      'drop_remainder=True'
    )
  if unlabeled % micro_batches:
    smaller = max(n for n in range(1, micro_batches) if unlabeled % n == 0)
    raise UserError(
      f'--micro_batches={micro_batches}: does not divide the {unlabeled} unlabeled examples of a replica; '
      f'give a divisor such as --micro_batches={smaller}'
    )


@contextlib.contextmanager
def _entered(part):
  """Makes `part` the surrounding part of this context, with batch norms of this replica alone."""
  token = _PART.set(part)
  try:
    with batch_norm.own_statistics():
      yield
  finally:
    _PART.reset(token)


def add_up(function, batch, parts, *rows):
  """Calls a function for each part of a batch, one after the other, and adds up what it returns.

  The parts run in a loop of the graph, through which no gradient flows: the function takes its own. There
  are no sums over replicas in such a loop.

  Args:
    function: of (Batch, *rows) to (sums, found): nested structures of tensors; those of `found` have a row
      for each unlabeled example.
    batch: Batch.
    parts: int; with 1 the function is called with `batch` and `rows` as they are.
    *rows: tensors `[n, ...]`, a row for each unlabeled example; the function gets its part of them.

  Returns:
    (sums over the parts, `found` for all unlabeled examples).
  """
  if parts == 1:
    return function(batch, *rows)
  unlabeled = 0 if batch.augmented is None else batch.augmented.shape[0]

  def call(index):
    part = Part(index, parts, batch.labeled.shape[0], unlabeled)
    with _entered(part):
      return function(part.of(batch), *map(part.take, rows))

  # Traced once, here: the loop needs the shapes of what it adds up before it begins.
  traced = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
  sums, found = traced.structured_outputs
  start = tf.nest.map_structure(lambda one: tf.zeros(one.shape, one.dtype), sums)
  arrays = tf.nest.map_structure(
    lambda one: tf.TensorArray(one.dtype, size=parts, element_shape=one.shape), found
  )

  def body(index, sums, arrays):
    more, found = traced(index)
    return (
      index + 1,
      tf.nest.map_structure(tf.add, sums, more),
      tf.nest.map_structure(lambda array, one: array.write(index, one), arrays, found),
    )

  _, sums, arrays = tf.while_loop(
    lambda index, *_: index < parts, body, (tf.constant(0), start, arrays), parallel_iterations=1
  )
  join = lambda array, one: tf.reshape(array.stack(), [-1, *one.shape[1:]])
  return sums, tf.nest.map_structure(join, arrays, found)
