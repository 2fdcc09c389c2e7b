"""A run from Python: trains one as the command does, and loads a trained one as an object."""

import contextlib
import dataclasses
import io
import json
import math
import os
import random
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from meta_pseudo_labels import build, tasks
from meta_pseudo_labels.checkpoints import convert as conversion
from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.config import Config, from_json, parse, validate
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError, did_you_mean
from meta_pseudo_labels.files import read_json
from meta_pseudo_labels.inference import classifier, export_run, inputs_from_python, predict_files
from meta_pseudo_labels.models import heads
from meta_pseudo_labels.report import curves
from meta_pseudo_labels.training import evaluate as evaluation
from meta_pseudo_labels.training.logs import Progress

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """What a run's network says of N inputs.

  Attributes:
    names: list of N: the paths of files, None for other inputs.
    classes: int32 `[N]`, the most probable classes; -1 where an image cannot be read.
    class_names: list of N str, their names; None there.
    probabilities: float32 `[N, C]`, in the order of the run's class names; NaN there.
    unreadable: {position: why it cannot be read}.

  Example:
    >>> found = mpl.load_run('runs/moons').predict(np.zeros([3, 2]))  # trained by `train`'s example
    >>> found.classes.shape, found.probabilities.shape, len(found.rows())
    ((3,), (3, 2), 3)
  """

  names: List[Optional[str]]
  classes: np.ndarray
  class_names: List[Optional[str]]
  probabilities: np.ndarray
  unreadable: Dict[int, str]

  def __len__(self):
    return len(self.classes)

  def rows(self) -> List[Dict[str, Any]]:
    """Returns a dict of path, class and probability for each input, such as pandas.DataFrame takes."""
    return [
      {'path': name, 'class': found, 'probability': float(row.max())}
      for name, found, row in zip(self.names, self.class_names, self.probabilities)
    ]


