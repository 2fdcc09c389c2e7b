"""Losses against numbers worked out by hand."""

import math

from meta_pseudo_labels import losses

import numpy as np
import tensorflow as tf

# softmax of these logits is (.25, .75) and (.5, .5).
LOGITS = tf.constant([[0.0, math.log(3.0)], [1.0, 1.0]])


def test_smoothing_spreads_over_all_classes():
  smoothed = losses.smooth(tf.constant([[0.0, 1.0, 0.0, 0.0]]), 0.2)
  np.testing.assert_allclose(smoothed, [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)


def test_cross_entropy_of_one_hot_soft_and_smoothed_labels():
  one_hot = tf.constant([[1.0, 0.0], [0.0, 1.0]])
  np.testing.assert_allclose(
    losses.cross_entropy(labels=one_hot, logits=LOGITS), [math.log(4), math.log(2)], rtol=1e-6
  )
  soft = tf.constant([[0.5, 0.5], [0.1, 0.9]])
  np.testing.assert_allclose(
    losses.cross_entropy(labels=soft, logits=LOGITS),
    [0.5 * math.log(4) + 0.5 * math.log(4 / 3), math.log(2)],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    losses.cross_entropy(labels=one_hot, logits=LOGITS, label_smoothing=0.2)[0],
    0.9 * math.log(4) + 0.1 * math.log(4 / 3),
    rtol=1e-6,
  )


def test_annealing_mask_keeps_what_is_not_yet_known():
  labels = tf.constant([[0.0, 1.0], [0.0, 1.0]])
  # Half-way the threshold is .5 + .5 * .5 = .75; probabilities of the right class .75 and .5.
  found = losses.annealing_mask(labels=labels, logits=LOGITS, progress=0.49)
  np.testing.assert_array_equal(found, [0, 1])
  found = losses.annealing_mask(labels=labels, logits=LOGITS, progress=0.51)
  np.testing.assert_array_equal(found, [1, 1])
