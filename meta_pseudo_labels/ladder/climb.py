"""Climbs the ladder: measures rung after rung on the same folds, as far as the time allows.

What is measured is kept in `ladder.npz` after every rung, so the same command goes on where it stopped.
"""

import dataclasses
import json
import math
import os
import time

from meta_pseudo_labels import build
from meta_pseudo_labels.data import storage
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.features import linear
from meta_pseudo_labels.features.linear import Linear
from meta_pseudo_labels.files import atomic_write
from meta_pseudo_labels.ladder import findings, folds, intervals, rungs
from meta_pseudo_labels.models import heads

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """A rung with what cross-validation found.

  Attributes:
    rung: rungs.Rung.
    logits: float32 `[n, K]`, of each labeled image by a classifier that has not seen it.
    seconds: float, for all folds.
  """

  rung: rungs.Rung
  logits: np.ndarray
  seconds: float

  def right(self, labels):
    """Returns which labeled images were classified correctly: bool `[n]`; labels int `[n]`."""
    return self.logits.argmax(axis=1) == labels


class Climb:
  """The rungs on one Problem of features.

  Attributes:
    measured: list of Measured, in the order of `rungs.RUNGS`.
    left_out: list of (rung's name, seconds it needs, 0 if unknown), those there was no time for.
    labels: int32 `[n]`, of the labeled images.
    folds: int64 `[n]`, see `folds.assign`.
    balanced: whether the rungs are compared by their balanced accuracy (`Problem.balanced`).
  """

  def __init__(self, config, problem, strategy, say, began=None, now=time.monotonic):
    """Takes over what was measured before in `config.output_dir`, if it was measured on these data.

    Args:
      config: Config.
      problem: Problem of features of plain views, with all labeled images in `split.labeled`.
      strategy: tf.distribute.Strategy.
      say: function of a line (str).
      began: float, when the time limit began, in seconds of `now`; None: now.
      now: function -> seconds.
    """
    self._config, self._problem, self._strategy, self._say = config, problem, strategy, say
    self.balanced = problem.balanced
    self._identity = problem.identity  # Of the plain views: random ones add nothing to it.
    self._now, self._began = now, now() if began is None else began
    self._folder = os.path.join(config.output_dir, 'ladder')
    self.labels = problem.labels[problem.split.labeled]
    self.folds = folds.assign(self.labels, config.seed)
    self.left_out, self._known = [], self._read()
    self._fitted = {}
    self.measured = []

  @property
  def _path(self):
    return os.path.join(self._config.output_dir, 'ladder.npz')

  def _read(self):
    """Returns {rung's name: (logits, seconds)} of an earlier call on the same data."""
    if not os.path.isfile(self._path):
      return {}
    try:
      with np.load(self._path, allow_pickle=False) as file:
        identity, names = str(file['identity']), json.loads(str(file['names']))
        found = {name: (file[f'logits_{i}'], float(file['seconds'][i])) for i, name in enumerate(names)}
    except Exception:  # noqa: BLE001 numpy and zipfile raise many kinds for a damaged file.
      self._say(f'{self._path} is damaged: the ladder is measured again')
      return {}
    if identity != self._identity:
      raise UserError(
        f'{self._path}: was measured on other data; give another --output_dir, or --reset_output_dir'
      )
    return found

  def _write(self):
    """Writes all that is known, of this call and of earlier ones."""
    logits, seconds = zip(*self._known.values())
    with atomic_write(self._path, 'wb') as file:
      np.savez(
        file,
        identity=self._identity,
        names=json.dumps(list(self._known)),
        seconds=np.array(seconds),
        labels=self.labels,
        folds=self.folds,
        **{f'logits_{i}': values for i, values in enumerate(logits)},
      )

  def go(self, limit, ladder=None):
    """Measures the rungs and says what each gives.

    Args:
      limit: float, seconds from the start; a rung that would end later is left out.
      ladder: Rungs to measure; None: all.
    """
    if self.folds.max() < 0:
      self._say('a class has one labeled image alone, so nothing can be held out and nothing be measured')
      return
    unlabeled = len(folds.without_labels(self._problem))
    for rung in ladder or rungs.RUNGS:
      if rung.unlabeled and not unlabeled:
        continue
      if rung.name not in self._known and (found := self._measure(rung, limit)):
        self._known[rung.name] = found
        self._write()
      if rung.name in self._known:
        self.measured.append(Measured(rung, *self._known[rung.name]))
        self._say(self.line(self.measured[-1]))

  @property
  def compared_by(self):
    """Returns what the rungs are compared by, in words."""
    return 'balanced accuracy' if self.balanced else 'accuracy'

  def accuracy(self, right, labels):
    """Returns (value, lower, upper) of what rungs are compared by; right bool `[n]`, labels int `[n]`."""
    return intervals.accuracy(right, labels if self.balanced else None)

  def difference(self, right, base, labels):
    """Returns (difference, lower, upper) of that between two methods; as of `accuracy`."""
    return intervals.difference(right, base, labels=labels if self.balanced else None)

  def line(self, measured):
    """Returns how good a rung is: one line."""
    share, lower, upper = self.accuracy(measured.right(self.labels), self.labels)
    text = f'{measured.rung.name:22}{100 * share:5.1f} % [{100 * lower:.1f}, {100 * upper:.1f}]'
    if measured is not self.measured[0]:
      text += '   ' + points(*self.gain(measured))
    return f'{text}   {measured.seconds:.0f} s'

  def gain(self, measured, base=None):
    """Returns (difference, lower, upper) to another rung, by default the first; see `intervals`."""
    base = base or self.measured[0]
    return self.difference(measured.right(self.labels), base.right(self.labels), self.labels)

  def _measure(self, rung, limit):
    """Returns (logits, seconds) of a rung, or None where the time is not enough for all its folds."""
    logits = np.zeros([len(self.labels), self._problem.num_classes], np.float32)
    began, count = self._now(), int(self.folds.max() + 1)
    each, before = 0.0, 0.0
    if rung.finetunes:
      each = self._forecast(rung)
    elif self._lacks_views(rung):
      before = self._forecast_views()
      if before <= limit - (self._now() - self._began):
        self._problem, before = self.problem_for(rung), 0.0
    for fold in range(count):
      # As long for each fold that is left, and once for all labeled images.
      # Rungs without a run take seconds, and without them there is no answer.
      needed = before + each * (count - fold + 1)
      if rung.method and needed > limit - (self._now() - self._began):
        self.left_out.append((rung.name, before + each * (count + 1)))
        needs = f'needs about {math.ceil(needed / 60)} minutes' if needed else 'the time is up'
        self._say(f'{rung.name:22}left out: {needs} (--time_limit)')
        return None
      held = self.folds == fold
      logits[held] = self._held_out(rung, held, fold)
      each = (self._now() - began) / (fold + 1)
    return logits, self._now() - began

  def _forecast(self, rung):
    """Returns about how many seconds one training of the whole network takes: float.

    A step has three passes forward, or what is as long, for each image that it learns from, and one for
    each original view of an unlabeled image.
    """
    passes = 3 + (4 * self._config.uda_data if rung.unlabeled else 0)
    return passes * self._pass_seconds() * self._config.num_train_steps

  def _forecast_views(self):
    """Returns about how many seconds the random views take that are not in the cache yet: float."""
    images = build.count_without_views(
      self._config, self._problem.images, self._problem.backbone, self._say
    )
    batches = images / self._config.train_batch_size
    return 2 * self._config.feature_views * batches * self._pass_seconds()

  def _pass_seconds(self):
    """Returns how many seconds the network takes for `--train_batch_size` images: float."""
    config = self._config
    images = dataclasses.replace(
      self._problem.images, evaluated={'labeled': storage.Examples(*self._problem.images.labeled)}
    )
    views = next(iter(images.eval_batches('labeled', batch_size=config.train_batch_size)))[0]
    forward = tf.function(lambda inputs: self._problem.backbone(inputs, training=False), autograph=False)
    forward(views).numpy()
    began = self._now()
    forward(views).numpy()
    return self._now() - began

  def problem_for(self, rung):
    """Returns the Problem of features that a rung needs: with random views where it draws among them."""
    if not self._lacks_views(rung):
      return self._problem
    return build.take_features(self._config, self._problem.images, self._say)

  def _lacks_views(self, rung):
    """Returns whether a rung draws among random views that the Problem does not have yet."""
    on_features = rung.method and not rung.finetunes
    return on_features and self._problem.views.num_views != self._config.feature_views

  def _held_out(self, rung, held, fold):
    """Returns the logits of held-out images by a classifier of the others: float32 `[h, K]`."""
    problem = folds.hold_out(self._problem, held)
    inputs = self._problem.inputs[self._problem.split.labeled[held]]
    return self.logits(self.fit(rung, problem, f'fold_{fold}'), inputs)

  @staticmethod
  def logits(found, inputs):
    """Returns the logits `[N, K]` of what `fit` returned.

    Args:
      found: of `fit`.
      inputs: features `[N, V, D]`; of a Run they must be those of the split that it reports.
    """
    return found.logits(inputs[:, 0]) if isinstance(found, Linear) else _logits(found)

  def fit(self, rung, problem, place):
    """Trains a rung on a Problem.

    Args:
      rung: Rung.
      problem: Problem of features.
      place: str, the folder in the ladder's where its run is kept.

    Returns:
      Linear of the features; or the Run that finetuned the network.
    """
    if rung.fit:
      return self._fit_once(rung.fit, problem, place)
    folder = os.path.join(self._folder, place)
    os.makedirs(folder, exist_ok=True)
    head = os.path.join(folder, 'head.npz')
    self._fit_once(rungs.start_of(rung), problem, place).write(head)
    config = rungs.configure(self._config, rung, folder, head)
    if rung.finetunes:
      return rungs.train(config, problem.images, self._strategy)
    run = rungs.train(config, dataclasses.replace(problem, backbone=None), self._strategy)
    model, average = run.phases[-1].models['student']
    with average.applied():
      return Linear(*heads.get_linear(model))

  def _fit_once(self, fit, problem, place):
    """Returns `fit(problem)`, a Linear; several rungs start from the same one in the same place."""
    if (fit, place) not in self._fitted:
      self._fitted[fit, place] = fit(problem)
    return self._fitted[fit, place]

  def best(self, unlabeled=None):
    """Returns the Measured of the highest accuracy; None where nothing was measured.

    The accuracy is what rungs are compared by. Few labeled images make equals of different rungs: then the
    least cross entropy decides, which sees how sure each is, and of equals in both the first.

    Args:
      unlabeled: whether it may learn from unlabeled images; None: all the same.
    """
    chosen = [found for found in self.measured if unlabeled is None or found.rung.unlabeled == unlabeled]
    return max(chosen, key=self._merit, default=None)

  def _merit(self, measured):
    """Returns (accuracy, negative cross entropy) of a rung, which tuples of other rungs compare with."""
    labels = self.labels
    share = self.accuracy(measured.right(labels), labels)[0]
    weights = linear.class_weights(labels, measured.logits.shape[1]) if self.balanced else None
    loss = findings.cross_entropy(measured.logits, labels, weights)
    # Rounded, so that equal means over classes of different sizes are equal.
    return round(share, 12), -round(loss, 12)


