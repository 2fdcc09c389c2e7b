"""Reduced Meta Pseudo Labels (the paper's appendix): one large network in memory, the student."""
from meta_pseudo_labels import losses
from meta_pseudo_labels.methods import mpl, uda

import tensorflow as tf


class ReducedMetaPseudoLabels(mpl.MetaPseudoLabels):
  """Meta Pseudo Labels whose teacher is a small network on stored predictions.

  A large teacher, trained before, has labeled every example once. Here a small network
  (models/calibration.py) makes pseudo labels of what it wrote down; the student's feedback and the
  labeled examples train that network, and nothing else of the teacher. There is no consistency
  loss: an example has one stored prediction, whatever its view.
  """

  large_teacher = False

  def teacher_pass(self, data):
    """The small network's pass over the stored predictions: a `uda.Pass` without a second view.

    Args:
      data: (labeled inputs, labels, original views, augmented views, the unlabeled examples'
        labels where known, else -1, stored log probabilities of the labeled `[b, C]` and of the
        unlabeled examples `[b*U, C]`): this replica's share of the global batch.
    """
    labels, labeled, unlabeled = data[1], *data[5:]
    logits = self.forward(self.teacher, 'teacher', {'labeled': labeled, 'augmented': unlabeled})
    labels = self.one_hot(labels, logits['labeled'])
    loss = losses.cross_entropy(labels=labels, logits=logits['labeled'],
                                label_smoothing=self.label_smoothing)
    loss = tf.reduce_sum(loss) / (labeled.shape[0] * self.replicas)
    # What the logs of the consistency loss and of annealing, which is for the logs alone, show.
    return uda.Pass(logits, labels, loss, tf.zeros_like(loss),
                    mask_l=tf.ones(labeled.shape[:1]), mask_u=tf.zeros(unlabeled.shape[:1]))
