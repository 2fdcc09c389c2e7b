"""The feedback against brute force: numerical derivatives of the student's labeled loss after its
step by the teacher's weights, in float64, through the very step that the student takes."""

import itertools

import meta_pseudo_labels as mpl
from meta_pseudo_labels import methods, models
from meta_pseudo_labels.methods import feedback
from meta_pseudo_labels.models import calibration
from meta_pseudo_labels.models.batch_norm import BatchNorm
from meta_pseudo_labels.optim import optimizers

import numpy as np
import pytest
import tensorflow as tf

CLASSES, BATCH, UNLABELED = 3, 3, 4


@pytest.fixture(autouse=True, name='float64')
def fixture_float64():
  tf.keras.backend.set_floatx('float64')
  tf.keras.mixed_precision.set_global_policy('float64')
  yield
  tf.keras.backend.set_floatx('float32')
  tf.keras.mixed_precision.set_global_policy('float32')


def small_model(seed, batch_norm):
  """Images `[N, 3, 3, 1]` float64 -> logits `[N, 3]`."""
  images = tf.keras.Input([3, 3, 1])
  x = tf.keras.layers.Conv2D(2, 2, name=f'conv_{seed}')(images)
  if batch_norm:
    x = BatchNorm(f'batch_norm_{seed}', inference=batch_norm == 'frozen')(x)
  x = tf.keras.layers.Flatten()(tf.keras.activations.tanh(x))
  model = tf.keras.Model(images, tf.keras.layers.Dense(CLASSES, name=f'dense_{seed}')(x))
  rng = np.random.RandomState(seed)
  for variable in model.trainable_variables:
    variable.assign(rng.standard_normal(variable.shape) * 0.7)
  if batch_norm == 'frozen':  # As a pretrained network whose first layers and statistics do not move.
    model.get_layer(f'conv_{seed}').trainable = False
    model.get_layer(f'batch_norm_{seed}').moving_variance.assign(rng.uniform(0.5, 2, [2]))
  return model


def batch(seed=0, unlabeled=UNLABELED):
  rng = np.random.RandomState(seed)
  images = lambda n: tf.constant(rng.standard_normal([n, 3, 3, 1]))
  labels = tf.constant(rng.randint(CLASSES, size=BATCH))
  return images(BATCH), labels, images(unlabeled), images(unlabeled)


def small_calibration(seed):
  """Log probabilities `[N, 3]` float64 -> logits `[N, 3]`, not at its start any more."""
  model = calibration.calibration(CLASSES, units=4, seed=seed)
  rng = np.random.RandomState(seed)
  for variable in model.trainable_variables:
    variable.assign(rng.standard_normal(variable.shape) * 0.7)
  return model


def stored(unlabeled):
  """What reduced_mpl's batch has besides: labels that nobody knows, and log probabilities."""
  rng = np.random.RandomState(7)
  log_probs = lambda n: tf.nn.log_softmax(tf.constant(3 * rng.standard_normal([n, CLASSES])))
  return tf.fill([unlabeled], -1), (log_probs(BATCH), log_probs(unlabeled))