class TrainedRun:
  """A trained run: its networks, its classes, what they say, and what was logged.

  `load_run` and `train` make it.

  Attributes:
    folder: str.
    class_names: tuple of C str, in the order of the labels.
    model: Keras model, views -> logits `[N, C]`: the selected student (or the newest), averaged.
    teacher: Keras model likewise; None if the run has none whose predictions mean something.

  Example:
    >>> run = mpl.load_run('runs/moons')  # trained by `train`'s example
    >>> run.class_names, run.model.output_shape
    (('upper', 'lower'), (None, 2))
    >>> sorted(run.evaluate())
    ['examples', 'loss', 'top1', 'top5']
  """

  def __init__(self, config: Config, serving: Any, network: Any, backbone: Any, teacher: Any) -> None:
    """Stores what `load_run` found; `network` takes what `backbone`, a Keras model or None, makes."""
    join = lambda model: model and (heads.join(backbone, model) if backbone else model)
    self.folder = str(config.output_dir)
    self.class_names: Tuple[str, ...] = tuple(serving.class_names)
    self._config, self._network, self._serving = config, network, serving
    self._identity = conversion.read_newest_identity(self.folder)  # None of earlier versions.
    self.model: tf.keras.Model = join(network)
    self.teacher: Optional[tf.keras.Model] = self.model if teacher is network else join(teacher)
    self._classifier: Optional[classifier.Classifier] = None

  def __repr__(self):
    return f'TrainedRun({self.folder!r}: {self._config.method_name} on {self._config.dataset})'

  @property
  def history(self) -> List[Dict[str, Any]]:
    """What was logged: a dict for each line of metrics.jsonl, such as pandas.DataFrame takes.

    Each has `kind` (train or eval), `phase`, `step`, and floats by the release's log names.
    """
    return curves.read_metrics(os.path.join(self.folder, 'metrics.jsonl'))

  @property
  def results(self) -> Dict[str, Any]:
    """The run's results.json: its accuracies by phase; {} before the end of the first phase."""
    return read_json(os.path.join(self.folder, 'results.json')) or {}

  def predict(
    self, inputs: Any, *, batch_size: Optional[int] = None, skip_unreadable: bool = False
  ) -> Predictions:
    """Classifies images or points as `--task_mode=predict` does.

    Args:
      inputs: of a run on images: a path, a folder, a pattern such as 'photos/**/*.jpg', a PIL image,
        an array uint8 `[N, H, W, C]` of 1, 3 or 4 channels, or a list of paths, PIL images and uint8
        arrays `[H, W]` or `[H, W, C]` of any sizes. Of a run on points: an array float `[N, D]`.
      batch_size: int, inputs that go through the network at once; None: the run's `eval_batch_size`.
      skip_unreadable: whether images that cannot be read are listed in `unreadable`, not raised.

    Returns:
      Predictions.

    Raises:
      UserError: inputs of another kind, or an image that cannot be read.
    """
    network = self._find_classifier()
    batch_size = batch_size or self._config.eval_batch_size
    if network.points:
      return self._predictions(*inputs_from_python.classify_points(network, inputs, batch_size))
    names, sources = inputs_from_python.find_images(inputs)
    found, reasons = predict_files.classify(
      network,
      sources,
      max(1, min(batch_size, len(sources))),
      Progress(io.StringIO()),
      ('classes', 'probabilities'),
    )
    if reasons and not skip_unreadable:
      first = min(reasons)
      raise UserError(
        f'{names[first] or f"image {first}"}: cannot be read ({reasons[first]}), and so {len(reasons)} of '
        f'{len(sources)} images; leave them out, or give skip_unreadable=True'
      )
    return self._predictions(names, found, reasons)

  def export(
    self, folder: Union[str, os.PathLike], *, formats: Sequence[str] = ()
  ) -> List[Dict[str, Any]]:
    """Writes `model` as `--task_mode=export` does: a SavedModel, with other files in it if asked for.

    Args:
      folder: of the SavedModel; an older one there is replaced.
      formats: `tflite`, `tflite_float16`, `tflite_int8`, `onnx`: files that map what the network sees,
        float32 `[N, S, S, C]`, to logits `[N, C]`. They are compared with the run on its test data.

    Returns:
      A dict for each file, such as pandas.DataFrame takes: `file`, `bytes`, `difference` and `scale` (the
      largest of two logits and the largest logit), `same_class` and `accuracy` (fractions), and others.
      Empty if the run's data are not where they were.

    Raises:
      UserError: the network cannot be such a file, packages are missing, or the folder cannot be written.
    """
    folder = os.fspath(folder)
    config = self._config.replace(export_formats=','.join(formats), export_dir=folder, export_tflite=False)
    validate(config)
    network = self._find_classifier()
    with _own_settings():
      return export_run.write(config, network, folder, config.exported_formats, lambda line: None)

  def _find_classifier(self):
    """Returns the classifier.Classifier of `model`, as it was when first asked for."""
    if self._classifier is None:
      self._classifier = classifier.Classifier(self.model, self._serving)
    return self._classifier

  def _predictions(self, names, found, reasons):
    """Returns the Predictions of `found`: {number: (class, probabilities)}."""
    classes = np.full([len(names)], -1, np.int32)
    probabilities = np.full([len(names), len(self.class_names)], np.nan, np.float32)
    for number, (label, row) in found.items():
      classes[number], probabilities[number] = label, row
    called = [self.class_names[label] if label >= 0 else None for label in classes]
    return Predictions(names, classes, called, probabilities, dict(sorted(reasons.items())))

  def evaluate(
    self,
    inputs: Any = None,
    labels: Optional[Sequence[Union[int, str]]] = None,
    *,
    split: Optional[str] = None,
    batch_size: Optional[int] = None,
  ) -> Dict[str, float]:
    """Measures the accuracy of `model`, on inputs of one's own or on the run's data.

    Args:
      inputs: what `predict` takes; None for the run's data, which must be where they were.
      labels: N classes as numbers or names, those of the inputs.
      split: 'test' or 'validation', of the run's data; None: the one that the run reports.
      batch_size: int; None: the run's `eval_batch_size`.

    Returns:
      {'top1', 'top5': fractions in [0, 1], 'loss': mean cross entropy in nats, 'examples': int}.

    Raises:
      UserError: labels that are no classes, another number of them, no such split, or data that are not
        those that the run was trained on.
    """
    if inputs is not None:
      if split is not None:
        raise UserError(f"split={split!r}: is of the run's own data; leave out the inputs or the split")
      found = self.predict(inputs, batch_size=batch_size)
      return inputs_from_python.measure(found.probabilities, self._numbers(labels, len(found)))
    with _own_settings():
      problem = build.problem(self._config, lambda line: None)
    if self._identity is not None:
      advice = 'evaluate() inputs and labels, or the same data'
      identity = build.identify(self._config, problem)
      run_folder.refuse_other_data(self.folder, self._identity, identity, advice)
    split = split or problem.reported(self._config.eval_split)
    if split not in problem.evaluated:
      raise UserError(f'split={split!r}: the data have {" and ".join(problem.evaluated)}')
    size = batch_size or self._config.eval_batch_size
    return evaluation.Evaluator(
      devices.create_strategy('one_device'),
      self._network,
      lambda context: problem.eval_batches(split, batch_size=size, context=context),
      math.ceil(len(problem.evaluated[split]) / size),
    )()

  def _numbers(self, labels, count):
    """Returns labels, numbers or names, as int32 `[count]`. Raises UserError if they are none."""
    labels = [] if labels is None else list(labels)
    if len(labels) != count:
      raise UserError(f'labels: {len(labels)} for {count} inputs; give one for each')
    numbers = []
    for label in labels:
      known = isinstance(label, str) and label in self.class_names
      number = self.class_names.index(label) if known else label
      if isinstance(number, str) or not 0 <= number < len(self.class_names):
        raise UserError(f'labels: {label!r} is no class of the run{did_you_mean(label, self.class_names)}')
      numbers.append(int(number))
    return np.array(numbers, np.int32)


