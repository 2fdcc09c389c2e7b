"""Pseudo-labeling strategies: what the unlabeled loss of UDA and of MPL's teacher learns from.

A strategy gives each unlabeled example a target and a weight, from the prediction on its original view:

    unlabeled loss = mean_i weight_i * CE(target_i, prediction on the augmented view i)

Some have a state, such as running means of the predictions. A step takes the state as it is at its start,
and moves it once at its end, by sums over the global batch. So a batch that is whole, in parts, or spread
over replicas gives the same. (The papers move the state before they use it, which is one step earlier.)

`STRATEGIES` has a class for each. A new strategy is one more of them.
"""

from typing import Any, NamedTuple, Optional, Tuple

from meta_pseudo_labels.config.choices import ALIGNMENTS
from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.methods import pseudo_label_formulas as formulas

import numpy as np
import tensorflow as tf


class Labels(NamedTuple):
  """What a strategy makes of n unlabeled examples; all of it constant.

  Attributes:
    targets: `[n, C]`, distributions.
    weights: `[n]`, in [0, 1].
    probs: `[n, C]`, the distributions by which the weights were chosen.
    classes: `[n]` int32, the most probable classes of these.
    confidence: `[n]`, the probabilities of these classes.
  """

  targets: tf.Tensor
  weights: tf.Tensor
  probs: tf.Tensor
  classes: tf.Tensor
  confidence: tf.Tensor


class Strategy:
  """One way to make targets and weights.

  A step calls `label`, `add_to_loss` and `sums` in its pass, and `move` at its end.

  Attributes:
    needs: names of the parts of a batch that it reads, besides the views.
    sums_first: whether the loss needs `loss_sums` over the global batch before its gradient.
    aligns: whether `auto` aligns the distributions.
    num_classes: int C, from `start` on.
  """

  needs: Tuple[str, ...] = ()
  sums_first: bool = False
  aligns = False

  def __init__(self, *, momentum: float = 0.999, distribution_alignment: str = 'auto'):
    """Creates the strategy.

    Args:
      momentum: float in [0, 1), of the running means, per step.
      distribution_alignment: `none`; `uniform` or `labeled`, to which the distributions are aligned
        (`formulas.align`), `labeled` to the running mean of the labeled batches' labels; `auto`: as the
        strategy's paper has it.

    Raises:
      ValueError: another `distribution_alignment`.
    """
    if distribution_alignment not in ALIGNMENTS:
      raise ValueError(
        f'distribution_alignment={distribution_alignment}: use one of {", ".join(ALIGNMENTS)}'
      )
    self.momentum = momentum
    default = 'uniform' if self.aligns else 'none'
    self.alignment = default if distribution_alignment == 'auto' else distribution_alignment

  def start(self, num_classes: int, num_unlabeled: Optional[int] = None) -> dict:
    """Returns the state at first: {name: numpy array}, empty if there is none.

    Args:
      num_classes: int C; None: not known.
      num_unlabeled: int N, how many unlabeled examples there are in all; None: not known.

    Raises:
      ValueError: there is a state, whose size is not known.
    """
    del num_unlabeled
    self.num_classes = num_classes
    names = {'none': (), 'uniform': ('model_marginal',), 'labeled': ('model_marginal', 'labeled_marginal')}
    return {name: _uniform(num_classes) for name in names[self.alignment]}

  def label(self, logits: tf.Tensor, state: dict) -> Labels:
    """Returns the `Labels` of predictions `[n, C]` on the original views; `state`: {name: tensor}."""
    raise NotImplementedError

  def loss_sums(self, labels: Labels, logits: tf.Tensor) -> dict:
    """Returns what `add_to_loss` needs of the batch: {name: sum over rows}; {} if it adds nothing.

    Args:
      labels: Labels.
      logits: `[n, C]`, on the augmented views; the gradient flows through these.
    """
    del labels, logits
    return {}

  def add_to_loss(self, own: dict, total: dict, state: dict, pieces: Any) -> Any:
    """Returns what is added to the mean unlabeled loss: this piece's share, a scalar.

    Args:
      own: `loss_sums` of this piece of the global batch.
      total: those of the whole global batch, constants.
      state: {name: tensor}.
      pieces: int, parts times replicas.
    """
    raise NotImplementedError

  def sums(self, labels: Labels, logits: dict, one_hot: tf.Tensor, state: dict) -> dict:
    """Returns what `move` needs of the batch: {name: sum over rows}.

    Args:
      labels: Labels.
      logits: `[n, C]`, on the original views.
      one_hot: `[b, C]`, the labels of the labeled examples.
      state: {name: tensor}.
    """
    del labels, state
    if self.alignment == 'none':
      return {}
    return {
      'model_marginal': tf.reduce_sum(tf.nn.softmax(logits), axis=0),
      'labeled_marginal': tf.reduce_sum(one_hot, axis=0),
    }

  def move(self, state: dict, sums: dict, labels: Any, positions: Optional[tf.Tensor]) -> dict:
    """Returns the state after the step: {name: tensor}.

    Args:
      state: {name: tensor}.
      sums: of `sums`, over the global batch.
      labels: (classes `[n]`, confidence `[n]`) of this replica's examples.
      positions: `[n]` integers of these among all unlabeled examples, if `needs` has them.
    """
    del labels, positions
    marginals = [name for name in ('model_marginal', 'labeled_marginal') if name in state]
    return {
      name: formulas.move(state[name], formulas.sum_norm(sums[name]), self.momentum) for name in marginals
    }

  def logs(self, state: dict) -> dict:
    """Returns what is logged of the state: {log name: scalar}."""
    del state
    return {}

  def _aligned(self, logits, state):
    """Returns log probabilities `[n, C]`, aligned if that is asked for; the logits themselves if not."""
    if self.alignment == 'none':
      return logits
    get = lambda name: tf.cast(state[name], logits.dtype)
    uniform = tf.ones_like(get('model_marginal')) / logits.shape[-1]
    target = get('labeled_marginal') if self.alignment == 'labeled' else uniform
    return formulas.align(tf.nn.log_softmax(logits), target, get('model_marginal'))


