"""A trained network as one function from files to classes, and as a SavedModel that needs nothing
but TensorFlow.

`Classifier` is what task export writes and what task predict runs; after `tf.saved_model.load` it
has the same functions.
"""
import os
import shutil

from meta_pseudo_labels import checkpoints
from meta_pseudo_labels import config as config_lib
from meta_pseudo_labels.data.augment import decode
from meta_pseudo_labels.data.augment.views import Points, ResizedCrop
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf

TOP = 5
PARALLEL_CALLS = 8  # Images of a request that are decoded at once; the machine's threads bound it.
# What a command says for itself; everything else was said when the run was trained.
OWN_FLAGS = ('task_mode', 'output_dir', 'reset_output_dir', 'eval_batch_size', 'export_dir',
             'export_weights', 'export_tflite', 'input', 'output', 'format', 'saved_model',
             'select_per_class', 'use_xla_sharding', 'num_cores_per_replica')


def as_trained(config):
  """The Config of the run in `output_dir`, from its hparams.json, with this command's own flags.

  So a command need not repeat what the training was told; what it repeats must agree.

  Raises:
    UserError: there is no run, or it has other settings than the command names.
  """
  path = os.path.join(config.output_dir, 'hparams.json')
  try:
    with open(path, 'rb') as file:
      trained = config_lib.from_json(file.read(), path)
  except OSError as error:
    raise UserError(f'--output_dir={config.output_dir}: no run there (hparams.json: '
                    f'{error.strerror}), which --task_mode={config.task} needs; train '
                    'first') from None
  trained = trained.replace(**{name: getattr(config, name) for name in OWN_FLAGS})
  defaults = config_lib.Config()
  stated = {name: getattr(config, name) for name in config_lib.Config.__dataclass_fields__
            if getattr(config, name) != getattr(defaults, name)}
  stated['num_classes'] = trained.num_classes  # The data's own number, whatever was asked for.
  now = trained.replace(**stated)
  config_lib.validate(now)
  checkpoints.refuse_other_run(trained, now)
  return now


def take_weights(phases, weights):
  """The model to serve, holding the weights to serve; for good: the others are overwritten.

  Args:
    phases: train.Phase objects, up to the one the checkpoint stands in.
    weights: ema (the student's moving average; after a finetune, which keeps none, its weights),
      raw (the student's own), or teacher.

  Returns:
    Keras model.

  Raises:
    UserError: the run has no such network.
  """
  if weights != 'teacher' and 'student' not in phases[-1].models:
    raise UserError(f'--export_weights={weights}: the run is still training its teacher; let it '
                    'go on, or --export_weights=teacher')
  name = 'teacher' if weights == 'teacher' else 'student'
  for phase in reversed(phases):
    if name in phase.models:
      model, average = phase.models[name]
      if average is not None and weights != 'raw':
        average.copy_to_model()
      return model
  raise UserError(f'--export_weights={weights}: the run has no teacher that can be used (only '
                  'pseudo_labels has one, and mpl with an --mpl_feedback other than release, which '
                  'never moves its batch-norm averages); use ema or raw')


