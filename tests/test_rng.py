"""Randomness as a function: the generator by its definition, alike compiled or not, and its spread."""

from meta_pseudo_labels import rng

import numpy as np
import pytest
import tensorflow as tf


def philox(key, counter):
  """Philox4x32-10 (Salmon et al. 2011), with Python's integers."""
  k, c = list(key), list(counter)
  for _ in range(10):
    first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
    c = [
      (second >> 32) ^ c[1] ^ k[0],
      second & 0xFFFFFFFF,
      (first >> 32) ^ c[3] ^ k[1],
      first & 0xFFFFFFFF,
    ]
    k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
  return c


@pytest.mark.parametrize('key, purpose', [((0, 0), 0), ((3, 7), 12), ((-5, 2**31 - 1), 2**31 - 1)])
def test_a_key_is_folded_by_philox(key, purpose):
  words = philox([word & 0xFFFFFFFF for word in key], [0, 0, purpose, 0])
  found = rng.fold(tf.constant(key, tf.int32), purpose).numpy()
  assert [int(word) & 0xFFFFFFFF for word in found] == words[:2]


def test_compiled_draws_are_the_plain_ones():
  def draw(step):
    key = rng.key(3, step)
    return (
      rng.fold(key, 'a'),
      rng.uniform(key, 'a', [50]),
      rng.normal(key, 'b', [50]),
      rng.uniform(key, 'c', [50], -3, 4, tf.int32),
    )

  compiled = tf.function(draw, jit_compile=True, autograph=False)
  for step in (0, 1, 123456):
    for plain, other in zip(draw(tf.constant(step)), compiled(tf.constant(step))):
      np.testing.assert_allclose(other, plain, rtol=1e-5, atol=1e-6)


def test_draws_have_their_distributions():
  key, count = rng.key(0, 0), 200000
  uniform = rng.uniform(key, 'a', [count], -1, 3).numpy()
  assert uniform.min() >= -1 and uniform.max() < 3
  assert uniform.mean() == pytest.approx(1, abs=0.02) and uniform.std() == pytest.approx(
    4 / np.sqrt(12), rel=0.01
  )
  normal = rng.normal(key, 'a', [count]).numpy()
  assert normal.mean() == pytest.approx(0, abs=0.01) and normal.std() == pytest.approx(1, rel=0.01)
  assert np.mean(np.abs(normal) > 2) == pytest.approx(0.0455, rel=0.05) and np.isfinite(normal).all()
  whole = rng.uniform(key, 'a', [count], -2, 3, tf.int32).numpy()
  np.testing.assert_allclose(np.bincount(whole + 2, minlength=5) / count, 0.2, atol=0.005)


def test_purposes_steps_and_seeds_draw_apart():
  draws = [
    rng.uniform(rng.key(seed, step), purpose, [1000]).numpy()
    for seed in (0, 1)
    for step in (0, 1)
    for purpose in ('a', 'b')
  ]
  correlations = np.corrcoef(draws) - np.eye(len(draws))
  assert np.abs(correlations).max() < 0.15
