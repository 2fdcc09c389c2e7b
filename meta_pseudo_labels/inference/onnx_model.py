"""A Classifier as an ONNX model, by packages that are optional; and running one."""

import contextlib
import logging

from meta_pseudo_labels.errors import UserError, one_line

import numpy as np

INSTALL = "pip install 'meta-pseudo-labels[onnx]', in a checkout pip install '.[onnx]'"
OPSET = 17  # The newest that both stacks' tf2onnx writes and that ONNX Runtime has read since 2022.


def require():
  """Returns the modules onnx, tf2onnx and onnxruntime.

  Raises:
    UserError: one of them is not installed, or does not work with another package.
  """
  try:
    name = 'onnx'
    import onnx

    name = 'tf2onnx'
    import tf2onnx

    name = 'onnxruntime'
    import onnxruntime
  except ModuleNotFoundError as error:
    raise UserError(
      f'--export_formats=onnx: needs the package {name}, which is not installed; {INSTALL}'
    ) from error
  # The second: of onnx, where ml_dtypes is of another year.
  except (ImportError, AttributeError) as error:
    raise UserError(
      f'--export_formats=onnx: the package {name} does not work here ({one_line(error)}); {INSTALL}'
    ) from error
  return onnx, tf2onnx, onnxruntime


def convert(classifier):
  """Returns an ONNX model of `Classifier.from_inputs`: float32 `[N, S, S, C]` -> logits `[N, K]`.

  Args:
    classifier: Classifier that computes in float32.

  Returns:
    bytes of the file.

  Raises:
    UserError: ONNX cannot express the network, or packages are missing.
  """
  _, tf2onnx, _ = require()
  function = classifier.from_inputs
  try:
    with _quiet('tf2onnx'):
      model, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=OPSET
      )
  except Exception as error:  # Of many classes: ValueError, KeyError, NotImplementedError, ...
    raise UserError(
      f'--export_formats=onnx: tf2onnx cannot express this network ({one_line(error)}); leave it out'
    ) from error
  for value in (*model.graph.input, *model.graph.output):
    value.type.tensor_type.shape.dim[0].dim_param = 'N'
  return model.SerializeToString()


def load(content):
  """Returns a function that runs an ONNX model: float32 `[N, S, S, C]` -> logits float32 `[N, K]`.

  Args:
    content: bytes of the file.
  """
  *_, onnxruntime = require()
  session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
  name = session.get_inputs()[0].name
  return lambda inputs: session.run(['logits'], {name: np.asarray(inputs, np.float32)})[0]


@contextlib.contextmanager
def _quiet(name):
  """Leaves out a package's log lines below errors: they speak of the graph's inner workings."""
  logger = logging.getLogger(name)
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