class Bilevel:
  """A step that can be taken again and again from the same point."""

  def __init__(self, name, optimizer, batch_norm=False, unlabeled=UNLABELED, reduced=False, **settings):
    self.student = small_model(2, batch_norm)
    self.teacher = small_calibration(1) if reduced else small_model(1, batch_norm)
    kind = methods.ReducedMetaPseudoLabels if reduced else methods.MetaPseudoLabels
    self.method = kind(self.teacher, self.student, mpl_feedback=name, uda_weight=0.0, **settings)
    self.method.set_optimizers(teacher_optimizer=optimizers.SGD(0.0), student_optimizer=optimizer)
    self.data = batch(unlabeled=unlabeled) + (stored(unlabeled) if reduced else ())
    slots = [v for values in optimizer.slots.values() for v in values]
    rng = np.random.RandomState(5)
    for slot in slots:  # A run in progress: momentum is there already.
      slot.assign(np.abs(rng.standard_normal(slot.shape)) * 0.1 + 0.05)
    self.state = self.student.variables + self.method.variables + slots
    self.start = [v.numpy() for v in self.state]
    self.method.apply_update = self._capture
    self.method.mpl_weight = tf.Variable(1.0, dtype=tf.float64)
    self.targets = tf.Variable(tf.zeros([unlabeled, CLASSES], tf.float64))
    self._step = tf.function(self._step, autograph=False)
    self.loss = tf.function(
      lambda: tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(
          self.data[1], self.student(self.data[0], training=True)
        )
      )
    )

  def _capture(self, model, optimizer, gradients):
    if model is self.teacher:
      self._gradients = gradients
    return type(self.method).apply_update(self.method, model, optimizer, gradients)

  def _step(self):
    self.method.train_step(self.data)
    return self._gradients

  def fix_targets(self):
    """From now on the student learns from `targets`."""
    self.method.pseudo_labels = lambda log_probs: self.targets

  def step(self):
    """One step from the start: the teacher's gradient as one vector."""
    self.reset()
    return np.concatenate([g.numpy().ravel() for g in self._step()])

  def reset(self):
    for variable, value in zip(self.state, self.start):
      variable.assign(value)

  def teacher_gradient(self):
    """The gradient that the feedback alone gives the teacher, as one vector."""
    found = []
    for weight in (1.0, 0.0):
      self.method.mpl_weight.assign(weight)
      found.append(self.step())
    return found[0] - found[1]

  def loss_after(self):
    """The student's labeled loss after its step, from the start."""
    self.step()
    return float(self.loss())

  def numerical(self, function, epsilon=1e-4):
    """Derivative of function() by the teacher's weights: fourth-order central differences."""
    result = []
    for variable in self.teacher.trainable_variables:
      value = variable.numpy()
      for index in np.ndindex(*value.shape):

        def at(shift, value=value, variable=variable, index=index):
          changed = value.copy()
          changed[index] += shift * epsilon
          # reset() restores the teacher too: the change must be part of the start.
          position = [v is variable for v in self.state].index(True)
          before, self.start[position] = self.start[position], changed
          try:
            return function()
          finally:
            self.start[position] = before

        result.append((8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * epsilon))
    self.reset()
    return np.array(result)


def relative_error(found, expected):
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


OPTIMIZERS = {
  'sgd': lambda: optimizers.SGD(0.7),
  'momentum': lambda: optimizers.Momentum(0.7, 0.9, nesterov=False),
  'nesterov': lambda: optimizers.Momentum(0.7, 0.9),
  'rmsprop': lambda: optimizers.RMSProp(0.1),
  'lars': lambda: optimizers.LARS(30.0, weight_decay=0.01),
  'adam': lambda: optimizers.Adam(0.05),
  'adamw': lambda: optimizers.AdamW(0.05, 0.3),
  'scaled': lambda: optimizers.Momentum(0.7, 0.9).scale_rates({'batch_norm_2/gamma:0': 0.1}),
}


@pytest.mark.parametrize(
  'optimizer, batch_norm, settings',
  [
    ('sgd', False, {}),
    ('sgd', True, {}),
    ('momentum', False, {}),
    ('nesterov', True, {}),
    ('nesterov', False, {'grad_bound': 0.1, 'weight_decay': 0.1}),
    ('sgd', True, {'grad_bound': 0.05, 'label_smoothing': 0.15}),
    ('rmsprop', False, {}),
    ('lars', False, {}),
    ('adam', False, {}),
    ('adamw', False, {}),
    ('adamw', 'frozen', {'label_smoothing': 0.15}),
    ('scaled', 'frozen', {'weight_decay': 0.1}),
    ('sgd', False, {'reduced': True}),
    ('nesterov', True, {'micro_batches': 2, 'weight_decay': 0.1, 'label_smoothing': 0.15}),
    ('nesterov', True, {'student_targets_from': 'original', 'label_smoothing': 0.15}),
    # Where the original views make a pass of their own, which otherwise has no gradient.
    ('sgd', False, {'student_targets_from': 'original', 'micro_batches': 2}),
    ('nesterov', True, {'reduced': True, 'weight_decay': 0.1, 'label_smoothing': 0.15}),
  ],
)
def test_soft_is_the_derivative_of_the_loss_after_the_step(optimizer, batch_norm, settings):
  bilevel = Bilevel('soft', OPTIMIZERS[optimizer](), batch_norm, **settings)
  expected = bilevel.numerical(bilevel.loss_after)
  found = bilevel.teacher_gradient()
  assert relative_error(found, expected) < 1e-6
  # The wrong sign is as wrong as can be.
  assert relative_error(-found, expected) > 1.99


