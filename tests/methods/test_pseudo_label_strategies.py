"""Pseudo-labeling strategies against numbers worked out by hand from the papers' formulas."""

import math

import meta_pseudo_labels as mpl
from meta_pseudo_labels import models
from meta_pseudo_labels.methods import Batch, diagnostics
from meta_pseudo_labels.methods import pseudo_label_formulas as formulas
from meta_pseudo_labels.methods import pseudo_label_strategies as strategies

import numpy as np
import pytest
import tensorflow as tf


def logits(*rows):
  """Logits of distributions."""
  return tf.math.log(tf.constant(rows))


def assert_close(found, expected, rtol=1e-5, atol=1e-7):
  np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def tensors(state):
  return {name: tf.convert_to_tensor(value) for name, value in state.items()}


def step(strategy, state, weak, one_hot=None, positions=None):
  """(Labels, state after the step) of logits of the original views, on one replica."""
  one_hot = tf.zeros([1, weak.shape[-1]]) if one_hot is None else one_hot
  labels = strategy.label(weak, state)
  sums = strategy.sums(labels, weak, one_hot, state)
  return labels, strategy.move(state, sums, (labels.classes, labels.confidence), positions)


def test_uda_masks_after_the_temperature():
  # At temperature .5 the probabilities (.25, .75) become (1/10, 9/10), and (.5, .5) stay.
  labels = strategies.Uda(temperature=0.5, threshold=0.89).label(logits([0.25, 0.75], [0.5, 0.5]), {})
  assert_close(labels.targets, [[0.1, 0.9], [0.5, 0.5]])
  np.testing.assert_array_equal(labels.weights, [1, 0])
  labels = strategies.Uda(temperature=1.0, threshold=0.76).label(logits([0.25, 0.75]), {})
  np.testing.assert_array_equal(labels.weights, [0])


def test_targets_have_no_gradient():
  """However it would come: from the original views through targets, weights or what is added."""
  for name, kind in strategies.STRATEGIES.items():
    strategy = kind()
    state, weak = tensors(strategy.start(2, 5)), tf.Variable(logits([0.2, 0.8]))
    with tf.GradientTape() as tape:
      labels = strategy.label(weak, state)
      value = tf.reduce_sum(labels.weights[:, None] * labels.targets + labels.probs) + labels.confidence
    assert tape.gradient(value, weak) is None, name


def test_fixmatch_takes_the_class_above_the_threshold_and_is_hard():
  labels = strategies.FixMatch().label(logits([0.02, 0.97, 0.01], [0.9, 0.06, 0.04]), {})
  np.testing.assert_array_equal(labels.targets, [[0, 1, 0], [1, 0, 0]])
  np.testing.assert_array_equal(labels.weights, [1, 0])
  np.testing.assert_array_equal(labels.classes, [1, 0])
  labels = strategies.FixMatch(threshold=0.9).label(logits([0.02, 0.97, 0.01], [0.91, 0.05, 0.04]), {})
  np.testing.assert_array_equal(labels.weights, [1, 1])


def test_flexmatch_thresholds_by_hand():
  # 5 of 10 examples confident: 4, 1, 0 of the classes. The 5 others are more than the largest class, so
  # beta is 4/5, 1/5, 0, and M(beta) = beta / (2 - beta) is .8/1.2, .2/1.8, 0.
  found = formulas.curriculum_thresholds(tf.constant([4.0, 1.0, 0.0]), 10, 0.9)
  assert_close(found, [0.9 * 2 / 3, 0.9 / 9, 0])
  # 9 of 10: the largest class has more than the one that is left: beta 6/6, 3/6, 0.
  found = formulas.curriculum_thresholds(tf.constant([6.0, 3.0, 0.0]), 10, 0.9)
  assert_close(found, [0.9, 0.9 * 0.5 / 1.5, 0])


