"""A batch by name: a tuple, a part of one, or a dict; and a feedback of one's own."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import methods, models
from meta_pseudo_labels.methods import feedback

import numpy as np
import pytest
import tensorflow as tf


def data():
  random = np.random.RandomState(0)
  points = lambda count: random.standard_normal([count, 2]).astype(np.float32)
  return points(4), np.arange(4, dtype=np.int32) % 2, points(8), points(8)


def make(**settings):
  model = lambda seed: models.build('mlp-4x1', num_classes=2, input_shape=(2,), seed=seed)
  method = mpl.MetaPseudoLabels(teacher=model(0), student=model(1), uda_threshold=0.0, **settings)
  method.compile(teacher_optimizer=mpl.optimizers.SGD(0.5), student_optimizer=mpl.optimizers.SGD(0.5))
  return method


def test_a_part_of_a_tuple_has_the_first_names():
  batch = methods.Batch.of((1, 2))
  assert (batch.labeled, batch.labels, batch.augmented, batch.predictions) == (1, 2, None, None)
  assert methods.Batch.of({'labels': 2, 'labeled': 1, 'truth': 3}).truth == 3
  with pytest.raises(TypeError):
    methods.Batch.of({'labels': 2, 'labelled': 1})


def test_fit_takes_tuples_batches_and_dicts_alike():
  weights = []
  names = ('labeled', 'labels', 'original', 'augmented')
  for elements in (data(), methods.Batch(*data())[:4], dict(zip(names, data()))):
    method = make()
    method.fit(tf.data.Dataset.from_tensors(elements).repeat(3), verbose=0)
    weights.append([v.numpy() for v in method.student.variables])
  for other in weights[1:]:
    for value, expected in zip(other, weights[0]):
      np.testing.assert_array_equal(value, expected)


def test_a_feedback_of_ones_own_is_an_object():
  class Doubled(feedback.Soft):
    """Twice `soft`."""

    def formula(self, teacher, student, **arguments):
      return 2.0 * super().formula(teacher, student, **arguments)

  logs = [make(mpl_feedback=kind, mpl_weight=weight).train_step(tuple(map(tf.constant, data())))
          for kind, weight in ((Doubled(), 1.0), ('soft', 2.0), ('soft', 1.0))]  # fmt: skip
  pull = [float(found['teacher_grad/feedback']) for found in logs]
  assert pull[0] == pytest.approx(pull[1], rel=1e-6) == pytest.approx(2 * pull[2], rel=1e-6)
  assert pull[2] > 0
