"""A batch by the names of its parts."""

from typing import NamedTuple, Optional, Tuple

import tensorflow as tf


class Batch(NamedTuple):
  """One replica's share of a training batch: b labeled examples, and b*U unlabeled ones.

  It is a tuple, so Keras' `fit` takes a dataset of it.

  Attributes:
    labeled: inputs `[b, ...]`.
    labels: `[b]` integers, or `[b, C]` distributions.
    original: original views `[b*U, ...]` of the unlabeled examples; None without them.
    augmented: their augmented views `[b*U, ...]`, likewise.
    truth: `[b*U]` int32, the labels of the unlabeled examples where known, else -1; for the logs
      alone. None: not known.
    predictions: a teacher's stored log probabilities of the labeled `[b, C]` and of the unlabeled
      examples `[b*U, C]`, float32; None without them.
  """

  labeled: tf.Tensor
  labels: tf.Tensor
  original: Optional[tf.Tensor] = None
  augmented: Optional[tf.Tensor] = None
  truth: Optional[tf.Tensor] = None
  predictions: Optional[Tuple[tf.Tensor, tf.Tensor]] = None

  @classmethod
  def of(cls, data) -> 'Batch':
    """Returns the Batch of what a dataset yields.

    Args:
      data: a tuple in the order of the attributes, of which the end may be missing, or a dict with
        their names.
    """
    return cls(**data) if isinstance(data, dict) else cls(*data)
