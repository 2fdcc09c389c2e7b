"""The regression run for sign and scale: a teacher that learns from the student's feedback alone.

Two moons, three labels a class. The teacher sees no label and no consistency loss, so that all it
learns came back from the student; then the student's labeled loss tells a right feedback from none
and from one of the wrong sign (docs/method.md).
"""

import dataclasses

import meta_pseudo_labels as mpl
from meta_pseudo_labels import methods, models, rng
from meta_pseudo_labels.data import registry, splits

import pytest
import tensorflow as tf

STEPS, UNLABELED = 1000, 128


class FeedbackAlone(mpl.MetaPseudoLabels):
  """MPL whose teacher has no loss of its own."""

  def uda_pass(self, model, data, ahead=None):
    out = super().uda_pass(model, data)
    return dataclasses.replace(out, cross_entropy_l=0.0 * out.cross_entropy_l)


def student_losses(feedback, weights, seed=0):
  """The student's labeled loss after the run, for each weight of the feedback."""
  data = registry.load(registry.info('two_moons'), None, seed).train
  chosen = splits.split(
    data.labels, num_labeled=6, label_seed=seed, num_validation=0, num_classes=2
  ).labeled
  points = tf.constant(data.inputs)
  labeled, labels = tf.gather(points, chosen), tf.constant(data.labels[chosen])
  model = lambda number: models.build('mlp-8x2', num_classes=2, input_shape=(2,), seed=f'{seed}/{number}')
  method = FeedbackAlone(model(0), model(1), mpl_feedback=feedback, uda_weight=0.0, seed=seed)
  method.set_optimizers(
    student_optimizer=mpl.optimizers.SGD(0.5), teacher_optimizer=mpl.optimizers.Momentum(0.05)
  )
  method.mpl_weight = tf.Variable(1.0)

  @tf.function(autograph=False)
  def run():
    def step(index):
      draw = rng.uniform(rng.key(seed, index), 'examples', [UNLABELED])
      views = tf.gather(points, tf.cast(draw * points.shape[0], tf.int32))
      method.train_step((labeled, labels, views, views))
      return index + 1

    tf.while_loop(lambda index: index < STEPS, step, [0])
    return method.labeled_loss_now(methods.Batch(labeled, labels))

  losses = []
  state = method.variables + method.teacher_optimizer.slots['momentum']
  start = [v.numpy() for v in state]
  for weight in weights:
    for variable, value in zip(state, start):
      variable.assign(value)
    method.mpl_weight.assign(weight)
    losses.append(float(run()))
  return losses


@pytest.mark.parametrize('feedback', ['soft', 'sampled_dot'])
def test_the_student_s_loss_tells_right_from_none_from_wrong(feedback):
  right, none, wrong = student_losses(feedback, [1.0, 0.0, -1.0])
  assert right < 0.1
  assert 0.5 < none < 1.1
  assert wrong > 2
