"""The logs of an MPL step against numbers worked out by hand."""

from meta_pseudo_labels.methods import diagnostics

import numpy as np
import tensorflow as tf


def test_pseudo_labels_by_hand():
  teacher = tf.math.log(tf.constant([[0.7, 0.3], [0.4, 0.6], [0.8, 0.2], [0.1, 0.9]]))
  student = tf.math.log(tf.constant([[0.6, 0.4], [0.5001, 0.4999], [0.3, 0.7], [0.2, 0.8]]))
  logs = diagnostics.measure_pseudo_labels(teacher, student, tf.constant([0, 0, -1, 1]), replicas=1)
  expected = {
    'pseudo_labels/agreement': 2 / 4,
    'pseudo_labels/confidence': 3.0 / 4,
    'pseudo_labels/student_confidence': (0.6 + 0.5001 + 0.7 + 0.8) / 4,
    'pseudo_labels/accuracy': 2 / 3,
  }  # One label is not known.
  assert logs.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(logs[name], value, rtol=1e-6, err_msg=name)


def test_accuracy_is_not_logged_without_labels_and_zero_where_none_is_known():
  log_probs = tf.math.log(tf.constant([[0.7, 0.3]]))
  assert 'pseudo_labels/accuracy' not in diagnostics.measure_pseudo_labels(
    log_probs, log_probs, None, replicas=1
  )
  logs = diagnostics.measure_pseudo_labels(log_probs, log_probs, tf.constant([-1]), replicas=1)
  assert logs['pseudo_labels/accuracy'] == 0


def test_gradients_at_the_last_layer_by_hand():
  first, kernel = tf.Variable([[5.0, 5.0]]), tf.Variable([[1.0], [2.0]])
  bias = tf.Variable([3.0])
  assert diagnostics.get_last_layer([first, kernel, bias]) == [kernel, bias]
  with tf.GradientTape(persistent=True) as tape:
    a = 3.0 * kernel[0, 0] + 4.0 * bias[0] + tf.reduce_sum(first)  # By (kernel, bias): 3, 0, 4.
    b = tf.stack([kernel[0, 0], kernel[1, 0]])  # Weighted by (-1, 2): -1, 2, 0.
    c = tf.reduce_sum(first)  # Does not touch the last layer.
  gradient = lambda targets, sources, outputs: tape.gradient(
    targets, sources, output_gradients=outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
  )
  logs = diagnostics.compare_gradients(
    diagnostics.flatten_gradients(
      gradient,
      [first, kernel, bias],
      labeled=(a, None),
      unlabeled=(c, None),
      feedback=(b, tf.constant([-1.0, 2.0])),
    )
  )
  expected = {
    'teacher_grad/labeled': 5.0,
    'teacher_grad/unlabeled': 0.0,
    'teacher_grad/feedback': 5**0.5,
    'teacher_grad/cosine_feedback_labeled': -3 / (5 * 5**0.5),
    'teacher_grad/cosine_feedback_unlabeled': 0.0,
  }
  assert logs.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(logs[name], value, rtol=1e-6, err_msg=name)
