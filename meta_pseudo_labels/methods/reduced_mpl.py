"""Reduced Meta Pseudo Labels (the paper's appendix): only one large network in memory, the student."""

from typing import Any, Dict, Optional

from meta_pseudo_labels import losses
from meta_pseudo_labels.distribution import collectives
from meta_pseudo_labels.methods import base, mpl, uda
from meta_pseudo_labels.methods.batch import LABELED, Batch

import tensorflow as tf


class ReducedMetaPseudoLabels(mpl.MetaPseudoLabels):
  """Meta Pseudo Labels whose teacher is a small network on stored predictions.

  A large teacher, trained before, has labeled every example once. Here a small network
  (models/calibration.py) makes pseudo labels from these stored predictions. The student's feedback and
  the labeled examples train only this small network. There is no consistency loss, since all views of
  an example share one stored prediction.

  Example:
    >>> network = lambda width: mpl.models.build('mlp-8x1', num_classes=3, input_shape=(width,))
    >>> method = mpl.ReducedMetaPseudoLabels(teacher=network(3), student=network(4))
    >>> method.compile(
    ...   teacher_optimizer=mpl.optimizers.SGD(0.1), student_optimizer=mpl.optimizers.SGD(0.1)
    ... )
    >>> stored = [tf.nn.log_softmax(tf.random.normal([count, 3])) for count in (2, 6)]
    >>> batch = dict(
    ...   labeled=np.ones([2, 4], 'float32'),
    ...   labels=np.array([0, 2]),
    ...   augmented=np.ones([6, 4], 'float32'),
    ...   predictions=tuple(stored),
    ... )
    >>> history = method.fit(tf.data.Dataset.from_tensors(batch).repeat(3), verbose=0)
    >>> method.steps_made
    3
  """

  large_teacher = False
  needs: base.Names = (*LABELED, 'augmented', 'predictions')

  def __init__(self, *args: Any, **kwargs: Any):
    """Wraps the small network and the student; arguments as of `MetaPseudoLabels`.

    Raises:
      ValueError: a setting of what this method does not have, the consistency loss and a second view.
    """
    for name, default in (('pseudo_labels', 'uda'), ('student_targets_from', 'augmented')):
      if kwargs.get(name, default) != default:
        raise ValueError(
          f'{name}={kwargs[name]}: not with ReducedMetaPseudoLabels, where all views of an example share '
          'one stored prediction'
        )
    super().__init__(*args, **kwargs)

  def teacher_pass(self, batch: Batch, ahead: Optional[Dict[str, tf.Tensor]] = None) -> uda.Pass:
    """Makes the small network's pass over `batch.predictions`: a `uda.Pass` without a second view."""
    del ahead
    assert batch.predictions is not None  # See `needs`.
    labeled, unlabeled = batch.predictions
    logits = self.forward(self.teacher, 'teacher', {'labeled': labeled, 'augmented': unlabeled})
    labels = self.one_hot(batch.labels, logits['labeled'])
    loss = self.global_mean(
      losses.cross_entropy(labels=labels, logits=logits['labeled'], label_smoothing=self.label_smoothing)
    )
    # Constants for the logs of the consistency loss and of annealing, which this method does not have.
    return uda.Pass(
      logits,
      labels,
      loss,
      tf.zeros_like(loss),
      mask_l=tf.ones([collectives.count_rows(labeled)]),
      mask_u=tf.zeros([collectives.count_rows(unlabeled)]),
      loss_u=tf.zeros_like(loss),
    )