def _uniform(num_classes):
  """Returns the uniform distribution `[C]` float32. Raises ValueError if C is None."""
  if num_classes is None:
    raise ValueError(
      'pseudo_labels: the student does not tell its number of classes; call it on one batch'
    )
  return np.full([num_classes], 1 / num_classes, np.float32)


def _labels(targets, probs, weigh):
  """Returns `Labels` of targets and probs `[n, C]`; `weigh`: of (classes, confidence) to weights `[n]`."""
  classes = tf.argmax(probs, axis=-1, output_type=tf.int32)
  confidence = tf.reduce_max(probs, axis=-1)
  return Labels(*map(tf.stop_gradient, (targets, weigh(classes, confidence), probs, classes, confidence)))


def _threshold_logs(thresholds):
  """Returns the logs of the thresholds `[C]` of the classes."""
  return {
    'uda/threshold_min': tf.reduce_min(thresholds),
    'uda/threshold_mean': tf.reduce_mean(thresholds),
    'uda/threshold_max': tf.reduce_max(thresholds),
  }


class Uda(Strategy):
  """The release's: softened or sharpened targets that count above a threshold (Xie et al. 2020).

  The target is softmax(logits / temperature). It counts if its largest probability, AFTER the temperature,
  is at least the threshold. Aligned are the distributions before the temperature.
  """

  def __init__(self, temperature: float = 0.75, threshold: float = 0.6, **kwargs: Any):
    """Creates the strategy; `kwargs`: of `Strategy`."""
    super().__init__(**kwargs)
    self.temperature, self.threshold = temperature, threshold

  def label(self, logits, state):
    targets = tf.nn.softmax(self._aligned(logits, state) / self.temperature)
    return _labels(
      targets, targets, lambda _, confidence: formulas.pass_threshold(confidence, self.threshold)
    )


