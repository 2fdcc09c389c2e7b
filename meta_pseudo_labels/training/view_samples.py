"""Samples some unlabeled images as training sees them, with their pseudo labels, for display."""

import dataclasses

from meta_pseudo_labels import methods

import numpy as np
import tensorflow as tf

LABELED, PER_LABELED = 8, 3  # A small batch that is still large enough for batch norm's statistics.


@dataclasses.dataclass(frozen=True)
class Samples:
  """N unlabeled images with their pseudo labels.

  Attributes:
    original, augmented: uint8 `[N, S, S, C]`, C 1 or 3.
    truth: int32 `[N]`, -1 where unknown.
    predicted: int32 `[N]`, the most probable classes of the pseudo labels.
    confidence: float32 `[N]`, the probabilities of these classes.
    source: str, the model that makes the pseudo labels, and its input.
  """

  original: np.ndarray
  augmented: np.ndarray
  truth: np.ndarray
  predicted: np.ndarray
  confidence: np.ndarray
  source: str


def arrange(taken):
  """Combines `Samples` into one image, uint8 `[2 S, N S, C]`: original views above augmented views."""
  return np.concatenate(
    [np.concatenate(list(views), axis=1) for views in (taken.original, taken.augmented)]
  )


def restore_pixels(views, inputs):
  """Converts normalized inputs `[N, S, S, C]` of a network back to uint8 pixels."""
  images = tf.cast(inputs, tf.float32) * tf.constant(views.std) + tf.constant(views.mean)
  return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8).numpy()


def _pseudo_labels(method, batch):
  """Returns (probabilities `[n, C]` for a batch's pseudo labels, description of their source)."""
  if isinstance(method, methods.PseudoLabels):
    return tf.nn.softmax(method.teacher(batch.original, training=False)), (
      'the teacher, on the original views'
    )
  # In training mode, since the release's teacher needs the statistics of its batch. Its averages do not
  # change.
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
  """Samples unlabeled images and labels them with a method's current weights.

  Args:
    method: Method.
    problem: Problem.
    seed: int; it determines the images.
    count: int, the maximum number of images.

  Returns:
    Samples; None for points and features, and for a method without pseudo labels.
  """
  if not hasattr(problem.views, 'mean') or isinstance(method, methods.Supervised):
    return None
  batch = methods.Batch.of(
    next(iter(problem.train_batches(batch_size=LABELED, uda_data=PER_LABELED, seed=seed)))
  )
  probabilities, source = _pseudo_labels(method, batch)
  probabilities = tf.cast(probabilities, tf.float32).numpy()[:count]
  return Samples(
    original=restore_pixels(problem.views, batch.original[:count]),
    augmented=restore_pixels(problem.views, batch.augmented[:count]),
    truth=batch.truth.numpy()[:count],
    predicted=probabilities.argmax(axis=1).astype(np.int32),
    confidence=probabilities.max(axis=1),
    source=source,
  )
