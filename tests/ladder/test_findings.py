"""Labels in doubt, near-duplicates, strangers."""

import io
import types

from meta_pseudo_labels.data import splits, storage
from meta_pseudo_labels.data.augment.views import PadCrop, ResizedCrop
from meta_pseudo_labels.ladder import findings, folds, page, rungs

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn import datasets


def directions_of(values):
  return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_flipped_labels_come_first(monkeypatch):
  images, truth = datasets.load_digits(return_X_y=True)
  random = np.random.RandomState(0)
  chosen = random.permutation(len(truth))[:300]
  features, labels = images[chosen].astype(np.float32), truth[chosen].copy()
  flipped = random.permutation(300)[:30]
  labels[flipped] = (labels[flipped] + random.randint(1, 10, 30)) % 10
  unlabeled = images[np.setdiff1d(np.arange(len(truth)), chosen)].astype(np.float32)
  problem = types.SimpleNamespace(num_classes=10)
  monkeypatch.setattr(rungs, 'plain', lambda found: (features, labels, unlabeled))
  assigned = folds.assign(labels)
  probabilities = rungs.spread_held_out(problem, assigned)
  doubts = findings.label_errors(probabilities, labels)
  assert sorted(doubt.position for doubt in doubts) == list(range(300))
  first_fifth = {doubt.position for doubt in doubts[:60]}
  assert len(first_fifth & set(flipped.tolist())) >= 0.8 * 30
  assert all(doubt.given == labels[doubt.position] for doubt in doubts)
  # What is said of an image does not depend on its own label, nor on the others' of its fold.
  held = assigned == 2
  labels[held] = (labels[held] + 1) % 10
  np.testing.assert_array_equal(rungs.spread_held_out(problem, assigned)[held], probabilities[held])


def test_cross_entropy_is_of_the_best_temperature():
  logits, labels = (
    np.log([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]),
    np.array([0, 0, 0, 0, 1]),
  )
  wanted = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)  # Four of five: nothing can be better than 0.8.
  for scale in (1, 0.25, 8):
    assert abs(findings.cross_entropy(scale * logits, labels) - wanted) < 1e-12
  # Both classes count as much: an even guess is the best of those with this order.
  weights = np.array([0.125, 0.125, 0.125, 0.125, 0.5])
  assert findings.cross_entropy(logits, labels, weights) > findings.cross_entropy(logits, labels)


def test_doubts_are_ordered_by_the_margin_of_logits():
  probabilities = np.array([[0.5, 0.3, 0.2], [0.02, 0.01, 0.97], [0.1, 0.6, 0.3], [0.0, 1.0, 0.0]])
  found = findings.label_errors(probabilities, np.array([0, 1, 2, 0]))
  # Logs of 0.5 / 0.3, 0.01 / 0.97, 0.3 / 0.6 and of 0.
  assert [(d.position, d.given, d.predicted) for d in found] == [
    (3, 0, 1),
    (1, 1, 2),
    (2, 2, 1),
    (0, 0, 0),
  ]
  np.testing.assert_allclose([d.probability for d in found], [0.0, 0.01, 0.3, 0.5])


def test_copies_in_other_splits_are_found(monkeypatch):
  monkeypatch.setattr(findings, '_AT_ONCE', 7)
  random = np.random.RandomState(0)
  directions, thumbnails = directions_of(random.randn(30, 16)), directions_of(random.randn(30, 20))
  groups = np.repeat([0, 1, 2], 10)
  directions[15] = directions[3]  # In another split.
  directions[25] = directions_of(directions[[4]] + 0.02 * random.randn(1, 16))[0]  # Nearly.
  directions[8] = directions[7]  # In the same one.
  thumbnails[26] = thumbnails[19]  # Of other features.
  directions[16:18] = directions[28]  # Both are copies of a later one.
  found = findings.near_duplicates(directions, thumbnails, groups)
  assert [pair[:2] for pair in found] == [(3, 15), (16, 28), (17, 28), (4, 25), (19, 26)]
  assert found[0].cosine > 0.999 > found[3].cosine and found[4].correlation > 0.999
  assert abs(found[3].correlation - thumbnails[4] @ thumbnails[25]) < 1e-6
  assert findings.near_duplicates(directions, thumbnails, np.zeros(30)) == []


def drawing(random):
  """Returns a picture of 150 x 110 pixels with a few shapes on white."""
  image = Image.new('RGB', (150, 110), 'white')
  draw = ImageDraw.Draw(image)
  for _ in range(4):
    (left, right), (top, bottom) = np.sort(random.randint(0, (150, 110), (2, 2)), axis=0).T.tolist()
    color = tuple(random.randint(0, 256, 3).tolist())
    random.choice([draw.ellipse, draw.rectangle])((left, top, right + 9, bottom + 9), fill=color)
  return image


def encode(image, kind, scale=1, **options):
  """Returns the bytes of a picture that was a file of some kind; as PNG, if that was WebP."""
  file = io.BytesIO()
  image.resize([round(scale * side) for side in image.size], Image.LANCZOS).save(file, kind, **options)
  return encode(Image.open(file), 'PNG') if kind == 'WEBP' else file.getvalue()