def student_pass(name, shape):
  """(student without its last cast, function: its pass over fixed views)."""
  student = models.build(
    name,
    num_classes=CLASSES,
    input_shape=shape,
    dropout=0.2,
    seed=1,
    stochastic_depth=0.2,
    small_images=True,
  )
  student = tf.keras.Model(student.inputs, student.layers[-2].output)  # Logits not yet float32.
  method = methods.MetaPseudoLabels(small_model(1, False), student, label_smoothing=0.1)
  rng = np.random.RandomState(0)
  views = [tf.constant(rng.standard_normal([n, *shape])) for n in (4, 3)]
  targets = tf.nn.softmax(tf.constant(rng.standard_normal([4, CLASSES])))
  batch_ = methods.Batch(labeled=views[1], labels=tf.range(3), augmented=views[0])
  return student, lambda: method.student_pass(batch_, targets)


@pytest.mark.parametrize(
  'name, shape',
  [
    ('mlp-8x2', (2,)),
    ('wrn-10-1', (8, 8, 3)),
    pytest.param('resnet-50', (32, 32, 3), marks=pytest.mark.slow),
    pytest.param('efficientnet-bs', (32, 32, 3), marks=pytest.mark.slow),
  ],
)
def test_the_student_s_change_along_a_direction_in_every_model(name, shape):
  """`StudentPass.jvp` against differences of the log probabilities: batch norm in training
  mode, dropout, stochastic depth, max pooling, swish."""
  student, run = student_pass(name, shape)
  rng = np.random.RandomState(1)
  start = [v.numpy() for v in student.trainable_variables]
  direction = [rng.standard_normal(v.shape) * max(np.std(v), 0.1) * 0.1 for v in start]
  found = run().jvp([tf.constant(d) for d in direction]).numpy()

  def log_probs(shift):
    for variable, value, d in zip(student.trainable_variables, start, direction):
      variable.assign(value + shift * 1e-8 * d)
    return tf.nn.log_softmax(run().logits).numpy()

  expected = (8 * (log_probs(1) - log_probs(-1)) - (log_probs(2) - log_probs(-2))) / 12e-8
  assert np.abs(expected).max() > 1e-2
  assert relative_error(found, expected) < 1e-6


def test_the_change_along_a_direction_in_bfloat16():
  """Close to float32's, as far as eight bits go through two passes (here 9 %)."""
  found = {}
  for policy in ('float32', 'mixed_bfloat16'):
    tf.keras.mixed_precision.set_global_policy(policy)
    tf.keras.backend.set_floatx('float32')
    student = models.build('wrn-10-1', num_classes=CLASSES, input_shape=(8, 8, 3), seed=1)
    method = methods.MetaPseudoLabels(student, student)
    rng = np.random.RandomState(0)
    images = [tf.constant(rng.standard_normal([n, 8, 8, 3]), tf.float32) for n in (16, 8)]
    targets = tf.nn.softmax(tf.constant(rng.standard_normal([16, CLASSES]), tf.float32))
    direction = [
      tf.constant(rng.standard_normal(v.shape) * 0.1, tf.float32) for v in student.trainable_variables
    ]
    batch_ = methods.Batch(labeled=images[1], labels=tf.zeros([8], tf.int32), augmented=images[0])
    found[policy] = method.student_pass(batch_, targets).jvp(direction).numpy()
  assert found['mixed_bfloat16'].dtype == np.float32
  assert 1e-6 < relative_error(found['mixed_bfloat16'], found['float32']) < 0.2


