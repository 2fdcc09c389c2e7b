"""A Classifier as a TFLite model, in float32 or with smaller weights; and running one."""

import warnings

from meta_pseudo_labels.errors import UserError, one_line

import numpy as np
import tensorflow as tf

KINDS = ('float32', 'float16', 'int8')


def convert(classifier, kind='float32', calibration=None):
  """Returns a TFLite model of `Classifier.from_inputs`: float32 `[N, S, S, C]` -> logits `[N, K]`.

  Args:
    classifier: Classifier that computes in float32.
    kind: float32; float16 (weights of half the size, computed in float32); or int8: weights of 8 bits, and
      activations too wherever TFLite has an operation for that. Inputs and logits are always float32.
    calibration: of int8, a function () -> iterable of float32 `[1, S, S, C]`: inputs from which the ranges
      of the activations are measured.

  Returns:
    bytes of the file.

  Raises:
    UserError: TFLite cannot express the network.
  """
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [classifier.from_inputs.get_concrete_function()], classifier
  )
  if kind != 'float32':
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  if kind == 'float16':
    converter.target_spec.supported_types = [tf.float16]
  if kind == 'int8':
    converter.representative_dataset = lambda: ([one] for one in calibration())
  try:
    return converter.convert()
  except Exception as error:  # It has a class of its own, private.
    raise UserError(
      f'--export_formats: TFLite ({kind}) cannot express this network ({one_line(error)}); leave it out'
    ) from error


def load(content):
  """Returns a function that runs a TFLite model: float32 `[N, S, S, C]` -> logits float32 `[N, K]`.

  Args:
    content: bytes of the file.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # That the interpreter will move to a package of its own.
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=2)
  source = interpreter.get_input_details()[0]['index']
  result = interpreter.get_output_details()[0]['index']
  size = None

  def run(inputs):
    nonlocal size
    if len(inputs) != size:
      size = len(inputs)
      interpreter.resize_tensor_input(source, inputs.shape)
      interpreter.allocate_tensors()
    interpreter.set_tensor(source, np.asarray(inputs, np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(result)

  return run
