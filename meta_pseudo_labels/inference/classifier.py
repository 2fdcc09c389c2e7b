"""A trained network as one function from files to classes, and as a SavedModel that needs nothing
but TensorFlow.

`Classifier` is what task export writes and what task predict runs; after `tf.saved_model.load` it
has the same functions.
"""

from meta_pseudo_labels.checkpoints import saver
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.augment.views import Points, ResizedCrop
from meta_pseudo_labels.data.images import tf_decode
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models.saved_features import SavedFeatures

import tensorflow as tf

TOP = 5
PARALLEL_CALLS = 8  # Images of a request that are decoded at once; the machine's threads bound it.


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
    raise UserError(
      f'--export_weights={weights}: the run is still training its teacher; let it '
      'go on, or --export_weights=teacher'
    )
  name = 'teacher' if weights == 'teacher' else 'student'
  for phase in reversed(phases):
    if name in phase.models:
      model, average = phase.models[name]
      if average is not None and weights != 'raw':
        average.copy_to_model()
      return model
  raise UserError(
    f'--export_weights={weights}: the run has no teacher that can be used (only '
    'pseudo_labels has one, and mpl with an --mpl_feedback other than release, which '
    'never moves its batch-norm averages); use ema or raw'
  )


class Classifier(tf.Module):
  """A network with all that comes before and after it, from a file's bytes to a class's name.

  Functions, S and C being the network's side in pixels and its channels:
    prepare: string [], an encoded image -> what the network sees, `[S, S, C]`, exactly as
      evaluation makes it. Raises tf.errors.InvalidArgumentError for what cannot be decoded.
      Not there for points.
    prepare_pixels: uint8 `[H, W, 3]`, an upright image of any size -> the same. Not there for points.
    options: () -> string [], the `Serving` as JSON. Not there for points.
    classify: what the network sees, `[N, S, S, C]` or `[N, D]` -> dict of `probabilities`
      float32 `[N, K]`, `classes` int32 `[N]`, `class_names` string `[N]`, `top_5_classes` int32
      `[N, min(5, K)]` and `top_5_probabilities` float32, the largest first.
    names: () -> string `[K]`, the classes' names.
  """

  def __init__(self, model, serving):
    """Wraps a model as it is now.

    Args:
      model: Keras model, inputs -> logits `[N, K]`.
      serving: data.serving.Serving.
    """
    super().__init__(name='classifier')
    self._serving, self.views = serving, serving.views
    self._class_names = serving.class_names
    views = serving.views
    self.points = isinstance(views, Points)
    self.dtype = views.dtype
    side = getattr(views, 'eval_size', None)
    shape = (side, side, crops.CHANNELS) if side else tuple(serving.input_shape)
    self.input_shape = shape
    # The variables, not the model: Keras would write each of its layers down as well, with
    # functions of their own.
    self.weights = list(model.variables)
    self.loaded = [layer.loaded for layer in model.layers if isinstance(layer, SavedFeatures)]

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
    self.classify = function(self._classified, tf.TensorSpec([None, *shape], views.dtype, 'inputs'))
    self.from_inputs = function(
      lambda inputs: {'logits': network(tf.cast(inputs, views.dtype))},
      tf.TensorSpec([None, *shape], tf.float32, 'inputs'),
    )
    if self.points:
      self.from_points = function(
        lambda points: self._classified(views.plain(points)),
        tf.TensorSpec([None, *shape], tf.float32, 'points'),
      )
      return
    pixels = tf.TensorSpec([None, None, None, crops.CHANNELS], tf.uint8, 'images')
    self.prepare_pixels = function(
      self._prepared_pixels, tf.TensorSpec([None, None, crops.CHANNELS], tf.uint8, 'image')
    )
    self.options = function(lambda: tf.constant(serving.to_json()))
    self.prepare = function(self._prepared, tf.TensorSpec([], tf.string, 'image_bytes'))
    self.from_bytes = function(
      lambda image_bytes: self._classified(self._decoded(image_bytes)),
      tf.TensorSpec([None], tf.string, 'image_bytes'),
    )
    self.from_pixels = function(lambda images: self._classified(self._all_prepared(images)), pixels)
    self.logits = function(lambda images: {'logits': logits(self._all_prepared(images))}, pixels)

  @property
  def signatures(self):
    """{signature's name: tf.function}."""
    if self.points:
      return {'serving_default': self.from_points, 'points': self.from_points}
    return {'serving_default': self.from_bytes, 'images': self.from_pixels, 'logits': self.logits}

  def _classified(self, inputs):
    logits = self._logits(inputs)
    probabilities = tf.nn.softmax(logits)
    top = tf.math.top_k(logits, min(TOP, len(self._class_names))).indices
    classes = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return {
      'probabilities': probabilities,
      'classes': classes,
      'class_names': tf.gather(tf.constant(self._class_names), classes),
      'top_5_classes': top,
      'top_5_probabilities': tf.gather(probabilities, top, batch_dims=1),
    }

  def _prepared(self, image_bytes):
    """string [] -> what the network sees, as `prepare`."""
    decoding = self._serving.decoding
    if decoding is not None:
      return self._seen(decoding.in_graph(image_bytes)[0])
    return self._seen(tf_decode.decode(image_bytes))

  def _prepared_pixels(self, image):
    """uint8 `[H, W, 3]`, upright -> what the network sees."""
    decoding = self._serving.decoding
    return self._seen(image if decoding is None else decoding.of_pixels(image))

  def _seen(self, image):
    """uint8 `[h, w, 3]` as evaluation has it -> what the network sees, `[S, S, C]`."""
    if isinstance(self.views, ResizedCrop):
      return self.views.plain(image[tf.newaxis])[0]
    return self._plain(self._serving.fitted(image)[tf.newaxis])[0]

  def _plain(self, images):
    """uint8 `[N, S, S, 3]` -> what the network sees. Gray of three equal channels is unchanged."""
    if self.input_shape[-1] == 1:
      images = tf.image.rgb_to_grayscale(images)
    return self.views.plain(tf.ensure_shape(images, [None, *self.input_shape]))

  def _all_prepared(self, images):
    """uint8 `[N, H, W, 3]` of one size -> what the network sees, `[N, S, S, C]`."""
    signature = tf.TensorSpec(self.input_shape, self.views.dtype)
    one_by_one = lambda: tf.map_fn(self._prepared_pixels, images, fn_output_signature=signature)
    if isinstance(self.views, ResizedCrop):
      return one_by_one()
    size = self.input_shape[0]
    fits = tf.reduce_all(tf.equal(tf.shape(images)[1:3], size))
    at_size = lambda: self._plain(tf.ensure_shape(images, [None, size, size, crops.CHANNELS]))
    return tf.ensure_shape(tf.cond(fits, at_size, one_by_one), [None, *self.input_shape])

  def _decoded(self, image_bytes):
    """string `[N]` -> what the network sees. Fails with the indices of all that are no images."""
    count = tf.size(image_bytes, tf.int64)
    # The operations that decode say nothing of where in a request the image stood. A tf.data
    # pipeline can leave out what fails, and decodes several at once besides.
    elements = (
      tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
      .map(
        lambda number, image: (number, self._prepared(image)),
        num_parallel_calls=PARALLEL_CALLS,
        deterministic=True,
      )
      .ignore_errors()
    )
    end = tf.data.Dataset.from_tensors(
      (tf.constant(-1, tf.int64), tf.zeros(self.input_shape, self.views.dtype))
    )  # Never empty.
    numbers, inputs = elements.concatenate(end).batch(count + 1).get_single_element()
    found = tf.scatter_nd(numbers[:-1, tf.newaxis], tf.ones_like(numbers[:-1]), [count])
    bad = tf.where(tf.equal(found, 0))[:, 0]
    complete = tf.debugging.Assert(
      tf.equal(tf.size(bad), 0), ['images that cannot be decoded, by index:', bad], summarize=10
    )
    with tf.control_dependencies([complete]):
      return tf.ensure_shape(tf.identity(inputs[:-1]), [None, *self.input_shape])
