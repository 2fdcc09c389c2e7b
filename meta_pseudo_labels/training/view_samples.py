"""Some unlabeled images as training sees them, with the pseudo labels they get: for people."""

import dataclasses

from meta_pseudo_labels import methods
from meta_pseudo_labels.data.augment.views import Points

import numpy as np
import tensorflow as tf

LABELED, PER_LABELED = 8, 3  # A small batch, yet one that batch norm can make statistics of.


@dataclasses.dataclass(frozen=True)
class Samples:
  """N unlabeled images.

  Attributes:
    original, augmented: uint8 `[N, S, S, C]`, C 1 or 3.
    truth: int32 `[N]`, -1 where unknown.
    predicted: int32 `[N]`, the pseudo labels' most probable classes.
    confidence: float32 `[N]`, their probabilities.
    source: who labels, and what it looks at.
  """

  original: np.ndarray
  augmented: np.ndarray
  truth: np.ndarray
  predicted: np.ndarray
  confidence: np.ndarray
  source: str


def grid(taken):
  """One image uint8 `[2 S, N S, C]` of `Samples`: original views above augmented ones."""
  return np.concatenate(
    [np.concatenate(list(views), axis=1) for views in (taken.original, taken.augmented)]
  )


def pixels(views, inputs):
  """What a network sees, `[N, S, S, C]` normalized -> uint8, the other way around."""
  images = tf.cast(inputs, tf.float32) * tf.constant(views.std) + tf.constant(views.mean)
  return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8).numpy()


def _pseudo_labels(method, batch):
  """(probabilities `[n, C]` that a batch's pseudo labels are made from, where they come from)."""
  if isinstance(method, methods.PseudoLabels):
    return tf.nn.softmax(method.teacher(batch.original, training=False)), (
      'the teacher, on the original views'
    )
  # In training mode, as in training: the release's teacher cannot do without its batch's
  # statistics. Its averages stay as they are.
  mpl = isinstance(method, methods.MetaPseudoLabels)
  model = method.teacher if mpl else method.student
  with method.frozen_statistics(model):
    logits = (method.teacher_pass(batch) if mpl else method.uda_pass(model, batch)).logits
  if mpl:
    stored = isinstance(method, methods.ReducedMetaPseudoLabels)
    sees = 'its stored predictions' if stored else 'the augmented views'
    return tf.nn.softmax(logits['augmented']), f'the teacher, on {sees}'
  return tf.nn.softmax(logits['original']), 'the student itself, on the original views'


def take(method, problem, seed, count=12):
  """`Samples` of at most `count` unlabeled images, always the same of a seed, labeled by a method as
  it is now; None for points, and for a method without pseudo labels.

  Args:
    method: Method.
    problem: Problem.
    seed: int.
    count: int.
  """
  if isinstance(problem.views, Points) or isinstance(method, methods.Supervised):
    return None
  batch = methods.Batch.of(
    next(iter(problem.train_batches(batch_size=LABELED, uda_data=PER_LABELED, seed=seed)))
  )
  probabilities, source = _pseudo_labels(method, batch)
  probabilities = tf.cast(probabilities, tf.float32).numpy()[:count]
  return Samples(
    original=pixels(problem.views, batch.original[:count]),
    augmented=pixels(problem.views, batch.augmented[:count]),
    truth=batch.truth.numpy()[:count],
    predicted=probabilities.argmax(axis=1).astype(np.int32),
    confidence=probabilities.max(axis=1),
    source=source,
  )