class Classifier(tf.Module):
  """A network with all that comes before and after it, from a file's bytes to a class's name.

  Functions, S and C being the network's side in pixels and its channels:
    prepare: string [], an encoded image -> what the network sees, `[S, S, C]`, exactly as
      evaluation makes it. Raises tf.errors.InvalidArgumentError for what cannot be decoded.
      Not there for points.
    classify: what the network sees, `[N, S, S, C]` or `[N, D]` -> dict of `probabilities`
      float32 `[N, K]`, `classes` int32 `[N]`, `class_names` string `[N]`, `top_5_classes` int32
      `[N, min(5, K)]` and `top_5_probabilities` float32, the largest first.
    names: () -> string `[K]`, the classes' names.
  """

  def __init__(self, model, views, input_shape, class_names, fit=None):
    """Wraps a model as it is now.

    Args:
      model: Keras model, inputs -> logits `[N, K]`.
      views: one of data/views.py; its `plain` is what evaluation does.
      input_shape: Problem.input_shape.
      class_names: K str.
      fit: how images that were in memory came to be of one size, Problem.fit; None: decode.fit.
    """
    super().__init__(name='classifier')
    self._views, self._class_names = views, tuple(class_names)
    self._fit = fit or (lambda image: decode.fit(image, self.input_shape[0]))
    self.points = isinstance(views, Points)
    self.dtype = views.dtype
    self._encoded_views = isinstance(views, ResizedCrop)
    side = getattr(views, 'eval_size', None)
    shape = (side, side, decode.CHANNELS) if side else tuple(input_shape)
    self.input_shape = shape
    # The variables, not the model: Keras would write each of its layers down as well, with
    # functions of their own.
    self.weights = list(model.variables)

    def network(inputs):
      return tf.cast(model(inputs, training=False), tf.float32)

    def logits(inputs):
      # oneDNN's batch norm fails for an empty batch: then one of zeros goes through.
      count = tf.shape(inputs)[0]
      empty = tf.cast(tf.equal(count, 0), tf.int32)
      return network(tf.pad(inputs, [[0, empty]] + [[0, 0]] * len(shape)))[:count]

    self._logits = logits
    function = lambda body, *specs: tf.function(body, input_signature=specs, autograph=False)
    self.names = function(lambda: tf.constant(self._class_names))
    self.classify = function(
        self._classified, tf.TensorSpec([None, *shape], views.dtype, 'inputs'))
    self.from_inputs = function(
        lambda inputs: {'logits': network(tf.cast(inputs, views.dtype))},
        tf.TensorSpec([None, *shape], tf.float32, 'inputs'))
    if self.points:
      self.from_points = function(lambda points: self._classified(views.plain(points)),
                                  tf.TensorSpec([None, *shape], tf.float32, 'points'))
      return
    pixels = tf.TensorSpec([None, None, None, decode.CHANNELS], tf.uint8, 'images')
    self.prepare = function(self._prepared, tf.TensorSpec([], tf.string, 'image_bytes'))
    self.from_bytes = function(lambda image_bytes: self._classified(self._decoded(image_bytes)),
                               tf.TensorSpec([None], tf.string, 'image_bytes'))
    self.from_pixels = function(
        lambda images: self._classified(self._prepared_pixels(images)), pixels)
    self.logits = function(
        lambda images: {'logits': logits(self._prepared_pixels(images))}, pixels)

  @property
  def signatures(self):
    """{signature's name: tf.function}."""
    if self.points:
      return {'serving_default': self.from_points, 'points': self.from_points}
    return {'serving_default': self.from_bytes, 'images': self.from_pixels,
            'logits': self.logits}

  def _classified(self, inputs):
    logits = self._logits(inputs)
    probabilities = tf.nn.softmax(logits)
    top = tf.math.top_k(logits, min(TOP, len(self._class_names))).indices
    classes = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return {'probabilities': probabilities, 'classes': classes,
            'class_names': tf.gather(tf.constant(self._class_names), classes),
            'top_5_classes': top,
            'top_5_probabilities': tf.gather(probabilities, top, batch_dims=1)}

  def _prepared(self, image_bytes):
    if self._encoded_views:
      return self._views.plain(image_bytes[tf.newaxis])[0]
    return self._plain(self._fit(decode.decode(image_bytes))[tf.newaxis])[0]

  def _plain(self, images):
    """uint8 `[N, S, S, 3]` -> what the network sees. Gray of three equal channels is unchanged."""
    if self.input_shape[-1] == 1:
      images = tf.image.rgb_to_grayscale(images)
    return self._views.plain(tf.ensure_shape(images, [None, *self.input_shape]))

  def _prepared_pixels(self, images):
    """uint8 `[N, H, W, 3]` of one size -> what the network sees."""
    size = self.input_shape[0]
    if self._encoded_views:
      return self._views.normalized(tf.map_fn(
          lambda image: decode.central_crop_of_pixels(image, size), images,
          fn_output_signature=tf.float32))

    def fitted():
      return tf.map_fn(self._fit, images)

    fits = tf.reduce_all(tf.equal(tf.shape(images)[1:3], size))
    return self._plain(tf.ensure_shape(tf.cond(fits, lambda: images, fitted),
                                       [None, size, size, decode.CHANNELS]))

  def _decoded(self, image_bytes):
    """string `[N]` -> what the network sees. Fails with the indices of all that are no images."""
    count = tf.size(image_bytes, tf.int64)
    # The operations that decode say nothing of where in a request the image stood. A tf.data
    # pipeline can leave out what fails, and decodes several at once besides.
    elements = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes)).map(
        lambda number, image: (number, self._prepared(image)), num_parallel_calls=PARALLEL_CALLS,
        deterministic=True).ignore_errors()
    end = tf.data.Dataset.from_tensors(
        (tf.constant(-1, tf.int64), tf.zeros(self.input_shape, self._views.dtype)))  # Never empty.
    numbers, inputs = elements.concatenate(end).batch(count + 1).get_single_element()
    found = tf.scatter_nd(numbers[:-1, tf.newaxis], tf.ones_like(numbers[:-1]), [count])
    bad = tf.where(tf.equal(found, 0))[:, 0]
    complete = tf.debugging.Assert(
        tf.equal(tf.size(bad), 0), ['images that cannot be decoded, by index:', bad], summarize=10)
    with tf.control_dependencies([complete]):
      return tf.ensure_shape(tf.identity(inputs[:-1]), [None, *self.input_shape])


