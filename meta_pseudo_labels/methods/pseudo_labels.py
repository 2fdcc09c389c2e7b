"""Pseudo labels (Lee 2013; paper section 2) of a fixed teacher, which is trained first."""

from typing import Any, Dict

from meta_pseudo_labels import losses
from meta_pseudo_labels.methods import base, diagnostics
from meta_pseudo_labels.methods import pseudo_label_formulas as formulas
from meta_pseudo_labels.methods.batch import VIEWS

import tensorflow as tf


class PseudoLabels(base.Method):
  """A method that trains a student on labeled examples and on the labels of a fixed teacher.

  Example:
    >>> network = lambda: mpl.models.build('mlp-16x1', num_classes=3, input_shape=(4,))
    >>> method = mpl.PseudoLabels(teacher=network(), student=network(), pseudo_weight=0.5)
    >>> method.compile(student_optimizer=mpl.optimizers.SGD(0.1))
    >>> inputs = np.ones([6, 4], 'float32')
    >>> batch = inputs[:2], np.array([0, 2]), inputs, 0.9 * inputs
    >>> history = method.fit(tf.data.Dataset.from_tensors(batch).repeat(3), verbose=0)
    >>> method.steps_made
    3
  """

  def __init__(
    self,
    teacher: tf.keras.Model,
    student: tf.keras.Model,
    *,
    pseudo_weight: float = 1.0,
    soft: bool = False,
    threshold: float = 0.0,
    **kwargs: Any,
  ):
    """Creates the method.

    Args:
      teacher: trained Keras model, inputs -> logits `[N, C]`; it is not changed.
      student: Keras model, inputs -> logits `[N, C]`.
      pseudo_weight: float, weight of the unlabeled loss.
      soft: bool, whether the student learns from the teacher's probabilities, instead of from its most
        probable class (Xie et al. 2020, "Self-training with Noisy Student", has both).
      threshold: float in [0, 1]; examples of which the teacher is less sure do not count.
      **kwargs: arguments of `Method`.
    """
    super().__init__(student, **kwargs)
    self.teacher = teacher
    self.pseudo_weight = pseudo_weight
    self.soft, self.threshold = soft, threshold

  evaluates_teacher = True
  needs: base.Names = VIEWS

  def train_step(self, data: Any) -> Dict[str, tf.Tensor]:
    """Makes one step; for arguments and result see `UDA.train_step`.

    The teacher labels the original views in inference mode. The student sees the augmented views.
    """

    batch = self.batch_of(data)

    def one_pass(part):
      given = self.teacher(part.original, training=False)
      pseudo_labels = tf.argmax(given, axis=-1, output_type=tf.int32)
      probs = tf.nn.softmax(given if given.dtype == tf.float64 else tf.cast(given, tf.float32))
      confidence = tf.reduce_max(probs, axis=-1)
      with tf.GradientTape() as tape:
        logits = self.forward(
          self.student, 'student', {'augmented': part.augmented, 'labeled': part.labeled}
        )
        loss_l = self.global_mean(self._cross_entropy(part.labels, logits['labeled']))
        targets = probs if self.soft else pseudo_labels
        losses_u = self._cross_entropy(targets, logits['augmented'])
        weights = formulas.pass_threshold(confidence, self.threshold)
        loss_u = self.global_mean(tf.cast(weights, losses_u.dtype) * losses_u)
        loss = loss_l + self.pseudo_weight * loss_u
      shares = {
        'loss/total': loss,
        'loss/cross_entropy': loss_l,
        'pseudo_labels/loss': loss_u,
        'uda/u_ratio': self.global_mean(weights),
      }
      gradients = self.gradient(tape, loss, self.student.trainable_variables)
      return (shares, gradients), (pseudo_labels, confidence, weights)

    (shares, gradients), found = self.in_parts(one_pass, batch)
    shares.update(diagnostics.measure_targets(found, batch.truth, self.global_size(found[1])))
    rate = self.student_optimizer.rate(self.step)
    update = self.apply_update(self.student, self.student_optimizer, gradients)
    self.count_step(update)
    self.average.update(self.step)
    return self.logs(shares, {'loss/lr': rate, 'loss/grad_norm': update.norm})

  def _cross_entropy(self, labels, logits):
    """Computes the cross entropy `[n]` of labels, integers `[n]` or distributions `[n, C]`."""
    return losses.cross_entropy(
      labels=self.one_hot(labels, logits), logits=logits, label_smoothing=self.label_smoothing
    )
