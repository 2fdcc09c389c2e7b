"""The original views in a batch of their own: the same result where nothing mixes the views, and what it
is where a batch norm does."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import build, models, rng
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.methods import Batch
from meta_pseudo_labels.models import batch_norm, layers

import numpy as np
import pytest
import tensorflow as tf

CLASSES, SHAPE = 3, (8, 8, 1)


def network(name, seed=0):
  return models.build(name, num_classes=CLASSES, input_shape=SHAPE, dropout=0.3, seed=seed)


def make(name, **settings):
  method = mpl.UDA(network(name), uda_threshold=0.0, **settings)
  method.set_optimizers(mpl.optimizers.SGD(0.5))
  return method


def batch():
  random = np.random.RandomState(0)
  images = lambda count: tf.constant(random.standard_normal([count, *SHAPE]), tf.float32)
  return Batch(images(4), tf.range(4) % CLASSES, images(8), images(8))


def keras_network(**batch_norm_settings):
  return tf.keras.Sequential(
    [
      tf.keras.layers.Conv2D(2, 3, input_shape=SHAPE),
      tf.keras.layers.BatchNormalization(**batch_norm_settings),
      tf.keras.layers.Flatten(),
      tf.keras.layers.Dense(CLASSES),
    ]
  )


def test_it_is_known_which_networks_mix_their_examples():
  couples = batch_norm.couples_examples
  assert couples(network('wrn-10-1')) and couples(network('resnet-50')) and couples(keras_network())
  assert not couples(network('mlp-4x1')) and not couples(keras_network(trainable=False))
  student = network('wrn-10-1')
  for layer in student.layers:
    if isinstance(layer, batch_norm.BatchNorm):
      layer.inference = True
  assert not couples(student)


def matrix_products(method):
  graph = tf.function(method.train_step, autograph=False).get_concrete_function(batch()[:4]).graph
  shapes = [op.outputs[0].shape.as_list() for op in graph.get_operations() if op.type == 'MatMul']
  return sorted(shape[0] for shape in shapes)


def test_without_batch_norm_the_originals_go_forward_alone(monkeypatch):
  """With the masks and the result of one batch of 4 + 8 + 8."""
  alone, whole = make('mlp-4x1'), make('mlp-4x1')
  products = matrix_products(alone)
  logs = alone.train_step(batch())
  monkeypatch.setattr(batch_norm, 'couples_examples', lambda model: True)
  assert products.count(8) == 2 and 20 not in products  # Two layers, forward; the rest is 12.
  assert 20 in matrix_products(whole)
  for name, value in whole.train_step(batch()).items():
    np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)
  for variable, other in zip(alone.student.variables, whole.student.variables):
    np.testing.assert_allclose(variable, other, rtol=1e-5, atol=1e-7)


def test_separate_batches_have_statistics_of_their_own():
  """The logits of two passes, of which both move the averages, the originals' first."""
  method, expected = make('wrn-10-1', original_view='separate'), network('wrn-10-1')
  data = batch()
  found = method.uda_pass(method.student, data).logits
  key = rng.key(0, 0)
  with layers.noise(key, [('uda/original', 8)]):
    original = expected(data.original, training=True)
  with layers.noise(key, [('uda/labeled', 4), ('uda/augmented', 8)]):
    others = expected(tf.concat([data.labeled, data.augmented], axis=0), training=True)
  np.testing.assert_allclose(found['original'], original, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found['labeled'], others[:4], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found['augmented'], others[4:], rtol=1e-4, atol=1e-5)
  for variable, other in zip(method.student.non_trainable_variables, expected.non_trainable_variables):
    np.testing.assert_allclose(variable, other, rtol=1e-5, atol=1e-7)
  together = make('wrn-10-1').uda_pass(method.student, data).logits
  assert np.abs(together['augmented'] - found['augmented']).max() > 1e-3


@pytest.mark.parametrize('name', ['uda', 'mpl', 'reduced_mpl'])
def test_the_flag_reaches_the_method(name):
  config = Config(
    dataset_name='digits', output_dir='unused', method=name, model_type='mlp-4x1', original_view='separate'
  )
  teacher = network('mlp-4x1') if name == 'mpl' else build.model(config, 0, SHAPE, CLASSES)
  method = build.method(config, student=network('mlp-4x1'), teacher=teacher)
  assert method.original_view == 'separate'


def test_another_word_is_refused():
  with pytest.raises(ValueError, match='original_view=alone: use one of together, separate'):
    make('mlp-4x1', original_view='alone')
