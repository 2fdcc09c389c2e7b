"""The moving average against the release's formula, worked out by hand."""

from meta_pseudo_labels.optim import ema

import numpy as np
import tensorflow as tf


def test_decay_starts_low_and_ends_at_its_bound():
  share = lambda step, start=0: float(ema.decay(tf.constant(step, tf.int64), 0.9, start))
  np.testing.assert_allclose([share(0), share(8), share(1000)], [0.9, 0.5, 0.1], rtol=1e-6)
  np.testing.assert_allclose([share(4, start=5), share(5, start=5)], [1.0, 0.9], rtol=1e-6)
  assert float(ema.decay(tf.constant(7, tf.int64), 0.0)) == 1.0


def make():
  variables = [
    tf.Variable([10.0], name='kernel'),
    tf.Variable([10.0], name='batch_norm/beta'),
    tf.Variable([10.0], name='moving_variance'),
    tf.Variable(3, name='counter'),
  ]
  return variables, ema.MovingAverage(variables, 0.9)


def test_averages_start_as_in_the_release_and_leave_integers_out():
  _, average = make()
  assert [float(a[0]) for a in average.averages] == [0.0, 1.0, 1.0]
  average.update(tf.constant(0, tf.int64))
  np.testing.assert_allclose([float(a[0]) for a in average.averages], [9.0, 9.1, 9.1], rtol=1e-6)


def test_applied_puts_the_averages_in_and_the_values_back():
  variables, average = make()
  with average.applied():
    assert [float(v[0]) for v in variables[:3]] == [0.0, 1.0, 1.0]
  assert [float(v[0]) for v in variables[:3]] == [10.0, 10.0, 10.0]
  average.copy_to_model()
  assert [float(v[0]) for v in variables[:3]] == [0.0, 1.0, 1.0]