def require_free(folder):
  """Raises UserError unless a SavedModel may be written to `folder` (an older one is replaced)."""
  if os.path.isdir(folder):
    taken = os.listdir(folder) and not os.path.isfile(os.path.join(folder, 'saved_model.pb'))
  else:
    taken = os.path.exists(folder)
  if taken:
    raise UserError(f'--export_dir={folder}: exists and is no SavedModel, so it will not be '
                    'replaced; give another folder')


def write(classifier, folder, *, tflite=False):
  """Writes a SavedModel, in one move: an older one in its place is replaced.

  With it come `assets.extra/tf_serving_warmup_requests`, and with `tflite` a `model.tflite`: what
  the network sees, float32 `[N, S, S, C]` -> logits `[N, K]`.

  Raises:
    UserError: the folder holds something else or cannot be written, or TFLite cannot express the
      network.
  """
  folder = folder.rstrip('/')
  require_free(folder)
  if tflite and classifier.dtype != tf.float32:
    raise UserError(f'--export_tflite: this network computes in {classifier.dtype.name}, which '
                    'TFLite does not; leave the flag out')
  partial = folder + '.partial'
  try:
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(os.path.join(partial, 'assets.extra'))
    tf.saved_model.save(classifier, partial, signatures=classifier.signatures)
    _write_warmup(classifier, os.path.join(partial, 'assets.extra', 'tf_serving_warmup_requests'))
    if tflite:
      with open(os.path.join(partial, 'model.tflite'), 'wb') as file:
        file.write(_tflite(classifier))
    if os.path.isdir(folder):
      shutil.rmtree(folder)
    os.replace(partial, folder)
  except OSError as error:
    raise UserError(f'--export_dir={folder}: cannot be written ({error.strerror}); give a folder '
                    'that can') from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _tflite(classifier):
  """The bytes of a TFLite model of `from_inputs`."""
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
      [classifier.from_inputs.get_concrete_function()], classifier)
  try:
    return converter.convert()
  except Exception as error:  # pylint: disable=broad-except  # It has a class of its own, private.
    reason = str(error).strip().splitlines()[0]
    raise UserError(f'--export_tflite: TFLite cannot express this model ({reason}); leave the flag '
                    'out') from error


def _message(number, payload):
  """A field of a protocol buffer message that holds bytes or another message."""
  def varint(value):
    head, value = value & 127, value >> 7
    return bytes([head | 128]) + varint(value) if value else bytes([head])
  return varint(number << 3 | 2) + varint(len(payload)) + payload


def _write_warmup(classifier, path):
  """One request of one example, which TensorFlow Serving makes before it serves.

  A tensorflow.serving.PredictionLog: its predict_log (field 6) holds a request (1), which holds the
  model's name (field 1 of 1) and the inputs (2), a map of name (1) to TensorProto (2). Written by
  hand, because those messages come with a package that nothing else needs.
  """
  if classifier.points:
    zeros = np.zeros([1, *classifier.input_shape], np.float32)
    name, value = 'points', tf.make_tensor_proto(zeros)
  else:
    image = tf.io.encode_png(tf.zeros([32, 32, decode.CHANNELS], tf.uint8)).numpy()
    name, value = 'image_bytes', tf.make_tensor_proto([image])
  inputs = _message(1, name.encode()) + _message(2, value.SerializeToString())
  request = _message(1, _message(1, b'default')) + _message(2, inputs)
  with tf.io.TFRecordWriter(path) as writer:
    writer.write(_message(6, _message(1, request)))