def points(difference, lower, upper):
  """Returns a difference of accuracies as text: '+2.1 points [+0.4, +3.8]'."""
  return f'{100 * difference:+.1f} points [{100 * lower:+.1f}, {100 * upper:+.1f}]'


def _logits(run):
  """Returns the logits of a Run's student on the split that it reports: float32 `[N, K]`."""
  model, average = run.phases[-1].models['student']
  step = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
  rows = []
  with average.applied():
    for inputs, _, weights in run.problem.eval_batches(run.reported, batch_size=64):
      rows.append(step(inputs).numpy()[weights.numpy() > 0])
  return np.concatenate(rows)


def sentence(climb):
  """Returns what the unlabeled images added, in one plain sentence."""
  alone, helped = climb.best(unlabeled=False), climb.best(unlabeled=True)
  if alone is None:
    return 'nothing could be measured: label a second image of every class'
  by = f'labels alone ({alone.rung.name}{" on the same features" if not alone.rung.finetunes else ""})'
  if helped is None and climb.left_out:
    return f'there was no time to measure what your unlabeled images add; the best is {alone.rung.name}'
  if helped is None:
    return f'there was nothing unlabeled to learn from; the best is {alone.rung.name}'
  difference, lower, upper = climb.gain(helped, alone)
  gained = points(difference, lower, upper) + (' of balanced accuracy' if climb.balanced else '')
  used = climb.best() is helped
  if difference <= 0 and not used:
    verb = 'did harm' if upper < 0 else 'added nothing'
    return f'your unlabeled images {verb}: {gained} over {by}; they are left out'
  sure = '' if lower > 0 else ', which may be chance'
  if difference <= 0:
    sure = ', but made the classifier surer of what is right'
  return f'your unlabeled images added {gained} over {by}{sure}, by {helped.rung.name}'


def all_labels(problem):
  """Returns the Problem with all labeled images and something to evaluate a run on."""
  if problem.evaluated:
    return problem
  inputs, labels = problem.labeled
  evaluated = {'labeled': storage.Examples(inputs, labels)}
  images = problem.images and all_labels(problem.images)
  return dataclasses.replace(problem, evaluated=evaluated, images=images)
