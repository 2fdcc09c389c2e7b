"""How far an exported file is from the run that it was made of, on the run's own images."""

import dataclasses

from meta_pseudo_labels.data import input_pipeline

import numpy as np

MOST_EXAMPLES = 1000  # Of a split: TFLite on a desktop's processor is slow.
CALIBRATION_EXAMPLES = 300  # Inputs that int8's ranges are measured on.
FLOAT_LIMIT = 1e-4  # Of the largest logit: float32 in another order of operations stays far below.
ACCURACY_LIMIT = 0.01  # A point.


@dataclasses.dataclass(frozen=True)
class Agreement:
  """What a file's logits are beside those of the run, on n examples.

  Attributes:
    file: str, its name.
    format: str, of `EXPORT_FORMATS`.
    bytes: int, its size.
    difference: float, the largest absolute difference of two logits.
    scale: float, the largest absolute logit of the run.
    same_class: float in [0, 1], the examples that both give the same class.
    accuracy, run_accuracy: floats in [0, 1], of the file and of the run.
    examples: int, n.
    of: int, the examples of the split; n of them were taken, evenly spaced.
    split: 'test', 'validation' or 'labeled'.
  """

  file: str
  format: str
  bytes: int
  difference: float
  scale: float
  same_class: float
  accuracy: float
  run_accuracy: float
  examples: int
  of: int
  split: str

  def __str__(self):
    """Returns a line without the warning."""
    percent = lambda value: f'{100 * value:.2f}%'
    count = f'{self.examples}' if self.examples == self.of else f'{self.examples} of {self.of}'
    return (
      f'{self.file}: {self.bytes / 1e6:.2f} MB, largest difference of logits {self.difference:.2g} (they '
      f'reach {self.scale:.3g}), same class on {percent(self.same_class)} of {count} {self.split} '
      f'examples, accuracy {percent(self.accuracy)} (run: {percent(self.run_accuracy)})'
    )

  @property
  def warning(self):
    """What a person should know of this file: a line, or ''."""
    if self.format in ('tflite', 'onnx') and not self.difference <= FLOAT_LIMIT * self.scale:
      return (
        f'{self.file}: differs from the run by more than {FLOAT_LIMIT:g} of its largest logit, which '
        'rounding alone does not explain'
      )
    if not self.run_accuracy - self.accuracy <= ACCURACY_LIMIT:
      lost = 100 * (self.run_accuracy - self.accuracy)
      return f'{self.file}: loses {lost:.1f} points of accuracy; check it on your own images before use'
    return ''


class Reference:
  """The examples that files are compared on, and what the run says of them."""

  def __init__(self, classifier, problem, batch_size):
    """Takes test examples, else validation examples, else the labeled ones.

    Args:
      classifier: Classifier.
      problem: Problem, of images or points.
      batch_size: int.
    """
    self.split = next((name for name in ('test', 'validation') if name in problem.evaluated), 'labeled')
    inputs, labels = problem.labeled
    if self.split in problem.evaluated:
      found = problem.evaluated[self.split]
      inputs, labels = found.inputs, found.labels
    chosen = spread(len(labels), MOST_EXAMPLES)
    self.of, self.labels = len(labels), labels[chosen]
    batch_size = min(batch_size, len(chosen))
    self._batches = lambda: see(classifier, inputs[chosen], batch_size)
    self.logits = self._run(lambda inputs: classifier.from_inputs(inputs)['logits'].numpy())

  def _run(self, network):
    """Returns the logits `[n, K]` of a function of inputs float32 `[b, S, S, C]`."""
    return np.concatenate([network(inputs) for inputs in self._batches()])[: len(self.labels)]

  def compare(self, network, *, file, format, bytes):
    """Returns the Agreement of a function like the one of `tflite.load`; the others are of the file."""
    logits = self._run(network)
    classes, of_run = logits.argmax(axis=1), self.logits.argmax(axis=1)
    return Agreement(
      file,
      format,
      bytes,
      difference=float(np.abs(logits - self.logits).max()),
      scale=float(np.abs(self.logits).max()),
      same_class=float(np.mean(classes == of_run)),
      accuracy=float(np.mean(classes == self.labels)),
      run_accuracy=float(np.mean(of_run == self.labels)),
      examples=len(self.labels),
      of=self.of,
      split=self.split,
    )


def spread(count, most):
  """Returns at most `most` positions below `count`, evenly spaced: int64, ascending."""
  return np.arange(min(count, most), dtype=np.int64) * count // max(1, min(count, most))


def see(classifier, inputs, batch_size):
  """Yields what the network sees of inputs, float32 `[batch_size, S, S, C]`; the last is filled up."""
  batches = input_pipeline.eval_batches(
    inputs, np.zeros(len(inputs), np.int32), views=classifier.views, batch_size=batch_size
  )
  for inputs, _, _ in batches:
    yield inputs.numpy()


def calibration(classifier, problem):
  """Yields what the network sees of training examples, labeled and unlabeled: float32 `[1, S, S, C]`."""
  labeled, unlabeled = problem.labeled[0], problem.unlabeled
  taken = spread(len(labeled), CALIBRATION_EXAMPLES // 3)
  yield from see(classifier, labeled[taken], 1)
  if len(unlabeled):
    more = spread(len(unlabeled), CALIBRATION_EXAMPLES - len(taken))
    yield from see(classifier, unlabeled[more], 1)
