"""A step in parts against the step on the whole batch, in float64, and against its definition where batch
norms take their statistics over a part."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import rng
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.methods import Batch, parts
from meta_pseudo_labels.methods.pseudo_label_strategies import STRATEGIES as STRATEGY_CLASSES
from meta_pseudo_labels.models import batch_norm, calibration, layers

import numpy as np
import pytest
import tensorflow as tf

CLASSES, SHAPE, UNLABELED = 3, (4, 4, 1), 8
FEEDBACKS = ('release', 'soft', 'sampled', 'sampled_dot', 'argmax')
QUICK = ('supervised', 'uda', 'soft', 'reduced', 'uda flexmatch', 'uda freematch')
# With these strategies for the unlabeled loss. FlexMatch has rows for a state, FreeMatch sums for a loss.
STRATEGIES = ('uda flexmatch', 'uda freematch', 'soft flexmatch', 'soft freematch', 'release freematch',
              'soft softmatch')  # fmt: skip
KINDS = ('supervised', 'pseudo_labels', 'uda', *FEEDBACKS, 'reduced', *STRATEGIES)


@pytest.fixture(autouse=True, name='float64')
def fixture_float64():
  tf.keras.backend.set_floatx('float64')
  tf.keras.mixed_precision.set_global_policy('float64')
  yield
  tf.keras.backend.set_floatx('float32')
  tf.keras.mixed_precision.set_global_policy('float32')


def network(seed, norm=False):
  """Images `[N, 4, 4, 1]` float64 -> logits `[N, 3]`, with what draws random numbers."""
  images = tf.keras.Input(SHAPE)
  x = layers.conv2d(4, 3, f'conv_{seed}', strides=2, seed=seed)(images)
  x = layers.StochasticDepth(0.2, name=f'depth_{seed}')(x)
  if norm:
    x = batch_norm.BatchNorm(f'one/batch_norm_{seed}', decay=0.9)(x)
  x = layers.Dropout(0.3, name=f'dropout_{seed}')(tf.keras.layers.Flatten()(tf.tanh(x)))
  return tf.keras.Model(images, layers.dense(CLASSES, f'dense_{seed}', seed=seed)(x))


def make(kind, micro_batches, norm=False, **settings):
  """A method of KINDS whose step does all that a step can do."""
  settings = dict(
    micro_batches=micro_batches,
    ema_decay=0.9,
    weight_decay=1e-2,
    grad_bound=0.5,
    label_smoothing=0.1,
    seed=3,
    **settings,
  )
  student, teacher = network(1, norm), network(2, norm)
  kind, _, strategy = kind.partition(' ')
  if strategy:
    threshold = {'threshold': 0.4} if strategy == 'flexmatch' else {}
    made = STRATEGY_CLASSES[strategy](momentum=0.5, distribution_alignment='labeled', **threshold)
    settings.update(pseudo_labels=made, num_unlabeled=20)
  if kind == 'supervised':
    method = mpl.Supervised(student, **settings)
  elif kind == 'pseudo_labels':
    method = mpl.PseudoLabels(teacher, student, **settings)
  elif kind == 'uda':
    method = mpl.UDA(student, uda_threshold=0.3, **settings)
  elif kind == 'reduced':
    teacher = calibration.calibration(CLASSES, seed=1)
    method = mpl.ReducedMetaPseudoLabels(teacher, student, mpl_feedback='soft', **settings)
  else:
    method = mpl.MetaPseudoLabels(
      teacher, student, mpl_feedback=kind, mpl_weight=3.0, uda_threshold=0.3, **settings
    )
  optimizer = lambda: mpl.optimizers.Momentum(0.5)
  if hasattr(method, 'estimator'):
    method.set_optimizers(teacher_optimizer=optimizer(), student_optimizer=optimizer())
  else:
    method.set_optimizers(optimizer())
  return method


def batch(labeled, seed=0):
  random = np.random.RandomState(seed)
  images = lambda count: tf.constant(random.standard_normal([count, *SHAPE]))
  log_probs = lambda count: tf.nn.log_softmax(tf.constant(random.standard_normal([count, CLASSES])))
  return Batch(
    images(labeled),
    tf.constant(random.randint(CLASSES, size=labeled)),
    images(UNLABELED),
    images(UNLABELED),
    tf.constant(random.randint(-1, CLASSES, size=UNLABELED), tf.int32),
    (log_probs(labeled), log_probs(UNLABELED)),
    tf.constant(random.permutation(20)[:UNLABELED]),
  )


def train(method, labeled, steps=3):
  """({log: value} of the last step, values of all variables) after some steps."""
  step = tf.function(method.train_step, autograph=False)
  for number in range(steps):
    logs = step(tuple(batch(labeled, number)))
  return {name: float(value) for name, value in logs.items()}, [v.numpy() for v in method.variables]


@pytest.mark.parametrize(
  'kind', [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.long) for kind in KINDS]
)
def test_parts_train_what_the_whole_batch_trains(kind):
  """4 labeled examples in two parts; 3 with each of two; 2 with two parts each."""
  for labeled, micro_batches in ((4, 2), (3, 2), (2, 4)):
    expected_logs, expected = train(make(kind, 1), labeled)
    logs, variables = train(make(kind, micro_batches), labeled)
    assert logs.keys() == expected_logs.keys()
    for name, value in expected_logs.items():  # The logs are float32.
      np.testing.assert_allclose(logs[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    for value, other in zip(variables, expected):
      np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-9)
  start = make(kind, 1).student.trainable_variables[0]
  assert any(value.shape == start.shape and np.abs(value - start).max() > 1e-2 for value in variables)


def test_the_parts_of_a_batch_by_hand():
  data = Batch(tf.range(6), tf.range(6), *[tf.range(8)] * 3, (tf.range(6), tf.range(8)))
  part = lambda index: parts.Part(tf.constant(index), 4, 6, 8).of(data)
  # Four parts, of which two in a row share one of gcd(6, 4) = 2 groups.
  assert [part(index).labeled.numpy().tolist() for index in range(4)] == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2
  for field in ('original', 'augmented', 'truth'):
    assert [getattr(part(index), field).numpy().tolist() for index in range(4)] == [
      [0, 1],
      [2, 3],
      [4, 5],
      [6, 7],
    ]
  assert part(3).labels.numpy().tolist() == part(3).predictions[0].numpy().tolist() == [3, 4, 5]
  assert part(3).predictions[1].numpy().tolist() == [6, 7]
  assert [parts.fewest(12, most) for most in (12, 11, 4, 2, 1)] == [1, 2, 3, 6, 12]
  with pytest.raises(UserError, match='--micro_batches=3: does not divide the 8 .* --micro_batches=2'):
    parts.check(3, 8)


def test_a_part_draws_the_numbers_of_its_place_in_the_global_batch():
  key = rng.key(1, 2)
  whole = layers.Noise(key, (('l', 6), ('u', 16)), tf.constant(0), 1).uniform('x', 5).numpy()
  found = []
  for replica in range(2):
    for index in range(4):
      part = parts.Part(tf.constant(index), 4, 3, 8)
      sections = (part.section('l', 'labeled'), part.section('u', 'augmented'))
      found.append(layers.Noise(key, sections, tf.constant(replica), 2).uniform('x', 5).numpy())
  for number, draw in enumerate(found):
    labeled = whole[3 * (number // 4) :][:3]  # All of a replica's three with every part.
    np.testing.assert_array_equal(draw, np.concatenate([labeled, whole[6 + 2 * number :][:2]]))


def passes_by_hand(model, role, views, size, micro_batches):
  """The logits of the passes over the parts of views that all have `size` rows, in order."""
  found = []
  for index in range(micro_batches):
    rows = slice(size // micro_batches * index, size // micro_batches * (index + 1))
    sections = [
      layers.Section(f'{role}/{name}', size // micro_batches, rows.start, size) for name in views
    ]
    with layers.noise(rng.key(3, 0), sections):
      found.append(model(tf.concat([values[rows] for values in views.values()], axis=0), training=True))
  return found


@pytest.mark.parametrize('kind', ['uda', 'soft', 'sampled', 'release'])
def test_batch_norms_take_their_statistics_over_a_part(kind):
  """The averages move once for each part, whatever passes are made again."""
  method, data = make(kind, 4, norm=True), batch(UNLABELED)
  student, teacher = network(1, norm=True), network(2, norm=True)
  learner = student if kind == 'uda' else teacher
  moved = lambda model: [v.numpy() for v in model.non_trainable_variables]
  start = moved(teacher)
  views = {'labeled': data.labeled, 'original': data.original, 'augmented': data.augmented}
  logits = passes_by_hand(learner, 'uda', views, UNLABELED, 4)
  if kind != 'uda':
    views = {'augmented': data.augmented, 'labeled': data.labeled}
    passes_by_hand(student, 'student', views, UNLABELED, 4)
    given = method.teacher_passes(data).log_probs
    np.testing.assert_allclose(
      given, tf.nn.log_softmax(tf.concat([one[4:] for one in logits], axis=0)), rtol=1e-9
    )
  tf.function(method.train_step, autograph=False)(tuple(data))
  for value, expected in zip(moved(method.student), moved(student)):
    np.testing.assert_allclose(value, expected, rtol=1e-9)
  if kind != 'uda':  # The release's teacher never moves.
    for value, expected in zip(moved(method.teacher), start if kind == 'release' else moved(teacher)):
      np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_the_graph_does_not_grow_with_the_parts():
  data = tuple(batch(4))
  graphs = [
    tf.function(make('soft', count).train_step, autograph=False).get_concrete_function(data).graph
    for count in (4, 8)  # Of the labeled examples alone two parts and four.
  ]
  few, many = (len(graph.as_graph_def().library.function) for graph in graphs)
  assert few == many and len(graphs[0].get_operations()) == len(graphs[1].get_operations())


@pytest.mark.parametrize('kind, passes', [('release', 1), ('soft', 2), ('argmax', 2)])
def test_the_teacher_passes_again_only_where_its_gradient_waits(kind, passes):
  method, calls = make(kind, 4), []
  teacher_pass = method.teacher_pass
  method.teacher_pass = lambda batch, ahead: calls.append(batch) or teacher_pass(batch, ahead)
  tf.function(method.train_step, autograph=False).get_concrete_function(tuple(batch(4)))
  assert [part.augmented.shape[0] for part in calls] == [UNLABELED // 4] * passes


def test_parts_that_do_not_divide_the_batch_are_refused():
  with pytest.raises(UserError, match='--micro_batches=3: does not divide the 8 unlabeled examples'):
    make('uda', 3).train_step(batch(4))
  # Labeled examples alone: at least as many parts as asked for, or one for each example.
  logs, _ = train(make('supervised', 3), 4, steps=1)
  expected, _ = train(make('supervised', 1), 4, steps=1)
  assert logs['loss/total'] == pytest.approx(expected['loss/total'], rel=1e-6)