def all_hard_targets(count):
  for classes in itertools.product(range(CLASSES), repeat=count):
    yield tf.one_hot(classes, CLASSES, dtype=tf.float64)


def probability(log_probs, targets):
  return float(tf.exp(tf.reduce_sum(log_probs * targets)))


def teacher_log_probs(bilevel):
  bilevel.reset()
  out = bilevel.method.teacher_pass(methods.Batch.of(bilevel.data))
  bilevel.reset()
  return tf.nn.log_softmax(out.logits['augmented'])


def expected_over_draws(bilevel, function):
  """sum over all label combinations of their probability times function()."""
  bilevel.fix_targets()
  total = 0.0
  for targets in all_hard_targets(len(bilevel.data[3])):
    bilevel.targets.assign(targets)
    total = total + probability(teacher_log_probs(bilevel), targets) * function()
  return total


@pytest.mark.long
@pytest.mark.parametrize('batch_norm, reduced', [(False, False), (True, False), (True, True)])
def test_sampled_is_unbiased_at_the_mean_scale(batch_norm, reduced):
  bilevel = Bilevel('sampled', OPTIMIZERS['nesterov'](), batch_norm, unlabeled=2, reduced=reduced)
  losses = []
  for targets in all_hard_targets(2):
    bilevel.fix_targets()
    bilevel.targets.assign(targets)
    losses.append((targets, bilevel.loss_after()))  # Depends on the labels alone.

  def expected_loss():
    log_probs = teacher_log_probs(bilevel)
    return sum(probability(log_probs, targets) * loss for targets, loss in losses)

  expected = bilevel.numerical(expected_loss)
  found = expected_over_draws(bilevel, bilevel.teacher_gradient)
  # The mean over 2 views has half the scale; .99 because the moving average, which starts at
  # zero, has taken a hundredth of the dot product off.
  assert relative_error(2 * found / 0.99, expected) < 1e-6
  assert relative_error(-2 * found / 0.99, expected) > 1.99


@pytest.mark.parametrize('reduced', [False, True])
def test_sampled_dot_has_the_mean_of_soft(reduced):
  # The student's step depends on the labels it drew, so the identity is exact as the rate goes
  # to zero, where theta' does not.
  bilevel = Bilevel('sampled_dot', optimizers.SGD(1e-6), True, unlabeled=2, reduced=reduced)
  found = expected_over_draws(bilevel, bilevel.teacher_gradient)
  soft = Bilevel('soft', optimizers.SGD(1e-6), True, unlabeled=2, reduced=reduced).teacher_gradient()
  assert relative_error(found, soft) < 1e-5


@pytest.mark.parametrize('reduced', [False, True])
def test_the_feedback_of_the_release_has_no_gradient(reduced):
  """google-research issues 534 and 541."""

  class Late(feedback.Release):
    """Takes the teacher's gradient after the feedback is known, with the term in it."""

    begin = feedback.Estimator.begin

    def feedback(self, *args):
      found = super().feedback(*args)
      assert np.abs(found.by_log_prob.numpy()).max() > 0.01 or reduced
      return found

  gradients = []
  for estimator in (Late(), 'release'):
    bilevel = Bilevel(estimator, OPTIMIZERS['nesterov'](), True, reduced=reduced)
    bilevel.start = [
      np.float32(-3) if v is bilevel.method.moving_dot_product else value
      for v, value in zip(bilevel.state, bilevel.start)
    ]
    bilevel._step = bilevel._step.python_function
    gradients.append(bilevel.step())
  with_feedback, without = gradients
  assert np.linalg.norm(without) > 0.1
  assert 0 < np.linalg.norm(with_feedback - without) < 1e-12 * np.linalg.norm(without)


def test_an_unknown_feedback_is_named():
  with pytest.raises(ValueError, match='mpl_feedback=sfot: use one of release, soft'):
    mpl.methods.MetaPseudoLabels(small_model(1, False), small_model(2, False), mpl_feedback='sfot')