def load_run(
  folder: Union[str, os.PathLike], *, weights: str = 'ema', verbose: bool = False
) -> TrainedRun:
  """Loads a trained run: the checkpoint that was selected, or the newest one.

  The data need not be there. Keras' precision policy stays as it is; the global seed becomes the run's.

  Args:
    folder: the `output_dir` of the run.
    weights: `ema`, `raw` or `teacher`: the student's averaged weights, its own, or the teacher as `model`.
    verbose: whether to print which checkpoint it is.

  Returns:
    TrainedRun.

  Raises:
    UserError: there is no run or no intact checkpoint in the folder, or no network of these `weights`.

  Example:
    >>> run = mpl.load_run('runs/moons')  # trained by `train`'s example
    >>> run.predict(np.array([[0.0, 1.0], [2.0, -1.0]])).probabilities.shape
    (2, 2)
  """
  asked = Config(output_dir=os.fspath(folder), task_mode='predict', input='-', export_weights=weights)
  config = run_folder.load_trained_config(asked)
  with _own_settings():
    serving, network, backbone, phases = tasks.restore_trained(config, _progress(verbose))
  try:
    teacher = classifier.take_weights(phases, 'teacher')
  except UserError:
    teacher = None
  return TrainedRun(config, serving, network, backbone, teacher)


def train(
  flags: Union[Config, Sequence[str]] = (), *, verbose: bool = True, **settings: Any
) -> TrainedRun:
  """Trains as the command line does, and loads the result.

  A folder that has a checkpoint continues from there. SIGINT (Ctrl-C) saves first, and raises Interrupted.

  Args:
    flags: a Config, or a list of flags such as '--flagfile=flags/digits.flags'.
    verbose: whether to print what the command prints.
    **settings: flags by name, such as `num_train_steps=1000`; they count more than `flags`.

  Returns:
    TrainedRun.

  Raises:
    UserError: a request that cannot be carried out, in one line, as the command prints it.
    Failure: the training cannot continue, likewise.

  Example:
    >>> run = mpl.train(
    ...   dataset_name='two_moons_6',
    ...   model_type='mlp-8x1',
    ...   train_batch_size=4,
    ...   num_train_steps=5,
    ...   strategy='one_device',
    ...   output_dir='runs/moons',
    ...   verbose=False,
    ... )
    >>> run.history[-1]['step']
    5
  """
  config = flags if isinstance(flags, Config) else parse(['train', *flags])
  try:
    text = json.dumps({**dataclasses.asdict(config), **settings}, default=os.fspath)
  except TypeError as error:
    raise UserError(f'settings: {error}; give numbers, texts, truth values or None') from None
  config = from_json(text, 'settings')
  validate(config)
  run = {'train': tasks.train, 'finetune': tasks.finetune}.get(config.task)
  if run is None:
    raise UserError(f'task_mode={config.task}: train() trains; call the command for other tasks')
  if not config.output_dir:
    raise UserError('output_dir: not given; train() needs the folder of the run')
  with _own_settings():
    run(config, _progress(verbose))
  return load_run(config.output_dir, weights=config.export_weights)


def _progress(verbose):
  """Returns a Progress that prints, or one that nobody sees."""
  return Progress(None if verbose else io.StringIO())


@contextlib.contextmanager
def _own_settings():
  """Restores what a run sets for the whole process: Keras' policy, and the states of random numbers."""
  policy = tf.keras.mixed_precision.global_policy()
  states = random.getstate(), np.random.get_state()
  try:
    yield
  finally:
    tf.keras.mixed_precision.set_global_policy(policy)
    random.setstate(states[0])
    np.random.set_state(states[1])