class FixMatch(Strategy):
  """The most probable class, where its probability is above a threshold (Sohn et al. 2020, equation 4)."""

  def __init__(self, threshold: float = 0.95, **kwargs: Any):
    """Creates the strategy; `kwargs`: of `Strategy`."""
    super().__init__(**kwargs)
    self.threshold = threshold

  def label(self, logits, state):
    logits = self._aligned(logits, state)
    weigh = lambda classes, confidence: self._weigh(classes, confidence, state)
    return _labels(formulas.harden(logits), tf.nn.softmax(logits), weigh)

  def _weigh(self, classes, confidence, state):
    """Returns the weights `[n]` of examples with these most probable classes and probabilities `[n]`."""
    return formulas.pass_threshold(confidence, self.threshold)


class FlexMatch(FixMatch):
  """FixMatch with a threshold per class, lower for classes that are learned less (Zhang et al. 2021).

  The state has the last confident prediction of every unlabeled example (`formulas.update_status`), which
  the thresholds count (`formulas.curriculum_thresholds`).
  """

  needs = ('positions',)

  def start(self, num_classes, num_unlabeled=None):
    state = super().start(num_classes, num_unlabeled)
    # Who only looks at a network need not know how many there are.
    if num_unlabeled is not None:
      state['status'] = np.full([num_unlabeled], -1, np.int64)
    return state

  def _thresholds(self, state):
    if 'status' not in state:
      raise ValueError('num_unlabeled: not given; flexmatch needs how many unlabeled examples there are')
    counts = formulas.count_classes(state['status'], self.num_classes)
    return formulas.curriculum_thresholds(counts, state['status'].shape[0], self.threshold)

  def _weigh(self, classes, confidence, state):
    return formulas.pass_threshold(confidence, tf.gather(self._thresholds(state), classes))

  def logs(self, state):
    return _threshold_logs(self._thresholds(state))

  def move(self, state, sums, labels, positions):
    classes, confidence = labels
    confident = tf.where(formulas.pass_threshold(confidence, self.threshold) > 0, classes, -1)
    high, low = positions // 4096, positions % 4096  # float32 holds integers up to 2^24.
    rows = [tf.cast(column, tf.float32) for column in (high, low, confident)]
    high, low, confident = tf.unstack(collectives.gather_rows(tf.stack(rows, axis=1)), axis=1)
    positions = tf.cast(high, tf.int64) * 4096 + tf.cast(low, tf.int64)
    status = formulas.update_status(state['status'], positions, tf.cast(confident, tf.int64))
    return {**super().move(state, sums, labels, positions), 'status': status}


