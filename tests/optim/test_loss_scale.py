"""Dynamic loss scaling by hand, and what it is for."""

from meta_pseudo_labels import main
from meta_pseudo_labels.optim import loss_scale

import numpy as np
import pytest
import tensorflow as tf


def test_it_halves_at_once_and_doubles_after_2000_good_steps():
  scale = loss_scale.LossScale()
  assert scale.factor.numpy() == 2**15
  scale.update(tf.constant(False))
  assert scale.factor.numpy() == 2**14
  update = tf.function(scale.update)
  for _ in range(1999):
    update(tf.constant(True))
  assert scale.factor.numpy() == 2**14
  update(tf.constant(True))
  assert scale.factor.numpy() == 2**15 and scale.good_steps.numpy() == 0


@pytest.mark.parametrize('start, finite, end', [(1.0, False, 1.0), (2.0**24, True, 2.0**24)])
def test_it_stays_within_bounds(start, finite, end):
  scale = loss_scale.LossScale()
  scale.factor.assign(start)
  scale.good_steps.assign(1999)
  scale.update(tf.constant(finite))
  assert scale.factor.numpy() == end


def test_a_gradient_that_float16_rounds_to_zero_survives():
  scale, weight = loss_scale.LossScale(), tf.Variable(1.0)

  def tape():
    with tf.GradientTape() as recorded:
      half = tf.cast(weight, tf.float16)
      loss = tf.cast(half * half, tf.float32) * 1e-8
    return recorded, loss

  recorded, loss = tape()
  assert recorded.gradient(loss, weight).numpy() == 0
  recorded, loss = tape()
  (gradient,) = scale.gradient(recorded, [loss], [weight], [tf.ones_like(loss)])
  np.testing.assert_allclose(gradient, 2e-8, rtol=1e-3)


def test_both_half_precisions_are_refused(tmp_path, capsys):
  assert (
    main.run(
      [
        'main',
        '--dataset_name=digits_40_mpl',
        f'--output_dir={tmp_path}',
        '--use_float16',
        '--use_bfloat16',
      ]
    )
    == 2
  )
  assert capsys.readouterr().err.startswith('error: --use_float16: not together with')
