"""Unsupervised data augmentation (Xie et al. 2020; release: UDA), alone and as MPL's teacher."""

import dataclasses
from typing import Any, Dict, Optional, Union

from meta_pseudo_labels import losses
from meta_pseudo_labels.config.choices import ORIGINAL_VIEWS
from meta_pseudo_labels.distribution.collectives import sum_over_replicas
from meta_pseudo_labels.methods import base, diagnostics, parts
from meta_pseudo_labels.methods.batch import VIEWS, Batch
from meta_pseudo_labels.methods.pseudo_label_strategies import STRATEGIES, Strategy
from meta_pseudo_labels.models import batch_norm

import tensorflow as tf


@dataclasses.dataclass
class Pass:
  """The results of a UDA forward pass over one replica's batch.

  Attributes:
    logits: {'labeled' `[b, C]`, 'original' `[b*U, C]`, 'augmented' `[b*U, C]`} float32.
    labels: `[b, C]` one-hot.
    cross_entropy_l, cross_entropy_u: scalars, this replica's shares of the global means.
    mask_l, mask_u: `[b]` and `[b*U]` float32; the latter are the weights of the unlabeled examples.
    loss_u: scalar, the share of the unlabeled loss: `cross_entropy_u` and what the strategy adds to it.
    sums: {name: tensor} of `Strategy.sums`, this replica's.
    found: (classes `[b*U]` int32, confidence `[b*U]`, weights `[b*U]`) of the unlabeled examples, or ().
  """

  logits: dict
  labels: tf.Tensor
  cross_entropy_l: tf.Tensor
  cross_entropy_u: tf.Tensor
  mask_l: tf.Tensor
  mask_u: tf.Tensor
  loss_u: tf.Tensor
  sums: dict = dataclasses.field(default_factory=dict)
  found: tuple = ()