class FreeMatch(FixMatch):
  """The most probable class, above thresholds that follow the predictions (Wang et al. 2023).

  The state has running means over the original views: of the largest probabilities, of the probabilities,
  and of the most probable classes, one-hot. All start at 1/C. `fairness` is the weight of
  `formulas.fairness`, which is added to the unlabeled loss.
  """

  def __init__(self, fairness: float = 0.05, **kwargs: Any):
    """Creates the strategy; `kwargs`: of `Strategy`."""
    super().__init__(**kwargs)
    self.fairness, self.sums_first = fairness, fairness > 0

  def start(self, num_classes, num_unlabeled=None):
    uniform = _uniform(num_classes)
    return {
      **super().start(num_classes, num_unlabeled),
      'confidence': uniform[0],
      'probs': uniform,
      'counts': uniform,
    }

  def _weigh(self, classes, confidence, state):
    thresholds = formulas.self_adaptive_thresholds(state['confidence'], state['probs'])
    return formulas.pass_threshold(confidence, tf.gather(thresholds, classes))

  def loss_sums(self, labels, logits):
    if not self.fairness:
      return {}
    probs = tf.nn.softmax(logits)
    passing = lambda values: tf.reduce_sum(labels.weights[:, None] * values, axis=0)
    return {'probs': passing(probs), 'counts': passing(formulas.harden(tf.stop_gradient(probs)))}

  def add_to_loss(self, own, total, state, pieces):
    means = [tf.cast(state[name], own['probs'].dtype) for name in ('probs', 'counts')]
    with tf.GradientTape() as tape:
      tape.watch(total['probs'])
      value = formulas.fairness(total['probs'], total['counts'], *means)
    # The loss is no sum over examples. Its derivative by their sum is, so pieces may be added up.
    slope = tf.stop_gradient(tape.gradient(value, total['probs']))
    own = tf.reduce_sum(slope * (own['probs'] - tf.stop_gradient(own['probs'])))
    return self.fairness * (tf.stop_gradient(value) / pieces + own)

  def sums(self, labels, logits, one_hot, state):
    return {
      **super().sums(labels, logits, one_hot, state),
      'count': tf.reduce_sum(tf.ones_like(labels.confidence)),
      'confidence': tf.reduce_sum(labels.confidence),
      'probs': tf.reduce_sum(labels.probs, axis=0),
      'counts': formulas.count_classes(labels.classes, logits.shape[-1]),
    }

  def move(self, state, sums, labels, positions):
    # Classes have no NaN that would tell of a batch that is not finite.
    finite = tf.math.is_finite(sums['confidence'])
    sums = {**sums, 'counts': tf.where(finite, sums['counts'], np.nan)}
    means = {
      name: formulas.move(
        state[name], sums[name] / tf.cast(sums['count'], sums[name].dtype), self.momentum
      )
      for name in ('confidence', 'probs', 'counts')
    }
    return {**super().move(state, sums, labels, positions), **means}

  def logs(self, state):
    return _threshold_logs(formulas.self_adaptive_thresholds(state['confidence'], state['probs']))


class SoftMatch(Strategy):
  """The most probable class, weighted by a truncated Gaussian of its probability (Chen et al. 2023).

  The state has running mean and variance of the largest probabilities, from 1/C and 1 on. Uniform
  alignment, which `auto` switches on, changes the weights alone, not the targets. Mean and variance are
  those of the aligned probabilities, as in the authors' USB.
  """

  aligns = True

  def start(self, num_classes, num_unlabeled=None):
    return {
      **super().start(num_classes, num_unlabeled),
      'mean': _uniform(num_classes)[0],
      'variance': np.float32(1),
    }

  def label(self, logits, state):
    mean, variance = (tf.cast(state[name], logits.dtype) for name in ('mean', 'variance'))
    weigh = lambda _, confidence: formulas.truncated_gaussian(confidence, mean, variance)
    return _labels(formulas.harden(logits), tf.nn.softmax(self._aligned(logits, state)), weigh)

  def sums(self, labels, logits, one_hot, state):
    # Around the running mean: a difference of two large sums would have no digits left.
    centered = labels.confidence - tf.cast(state['mean'], labels.confidence.dtype)
    return {
      **super().sums(labels, logits, one_hot, state),
      'count': tf.reduce_sum(tf.ones_like(centered)),
      'centered': tf.reduce_sum(centered),
      'squares': tf.reduce_sum(tf.square(centered)),
    }

  def move(self, state, sums, labels, positions):
    count, shift = sums['count'], sums['centered'] / sums['count']
    variance = (sums['squares'] - count * tf.square(shift)) / tf.maximum(count - 1.0, 1.0)
    mean = tf.cast(state['mean'], shift.dtype) + shift
    return {
      **super().move(state, sums, labels, positions),
      'mean': formulas.move(state['mean'], mean, self.momentum),
      # An exact zero would make a weight of 0 / 0.
      'variance': formulas.move(state['variance'], tf.maximum(variance, 1e-12), self.momentum),
    }

  def logs(self, state):
    return {'uda/gaussian_mean': state['mean'], 'uda/gaussian_deviation': tf.sqrt(state['variance'])}


STRATEGIES = {  # By `--pseudo_labels`.
  'uda': Uda,
  'fixmatch': FixMatch,
  'flexmatch': FlexMatch,
  'freematch': FreeMatch,
  'softmatch': SoftMatch,
}
