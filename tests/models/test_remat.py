"""Rematerialized passes train what plain ones train, in every method and model."""

from meta_pseudo_labels import build, methods, models
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.models import calibration, remat

import numpy as np
import pytest
import tensorflow as tf

CLASSES = 3


def train(method, model_type, size, steps, **options):
  """({log: value} of the last step, values of all variables) after some steps."""
  config = Config(
    dataset_name='digits',
    output_dir='unused',
    method=method,
    model_type=model_type,
    train_batch_size=4,
    uda_data=2,
    num_train_steps=10,
    dense_dropout_rate=0.3,
    lr=0.5,
    mpl_student_lr=0.5,
    mpl_teacher_lr=4.0,
    mpl_student_lr_wait_steps=0,
    num_warmup_steps=0,
    mpl_student_lr_warmup_steps=0,
    mpl_teacher_lr_warmup_steps=0,
    uda_steps=0,
    uda_threshold=0.0,
    stochastic_depth_drop_rate=0.5,
    ema_decay=0.9,
    **options,
  )
  make = lambda number: build.model(config, number, (size, size, 3), CLASSES)
  student, teacher = make(1), make(0)
  trained = build.method(config, student=student, teacher=teacher)
  draw = lambda count, step: tf.random.stateless_normal([count, size, size, 3], [count, step])
  step = tf.function(trained.train_step, autograph=False)
  for number in range(steps):
    logs = step((draw(4, number), tf.range(4) % CLASSES, draw(8, number), draw(8, number + 100)))
  return (
    {name: float(value) for name, value in logs.items()},
    [v.numpy() for v in (*student.variables, *teacher.variables)],
  )


@pytest.mark.parametrize(
  'method, feedback, model_type, size, options',
  [
    ('supervised', 'release', 'wrn-10-1', 8, {}),
    pytest.param('uda', 'release', 'efficientnet-bs', 32, {}, marks=pytest.mark.slow),
    pytest.param('pseudo_labels', 'release', 'mlp-8x2', 4, {}, marks=pytest.mark.long),
    pytest.param('mpl', 'release', 'wrn-10-1', 8, {}, marks=pytest.mark.slow),  # Quick: in parts, below.
    ('mpl', 'soft', 'wrn-10-1', 8, {}),
    pytest.param('mpl', 'soft', 'mlp-8x2', 4, {'micro_batches': 4}, marks=pytest.mark.long),
    ('mpl', 'release', 'wrn-10-1', 8, {'micro_batches': 2, 'original_view': 'separate'}),
  ],
)
def test_remat_changes_no_result(method, feedback, model_type, size, options):
  steps = 1 if model_type.startswith('efficientnet') else 2
  logs, values = train(method, model_type, size, steps, mpl_feedback=feedback, **options)
  again_logs, again_values = train(
    method, model_type, size, steps, mpl_feedback=feedback, remat=True, **options
  )
  for name, value in logs.items():
    np.testing.assert_allclose(again_logs[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
  assert len(values) == len(again_values)
  for value, again in zip(values, again_values):
    np.testing.assert_allclose(again, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'name, size, blocks',
  [
    ('wrn-10-1', 8, ['stem', 'block_1', 'block_2', 'block_3', 'head']),
    ('mlp-8x2', 4, ['hidden_1', 'hidden_2', 'head']),
    ('efficientnet-bs', 32, ['stem', *(f'block_{number}' for number in range(16)), 'head']),
  ],
)
def test_boundaries_lie_between_blocks(name, size, blocks):
  model = models.build(name, num_classes=CLASSES, input_shape=(size, size, 3))
  ends = remat.find_boundaries(model)
  assert [tensor.name.split('/')[1] for tensor in ends] == blocks


def test_a_block_is_computed_again_after_the_cotangent_is_there():
  """Each convolution of a block stands in the graph once more, behind a control dependency, without
  which TensorFlow would merge the two."""
  model = models.build('wrn-10-1', num_classes=CLASSES, input_shape=(8, 8, 3))
  passes = {False: lambda x: model(x, training=True), True: remat.Rematerialized(model)}

  def convolutions(again):
    @tf.function(autograph=False)
    def gradient(x):
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(passes[again](x) ** 2)
      return tape.gradient(loss, model.trainable_variables)

    graph = gradient.get_concrete_function(tf.TensorSpec([2, 8, 8, 3])).graph
    return [op for op in graph.get_operations() if op.type == 'Conv2D'], graph

  once, _ = convolutions(False)
  twice, graph = convolutions(True)
  assert len(twice) == 2 * len(once)
  waiting = [op for op in graph.get_operations() if op.control_inputs and 'again' in op.name]
  assert len(waiting) == len(remat.find_boundaries(model))
  # A batch norm's statistics are found once, and known when they are needed again.
  norms = [op.get_attr('is_training') for op in graph.get_operations() if op.type == 'FusedBatchNormV3']
  assert (norms.count(True), norms.count(False)) == (7, 7)


def test_reduced_mpl_rematerializes_its_one_large_network():
  student = models.build('wrn-10-1', num_classes=CLASSES, input_shape=(8, 8, 3))
  method = methods.ReducedMetaPseudoLabels(calibration.calibration(CLASSES), student, remat=True)
  assert list(method._passes._models) == [id(student)]


def test_a_model_without_blocks_is_refused():
  inputs = tf.keras.Input([4])
  model = tf.keras.Model(inputs, tf.keras.layers.Dense(2)(inputs))
  with pytest.raises(ValueError, match='no blocks between which'):
    methods.Supervised(model, remat=True)
