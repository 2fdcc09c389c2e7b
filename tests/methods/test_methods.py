"""Every method: on one replica and on several, under fit, and when a step is not finite."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels.distribution import collectives, devices
from meta_pseudo_labels.models import calibration

import numpy as np
import pytest
import replicas
import tensorflow as tf

BATCH, UNLABELED = 8, 16
NAMES = (
  'supervised',
  'pseudo_labels',
  'uda',
  'release',
  'soft',
  'sampled',
  'sampled_dot',
  'argmax',
  'reduced',
)


def make(name, **settings):
  """A method with networks of batch norms and dropout, and everything switched on."""
  model = lambda seed: replicas.model(seed, shape=(8, 8, 1), classes=10)
  settings = dict(
    ema_decay=0.9, weight_decay=1e-3, grad_bound=0.5, label_smoothing=0.1, seed=3, **settings
  )
  if name == 'supervised':
    method = mpl.Supervised(model('student'), **settings)
  elif name == 'pseudo_labels':
    method = mpl.PseudoLabels(model('teacher'), model('student'), **settings)
  elif name == 'uda':
    method = mpl.UDA(model('student'), uda_threshold=0.1, **settings)
  elif name == 'reduced':
    method = mpl.ReducedMetaPseudoLabels(
      calibration.calibration(10), model('student'), mpl_feedback='soft', **settings
    )
  else:
    method = mpl.MetaPseudoLabels(
      model('teacher'), model('student'), mpl_feedback=name, uda_threshold=0.1, **settings
    )
  optimizer = lambda: mpl.optimizers.Momentum(0.1)
  if hasattr(method, 'estimator'):
    method.set_optimizers(teacher_optimizer=optimizer(), student_optimizer=optimizer())
  else:
    method.set_optimizers(optimizer())
  return method


def batch(seed=0):
  rng = np.random.RandomState(seed)
  images = lambda n: rng.standard_normal([n, 8, 8, 1]).astype(np.float32)
  log_probs = lambda n: tf.nn.log_softmax(
    2 * np.random.RandomState(n).standard_normal([n, 10]).astype(np.float32)
  ).numpy()
  return (
    images(BATCH),
    rng.randint(10, size=BATCH).astype(np.int32),
    images(UNLABELED),
    images(UNLABELED),
    np.full(UNLABELED, -1, np.int32),
    (log_probs(BATCH), log_probs(UNLABELED)),
  )


def train(name, replicas, steps=3, data=None):
  """(logs of the last step, all variables) after some steps on so many replicas."""
  data = data or batch()
  strategy = (
    tf.distribute.OneDeviceStrategy('CPU:0')
    if replicas == 1
    else (devices.create_mirrored([f'CPU:{i}' for i in range(replicas)]))
  )
  with strategy.scope():
    method = make(name)

  def share(context):
    index = context.replica_id_in_sync_group
    return tf.nest.map_structure(
      lambda x: x[len(x) // replicas * index : len(x) // replicas * (index + 1)], data
    )

  @tf.function(autograph=False)
  def step(shares):
    return strategy.run(method.train_step, args=(shares,))

  shares = strategy.experimental_distribute_values_from_function(
    lambda context: tf.nest.map_structure(tf.constant, share(context))
  )
  for _ in range(steps):
    logs = step(shares)
  logs = {key: float(strategy.experimental_local_results(value)[0]) for key, value in logs.items()}
  return logs, {f'{i} {v.name}': v.numpy() for i, v in enumerate(method.variables)}


@pytest.mark.slow
def test_replicas_make_no_difference_to_reduced():
  """Losses, weights, averages of reduced MPL; of the others: tests/test_replicas.py."""
  # Rounding has grown to a ten-thousandth of the gradient at the third step.
  logs, variables = train('reduced', 1, 2)
  several_logs, several = train('reduced', 2, 2)
  assert logs.keys() == several_logs.keys()
  for key, value in logs.items():
    np.testing.assert_allclose(several_logs[key], value, rtol=1e-4, atol=2e-6, err_msg=key)
  for key, value in variables.items():
    np.testing.assert_allclose(several[key], value, rtol=1e-3, atol=2e-5, err_msg=key)


@pytest.mark.parametrize('name', ('uda', 'sampled'))
def test_the_same_seed_gives_the_same_weights(name):
  _, first = train(name, 1)
  _, second = train(name, 1)
  for key, value in first.items():
    np.testing.assert_array_equal(second[key], value, err_msg=key)


@pytest.mark.parametrize('name', ('supervised', 'soft'))
def test_a_step_that_is_not_finite_changes_no_weights(name):
  method = make(name)
  data = list(batch())
  method.train_step(tf.nest.map_structure(tf.constant, tuple(data)))
  data[0] = data[0] * np.nan
  before = [v.numpy() for v in method.student.trainable_variables]
  slots = [v.numpy() for v in method.student_optimizer.slots['momentum']]
  method.train_step(tf.nest.map_structure(tf.constant, tuple(data)))
  for variable, value in zip(method.student.trainable_variables, before):
    np.testing.assert_array_equal(variable, value)
  for variable, value in zip(method.student_optimizer.slots['momentum'], slots):
    np.testing.assert_array_equal(variable, value)
  assert int(method.step) == 2
  assert (int(method.skipped), int(method.skipped_in_a_row)) == (1, 1)


@pytest.mark.parametrize('name', ('supervised', 'uda', 'release', 'soft', 'reduced'))
def test_nothing_is_left_of_a_step_that_is_not_finite(name):
  """Batch-norm averages, the moving average, the feedback's: NaN would stay in them for good."""
  method = make(name)
  data = tf.nest.map_structure(tf.constant, batch())
  bad = tf.nest.map_structure(lambda x: x * np.nan if x.dtype.is_floating else x, data)
  for step in (data, bad, bad, data):
    logs = method.train_step(step)
  for variable in method.variables:
    if variable.dtype.is_floating:
      assert np.isfinite(variable.numpy()).all(), variable.name
  for key, value in logs.items():
    assert np.isfinite(value.numpy()), key
  assert (int(method.skipped), int(method.skipped_in_a_row)) == (2, 0)
  assert int(logs['skipped_steps']) == 2


