"""A SavedModel as a layer that computes features and does not learn."""

import os

from meta_pseudo_labels.errors import UserError

import tensorflow as tf


class SavedFeatures(tf.keras.layers.Layer):
  """Calls a SavedModel: images `[N, H, W, 3]` float32 -> features `[N, D]` or `[N, H', W', D]`.

  Its variables do not learn, are in no checkpoint, and are not seen by Keras: which of them were to be
  trained, a SavedModel does not say. So the folder is needed whenever the network is built; an exported
  network has them inside.
  """

  def __init__(self, path, name=None, **kwargs):
    """Loads the SavedModel in the folder `path`.

    Raises:
      UserError: there is none, or it does not map one tensor of images to one of features.
    """
    super().__init__(name=name, dtype='float32', trainable=False, **kwargs)
    self.path = path
    if not os.path.isfile(os.path.join(path, 'saved_model.pb')):
      raise UserError(
        f'--model_type={path}: no SavedModel there (saved_model.pb); give its folder, or a .h5 or '
        '.keras file'
      )
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures.get('serving_default')
    if signature is None:
      raise UserError(f'--model_type={path}: has no signature serving_default; export it with one')
    arguments, outputs = signature.structured_input_signature[1], signature.structured_outputs
    self._argument = next(iter(arguments), None)
    names = [name for name in outputs if len(outputs[name].shape) in (2, 4)]
    features = [name for name in names if 'feature' in name] or names
    taken = len(arguments) == 1 and arguments[self._argument].shape.rank in (4, None)
    if not taken or arguments[self._argument].dtype != tf.float32 or len(features) != 1:
      raise UserError(
        f'--model_type={path}: its signature serving_default must map float32 images [N, H, W, 3] to one '
        f'output of features; it maps {list(arguments.values())} to {sorted(outputs)}'
      )
    self._output = features[0]
    # In a function, so that Keras and checkpoints do not follow it.
    self._hidden = lambda: (loaded, signature)

  @property
  def loaded(self):
    """The loaded SavedModel, which an exported network must hold on to."""
    return self._hidden()[0]

  def call(self, inputs):
    return tf.stop_gradient(self._hidden()[1](**{self._argument: inputs})[self._output])

  def get_config(self):
    return {**super().get_config(), 'path': self.path}
