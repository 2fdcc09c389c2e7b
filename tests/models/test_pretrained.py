"""Networks of tf.keras.applications and networks from files, against Keras' own."""

import dataclasses
import json
import os
import sys
import zipfile

from meta_pseudo_labels import models
from meta_pseudo_labels.config.choices import APPLICATIONS, INPUTS
from meta_pseudo_labels.data.augment.views import ResizedCrop
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.inference import classifier, saved_model
from meta_pseudo_labels.models import applications, batch_norm, network_files, network_inputs, pretrained

import numpy as np
import pytest
import tensorflow as tf
from sklearn import datasets

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 65.0, 70.0)  # Of the views.
QUICK = ('MobileNetV3Small', 'EfficientNetB0')  # MobileNetV2's weights are compared from files below.
# A member of every family, and all that people ask for.
NAMES = [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
  for name in APPLICATIONS
  if not name.startswith('RegNet') or name in ('RegNetX002', 'RegNetY002')
]


def picture(size=96):
  """A real photograph, float32 `[1, size, size, 3]` of 0 to 255."""
  image = datasets.load_sample_images().images[0]
  return tf.image.resize(image[tf.newaxis], [size, size]).numpy()


def views(pixels):
  """The views of pixels as a network here gets them."""
  return ((pixels - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def scatter(model, seed=0):
  """Gives every weight of a model a value of its own, near those that training gives.

  Batch norms scale down: otherwise deep networks such as EfficientNetV2M amplify rounding beyond measure.
  """
  generator = np.random.default_rng(seed)
  values = []
  for weight in model.weights:
    value, name = weight.numpy(), weight.name
    if value.dtype.kind == 'f':
      noise = generator.uniform(0.75, 1.0, value.shape)
      if 'gamma' in name:
        value = value * noise
      elif 'variance' in name:
        value = value / noise
      elif value.ndim < 2:
        value = value + 0.1 * (noise - 1)
    values.append(value)
  model.set_weights(values)


def features_of(model):
  """The model up to what its new head gets."""
  head = model.get_layer('head/dropout')
  return tf.keras.Model(model.input, head.input)


def as_imagenet(name, path, monkeypatch):
  """Lets Keras find its ImageNet weights of a network in a file."""
  module = sys.modules[applications._constructor(name).__module__]
  for place in (module, sys.modules[module.__name__.rsplit('.', 1)[0] + '.resnet']):
    if hasattr(place, 'data_utils'):
      monkeypatch.setattr(place.data_utils, 'get_file', lambda *args, **kwargs: path)


def test_every_name_of_a_flag_is_a_network():
  assert set(applications.NETWORKS) == set(APPLICATIONS)
  assert set(network_inputs.INPUTS) == set(INPUTS)
  for name, network in applications.NETWORKS.items():
    assert callable(applications._constructor(name)) and network.inputs in network_inputs.INPUTS


@pytest.mark.parametrize('name', NAMES)
def test_a_network_computes_what_keras_computes(name, tmp_path, monkeypatch):
  source = applications.construct(name)
  scatter(source)
  path = str(tmp_path / 'imagenet.h5')
  source.save_weights(path)
  as_imagenet(name, path, monkeypatch)
  size = max(96, applications.NETWORKS[name].least)
  use = models.Pretrained(mean=MEAN, std=STD)
  model = models.build(name, num_classes=4, input_shape=(size, size, 3), use=use)
  pixels = picture(size)
  preprocess = sys.modules[applications._constructor(name).__module__].preprocess_input
  make = applications._constructor(name)
  source = make(include_top=False, weights='imagenet', pooling='avg', input_shape=(size, size, 3))
  wanted = source(preprocess(pixels.copy()), training=False).numpy()
  found = features_of(model)(views(pixels), training=False).numpy()
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(found / scale, wanted / scale, atol=2e-5)
  check_export(model, size, pixels, tmp_path)


def check_export(model, size, pixels, tmp_path):
  """Compares a SavedModel of a network with the network, on the picture."""
  serving = Serving(
    tuple('abcd'), (size, size, 3), ResizedCrop(mean=MEAN, std=STD, size=size, eval_size=size)
  )
  folder = str(tmp_path / 'saved')
  whole = classifier.Classifier(model, serving)
  saved_model.write(whole, folder)
  loaded = tf.saved_model.load(folder)
  inputs = views(pixels)
  wanted = tf.nn.softmax(model(inputs, training=False)).numpy()
  np.testing.assert_allclose(loaded.classify(inputs)['probabilities'].numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize('side', [96, None])
def test_the_head_sees_inner_layers_too(side):
  source = applications.construct('MobileNetV2')
  use = models.Pretrained(weights='none', feature_layers=2, mean=MEAN, std=STD, freeze='3')
  model = models.build('MobileNetV2', num_classes=4, input_shape=(side, side, 3), use=use)
  plain = dataclasses.replace(use, feature_layers=0)
  one = models.build('MobileNetV2', num_classes=4, input_shape=(side, side, 3), use=plain)
  scatter(source)
  # In this order, as the paper's table 2 has it: the last sums of 96 and of 160 channels.
  names = ('block_12_add', 'block_15_add')
  outputs = [source.get_layer(name).output for name in names] + [source.output]
  for built in (model, one):
    for weight, value in zip(built.weights, source.get_weights()):
      weight.assign(value)
  pixels = picture()
  found = features_of(model)(views(pixels), training=False).numpy()
  wanted = tf.keras.Model(source.input, outputs)(pixels / 127.5 - 1, training=False)
  wanted = [value if len(value.shape) == 2 else tf.reduce_mean(value, axis=[1, 2]) for value in wanted]
  wanted = np.concatenate(wanted, axis=1)
  assert found.shape == (1, 96 + 160 + 1280)
  np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
  # What learns is the same as without.
  learns = lambda built: [tuple(variable.shape) for variable in built.trainable_variables[:-2]]
  assert learns(model) == learns(one)


@pytest.mark.parametrize('last_convolution, found', [(True, ['sum_2', 'sum_4']), (False, ['sum_2'])])
def test_inner_layers_are_the_last_sums_of_each_size(last_convolution, found):
  """The sums that the last features are made of without a convolution are those features already."""
  x = inputs = tf.keras.Input([16, 16, 3])
  for number in range(1, 5):
    x = tf.keras.layers.Conv2D(4, 3, strides=1 + number % 2, padding='same')(x)  # 8, 8, 4, 4 pixels.
    branch = tf.keras.layers.Conv2D(4, 3, padding='same')(x)
    x = tf.keras.layers.Add(name=f'sum_{number}')([x, branch])
  if last_convolution:
    x = tf.keras.layers.Conv2D(8, 1)(x)
  model = tf.keras.Model(inputs, tf.keras.layers.ReLU()(x))
  assert [layer.name for layer in pretrained.find_inner_layers(model)] == found


def test_weights_come_from_a_file_with_the_old_head_or_without(tmp_path):
  whole = tf.keras.applications.MobileNetV2(weights=None)
  scatter(whole)
  whole.save_weights(tmp_path / 'top.h5')
  whole.save(tmp_path / 'whole.h5')
  features = tf.keras.Model(whole.input, whole.layers[-2].output)
  features.save_weights(tmp_path / 'no_top.h5')
  wanted = features(picture(224) / 127.5 - 1).numpy()
  for file in ('top.h5', 'whole.h5', 'no_top.h5'):
    use = models.Pretrained(str(tmp_path / file))
    model = models.build('MobileNetV2', num_classes=4, input_shape=(224, 224, 3), use=use)
    np.testing.assert_allclose(features_of(model)(picture(224)), wanted, atol=1e-4 * np.abs(wanted).max())


def small_network():
  """A network as somebody trains one: augmenting, scaling, convolutions, a nested part, a head."""
  part = tf.keras.Sequential(
    [
      tf.keras.layers.Conv2D(4, 3, input_shape=(None, None, 3)),
      tf.keras.layers.BatchNormalization(scale=False, momentum=0.9),
      tf.keras.layers.ReLU(),
    ],
    name='part',
  )
  inputs = tf.keras.Input((32, 32, 3))
  x = tf.keras.layers.RandomFlip()(inputs)
  x = tf.keras.layers.Rescaling(1 / 255)(x)
  x = part(x)
  branch = tf.keras.layers.SeparableConv2D(4, 3, padding='same')(x)
  x = tf.nn.relu(x + branch * 0.5)
  x = tf.keras.layers.GlobalMaxPooling2D()(x)
  x = tf.keras.layers.Dense(5, 'tanh')(x)
  x = tf.keras.layers.Dropout(0.3)(x)
  x = tf.keras.layers.Dense(7)(x)
  model = tf.keras.Model(inputs, tf.keras.layers.Softmax()(x))
  scatter(model)
  return model


@pytest.mark.parametrize('ending', ['.h5', '.keras'])
def test_a_network_from_a_file_is_cut_before_its_last_dense_layer(tmp_path, ending):
  source, path = small_network(), str(tmp_path / f'network{ending}')
  source.save(path)
  use = models.Pretrained(mean=MEAN, std=STD)
  model = models.build(path, num_classes=4, input_shape=(32, 32, 3), use=use)
  wanted = tf.keras.Model(source.input, source.get_layer(index=-4).output)
  pixels = picture(32)
  np.testing.assert_allclose(features_of(model)(views(pixels)), wanted(pixels, training=False), atol=1e-5)
  # From its description, without the file; a checkpoint brings the weights.
  text = pretrained.describe(path, use)
  os.remove(path)
  again = models.build(path, num_classes=4, input_shape=(32, 32, 3), use=use, architecture=text)
  assert [v.shape for v in again.variables] == [v.shape for v in model.variables]
  again.set_weights(model.get_weights())
  np.testing.assert_array_equal(again(views(pixels)), model(views(pixels)))


def test_a_saved_model_gives_frozen_features(tmp_path):
  source = tf.keras.Sequential([tf.keras.layers.Conv2D(4, 3, input_shape=(None, None, 3))])
  source.export(str(tmp_path / 'folder'))
  path = str(tmp_path / 'folder')
  use = models.Pretrained(inputs='0_1', mean=MEAN, std=STD, feature_layers=2)  # It shows none.
  model = models.build(path, num_classes=4, input_shape=(96, 96, 3), use=use)
  assert [v.name.split('/')[0] for v in model.variables] == ['head', 'head']
  wanted = tf.reduce_mean(source(picture() / 255), axis=[1, 2])
  np.testing.assert_allclose(features_of(model)(views(picture())), wanted, atol=1e-5)
  check_export(model, 96, picture(), tmp_path)


def test_gray_images_become_three_equal_channels():
  layer = network_inputs.NetworkInputs('caffe', (10.0,), (5.0,))
  found = layer(tf.constant([[[[2.0]]]]))  # The pixel 20.
  np.testing.assert_allclose(found[0, 0, 0], [20 - 103.939, 20 - 116.779, 20 - 123.68], rtol=1e-6)


def test_batch_norms_keep_their_statistics_unless_told_otherwise(tmp_path):
  path = str(tmp_path / 'network.h5')
  small_network().save(path)
  inputs = tf.constant(np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32))

  def norm_moves(**use):
    model = models.build(
      path, num_classes=4, input_shape=(32, 32, 3), use=models.Pretrained(**use), dropout=0.0
    )
    (norm,) = [layer for layer in model.layers if isinstance(layer, batch_norm.BatchNorm)]
    before = norm.moving_mean.numpy()
    alone, together = model(inputs[:1], training=True), model(inputs, training=True)[:1]
    return np.any(norm.moving_mean.numpy() != before), np.max(np.abs(alone - together)) > 1e-4

  assert norm_moves() == (False, False)
  assert norm_moves(train_batch_norm=True) == (True, True)
  assert norm_moves(train_batch_norm=True, freeze='all') == (False, False)


def test_freezing_and_rates_go_by_blocks():
  build = lambda freeze: models.build(
    'MobileNetV2',
    num_classes=4,
    input_shape=(32, 32, 3),
    use=models.Pretrained('none', freeze=freeze),
  )
  whole = build('none')
  assert [v.name for v in build('all').trainable_variables] == ['head/dense/kernel:0', 'head/dense/bias:0']
  one = {v.name for v in build('1').trainable_variables}
  two = {v.name for v in build('2').trainable_variables}
  assert 'Conv_1/kernel:0' in one and 'Conv1/kernel:0' not in two
  assert one < two < {v.name for v in whole.trainable_variables}
  scales = pretrained.rate_scales(whole, 0.1, 0.5)
  assert scales['Conv_1/kernel:0'] == 0.1 and 'head/dense/kernel:0' not in scales
  assert {scales[name] for name in two - one} == {0.05}
  assert scales['Conv1/kernel:0'] == 0.1 * 0.5 ** (len(pretrained._backbone_blocks(whole)) - 1)


def test_bad_files_are_refused_in_one_line(tmp_path):
  build = lambda path, size=32, **use: models.build(
    str(path), num_classes=4, input_shape=(size, size, 3), use=models.Pretrained(**use)
  )
  with pytest.raises(UserError, match='no such file'):
    build(tmp_path / 'none.h5')
  (tmp_path / 'junk.h5').write_bytes(b'junk')
  with pytest.raises(UserError, match='Keras cannot load it'):
    build(tmp_path / 'junk.h5')
  with zipfile.ZipFile(tmp_path / 'three.keras', 'w') as file:
    file.writestr('metadata.json', json.dumps({'keras_version': '3.3.3'}))
  with pytest.raises(UserError, match=r'was saved by Keras 3\.3\.3'):
    build(tmp_path / 'three.keras')
  unknown = tf.keras.Sequential([tf.keras.layers.Conv2D(4, 3, input_shape=(None, None, 3))])
  unknown.save(tmp_path / 'unknown.h5')
  with pytest.raises(UserError, match='give --model_inputs, one of 0_255, 0_1'):
    build(tmp_path / 'unknown.h5')
  unknown.save_weights(tmp_path / 'weights.h5')
  with pytest.raises(UserError, match='weights without their network'):
    build(tmp_path / 'weights.h5')
  with pytest.raises(UserError, match='not those of MobileNetV2'):
    build('MobileNetV2', weights=str(tmp_path / 'unknown.h5'))
  with pytest.raises(UserError, match='takes images of 75 pixels or more'):
    build('InceptionV3', weights='none')
  with pytest.raises(UserError, match='no SavedModel there'):
    build(tmp_path / 'folder', inputs='0_1')


def test_a_network_without_its_download_says_which_file_to_bring(monkeypatch):
  def fail(name, origin, **kwargs):
    raise Exception(f'URL fetch failure on {origin}: None -- no network')  # As Keras does.

  module = sys.modules[applications._constructor('MobileNetV2').__module__]
  monkeypatch.setattr(module.data_utils, 'get_file', fail)
  with pytest.raises(
    UserError, match=r'bring mobilenet_v2_weights\S+_no_top\.h5 \(from https://\S+/\)'
  ) as error:
    models.build('MobileNetV2', num_classes=4, input_shape=(32, 32, 3))
  assert os.path.join('.keras', 'models') in str(error.value) and '\n' not in str(error.value)


def test_the_network_at_hand_says_its_own_inputs(tmp_path):
  source = small_network()
  assert network_files.known_inputs(tf.keras.Model(source.input, source.layers[2].output)) == '0_255'
  assert network_files.known_inputs(tf.keras.Sequential([tf.keras.layers.Conv2D(4, 3)])) is None
