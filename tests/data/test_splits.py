"""Labeled, unlabeled and validation positions: their properties, and hand-made cases."""

import hashlib
import json
import os

from meta_pseudo_labels.data import splits
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest


def some_labels():
  """203 labels of 7 classes in no order: 8 of class 0, 15 of class 1, ..., 50 of class 6."""
  labels = np.repeat(np.arange(7, dtype=np.int32), [8, 15, 22, 29, 36, 43, 50])
  return np.random.RandomState(0).permutation(labels)


def split(labels, **changes):
  """`splits.split` with defaults for these tests."""
  arguments = dict(num_labeled=21, label_seed=0, num_validation=30, num_classes=7)
  arguments.update(changes)
  return splits.split(labels, **arguments)


@pytest.mark.parametrize('label_seed', [None, 0, 5])
@pytest.mark.parametrize('num_validation', [0, 1, 30])
@pytest.mark.parametrize('num_labeled', [35, 40])
def test_properties_of_every_split(label_seed, num_validation, num_labeled):
  labels = some_labels()
  made = split(labels, label_seed=label_seed, num_validation=num_validation, num_labeled=num_labeled)
  assert len(made.labeled) == num_labeled
  assert len(made.validation) == num_validation
  assert not set(made.validation) & set(made.unlabeled)
  assert set(made.validation) | set(made.unlabeled) == set(range(len(labels)))
  assert set(made.labeled) <= set(made.unlabeled)
  for positions in (made.labeled, made.unlabeled, made.validation):
    assert positions.dtype == np.int64
    assert np.all(np.diff(positions) > 0)


def test_the_first_n_are_the_releases():
  labels = np.array([2, 0, 1, 1, 0, 2, 1])
  made = splits.split(labels, num_labeled=4, label_seed=None, num_validation=0, num_classes=3)
  assert made.labeled.tolist() == [0, 1, 2, 3]
  assert made.unlabeled.tolist() == [0, 1, 2, 3, 4, 5, 6]
  assert made.validation.tolist() == []


def test_the_first_n_skip_validation_and_unknown_labels():
  labels = np.array([-1, 0, 1, 0, -1, 1, 0, 1, 0, 1])
  made = splits.split(labels, num_labeled=4, label_seed=None, num_validation=2, num_classes=2)
  rest = [i for i in range(10) if i not in made.validation]
  assert made.labeled.tolist() == [i for i in rest if labels[i] >= 0][:4]
  assert made.unlabeled.tolist() == rest  # the unknown ones are there
  assert sorted(labels[made.validation]) == [0, 1]


@pytest.mark.parametrize('label_seed', [None, 3])
def test_none_labels_all_that_is_left_balanced_or_not(label_seed):
  labels = np.array([0, 1, -1, 0, 0, 0, 0, 0, 1])
  made = splits.split(labels, num_labeled=None, label_seed=label_seed, num_validation=2, num_classes=2)
  assert made.labeled.tolist() == [i for i in made.unlabeled if labels[i] >= 0]
  assert len(made.labeled) == 6


@pytest.mark.parametrize('num_labeled', [7, 14, 21])
def test_a_balanced_draw_is_balanced(num_labeled):
  labels = some_labels()
  made = split(labels, num_labeled=num_labeled)
  assert np.bincount(labels[made.labeled]).tolist() == [num_labeled // 7] * 7


def test_the_remainder_goes_to_classes_that_the_seed_chooses():
  labels = some_labels()
  favored = set()
  for seed in range(20):
    counts = np.bincount(labels[split(labels, num_labeled=23, label_seed=seed).labeled])
    assert sorted(counts) == [3] * 5 + [4] * 2
    favored.update(np.flatnonzero(counts == 4))
  assert favored == set(range(7))  # no class is left out by position


def test_a_larger_draw_contains_the_smaller():
  labels = some_labels()
  draws = [set(split(labels, num_labeled=n).labeled) for n in range(7, 30)]
  assert all(small < large for small, large in zip(draws, draws[1:]))


def test_the_same_seed_gives_the_same_examples_and_another_others():
  labels = some_labels()
  again = [split(labels, label_seed=seed).labeled.tolist() for seed in (4, 4, 5)]
  assert again[0] == again[1] != again[2]


def test_a_draw_is_not_the_first_of_each_class():
  labels = np.repeat(np.arange(7), 30)
  offsets = [i % 30 for i in split(labels, num_validation=0).labeled]
  assert max(offsets) > 10


def test_every_example_of_a_class_can_be_drawn():
  labels = np.repeat([0, 1], 10)
  drawn = set()
  for seed in range(60):
    drawn.update(
      splits.split(labels, num_labeled=4, label_seed=seed, num_validation=0, num_classes=2).labeled
    )
  assert drawn == set(range(20))


def test_validation_does_not_depend_on_the_labeled_draw():
  labels = some_labels()
  expected = split(labels).validation.tolist()
  for changes in ({'label_seed': 9}, {'label_seed': None, 'num_labeled': 30}, {'num_labeled': 8}):
    assert split(labels, **changes).validation.tolist() == expected


def test_validation_is_stratified_by_largest_remainder():
  # 10 of 100: shares 5.1, 2.7, 2.2 -> 5, 2, 2 and the largest remainder (.7) gets the last one.
  labels = np.random.RandomState(1).permutation(np.repeat([0, 1, 2], [51, 27, 22]))
  made = splits.split(labels, num_labeled=3, label_seed=0, num_validation=10, num_classes=3)
  assert np.bincount(labels[made.validation]).tolist() == [5, 3, 2]


def test_draws_never_change():
  """The numbers that this version drew first: later ones must draw the same."""
  labels = np.arange(40) % 4
  made = splits.split(labels, num_labeled=6, label_seed=1, num_validation=5, num_classes=4)
  assert made.validation.tolist() == [3, 16, 21, 24, 38]
  assert made.labeled.tolist() == [9, 10, 12, 15, 22, 32]


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'num_labeled': 174}, ['num_labeled=174', '203', '30 are held out']),
    ({'num_labeled': 0}, ['num_labeled=0']),
    ({'num_labeled': 6}, ['num_labeled=6', '7 classes', 'at least 7']),
    ({'num_labeled': 105}, ['num_labeled=105', '15 examples of class 0', 'has 7 of it']),
    ({'num_validation': 203}, ['num_validation=203', '203']),
    ({'num_validation': -1}, ['num_validation=-1']),
    ({'label_seed': -1}, ['label_seed=-1']),
    ({'label_seed': None, 'num_labeled': 2}, ['first 2 labels', 'classes are missing', 'label_seed']),
    ({'num_classes': 6}, ['0 to 6', '6 classes']),
  ],
)
def test_a_request_that_cannot_be_met_is_one_line(changes, words):
  labels = some_labels()
  with pytest.raises(UserError) as caught:
    split(labels, **changes)
  for word in words:
    assert word in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_class_without_examples_is_named():
  with pytest.raises(UserError, match='needs 2 examples of class 1, but .* has 0 of it left'):
    splits.split(
      np.array([0, 0, 0, 2, 2, 2]), num_labeled=6, label_seed=0, num_validation=0, num_classes=3
    )
  with pytest.raises(UserError, match='no example of class 1 .1 of 3 classes are missing'):
    splits.split(
      np.array([0, 0, 0, 2, 2, 2]), num_labeled=6, label_seed=None, num_validation=0, num_classes=3
    )