class ConsistencyMethod(base.Method):
  """A method with UDA's losses: the settings and the pass that UDA and MPL share."""

  def __init__(
    self,
    student: tf.keras.Model,
    *,
    uda_temp: float = 0.75,
    uda_threshold: float = 0.6,
    uda_weight: float = 1.0,
    uda_steps: int = 1,
    pseudo_labels: Union[str, Strategy] = 'uda',
    pseudo_labels_smoothing: float = 0.0,
    num_unlabeled: Optional[int] = None,
    original_view: str = 'together',
    **kwargs: Any,
  ):
    """Creates the method.

    Args:
      student: see `Method`.
      uda_temp: float > 0, temperature of the targets of `uda`.
      uda_threshold: float; targets of `uda` whose largest probability is lower do not count.
      uda_weight: float, weight of the unlabeled loss; it grows linearly over the first `uda_steps` steps.
      uda_steps: int.
      pseudo_labels: `uda`, `fixmatch`, `flexmatch`, `freematch` or `softmatch`, what the unlabeled loss
        learns from; or a `pseudo_label_strategies.Strategy`, which has settings.
      pseudo_labels_smoothing: float in [0, 1], label smoothing of the unlabeled targets.
      num_unlabeled: int, how many unlabeled examples there are in all; `flexmatch` needs it, and batches
        with `positions`.
      original_view: `together` or `separate`, whether the original views are in one batch with the other
        views, or make a batch of their own, see `original_alone`.
      **kwargs: arguments of `Method`.

    Raises:
      ValueError: another `original_view` or `pseudo_labels`, or a student whose classes are not known to
        a strategy with a state; see also `Method`.
    """
    if original_view not in ORIGINAL_VIEWS:
      raise ValueError(f'original_view={original_view}: use one of {", ".join(ORIGINAL_VIEWS)}')
    if not isinstance(pseudo_labels, Strategy) and pseudo_labels not in STRATEGIES:
      raise ValueError(f'pseudo_labels={pseudo_labels}: use one of {", ".join(STRATEGIES)}')
    super().__init__(student, **kwargs)
    self.original_view = original_view
    self.uda_weight = uda_weight
    self.uda_steps = uda_steps
    self.pseudo_labels_smoothing = pseudo_labels_smoothing
    if isinstance(pseudo_labels, Strategy):
      self.pseudo_labeling = pseudo_labels
    elif pseudo_labels == 'uda':
      self.pseudo_labeling = STRATEGIES['uda'](uda_temp, uda_threshold)
    else:
      self.pseudo_labeling = STRATEGIES[pseudo_labels]()
    start = self.pseudo_labeling.start(count_classes(student), num_unlabeled)
    if start:  # Without one a checkpoint has no entry for it, as those of earlier versions.
      self.pseudo_labeling_state = {
        name: tf.Variable(
          value, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        for name, value in start.items()
      }

  @property
  def needs(self) -> base.Names:
    """The parts of a batch that a step reads."""
    return (*VIEWS, *self.pseudo_labeling.needs)

  def consistency_weight(self) -> tf.Tensor:
    """Returns uda_weight * min(1, step / uda_steps): float32 scalar."""
    progress = tf.cast(self.step, tf.float32) / max(1, self.uda_steps)
    return (
      self.uda_weight * tf.minimum(1.0, progress) if self.uda_steps else (tf.constant(self.uda_weight))
    )

  def original_alone(self, model: tf.keras.Model) -> bool:
    """Returns whether the original views of `model` make a pass of their own: bool.

    The unlabeled loss has no gradient by them, so on their own they need no backward pass, unless MPL's
    student learns from them. Where no batch norm mixes the views the result is the same, up to rounding,
    and they always do.
    """
    return self.original_view == 'separate' or not batch_norm.couples_examples(model)

  def read_state(self) -> Dict[str, tf.Tensor]:
    """Returns the strategy's state as it is now: {name: tensor}."""
    return {
      name: tf.convert_to_tensor(v) for name, v in getattr(self, 'pseudo_labeling_state', {}).items()
    }

  def move_state(self, sums: Any, found: Any, positions: Optional[tf.Tensor]) -> None:
    """Moves the strategy's state at the end of a step; all replicas call it together.

    Args:
      sums, found: of `Pass`, of this replica's whole batch.
      positions: `[n]` of `Batch`, or None.
    """
    state = self.read_state()
    if not state:
      return
    moved = self.pseudo_labeling.move(state, sum_over_replicas(sums), found[:2], positions)
    for name, variable in self.pseudo_labeling_state.items():
      variable.assign(moved[name])

  def sums_ahead(self, model: tf.keras.Model, batch: Batch) -> Optional[Dict[str, tf.Tensor]]:
    """Returns the sums over the global batch that the loss of its parts needs, or None if it needs none.

    They take a pass of their own, which leaves nothing else behind.
    """
    if self.micro_batches == 1 or not self.pseudo_labeling.sums_first:
      return None

    def sums(part):
      logits = self._view_logits(model, part)
      labels = self.pseudo_labeling.label(logits['original'], self.read_state())
      return self.pseudo_labeling.loss_sums(labels, logits['augmented']), ()

    with self.frozen_statistics(model), batch_norm.repeated():
      return sum_over_replicas(self.in_parts(sums, batch)[0])

  def _view_logits(self, model, batch):
    """Makes one pass of `model` over labeled, original and augmented views: {view: logits}."""
    views = {'labeled': batch.labeled, 'original': batch.original, 'augmented': batch.augmented}
    logits = {}
    if self.original_alone(model):
      # First, so that the moving averages of batch norms end with the batch that is learned from.
      logits = self.forward(model, 'uda', {'original': views.pop('original')})
    return logits | self.forward(model, 'uda', views)

  def uda_pass(
    self, model: tf.keras.Model, batch: Batch, ahead: Optional[Dict[str, tf.Tensor]] = None
  ) -> Pass:
    """Makes one pass of `model` over labeled, original and augmented views: a `Pass`.

    Its dropout masks are the same for UDA's model and for MPL's teacher, whatever `original_alone` says.

    Args:
      model: Keras model.
      batch: Batch, or a part of one.
      ahead: of `sums_ahead`.
    """
    logits = self._view_logits(model, batch)
    labels = self.one_hot(batch.labels, logits['labeled'])
    loss_l = losses.cross_entropy(
      labels=labels, logits=logits['labeled'], label_smoothing=self.label_smoothing
    )
    state = self.read_state()
    pseudo = self.pseudo_labeling.label(logits['original'], state)
    cross_entropy_u = self.global_mean(
      pseudo.weights
      * losses.cross_entropy(
        labels=pseudo.targets, logits=logits['augmented'], label_smoothing=self.pseudo_labels_smoothing
      )
    )
    mask_l = losses.annealing_mask(
      labels=labels,
      logits=logits['labeled'],
      progress=tf.cast(self.step, labels.dtype) / self.num_train_steps,
    )
    return Pass(
      logits,
      labels,
      self.global_mean(loss_l),
      cross_entropy_u,
      mask_l,
      pseudo.weights,
      self._unlabeled_loss(cross_entropy_u, pseudo, logits['augmented'], state, ahead),
      self.pseudo_labeling.sums(pseudo, logits['original'], labels, state),
      (pseudo.classes, pseudo.confidence, pseudo.weights),
    )

  def _unlabeled_loss(self, cross_entropy, pseudo, logits, state, ahead):
    """Returns the share of the unlabeled loss: `cross_entropy` and what the strategy adds."""
    if not self.pseudo_labeling.sums_first:
      return cross_entropy
    own = self.pseudo_labeling.loss_sums(pseudo, logits)
    if ahead is None:
      ahead = sum_over_replicas(tf.nest.map_structure(tf.stop_gradient, own))
    return cross_entropy + self.pseudo_labeling.add_to_loss(
      own, ahead, state, self.replicas * parts.count()
    )

  def unlabeled_shares(self, out: Pass) -> Dict[str, tf.Tensor]:
    """Returns what is logged of the masks of a `Pass`: {log name: scalar}, this replica's shares."""
    shares = {
      'uda/u_ratio': self.global_mean(out.mask_u),
      'uda/l_ratio': self.global_mean(out.mask_l),
    }
    if self.pseudo_labeling.sums_first:
      shares['uda/fairness'] = out.loss_u - out.cross_entropy_u
    return shares


def count_classes(model):
  """Returns the number of classes of a Keras classifier: int; None where it does not say."""
  try:
    return model.output_shape[-1]
  except (AttributeError, RuntimeError):  # A subclassed model that was never called.
    return None


class UDA(ConsistencyMethod):
  """A method that trains a student on labels and on the agreement of two views of unlabeled examples.

  Example:
    >>> student = mpl.models.build('mlp-16x1', num_classes=3, input_shape=(4,))
    >>> method = mpl.UDA(student, uda_temp=0.5)
    >>> method.compile(student_optimizer=tf.keras.optimizers.SGD(0.1))
    >>> inputs = np.ones([6, 4], 'float32')
    >>> batch = inputs[:2], np.array([0, 2]), inputs, 0.9 * inputs
    >>> history = method.fit(tf.data.Dataset.from_tensors(batch).repeat(3), verbose=0)
    >>> 'uda/cross_entropy' in history.history
    True
  """

  def train_step(self, data: Any) -> Dict[str, tf.Tensor]:
    """Makes one step.

    Args:
      data: input of `Batch.of`, this replica's share of the global batch.

    Returns:
      The release's logs, and those of the pseudo labels: {name: float32 scalar}.
    """
    weight, batch = self.consistency_weight(), self.batch_of(data)
    ahead = self.sums_ahead(self.student, batch)

    def one_pass(part):
      with tf.GradientTape() as tape:
        out = self.uda_pass(self.student, part, ahead)
        loss = out.cross_entropy_l + tf.cast(weight, out.labels.dtype) * out.loss_u
      shares = {
        'loss/total': loss,
        'loss/cross_entropy': out.cross_entropy_l,
        'uda/cross_entropy': out.cross_entropy_u,
        **self.unlabeled_shares(out),
      }
      return (shares, self.gradient(tape, loss, self.student.trainable_variables), out.sums), out.found

    (shares, gradients, sums), found = self.in_parts(one_pass, batch)
    decay = self.l2(self.student)
    rate = self.student_optimizer.rate(self.step)
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    thresholds = self.pseudo_labeling.logs(self.read_state())
    self.move_state(sums, found, batch.positions)
    self.count_step(update)
    self.average.update(self.step)
    shares['loss/total'] += decay * self.weight_decay / self.replicas
    return self.logs(
      {
        **shares,
        **diagnostics.measure_targets(found, batch.truth, self.global_size(found[1])),
      },
      {
        'loss/lr': rate,
        'loss/grad_norm': update.norm,
        'loss/weight_dec': decay,
        'uda/weight': weight,
        **thresholds,
      },
    )
