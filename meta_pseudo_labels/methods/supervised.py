"""Supervised training on the labeled examples (release: Supervised)."""

from typing import Any, Dict

from meta_pseudo_labels import losses
from meta_pseudo_labels.methods import base
from meta_pseudo_labels.methods.batch import Batch

import tensorflow as tf


class Supervised(base.Method):
  """A method that trains a student on labeled examples only, also for the finetune after MPL.

  Example:
    >>> student = mpl.models.build('mlp-16x1', num_classes=3, input_shape=(4,))
    >>> method = mpl.Supervised(student, label_smoothing=0.1)
    >>> method.compile(student_optimizer=tf.keras.optimizers.Adam(0.01))
    >>> batch = np.ones([2, 4], 'float32'), np.array([0, 2])
    >>> history = method.fit(tf.data.Dataset.from_tensors(batch).repeat(3), verbose=0)
    >>> method.steps_made
    3
  """

  def train_step(self, data: Any) -> Dict[str, tf.Tensor]:
    """Makes one step.

    Args:
      data: input of `Batch.of`, this replica's share of the global batch. Unlabeled examples are
        ignored.

    Returns:
      The release's logs: {name: float32 scalar}.
    """

    def one_pass(part):
      with tf.GradientTape() as tape:
        logits = self.forward(self.student, 'student', {'labeled': part.labeled})['labeled']
        cross_entropy = self.global_mean(
          losses.cross_entropy(
            labels=self.one_hot(part.labels, logits), logits=logits, label_smoothing=self.label_smoothing
          )
        )
      return (cross_entropy, self.gradient(tape, cross_entropy, self.student.trainable_variables)), ()

    batch = self.batch_of(data)
    (cross_entropy, gradients), _ = self.in_parts(one_pass, Batch(batch.labeled, batch.labels))
    decay = self.l2(self.student)
    rate = self.student_optimizer.rate(self.step)
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    self.count_step(update)
    self.average.update(self.step)
    share = decay * self.weight_decay / self.replicas
    return self.logs(
      {'loss/total': cross_entropy + share, 'loss/cross_entropy': cross_entropy},
      {'loss/weight_decay': decay, 'loss/lr': rate, 'loss/grad_norm': update.norm},
    )