def test_only_the_pass_that_trains_moves_the_student_s_batch_norm_averages():
  """Nor do those of the teacher move in the release."""
  moving = lambda model: [v.numpy() for v in model.non_trainable_variables]
  expected = make('release')
  data = tf.nest.map_structure(tf.constant, batch())
  teacher = moving(expected.teacher)
  expected.train_step(data)
  for value, before in zip(moving(expected.teacher), teacher):
    np.testing.assert_array_equal(value, before)
  single = make('release')
  single.forward(single.student, 'student', {'augmented': data[3], 'labeled': data[0]})
  for value, other in zip(moving(expected.student), moving(single.student)):
    np.testing.assert_allclose(value, other, rtol=1e-6)
  soft = make('soft')
  soft.train_step(data)
  for value, other in zip(moving(soft.student), moving(single.student)):
    np.testing.assert_allclose(value, other, rtol=1e-5)
  assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(moving(soft.teacher), teacher))


def plain_keras_classifier(name):
  """A model of nobody's but Keras' layers: batch norm, dropout."""
  return tf.keras.Sequential(
    [
      tf.keras.layers.Conv2D(8, 3, activation='relu', input_shape=(8, 8, 1)),
      tf.keras.layers.BatchNormalization(),
      tf.keras.layers.GlobalAveragePooling2D(),
      tf.keras.layers.Dropout(0.1),
      tf.keras.layers.Dense(10),
    ],
    name=name,
  )


@pytest.mark.parametrize('name, first', [('release', True), ('sampled', False)])
def test_the_release_s_teacher_is_done_before_the_student_starts(name, first):
  method = make(name)
  step = tf.function(method.train_step, autograph=False)
  graph = step.get_concrete_function(batch()[:5]).graph
  _, of_student, *_ = [
    op for op in graph.get_operations() if op.type == 'Conv2D' and '/conv_1/' in op.name
  ]
  needed, left = set(), [of_student]
  while left:
    op = left.pop()
    if op not in needed:
      needed.add(op)
      left += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
  assert any(op.type == 'Conv2DBackpropFilter' for op in needed) == first


@pytest.mark.parametrize('feedback', ('soft', 'sampled'))
def test_any_keras_classifier_trains_under_fit(feedback):
  method = mpl.MetaPseudoLabels(
    plain_keras_classifier('teacher'),
    plain_keras_classifier('student'),
    mpl_feedback=feedback,
    uda_weight=1.0,
  )
  method.compile(
    teacher_optimizer=tf.keras.optimizers.SGD(0.1, momentum=0.9),
    student_optimizer=tf.keras.optimizers.Adam(1e-2),
  )
  before = [v.numpy() for v in method.student.trainable_variables]
  dataset = tf.data.Dataset.from_tensors(batch()).repeat(4)
  history = method.fit(dataset, verbose=0)
  assert np.isfinite(history.history['cross_entropy/student_on_u']).all()
  assert int(method.step) == 4
  for variable, value in zip(method.student.trainable_variables, before):
    assert np.abs(variable.numpy() - value).max() > 1e-4, variable.name
  images, labels = batch()[:2]
  assert 0 <= method.evaluate(images, labels, verbose=0, return_dict=True)['accuracy'] <= 1
  assert method.predict(images, verbose=0).shape == (BATCH, 10)


def test_a_model_without_weights_is_refused():
  with pytest.raises(ValueError, match='has no weights yet'):
    mpl.Supervised(tf.keras.Sequential([tf.keras.layers.Dense(3)], name='late'))


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match='--train_batch_size=7: .* multiple of 2, such as 8'):
    devices.divide_batch(7, 2, 'train_batch_size')


def test_a_teacher_without_feedback_is_uda():
  """Weight for weight: what MPL adds to UDA is the feedback and the student."""
  pair = make('soft', mpl_weight=0.0)
  alone = make('uda')
  for variable, value in zip(alone.student.variables, pair.teacher.variables):
    variable.assign(value)
  for seed in range(2):
    data = tf.nest.map_structure(tf.constant, batch(seed))
    pair.train_step(data)
    alone.train_step(data)
  for variable, value in zip(alone.student.variables, pair.teacher.variables):
    np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