@pytest.mark.parametrize('in_files', [True, False])
def test_pictures_that_were_encoded_again_are_found(in_files):
  random = np.random.RandomState(0)
  drawn = [drawing(random) for _ in range(60)]
  again = [
    encode(drawn[0], 'JPEG', quality=95),
    encode(drawn[1], 'JPEG', quality=75),
    encode(drawn[2], 'JPEG', quality=50),
    encode(drawn[50], 'WEBP', quality=80),
    encode(drawn[51], 'PNG', 0.5),
    encode(drawn[52], 'WEBP', 0.5, quality=80),
    encode(drawn[52], 'JPEG', 2, quality=75),
  ]
  files = np.array([encode(image, 'PNG') for image in drawn[:50]] + again, object)
  tests = np.array([encode(image, 'PNG') for image in drawn[50:]], object)
  views = ResizedCrop(size=64, eval_size=64)
  if not in_files:
    resized = lambda file: np.array(Image.open(io.BytesIO(file)).convert('RGB').resize([36, 36]))
    files, tests = (np.stack([resized(file) for file in found]) for found in (files, tests))
    views = PadCrop(mean=(120.0, 110.0, 100.0), std=(60.0,))
  # Features that say nothing of the copies.
  features = random.randn(67, 1, 30).astype(np.float16)
  images = types.SimpleNamespace(
    inputs=files,
    names=None,
    info=types.SimpleNamespace(class_names=('a',)),
    views=views,
    evaluated={'test': storage.Examples(tests, np.zeros(10, np.int32))},
  )
  problem = types.SimpleNamespace(
    images=images,
    split=splits.Split(labeled=np.arange(20), unlabeled=np.arange(57), validation=np.arange(0)),
    inputs=features[:57],
    evaluated={'test': storage.Examples(features[57:], np.zeros(10, np.int32))},
  )
  found = page.Pool(problem).near_duplicates()
  assert {pair[:2] for pair in found} == {
    *[(0, 50), (1, 51), (2, 52)],
    *[(53, 57), (54, 58), (55, 59), (56, 59)],
  }


def test_thumbnails_of_other_brightness_and_contrast_have_the_same_direction():
  random = np.random.RandomState(0)
  thumbnails = random.uniform(50, 150, [1, 16, 16, 3]).astype(np.float32)
  brighter, paler, redder = thumbnails + 40, 0.5 * thumbnails + 60, thumbnails + [90, 0, 0]
  flat = np.full([1, 16, 16, 3], 200, np.float32)
  found = findings.thumbnail_directions(np.concatenate([thumbnails, brighter, paler, redder, flat]))
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 1, 0], atol=1e-6)
  cosines = found @ found[0]
  assert min(cosines[1:3]) > 0.9999 > 0.99 > cosines[3] and cosines[4] == 0
  # Of one channel it is the correlation.
  gray = random.uniform(0, 255, [2, 16, 16, 1]).astype(np.float32)
  found = findings.thumbnail_directions(gray)
  assert abs(found[0] @ found[1] - np.corrcoef(gray.reshape(2, -1))[0, 1]) < 1e-6


def test_strangers_are_far_from_all_labeled_images():
  random = np.random.RandomState(0)
  labeled = directions_of(np.array([1.0, 0, 0, 0]) + 0.1 * random.randn(20, 4))
  alike = directions_of(np.array([1.0, 0, 0, 0]) + 0.1 * random.randn(10, 4))
  foreign = directions_of(np.array([0, 0, 1.0, 0]) + 0.1 * random.randn(10, 4))
  found = findings.strangers(np.concatenate([alike, foreign]), labeled)
  assert found[:10].max() < 0.2 < 0.5 < found[10:].min()
  assert findings.strangers(alike[:0], labeled).shape == (0,)


def test_notes_on_classes():
  names = ('cat', 'dog', 'owl')
  assert findings.class_notes(np.repeat([0, 1, 2], 12), names) == []
  lines = findings.class_notes(np.repeat([0, 1, 2], [40, 12, 4]), names)
  assert lines == [
    'fewer than 10 labeled images: owl (4)',
    'cat has 10 times as many labeled images as owl',
  ]


def test_the_most_confident_mistakes_come_first():
  probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
  found = findings.mistakes(np.log(probabilities) + 5, np.array([1, 1, 0, 0]))
  assert [(m.position, m.given, m.predicted) for m in found] == [(0, 1, 0), (3, 0, 1), (2, 0, 1)]
  np.testing.assert_allclose([m.probability for m in found], [0.9, 0.7, 0.6])
  assert findings.mistakes(np.eye(2), np.arange(2)) == []


def test_each_class_counts_as_much_in_the_balanced_accuracy():
  # Three of four, none of one, and no image of class 1.
  right = [True, True, True, False, False]
  assert findings.balanced_accuracy(right, [0, 0, 0, 0, 2]) == 0.375


def test_the_page_shows_the_mistakes_of_the_best_rung(monkeypatch):
  class Pool:
    class_names = ('cat', 'dog')

    def of(self, split):
      assert split == 'test'
      return np.array([7, 8, 9])

    def tiles(self, captions):
      return [(position, ''.join(map(str, said))) for position, said in captions]

  class Problem:
    evaluated = {'test': type('Test', (), {'labels': np.array([0, 1, 1])})}

  monkeypatch.setattr(page, 'SHOWN', 1)
  monkeypatch.setattr(page.page, 'join', lambda parts: parts[-1])
  first = np.log([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])  # No mistakes; it is not shown.
  best = np.log([[0.4, 0.6], [0.8, 0.2], [0.1, 0.9]])
  assert page._mistakes({'first': first, 'best': best}, Problem, Pool()) == [
    (8, '<b>cat</b> 80%; is <b>dog</b>')
  ]
  assert page._mistakes({'first': first}, Problem, Pool()) == page._mistakes({}, Problem, Pool()) == ''
