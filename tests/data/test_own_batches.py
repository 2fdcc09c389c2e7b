"""Batches from datasets, arrays and folders of one's own."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels import models
from meta_pseudo_labels.data import input_pipeline
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.methods import pseudo_label_strategies

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (20, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(20) % 3
OTHERS = RANDOM.randint(0, 256, (50, 8, 8, 3)).astype(np.uint8)
SLICES = tf.data.Dataset.from_tensor_slices


def first(dataset, count=3):
  return [[part.numpy() for part in batch] for batch in dataset.take(count)]


def assert_equal(found, expected):
  assert [len(one) for one in found] == [len(other) for other in expected]
  for one, other in zip(found, expected):
    for part, value in zip(one, other):
      np.testing.assert_array_equal(part, value)


def test_arrays_make_the_batches_of_the_command():
  views = mpl.data.PadCrop(flip=True)
  found = mpl.data.batches((IMAGES, LABELS), OTHERS, batch_size=6, uda_data=2, views=views, seed=3)
  expected = input_pipeline.train_batches(
    IMAGES, LABELS, OTHERS, views=views, batch_size=6, uda_data=2, seed=3
  )
  assert found.element_spec == expected.element_spec
  assert_equal(first(found), first(expected))
  alone = mpl.data.batches((IMAGES, LABELS), batch_size=6, views=views, seed=3)
  assert_equal(first(alone), [batch[:2] for batch in first(expected)])


class Untouched:
  """Views that show the inputs as they are."""

  def labeled(self, inputs, key, offset, total):
    return inputs

  def unlabeled(self, inputs, key, offset, total):
    return inputs, inputs


def test_positions_say_which_unlabeled_examples_a_batch_has():
  settings = dict(batch_size=6, uda_data=3, seed=3)
  plain = mpl.data.batches((IMAGES, LABELS), OTHERS, views=Untouched(), **settings)
  found = mpl.data.batches((IMAGES, LABELS), OTHERS, views=Untouched(), with_positions=True, **settings)
  assert list(found.element_spec) == ['labeled', 'labels', 'original', 'augmented', 'positions']
  seen = []
  for batch, expected in zip(found.take(3), first(plain)):
    assert_equal([[value.numpy() for name, value in batch.items() if name != 'positions']], [expected])
    positions = batch['positions'].numpy()
    assert positions.dtype == np.int64 and positions.shape == (18,)
    np.testing.assert_array_equal(batch['original'], OTHERS[positions])
    seen += list(positions)
  assert sorted(seen[:50]) == list(range(50))  # One after the other, each once before any again.


def test_positions_of_a_folder_are_those_of_its_sorted_paths(tmp_path):
  for number in range(10):
    place = tmp_path / 'xy'[number % 2]
    place.mkdir(exist_ok=True)
    Image.fromarray(np.full([8, 8, 3], number, np.uint8)).save(place / f'{number}.png')
  settings = dict(batch_size=5, uda_data=2, image_size=8, views=Untouched())
  found = mpl.data.batches(tmp_path, tmp_path, with_positions=True, **settings)
  batch = next(iter(found))
  shown = batch['original'].numpy()[:, 0, 0, 0]
  # x/0, x/2, ... x/8, y/1, ... y/9.
  np.testing.assert_array_equal(shown, np.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9])[batch['positions']])


def test_flexmatch_remembers_the_examples_of_each_batch():
  points = RANDOM.normal(size=(30, 2))
  network = models.build('mlp-4x1', num_classes=3, input_shape=(2,))
  flexmatch = pseudo_label_strategies.FlexMatch(threshold=0.0)  # Every prediction is confident.
  method = mpl.UDA(network, pseudo_labels=flexmatch, num_unlabeled=len(points))
  method.compile(mpl.optimizers.SGD(0.0))
  batches = mpl.data.batches(
    (points[:9], LABELS[:9]), points, batch_size=2, uda_data=5, views=Untouched(), with_positions=True
  )
  method.fit(batches, steps_per_epoch=2, verbose=0)
  status = method.pseudo_labeling_state['status'].numpy()
  assert (status >= 0).sum() == 20  # Two batches of 10 of the 30.
  classes = np.argmax(network(points.astype(np.float32)), axis=1)
  np.testing.assert_array_equal(status[status >= 0], classes[status >= 0])
  with pytest.raises(UserError, match='positions missing in a tuple of 4 parts'):
    method.fit(
      mpl.data.batches((points[:9], LABELS[:9]), points, batch_size=2), steps_per_epoch=1, verbose=0
    )


def test_datasets_of_tuples_and_of_dicts():
  tuples = SLICES((IMAGES, LABELS)), SLICES(OTHERS)
  dicts = (
    SLICES({'image': IMAGES, 'label': LABELS}),
    SLICES({'image': OTHERS, 'label': OTHERS[:, 0, 0, 0]}),
  )
  settings = dict(batch_size=20, uda_data=1, seed=1)
  one, other = (first(mpl.data.batches(*pair, **settings)) for pair in (tuples, dicts))
  assert_equal(one, other)
  labeled, labels, original, augmented = one[0]
  assert labeled.shape == original.shape == augmented.shape == (20, 8, 8, 3)
  # Every labeled example stands once in the first batch, next to its label; views are scaled.
  assert sorted(labels) == sorted(LABELS) and labels.dtype == np.int32 and 0 <= labeled.min()
  assert labeled.max() <= 1
  plain = mpl.data.batches(*tuples, views=Untouched(), **settings)
  images, labels, original, augmented = first(plain, 1)[0]
  assert {image.tobytes(): label for image, label in zip(images, labels)} == {
    image.tobytes(): label for image, label in zip(IMAGES, LABELS)
  }
  np.testing.assert_array_equal(original, augmented)
  assert {image.tobytes() for image in original} <= {image.tobytes() for image in OTHERS}


def test_they_train_any_method_under_fit():
  points = RANDOM.normal(size=(30, 2))
  network = lambda seed: models.build('mlp-4x1', num_classes=3, input_shape=(2,), seed=seed)
  method = mpl.MetaPseudoLabels(network(0), network(1))
  method.compile(mpl.optimizers.SGD(0.1), mpl.optimizers.SGD(0.1))
  # An array of float64 beside a dataset.
  batches = mpl.data.batches((points[:9], LABELS[:9]), SLICES(points.astype(np.float32)), batch_size=4)
  method.fit(batches, steps_per_epoch=3, verbose=0)
  assert int(method.step) == 3 and not int(method.skipped)


def test_images_of_any_size_and_folders(tmp_path):
  for number in range(12):
    place = tmp_path / ('labeled/' + 'ab'[number % 2] if number < 6 else 'more/deep')
    place.mkdir(parents=True, exist_ok=True)
    color = [number, 100 * (number % 2), 0]
    Image.fromarray(np.full([9 + number, 20, 3], color, np.uint8)).save(place / f'{number}.png')
  settings = dict(batch_size=6, uda_data=1, views=Untouched())
  folders = mpl.data.batches(tmp_path / 'labeled', str(tmp_path / 'more'), image_size=8, **settings)
  images, labels, original, _ = first(folders, 1)[0]
  assert images.shape == original.shape == (6, 8, 8, 3)
  np.testing.assert_array_equal(images[:, 0, 0, 1], 100 * labels)  # a is class 0, b is class 1.
  assert sorted(images[:, 4, 4, 0]) == list(range(6)) and sorted(original[:, 4, 4, 0]) == list(
    range(6, 12)
  )
  ragged = tf.data.Dataset.from_generator(
    lambda: ((np.full([5 + n, 9, 3], n, np.uint8), n % 2) for n in range(6)),
    output_signature=(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int64)),
  )
  images, labels = first(mpl.data.batches(ragged, image_size=8, **settings), 1)[0]
  np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels)
  bigger = mpl.data.batches((IMAGES, LABELS), OTHERS, image_size=4, **settings)
  assert bigger.element_spec[0].shape == (6, 4, 4, 3)
  gray = mpl.data.batches((IMAGES[..., :1], LABELS), OTHERS[..., :1], image_size=4, **settings)
  assert [part.shape for part in first(gray, 1)[0]] == [(6, 4, 4, 1), (6,), (6, 4, 4, 1), (6, 4, 4, 1)]
  (tmp_path / 'more' / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\nno image')
  with pytest.raises(UserError, match='bad.png: cannot be read'):
    mpl.data.batches(tmp_path / 'labeled', tmp_path / 'more', image_size=8, **settings)
  with pytest.raises(UserError, match='give image_size'):
    mpl.data.batches(ragged, **settings)
  with pytest.raises(UserError, match='many sizes; give image_size'):
    mpl.data.batches(tmp_path / 'labeled', **settings)


@pytest.mark.parametrize(
  'labeled, unlabeled, words',
  [
    (IMAGES, None, 'labeled: is a ndarray; give a tf.data.Dataset, arrays'),
    ((IMAGES, LABELS[:5]), None, r'labels of shape \[5\] .* for 20 inputs'),
    ((IMAGES, LABELS * 1.0), None, 'dtype float64 for 20 inputs; give one integer'),
    (
      (IMAGES / 255, LABELS),
      None,
      r'labeled: examples of shape \[8, 8, 3\] and dtype float32; give images',
    ),
    ((IMAGES, LABELS), OTHERS[:0], 'unlabeled: the array is empty'),
    (SLICES((IMAGES, LABELS)).batch(4), None, 'give single examples, not batches'),
    (SLICES(IMAGES), None, r'labeled: give a dataset of \(input, label\)'),
    ((IMAGES, LABELS), SLICES(OTHERS).batch(4), 'unlabeled: examples of shape'),
    ((IMAGES, LABELS), SLICES(OTHERS).take(0), 'unlabeled: the dataset is empty'),
    ('/no/such', None, 'labeled=/no/such: no such folder'),
  ],
)
def test_what_cannot_be_batched_is_told(labeled, unlabeled, words):
  with pytest.raises(UserError, match=words):
    mpl.data.batches(labeled, unlabeled, batch_size=4)


@pytest.mark.parametrize(
  'unlabeled, words',
  [
    (SLICES(OTHERS), 'with_positions=True: a tf.data.Dataset has no positions; give the unlabeled'),
    (None, 'with_positions=True: there are no unlabeled examples; give some, or leave it out'),
  ],
)
def test_what_has_no_positions_is_told(unlabeled, words):
  with pytest.raises(UserError, match=words):
    mpl.data.batches((IMAGES, LABELS), unlabeled, batch_size=4, with_positions=True)