def test_flexmatch_counts_the_last_confident_prediction_of_every_example():
  status = tf.constant([-1, 2, 0, 1], tf.int64)
  positions = tf.constant([3, 0, 1, 0, 1], tf.int64)
  # Example 3: not confident, keeps its 1. Example 0: 1, then 2. Example 1: 0, then not confident.
  found = formulas.update_status(status, positions, tf.constant([-1, 1, 0, 2, -1], tf.int64))
  np.testing.assert_array_equal(found, [2, 0, 0, 1])
  np.testing.assert_array_equal(formulas.count_classes(found, 4), [2, 1, 1, 0])


def test_two_steps_of_flexmatch():
  strategy = strategies.FlexMatch(threshold=0.8)
  state = tensors(strategy.start(2, 4))
  weak = logits([0.9, 0.1], [0.6, 0.4], [0.15, 0.85])
  labels, state = step(strategy, state, weak, positions=tf.constant([2, 0, 3]))
  np.testing.assert_array_equal(labels.weights, [1, 1, 1])  # At first the thresholds are 0.
  np.testing.assert_array_equal(state['status'], [-1, -1, 0, 1])
  # Counts 1 and 1, two of four are left: beta 1/2, M 1/3, threshold .8/3 = .267 for both.
  logs = strategy.logs(state)
  assert_close([logs['uda/threshold_min'], logs['uda/threshold_max']], [0.8 / 3, 0.8 / 3])
  # A third one of class 0 makes beta 2/2 and 1/2: thresholds .8 and .267.
  _, state = step(strategy, state, weak[:1], positions=tf.constant([0]))
  np.testing.assert_array_equal(state['status'], [0, -1, 0, 1])
  labels, _ = step(strategy, state, logits([0.7, 0.3], [0.3, 0.7]), positions=tf.constant([1, 1]))
  np.testing.assert_array_equal(labels.weights, [0, 1])


def test_two_steps_of_freematch():
  strategy = strategies.FreeMatch(momentum=0.5)
  state = tensors(strategy.start(2))
  assert_close(state['confidence'], 0.5)
  weak = logits([0.9, 0.1], [0.7, 0.3], [0.4, 0.6])
  labels, state = step(strategy, state, weak)
  np.testing.assert_array_equal(labels.weights, [1, 1, 1])
  # Means of the batch: largest 2.2/3, probabilities 2/3 and 1/3, classes 2/3 and 1/3. Half-way from 1/2:
  assert_close(state['confidence'], (0.5 + 2.2 / 3) / 2)
  assert_close(state['probs'], [7 / 12, 5 / 12])
  assert_close(state['counts'], [7 / 12, 5 / 12])
  # Thresholds .61667 * (1, 5/7) = .61667, .44048.
  logs = strategy.logs(state)
  assert_close(logs['uda/threshold_max'], 0.6166667)
  assert_close(logs['uda/threshold_min'], 0.4404762)
  labels, after = step(strategy, state, logits([0.61, 0.39], [0.45, 0.55]))
  np.testing.assert_array_equal(labels.weights, [0, 1])
  assert_close(after['confidence'], (0.6166667 + 0.58) / 2)


def test_fairness_by_hand():
  # p~/h~ = (.6/.75, .4/.25), normalized (1/3, 2/3). p/h = (1.2/2, .8/1), normalized (3/7, 4/7).
  value = formulas.fairness(
    tf.constant([1.2, 0.8]), tf.constant([2.0, 1.0]), tf.constant([0.6, 0.4]), tf.constant([0.75, 0.25])
  )
  assert_close(value, math.log(3 / 7) / 3 + math.log(4 / 7) * 2 / 3)
  # No example of the second class: it is left out, and the first one has all.
  absent = [tf.constant([1.2, 0.8]), tf.constant([2.0, 0.0])]
  assert_close(formulas.fairness(*absent, tf.constant([0.6, 0.4]), tf.constant([0.5, 0.5])), 0.0)
  nothing = tf.zeros([2])
  assert float(formulas.fairness(nothing, nothing, tf.ones([2]), tf.ones([2]))) == 0


