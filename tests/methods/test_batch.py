"""A batch by name: a tuple, a part of one, or a dict; and a feedback of one's own."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import methods, models
from meta_pseudo_labels.errors import UserError
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
  points, labels, *views = data()
  batch = methods.Batch.of((points, labels))
  np.testing.assert_array_equal(batch.labeled, points)
  np.testing.assert_array_equal(batch.labels, labels)
  assert (batch.augmented, batch.truth, batch.predictions) == (None, None, None)
  batch = methods.Batch.of({'labels': labels, 'labeled': points, 'augmented': views[1]})
  np.testing.assert_array_equal(batch.augmented, views[1])


LABELED, LABELS, ORIGINAL, AUGMENTED = data()
PAIR = {'labeled': LABELED, 'labels': LABELS}
BAD = [
  (LABELED, 'yields one tensor [4, 2]'),
  ((LABELED,), 'labels and original and augmented missing in a tuple of 1 parts ([4, 2])'),
  ((LABELED, LABELS), 'original and augmented missing in a tuple of 2 parts ([4, 2], [4])'),
  (((LABELED, LABELS), (ORIGINAL, AUGMENTED)), 'original and augmented missing in a tuple of 2 parts'),
  ({**PAIR, 'original': ORIGINAL}, 'augmented missing in a dict of labeled, labels, original'),
  ({'labelled': LABELED}, "'labelled' is no part of a batch (did you mean 'labeled'?)"),
  ((LABELED, LABELS[:, None], ORIGINAL, AUGMENTED), 'labels have the shape [4, 1] and the dtype int32'),
  ((LABELED, LABELS.astype('f'), ORIGINAL, AUGMENTED), 'labels have the shape [4] and the dtype float32'),
  ((LABELED, LABELS[:3], ORIGINAL, AUGMENTED), 'labeled has 4 rows, but labels 3'),
  ((LABELED, LABELS, ORIGINAL[:7], AUGMENTED), 'augmented has 8 rows, but original 7'),
  ((LABELED, LABELS, ORIGINAL, AUGMENTED, LABELS), 'augmented has 8 rows, but truth 4'),
  ((LABELED, LABELS, ORIGINAL[:, :1], AUGMENTED), 'original has the shape [8, 1] and the dtype float32'),
  ((LABELED, LABELS, ORIGINAL, AUGMENTED.astype('d')), '[8, 2] and the dtype float64'),
  ((LABELED, LABELS, {'x': ORIGINAL}, AUGMENTED), 'original is a dict, not one tensor'),
]  # fmt: skip


@pytest.mark.parametrize('elements, words', BAD)
def test_a_batch_that_does_not_fit_is_one_sentence(elements, words):
  method = make()
  for call in (
    lambda: method.train_step(elements),
    lambda: method.fit(tf.data.Dataset.from_tensors(elements).repeat(2), verbose=0),
  ):
    with pytest.raises(UserError) as raised:
      call()
    text = str(raised.value)
    assert words in text and '\n' not in text
    assert text.endswith('without the last two for Supervised, or a dict with these names')


def test_supervised_needs_no_views_and_distributions_fit_the_classes():
  model = models.build('mlp-4x1', num_classes=2, input_shape=(2,))
  method = mpl.Supervised(model)
  method.compile(mpl.optimizers.SGD(0.5))
  method.fit(tf.data.Dataset.from_tensors({'labeled': LABELED, 'labels': LABELS}), verbose=0)
  method.fit(tf.data.Dataset.from_tensors((LABELED, np.eye(2, dtype='f')[LABELS])), verbose=0)
  method = mpl.Supervised(model)
  method.compile(mpl.optimizers.SGD(0.5))
  with pytest.raises(UserError, match='distributions over 3 classes, but the network has 2'):
    method.fit(tf.data.Dataset.from_tensors((LABELED, np.eye(3, dtype='f')[LABELS])), verbose=0)


def test_weights_of_examples_are_refused_in_one_sentence():
  for given in ({'class_weight': {0: 1.0, 1: 2.0}}, {'sample_weight': np.ones(4)}):
    (name,) = given
    with pytest.raises(UserError, match=f'{name}: the methods do not weight examples'):
      make().fit(tf.data.Dataset.from_tensors(data()), verbose=0, **given)


def test_an_error_that_is_not_of_the_batch_stays():
  with pytest.raises(ValueError, match='incompatible with the layer'):
    make().fit(tf.data.Dataset.from_tensors((LABELED[:, :1], LABELS, *data()[2:])[:2] + (
      ORIGINAL[:, :1], AUGMENTED[:, :1])), verbose=0)  # fmt: skip


def test_evaluate_takes_what_fit_takes():
  method, results = make(), []
  one_hot = np.eye(2, dtype=np.float32)[LABELS]
  for elements in ((LABELED, LABELS), data(), (LABELED, one_hot), {'labels': LABELS, 'labeled': LABELED}):
    results.append(method.evaluate(tf.data.Dataset.from_tensors(elements), verbose=0))
  logits = method.student.predict(LABELED, verbose=0)
  assert results == [pytest.approx(np.mean(logits.argmax(1) == LABELS))] * 4


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
