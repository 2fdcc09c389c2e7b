"""Reduced Meta Pseudo Labels: what is in memory, where the small network starts, what it learns."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import models
from meta_pseudo_labels.models import calibration

import numpy as np
import pytest
import tensorflow as tf

CLASSES, BATCH, UNLABELED = 3, 6, 12


def batch(log_probs, seed=0):
  """Points of three classes, and what a teacher said of them: `log_probs` of a label."""
  rng = np.random.RandomState(seed)

  def points(labels):
    return tf.constant(labels[:, None] + 0.1 * rng.standard_normal([len(labels), 2]), tf.float32)

  labels, hidden = (np.arange(n) % CLASSES for n in (BATCH, UNLABELED))
  said = lambda labels: tf.constant(np.array(log_probs)[labels], tf.float32)
  return (
    points(labels),
    tf.constant(labels),
    points(hidden),
    points(hidden),
    tf.constant(hidden.astype(np.int32)),
    (said(labels), said(hidden)),
  )


def make(kind=mpl.ReducedMetaPseudoLabels, **settings):
  student = models.build('mlp-64x2', num_classes=CLASSES, input_shape=(2,), seed=1)
  method = kind(calibration.calibration(CLASSES, units=4), student, **settings)
  method.set_optimizers(
    teacher_optimizer=mpl.optimizers.SGD(0.5), student_optimizer=mpl.optimizers.SGD(0.5)
  )
  return method


def test_the_small_network_starts_as_the_identity():
  log_probs = tf.nn.log_softmax(tf.constant([[30.0, -9.0, 2.0], [0.0, 1.0, -60.0]]))
  for depth in (0, 1, 2):
    model = calibration.calibration(CLASSES, units=5, depth=depth, seed=3)
    np.testing.assert_array_equal(model(log_probs), log_probs)
    assert len(model.trainable_variables) == 2 * (depth + 1)


def test_the_small_network_by_hand():
  model = calibration.calibration(2, units=1)
  for variable, value in zip(
    model.trainable_variables, ([[1.0], [2.0]], [0.3], [[5.0, -5.0]], [0.1, 0.2])
  ):
    variable.assign(value)
  hidden = np.tanh(-0.1 * 1 - 0.4 * 2 + 0.3)
  np.testing.assert_allclose(
    model(tf.constant([[-1.0, -4.0]])), [[-1 + 5 * hidden + 0.1, -4 - 5 * hidden + 0.2]], rtol=1e-6
  )


def test_it_computes_in_float32_under_bfloat16():
  tf.keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    model = calibration.calibration(CLASSES)
    assert model(tf.constant([[-1e-4, -9.2, -30.0]])).numpy()[0, 0] == np.float32(-1e-4)
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')


def test_only_the_student_and_the_small_network_are_in_memory():
  """Every variable of the method, slots and averages included, by its size."""
  method = make(ema_decay=0.9)
  method.set_optimizers(
    teacher_optimizer=mpl.optimizers.Momentum(0.1), student_optimizer=mpl.optimizers.Momentum(0.1)
  )
  method.train_step(batch(np.log(np.full([3, 3], 1 / 3))))
  size = lambda variables: sum(int(np.prod(v.shape)) for v in variables)
  student = 2 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3
  small = 3 * 4 + 4 + 4 * 3 + 3
  assert size(method.student.variables) == student and size(method.teacher.variables) == small
  slots = [
    v
    for optimizer in (method.student_optimizer, method.teacher_optimizer)
    for values in optimizer.slots.values()
    for v in values
  ]
  assert size(slots) == student + small
  variables = {id(v): v for v in [*method.variables, *slots]}.values()
  scalars = [v for v in variables if not v.shape.rank]
  assert size(variables) - len(scalars) == 3 * student + 2 * small


def test_at_first_the_student_learns_from_what_was_stored():
  log_probs = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
  method, seen = make(), []
  method.pseudo_labels = lambda log_probs: seen.append(tf.exp(log_probs)) or seen[-1]
  method.train_step(batch(log_probs))
  np.testing.assert_allclose(seen[0][:3], np.exp(log_probs), rtol=1e-5)


def test_without_a_consistency_loss():
  logs = make(uda_weight=8.0, uda_steps=1).train_step(batch(np.log(np.full([3, 3], 1 / 3))))
  assert float(logs['cross_entropy/teacher_on_u']) == float(logs['teacher_grad/unlabeled']) == 0
  assert float(logs['teacher_grad/labeled']) > 0


class FeedbackAlone(mpl.ReducedMetaPseudoLabels):
  """The small network sees no label: all that it learns comes back from the student."""

  def teacher_pass(self, data, ahead=None):
    out = super().teacher_pass(data)
    out.cross_entropy_l = tf.zeros([])
    return out


def pseudo_label_accuracy(steps, kind=mpl.ReducedMetaPseudoLabels, **settings):
  """Of pseudo labels after so many steps with a teacher that takes class 1 for class 0, if not quite
  as confidently as class 0 itself."""
  method = make(kind, **settings)
  wrong = np.log([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
  step = tf.function(method.train_step, autograph=False)
  for number in range(steps):
    logs = step(batch(wrong, number))
  return float(logs['pseudo_labels/accuracy'])


def test_the_labels_mend_what_a_teacher_says_wrongly():
  assert pseudo_label_accuracy(1) == pytest.approx(2 / 3)
  assert pseudo_label_accuracy(150, mpl_weight=0.0) == 1


def test_the_student_s_feedback_alone_mends_it_too():
  assert pseudo_label_accuracy(300, FeedbackAlone, mpl_weight=1.0) == 1
  assert pseudo_label_accuracy(300, FeedbackAlone, mpl_weight=0.0) == pytest.approx(2 / 3)
  assert pseudo_label_accuracy(300, FeedbackAlone, mpl_weight=-1.0) < 0.7  # The wrong sign.
