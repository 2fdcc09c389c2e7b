"""The files that an export may have beside the SavedModel: made, and compared with the run."""

import dataclasses
import functools
from typing import Any, Callable

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.inference import agreement, onnx_model, saved_model, tflite

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Format:
  """One kind of file.

  Attributes:
    file: str, its name.
    convert: function of (Classifier, Problem or None) -> bytes.
    load: function of these bytes -> function of inputs float32 `[N, S, S, C]` -> logits `[N, K]`.
    needs_data: whether `convert` needs the Problem.
    require: function that raises UserError where packages for it are missing.
  """

  file: str
  convert: Callable[[Any, Any], bytes]
  load: Callable[[bytes], Callable]
  needs_data: bool = False
  require: Callable[[], Any] = lambda: None


FORMATS = {
  'tflite': Format('model.tflite', lambda network, _: tflite.convert(network), tflite.load),
  'tflite_float16': Format(
    'model_float16.tflite', lambda network, _: tflite.convert(network, 'float16'), tflite.load
  ),
  'tflite_int8': Format(
    'model_int8.tflite',
    lambda network, problem: tflite.convert(
      network, 'int8', functools.partial(agreement.calibration, network, problem)
    ),
    tflite.load,
    needs_data=True,
  ),
  'onnx': Format(
    'model.onnx',
    lambda network, _: onnx_model.convert(network),
    onnx_model.load,
    require=onnx_model.require,
  ),
}


def require(names):
  """Raises UserError unless the packages are there that the formats of these names need."""
  for name in names:
    FORMATS[name].require()


def write(
  classifier, folder, names=(), *, problem=None, why_not='', batch_size=100, say=lambda line: None
):
  """Writes a SavedModel with more files in it, and says how far each of these is from the run.

  Args:
    classifier: Classifier.
    folder: str; an older SavedModel there is replaced.
    names: of `FORMATS`.
    problem: Problem with the run's images, or its points; None: they are not there.
    why_not: str, why they are not.
    batch_size: int, examples that go through the networks at once.
    say: function of a line.

  Returns:
    list of Agreement, in the order of the names; empty without a problem.

  Raises:
    UserError: a file cannot be made of this network or without the data, packages are missing, or the
      folder cannot be written.
  """
  saved_model.require_free(folder)
  require(names)
  if names and classifier.dtype != tf.float32:
    raise UserError(
      f'--export_formats={",".join(names)}: this network computes in {classifier.dtype.name}, and these '
      'files in float32; leave them out'
    )
  for name in names:
    if problem is None and FORMATS[name].needs_data:
      raise UserError(
        f'--export_formats={name}: is measured on training examples, which are not there ({why_not}); '
        'say where they are, or leave it out'
      )
  made = {FORMATS[name].file: FORMATS[name].convert(classifier, problem) for name in names}
  saved_model.write(classifier, folder, files=made)
  if problem is None:
    if names:
      say(f'{", ".join(made)}: not compared with the run, whose data are not there ({why_not})')
    return []
  reference, found = agreement.Reference(classifier, problem, batch_size), []
  for name in names:
    format_ = FORMATS[name]
    content = made[format_.file]
    found.append(
      reference.compare(format_.load(content), file=format_.file, format=name, bytes=len(content))
    )
    for line in filter(None, (str(found[-1]), found[-1].warning)):
      say(line)
  return found
