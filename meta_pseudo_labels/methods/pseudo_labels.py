"""Pseudo labels (Lee 2013; paper section 2) of a fixed teacher, which is trained first."""

from typing import Any

from meta_pseudo_labels import losses
from meta_pseudo_labels.methods import base
from meta_pseudo_labels.methods.batch import VIEWS

import tensorflow as tf


class PseudoLabels(base.Method):
  """A method that trains a student on labeled examples and on the hard labels of a fixed teacher."""

  def __init__(
    self, teacher: tf.keras.Model, student: tf.keras.Model, *, pseudo_weight: float = 1.0, **kwargs: Any
  ):
    """Creates the method.

    Args:
      teacher: trained Keras model, inputs -> logits `[N, C]`; it is not changed.
      student: Keras model, inputs -> logits `[N, C]`.
      pseudo_weight: float, weight of the unlabeled loss.
      **kwargs: arguments of `Method`.
    """
    super().__init__(student, **kwargs)
    self.teacher = teacher
    self.pseudo_weight = pseudo_weight

  evaluates_teacher = True
  needs = VIEWS

  def train_step(self, data):
    """Makes one step; for arguments and result see `UDA.train_step`.

    The teacher labels the original views in inference mode. The student sees the augmented views.
    """

    def one_pass(part):
      pseudo_labels = tf.argmax(self.teacher(part.original, training=False), axis=-1)
      with tf.GradientTape() as tape:
        logits = self.forward(
          self.student, 'student', {'augmented': part.augmented, 'labeled': part.labeled}
        )
        loss_l, loss_u = (
          self.global_mean(
            losses.cross_entropy(
              labels=self.one_hot(labels, logits[view]),
              logits=logits[view],
              label_smoothing=self.label_smoothing,
            )
          )
          for labels, view in ((part.labels, 'labeled'), (pseudo_labels, 'augmented'))
        )
        loss = loss_l + self.pseudo_weight * loss_u
      shares = {'loss/total': loss, 'loss/cross_entropy': loss_l, 'pseudo_labels/loss': loss_u}
      return (shares, self.gradient(tape, loss, self.student.trainable_variables)), ()

    (shares, gradients), _ = self.in_parts(one_pass, self.batch_of(data))
    rate = self.student_optimizer.rate(self.step)
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    self.count_step(update)
    self.average.update(self.step)
    return self.logs(shares, {'loss/lr': rate, 'loss/grad_norm': update.norm})
