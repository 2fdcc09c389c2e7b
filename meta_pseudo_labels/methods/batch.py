"""A batch by the names of its parts, and what is wrong with one in a sentence."""

from typing import Any, NamedTuple, Optional, Sequence, Tuple

from meta_pseudo_labels.errors import UserError, did_you_mean

import tensorflow as tf

EXPECTED = (
  'a batch is a tuple (labeled [b, ...], labels [b] or [b, C], original [n, ...], augmented [n, ...]), '
  'without the last two for Supervised, or a dict with these names'
)
LABELED = ('labeled', 'labels')
VIEWS = (*LABELED, 'original', 'augmented')


class Batch(NamedTuple):
  """One replica's share of a training batch: b labeled examples, and n unlabeled ones.

  It is a tuple, so Keras' `fit` takes a dataset of it. The sizes b and n may differ from step to step,
  and between replicas.

  Attributes:
    labeled: inputs `[b, ...]`.
    labels: `[b]` integers, or `[b, C]` distributions.
    original: original views `[n, ...]` of the unlabeled examples; None without them.
    augmented: their augmented views `[n, ...]`, likewise.
    truth: `[n]` int32, the labels of the unlabeled examples where known, else -1; for the logs
      alone. None: not known.
    predictions: a teacher's stored log probabilities of the labeled `[b, C]` and of the unlabeled
      examples `[n, C]`, float32; None without them.
    positions: `[n]` integers, which of all unlabeled examples these are, counted from 0; None: not known.

  Raises:
    UserError: `Batch.of`, and so `fit`, says what a batch lacks.

  Example:
    >>> batch = mpl.Batch.of({'labeled': tf.zeros([2, 8, 8, 1]), 'labels': tf.constant([3, 5])})
    >>> batch.labels.shape, batch.augmented is None
    (TensorShape([2]), True)
  """

  labeled: tf.Tensor
  labels: tf.Tensor
  original: Optional[tf.Tensor] = None
  augmented: Optional[tf.Tensor] = None
  truth: Optional[tf.Tensor] = None
  predictions: Optional[Tuple[tf.Tensor, tf.Tensor]] = None
  positions: Optional[tf.Tensor] = None

  @classmethod
  def of(cls, data: Any, needs: Sequence[str] = LABELED) -> 'Batch':
    """Returns the Batch of what a dataset yields.

    Args:
      data: a tuple in the order of the attributes, of which the end may be missing, or a dict with
        their names.
      needs: names of the parts that must be there.

    Raises:
      UserError: a part is missing, has a name or a place that no part has, or its shape or dtype does
        not fit the others. The message is one sentence that says what is expected.
    """
    if isinstance(data, dict):
      named = dict(data)
    elif isinstance(data, (tuple, list)) and len(data) <= len(cls._fields):
      named = dict(zip(cls._fields, data))
    else:
      raise _refusal(f'the dataset yields {_describe(data)}')
    for name in named:
      if name not in cls._fields:
        raise _refusal(f'{name!r} is no part of a batch{did_you_mean(name, cls._fields)}')
    missing = [name for name in needs if named.get(name) is None]
    if missing:
      raise _refusal(f'{" and ".join(missing)} missing in {_describe(data)}')
    for name in named.keys() - {'predictions'}:
      named[name] = _tensor(name, named[name])
    if named.get('predictions') is not None:
      named['predictions'] = _pair(named['predictions'])
    return cls(**named)._checked()

  def _checked(self):
    """Returns the Batch. Raises UserError if the shapes or dtypes of its parts do not fit each other."""
    labels = self.labels
    if labels.shape.rank != (1 if labels.dtype.is_integer else 2) or not (
      labels.dtype.is_integer or labels.dtype.is_floating
    ):
      raise _refusal(
        f'labels have the shape {_shape(labels)} and the dtype {labels.dtype.name}, but must be integers '
        '[b] or float distributions [b, C]'
      )
    for name in ('original', 'augmented'):
      view = getattr(self, name)
      if view is None:
        continue
      if view.dtype != self.labeled.dtype or not view.shape[1:].is_compatible_with(self.labeled.shape[1:]):
        raise _refusal(
          f'{name} has the shape {_shape(view)} and the dtype {view.dtype.name}, but labeled '
          f'{_shape(self.labeled)} and {self.labeled.dtype.name}: all views go through one network'
        )
    predictions = self.predictions or (None, None)
    rows = {
      'labeled': {'labels': labels, 'predictions[0]': predictions[0]},
      'augmented': {
        'original': self.original,
        'truth': self.truth,
        'predictions[1]': predictions[1],
        'positions': self.positions,
      },
    }
    return self._with_equal_rows(rows)

  def _with_equal_rows(self, groups):
    """Returns the Batch, of which parts of known or unknown size have as many rows as their group's first.

    Args:
      groups: {name of a part: {what has as many rows: tensor or None}}.

    Raises:
      UserError: they have not. Sizes that are not known yet are compared in the step, which then raises
        tf.errors.InvalidArgumentError.
    """
    checks = []
    for first, others in groups.items():
      size = getattr(self, first)
      for name, other in others.items():
        if size is None or other is None:
          continue
        if None not in (size.shape[0], other.shape[0]):
          if size.shape[0] != other.shape[0]:
            raise _refusal(f'{first} has {size.shape[0]} rows, but {name} {other.shape[0]}')
          continue
        checks.append(
          tf.debugging.assert_equal(
            tf.shape(size)[0],
            tf.shape(other)[0],
            message=f'{first} and {name} differ in their number of rows; {EXPECTED}',
          )
        )
    if not any(check is not None for check in checks):
      return self
    with tf.control_dependencies([check for check in checks if check is not None]):
      return self._replace(labeled=tf.identity(self.labeled), labels=tf.identity(self.labels))