def test_no_known_labels():
  with pytest.raises(UserError, match='num_validation=0: .* 0 labeled examples'):
    splits.split(np.full(5, -1), num_labeled=None, label_seed=None, num_validation=0, num_classes=3)


def test_the_manifest_says_what_was_chosen(tmp_path):
  labels = np.array([1, 0, 1, 0, 1, 2])
  made = splits.Split(
    labeled=np.array([0, 1, 5]), unlabeled=np.array([0, 1, 3, 5]), validation=np.array([2, 4])
  )
  path = str(tmp_path / 'split.json')
  splits.write_manifest(path, made, dataset='digits', labels=labels)
  with open(path, encoding='utf-8') as file:
    written = json.load(file)
  little_endian = bytes([0] * 8 + [1] + [0] * 7 + [5] + [0] * 7)
  assert written == {
    'dataset': 'digits',
    'num_labeled': 3,
    'num_unlabeled': 4,
    'num_validation': 2,
    'labeled_per_class': [1, 1, 1],
    'labeled': [0, 1, 5],
    'labeled_sha256': hashlib.sha256(little_endian).hexdigest(),
    'validation_sha256': hashlib.sha256(bytes([2] + [0] * 7 + [4] + [0] * 7)).hexdigest(),
  }
  assert os.listdir(tmp_path) == ['split.json']


def test_a_manifest_that_cannot_be_written_is_one_line(tmp_path):
  made = splits.Split(*[np.array([0])] * 3)
  with pytest.raises(UserError, match='none/split.json: cannot be written'):
    splits.write_manifest(str(tmp_path / 'none/split.json'), made, dataset='d', labels=np.array([0]))


def test_names_are_written_down_and_tell_splits_apart_where_positions_do_not():
  labels = np.array([0, 1, 0, 1, -1])
  made = splits.split(labels, num_labeled=2, label_seed=None, num_validation=0, num_classes=2)
  names = np.array(['a/1.png', 'b/1.png', 'a/2.png', 'b/2.png', 'x.png'])
  found = splits.manifest(made, dataset='folder', labels=labels, names=names)
  assert found['labeled_files'] == ['a/1.png', 'b/1.png']
  assert found['labeled_sha256'] == hashlib.sha256(b'a/1.png\nb/1.png').hexdigest()
  identity = lambda labels=labels, classes=('a', 'b'), names=names: splits.identity(
    made, labels=labels, class_names=classes, unlabeled=5, names=names
  )
  other = names.copy()
  other[0] = 'a/0.png'
  different = {
    identity(),
    identity(names=None),
    identity(names=other),
    identity(labels=1 - labels),
    identity(classes=('a', 'c')),
  }
  assert len(different) == 5
  other = names.copy()
  other[4] = 'y.png'  # Only unlabeled.
  assert identity(names=other) == identity()


def test_a_selection_is_read_as_it_was_written_and_only_for_its_data(tmp_path):
  path, names = str(tmp_path / 'selected.json'), np.array(['a', 'b', 'c', 'd'])
  splits.write_selection(path, np.array([1, 3]), dataset='folder', count=4, names=names)
  read = lambda **other: splits.read_selection(
    path, **{'dataset': 'folder', 'count': 4, 'names': names, **other}
  )
  np.testing.assert_array_equal(read(), [1, 3])
  for other in ({'dataset': 'npz'}, {'count': 5}, {'names': names[::-1]}):
    with pytest.raises(UserError, match='was made from other data; make a new one'):
      read(**other)
  with open(path, 'w', encoding='utf-8') as file:
    file.write('[1, 2]')
  with pytest.raises(UserError, match='not a list of examples'):
    read()
  with pytest.raises(UserError, match='No such file or directory; make it with'):
    splits.read_selection(path + 'x', dataset='folder', count=4)