def test_fairness_raises_the_class_that_is_given_too_little():
  """Its derivative where p = h is (a_c - 1/C) / p_c: by hand (.7 - .5) / 2 and (.3 - .5) / 1."""
  counts, probs = tf.constant([2.0, 1.0]), tf.constant([2.0, 1.0])
  with tf.GradientTape() as tape:
    tape.watch(probs)
    value = formulas.fairness(probs, counts, tf.constant([0.7, 0.3]), tf.constant([0.5, 0.5]))
  assert_close(tape.gradient(value, probs), [0.1, -0.2])


def test_pieces_of_a_batch_add_up_to_the_fairness_loss_and_its_gradient():
  strategy = strategies.FreeMatch(fairness=0.1)
  state = {'probs': tf.constant([0.7, 0.3]), 'counts': tf.constant([0.6, 0.4]), 'confidence': 0.5}
  strong = tf.Variable(np.random.RandomState(0).standard_normal([6, 2]).astype(np.float32))
  weights = tf.constant([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
  labels = lambda rows: strategies.Labels(None, weights[rows], None, None, None)
  with tf.GradientTape() as tape:
    probs = tf.nn.softmax(strong) * weights[:, None]
    counts = tf.one_hot(tf.argmax(strong, axis=1), 2) * weights[:, None]
    sums = tf.reduce_sum(probs, axis=0), tf.reduce_sum(counts, axis=0)
    expected = 0.1 * formulas.fairness(*sums, state['probs'], state['counts'])
  gradient = tape.gradient(expected, strong)
  total = tf.nest.map_structure(tf.stop_gradient, strategy.loss_sums(labels(slice(0, 6)), strong))
  with tf.GradientTape() as tape:
    found = sum(
      strategy.add_to_loss(strategy.loss_sums(labels(rows), strong[rows]), total, state, 2)
      for rows in (slice(0, 2), slice(2, 6))
    )
  assert_close(found, expected)
  assert_close(tf.convert_to_tensor(tape.gradient(found, strong)), gradient, rtol=1e-4)
  assert np.abs(gradient).max() > 1e-4


def test_two_steps_of_softmatch_without_alignment():
  strategy = strategies.SoftMatch(momentum=0.5, distribution_alignment='none')
  state = tensors(strategy.start(2))
  weak = logits([0.9, 0.1], [0.7, 0.3], [0.2, 0.8])
  labels, state = step(strategy, state, weak)
  np.testing.assert_array_equal(labels.targets, [[1, 0], [1, 0], [0, 1]])
  np.testing.assert_array_equal(labels.weights, [1, 1, 1])  # None is below 1/2.
  # Mean .8, unbiased variance (.01 + .01) / 2 = .01: half-way from 1/2 and 1.
  assert_close(state['mean'], 0.65)
  assert_close(state['variance'], 0.505)
  # .55 is .1 below the mean: exp(-.01 * 4 / (2 * .505)); .7 is above it.
  labels, _ = step(strategy, state, logits([0.55, 0.45], [0.3, 0.7]))
  assert_close(labels.weights, [math.exp(-0.04 / 1.01), 1])
  logs = strategy.logs(state)
  assert_close(logs['uda/gaussian_deviation'], math.sqrt(0.505))


def test_uniform_alignment_changes_the_weights_of_softmatch_not_its_targets():
  strategy = strategies.SoftMatch()
  assert strategy.alignment == 'uniform' and strategies.FixMatch().alignment == 'none'
  state = {
    **tensors(strategy.start(2)),
    'model_marginal': tf.constant([0.8, 0.2]),
    'mean': tf.constant(0.9),
    'variance': tf.constant(0.04),
  }
  # (.7, .3) times (.5/.8, .5/.2) is (.4375, .75), normalized (.3684, .6316).
  labels, after = step(strategy, state, logits([0.7, 0.3]))
  np.testing.assert_array_equal(labels.targets, [[1, 0]])
  assert_close(labels.confidence, [0.75 / 1.1875])
  assert_close(labels.weights, [math.exp(-((0.9 - 0.75 / 1.1875) ** 2) * 4 / 0.08)])
  # The mean of the predictions themselves.
  assert_close(after['model_marginal'], [0.8 * 0.999 + 0.7 * 0.001, 0.2 * 0.999 + 0.3 * 0.001])


def test_alignment_to_the_labels_by_hand():
  strategy = strategies.FixMatch(threshold=0.6, distribution_alignment='labeled', momentum=0.5)
  state = tensors(strategy.start(2))
  one_hot = tf.constant([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
  _, state = step(strategy, state, logits([0.2, 0.8], [0.4, 0.6]), one_hot)
  assert_close(state['labeled_marginal'], [0.625, 0.375])  # Half-way from 1/2 to 3/4.
  assert_close(state['model_marginal'], [0.4, 0.6])  # Half-way from 1/2 to .3.
  # (.4, .6) times (.625/.4, .375/.6) is (.625, .375): another class than before.
  labels, _ = step(strategy, state, logits([0.4, 0.6]), one_hot)
  np.testing.assert_array_equal(labels.targets, [[1, 0]])
  assert_close(labels.confidence, [0.625])
  np.testing.assert_array_equal(labels.weights, [1])
  # UDA aligns first: at temperature .5 this is (.625^2, .375^2), normalized.
  labels = strategies.Uda(0.5, 0.0, distribution_alignment='labeled').label(logits([0.4, 0.6]), state)
  assert_close(labels.targets, [[0.625**2 / 0.53125, 0.375**2 / 0.53125]])


def test_a_batch_that_is_not_finite_leaves_the_state():
  for name, kind in strategies.STRATEGIES.items():
    strategy = kind(distribution_alignment='uniform')
    before = tensors(strategy.start(2, 3))
    _, after = step(strategy, before, tf.fill([2, 2], np.nan), positions=tf.constant([0, 1]))
    assert before.keys() == after.keys()
    for key, value in before.items():
      np.testing.assert_array_equal(after[key], value, err_msg=f'{name} {key}')


def test_accuracy_of_targets_by_hand():
  logs = diagnostics.measure_targets(
    (tf.constant([0, 1, 1, 0]), tf.constant([0.9, 0.6, 0.7, 0.8]), tf.constant([1.0, 0.5, 0.25, 1.0])),
    truth=tf.constant([0, 1, 0, -1]),
    total=4,
  )
  # Two of the three known ones are right; of the weights 1 + .5 + .25 those of 1 + .5.
  assert_close(logs['uda/u_accuracy'], 2 / 3)
  assert_close(logs['uda/u_accuracy_used'], 1.5 / 1.75)
  assert_close(logs['uda/u_confidence'], 0.75)
  assert list(diagnostics.measure_targets([tf.ones([1])] * 3, None, 1)) == ['uda/u_confidence']


def batch(seed=0, unlabeled=6):
  random = np.random.RandomState(seed)
  points = lambda count: tf.constant(random.standard_normal([count, 2]), tf.float32)
  return {
    'labeled': points(3),
    'labels': tf.constant([0, 1, 2]),
    'original': points(unlabeled),
    'augmented': points(unlabeled),
    'positions': tf.constant(random.permutation(20)[:unlabeled]),
  }


def make(pseudo_labels, kind=mpl.UDA, **settings):
  network = lambda seed: models.build('mlp-4x1', num_classes=3, input_shape=(2,), seed=seed)
  networks = dict(student=network(1)) if kind is mpl.UDA else dict(teacher=network(0), student=network(1))
  method = kind(**networks, pseudo_labels=pseudo_labels, num_unlabeled=20, **settings)
  optimizers = [mpl.optimizers.SGD(0.5) for _ in networks]
  method.compile(*optimizers)
  return method


@pytest.mark.parametrize('kind', [mpl.UDA, mpl.MetaPseudoLabels])
@pytest.mark.parametrize('name', strategies.STRATEGIES)
def test_a_step_moves_the_state_once(kind, name):
  """By the predictions that the network makes of the original views, before it moves."""
  method, data = make(name, kind), batch()
  network = method.student if kind is mpl.UDA else method.teacher
  state = {key: v.numpy() for key, v in getattr(method, 'pseudo_labeling_state', {}).items()}
  assert bool(state) == (name in ('flexmatch', 'freematch', 'softmatch'))
  weak = method.uda_pass(network, Batch.of(data)).logits['original']
  one_hot = tf.one_hot(data['labels'], 3)
  _, expected = step(method.pseudo_labeling, tensors(state), weak, one_hot, data['positions'])
  logs = method.train_step(data)
  for key in state:
    assert_close(method.pseudo_labeling_state[key], expected[key], rtol=1e-6)
  assert all(np.isfinite(value) for value in logs.values())
  assert ('uda/threshold_mean' in logs) == (name in ('flexmatch', 'freematch'))


def test_the_unlabeled_loss_by_hand():
  """SoftMatch's weights in a step's loss, with label smoothing of the targets."""
  strategy = strategies.SoftMatch(distribution_alignment='none')
  method, data = make(strategy, pseudo_labels_smoothing=0.3), batch()
  method.pseudo_labeling_state['mean'].assign(0.45)
  method.pseudo_labeling_state['variance'].assign(0.04)
  out = method.uda_pass(method.student, Batch.of(data))
  weak, strong = (tf.nn.softmax(out.logits[view]).numpy() for view in ('original', 'augmented'))
  total = 0.0
  for p, q in zip(weak, strong):
    weight = 1.0 if p.max() >= 0.45 else math.exp(-((p.max() - 0.45) ** 2) / (2 * 0.04 / 4))
    total += weight * -np.sum((0.7 * np.eye(3)[p.argmax()] + 0.1) * np.log(q))
  assert_close(out.cross_entropy_u, total / 6)
  assert 0.1 < float(tf.reduce_mean(out.mask_u)) < 0.95


def test_fit_names_what_is_missing():
  data = batch()
  del data['positions']
  with pytest.raises(mpl.UserError, match='positions missing in a dict of labeled'):
    make('flexmatch').train_step(data)
  method = mpl.UDA(models.build('mlp-4x1', num_classes=3, input_shape=(2,)), pseudo_labels='flexmatch')
  method.compile(mpl.optimizers.SGD(0.5))
  with pytest.raises(ValueError, match='num_unlabeled: not given; flexmatch needs'):
    method.train_step(batch())
  for settings, words in (
    (dict(pseudo_labels='fixmatsch'), 'pseudo_labels=fixmatsch: use one of uda, fixmatch'),
    (dict(pseudo_labels='uda', student_targets_from='plain'), 'use one of augmented, original'),
  ):
    with pytest.raises(ValueError, match=words):
      make(kind=mpl.MetaPseudoLabels, **settings)
  with pytest.raises(ValueError, match='distribution_alignment=even: use one of auto, none'):
    strategies.FixMatch(distribution_alignment='even')


@pytest.mark.parametrize('soft, threshold', [(False, 0.0), (False, 0.4), (True, 0.4)])
def test_the_labels_of_a_fixed_teacher_by_hand(soft, threshold):
  networks = [models.build('mlp-4x1', num_classes=3, input_shape=(2,), seed=seed) for seed in (0, 1)]
  method = mpl.PseudoLabels(*networks, soft=soft, threshold=threshold, label_smoothing=0.3)
  method.compile(mpl.optimizers.SGD(0.0))
  data = batch()
  taught, learned = (
    tf.nn.softmax(network(data[view])).numpy()
    for network, view in zip(networks, ('original', 'augmented'))
  )
  logs, total, right = method.train_step({**data, 'truth': tf.zeros([6], tf.int32)}), 0.0, 0
  for p, q in zip(taught, learned):
    if p.max() >= threshold:
      target = p if soft else np.eye(3)[p.argmax()]
      total -= np.sum((0.7 * target + 0.1) * np.log(q))
      right += p.argmax() == 0
  used = np.sum(taught.max(axis=1) >= threshold)
  assert (used < 6) == (threshold > 0)
  assert_close(logs['pseudo_labels/loss'], total / 6)
  assert_close(logs['uda/u_ratio'], used / 6)
  assert_close(logs['uda/u_accuracy_used'], right / used)