def _refusal(reason):
  return UserError(f'{reason}; {EXPECTED}')


def _shape(tensor):
  """Returns a tensor's shape as it is written in the docs: '[16, 8, 8, 1]', an unknown size as '?'."""
  shape = tf.TensorShape(tensor.shape)
  if shape.rank is None:
    return '[unknown]'
  return '[' + ', '.join('?' if size is None else str(size) for size in shape) + ']'


def _describe(data):
  """Returns what a dataset yields, in a few words, two levels deep."""
  if isinstance(data, dict):
    return f'a dict of {", ".join(map(str, data)) or "nothing"}'
  if isinstance(data, (tuple, list)):
    parts = [_shape(part) if hasattr(part, 'shape') else f'a {type(part).__name__}' for part in data]
    return f'a tuple of {len(data)} parts ({", ".join(parts)})'
  return f'one tensor {_shape(data)}' if hasattr(data, 'shape') else f'a {type(data).__name__}'


def _tensor(name, value):
  """Returns a part `[n, ...]` as a tensor; None of None. Raises UserError if it is none."""
  if value is None:
    return None
  if isinstance(value, (tuple, list, dict, tf.RaggedTensor, tf.SparseTensor)):
    raise _refusal(f'{name} is a {type(value).__name__}, not one tensor')
  try:
    value = tf.convert_to_tensor(value)
  except (TypeError, ValueError):
    raise _refusal(f'{name} is a {type(value).__name__}, not a tensor') from None
  if not value.shape.rank:
    raise _refusal(f'{name} has the shape {_shape(value)}, but its first dimension must be the batch')
  return value


def _pair(predictions):
  """Returns `predictions` as a pair of tensors. Raises UserError if they are none."""
  if not isinstance(predictions, (tuple, list)) or len(predictions) != 2:
    raise _refusal('predictions must be a pair ([b, C], [n, C])')
  return tuple(_tensor('predictions', part) for part in predictions)
