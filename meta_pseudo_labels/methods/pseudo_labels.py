"""Pseudo labels (Lee 2013; paper section 2): a teacher trained first, then fixed."""
from typing import Any

from meta_pseudo_labels import losses
from meta_pseudo_labels.methods import base

import tensorflow as tf


class PseudoLabels(base.Method):
  """A student trained on labeled examples and on the hard labels of a fixed teacher."""

  def __init__(self, student: tf.keras.Model, teacher: tf.keras.Model, *, pseudo_weight: float = 1.,
               **kwargs: Any):
    """As `Method`, and:

    Args:
      student: Keras model, inputs -> logits `[N, C]`.
      teacher: Keras model likewise, trained already; it is not changed.
      pseudo_weight: of the unlabeled loss.
      **kwargs: `Method`'s.
    """
    super().__init__(student, **kwargs)
    self.teacher = teacher
    self.pseudo_weight = pseudo_weight

  def train_step(self, data):
    """One step; arguments and result as `UDA.train_step`.

    The teacher, in inference mode, labels the original views; the student sees the augmented.
    """
    labeled, labels, original, augmented = data[:4]
    pseudo_labels = tf.argmax(self.teacher(original, training=False), axis=-1)
    with tf.GradientTape() as tape:
      logits = self.forward(self.student, 'student', {'augmented': augmented, 'labeled': labeled})
      loss_l = tf.reduce_sum(losses.cross_entropy(
          labels=self.one_hot(labels, logits['labeled']), logits=logits['labeled'],
          label_smoothing=self.label_smoothing)) / (labeled.shape[0] * self.replicas)
      loss_u = tf.reduce_sum(losses.cross_entropy(
          labels=self.one_hot(pseudo_labels, logits['augmented']), logits=logits['augmented'],
          label_smoothing=self.label_smoothing)) / (augmented.shape[0] * self.replicas)
      loss = loss_l + self.pseudo_weight * loss_u
    gradients = self.gradient(tape, loss, self.student.trainable_variables)
    rate = self.student_optimizer.rate(self.step)
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    self.count_step(update)
    self.average.update(self.step)
    return self.logs({'loss/total': loss, 'loss/cross_entropy': loss_l,
                      'pseudo_labels/loss': loss_u},
                     {'loss/lr': rate, 'loss/grad_norm': update.norm})
