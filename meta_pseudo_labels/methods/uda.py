"""Unsupervised data augmentation (Xie et al. 2020; release: UDA), alone and as MPL's teacher."""

import dataclasses
from typing import Any

from meta_pseudo_labels import losses
from meta_pseudo_labels.config.choices import ORIGINAL_VIEWS
from meta_pseudo_labels.methods import base
from meta_pseudo_labels.methods.batch import VIEWS
from meta_pseudo_labels.models import batch_norm

import tensorflow as tf


@dataclasses.dataclass
class Pass:
  """The results of a UDA forward pass over one replica's batch.

  Attributes:
    logits: {'labeled' `[b, C]`, 'original' `[b*U, C]`, 'augmented' `[b*U, C]`} float32.
    labels: `[b, C]` one-hot.
    cross_entropy_l, cross_entropy_u: scalars, this replica's shares of the global means.
    mask_l, mask_u: `[b]` and `[b*U]` float32.
  """

  logits: dict
  labels: tf.Tensor
  cross_entropy_l: tf.Tensor
  cross_entropy_u: tf.Tensor
  mask_l: tf.Tensor
  mask_u: tf.Tensor


class ConsistencyMethod(base.Method):
  """A method with UDA's losses: the settings and the pass that UDA and MPL share."""

  needs = VIEWS

  def __init__(
    self,
    student: tf.keras.Model,
    *,
    uda_temp: float = 0.75,
    uda_threshold: float = 0.6,
    uda_weight: float = 1.0,
    uda_steps: int = 1,
    original_view: str = 'together',
    **kwargs: Any,
  ):
    """Creates the method.

    Args:
      student: see `Method`.
      uda_temp: float > 0, temperature of the targets.
      uda_threshold: float; targets whose largest probability is lower do not count.
      uda_weight: float, weight of the unlabeled loss; it grows linearly over the first `uda_steps` steps.
      uda_steps: int.
      original_view: `together` or `separate`, whether the original views are in one batch with the other
        views, or make a batch of their own, see `original_alone`.
      **kwargs: arguments of `Method`.

    Raises:
      ValueError: another `original_view`; see also `Method`.
    """
    if original_view not in ORIGINAL_VIEWS:
      raise ValueError(f'original_view={original_view}: use one of {", ".join(ORIGINAL_VIEWS)}')
    super().__init__(student, **kwargs)
    self.original_view = original_view
    self.uda_temp = uda_temp
    self.uda_threshold = uda_threshold
    self.uda_weight = uda_weight
    self.uda_steps = uda_steps

  def consistency_weight(self):
    """Returns uda_weight * min(1, step / uda_steps): float32 scalar."""
    progress = tf.cast(self.step, tf.float32) / max(1, self.uda_steps)
    return (
      self.uda_weight * tf.minimum(1.0, progress) if self.uda_steps else (tf.constant(self.uda_weight))
    )

  def original_alone(self, model):
    """Returns whether the original views of `model` make a pass of their own: bool.

    No gradient flows to them (`losses.consistency`), so on their own they need no backward pass. Where no
    batch norm mixes the views the result is the same, up to rounding, and they always do.
    """
    return self.original_view == 'separate' or not batch_norm.couples_examples(model)

  def uda_pass(self, model, batch):
    """Makes one pass of `model` over labeled, original and augmented views: a `Pass`.

    Its dropout masks are the same for UDA's model and for MPL's teacher, whatever `original_alone` says.
    """
    views = {'labeled': batch.labeled, 'original': batch.original, 'augmented': batch.augmented}
    logits = {}
    if self.original_alone(model):
      # First, so that the moving averages of batch norms end with the batch that is learned from.
      logits = self.forward(model, 'uda', {'original': views.pop('original')})
    logits |= self.forward(model, 'uda', views)
    labels = self.one_hot(batch.labels, logits['labeled'])
    loss_l = losses.cross_entropy(
      labels=labels, logits=logits['labeled'], label_smoothing=self.label_smoothing
    )
    loss_u, mask_u = losses.consistency(
      original_logits=logits['original'],
      augmented_logits=logits['augmented'],
      temperature=self.uda_temp,
      threshold=self.uda_threshold,
    )
    mask_l = losses.annealing_mask(
      labels=labels,
      logits=logits['labeled'],
      progress=tf.cast(self.step, labels.dtype) / self.num_train_steps,
    )
    return Pass(logits, labels, self.global_mean(loss_l), self.global_mean(loss_u), mask_l, mask_u)


class UDA(ConsistencyMethod):
  """A method that trains a student on labels and on the agreement of two views of unlabeled examples."""

  def train_step(self, data):
    """Makes one step.

    Args:
      data: input of `Batch.of`, this replica's share of the global batch.

    Returns:
      The release's logs: {name: float32 scalar}.
    """
    weight = self.consistency_weight()

    def one_pass(part):
      with tf.GradientTape() as tape:
        out = self.uda_pass(self.student, part)
        loss = out.cross_entropy_l + tf.cast(weight, out.labels.dtype) * out.cross_entropy_u
      shares = {
        'loss/total': loss,
        'loss/cross_entropy': out.cross_entropy_l,
        'uda/cross_entropy': out.cross_entropy_u,
        'uda/u_ratio': self.global_mean(out.mask_u),
        'uda/l_ratio': self.global_mean(out.mask_l),
      }
      return (shares, self.gradient(tape, loss, self.student.trainable_variables)), ()

    (shares, gradients), _ = self.in_parts(one_pass, self.batch_of(data))
    decay = self.l2(self.student)
    rate = self.student_optimizer.rate(self.step)
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    self.count_step(update)
    self.average.update(self.step)
    shares['loss/total'] += decay * self.weight_decay / self.replicas
    return self.logs(
      shares,
      {'loss/lr': rate, 'loss/grad_norm': update.norm, 'loss/weight_dec': decay, 'uda/weight': weight},
    )
