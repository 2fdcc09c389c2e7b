"""One's own data in .npz files, all written here by NumPy."""

import io
import pickle
import zipfile

from meta_pseudo_labels.data.formats import npz
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest


def images(count, *shape, first=0):
  """uint8 [count, *shape]; image i has the value first + i."""
  values = np.arange(first, first + count, dtype=np.uint8)
  return np.tile(values.reshape([-1] + [1] * len(shape)), (1,) + shape)


IMAGES = {'train_images': images(4, 2, 3), 'train_labels': np.array([1, 0, -1, 1])}
POINTS = {
  'train_points': np.array([[0, 1], [2, 3], [4, 5]], np.float32),
  'train_labels': np.array([0, 1, -1]),
}


def load(tmp_path, contents):
  """npz.load of a file with these arrays."""
  np.savez(tmp_path / 'my.npz', **contents)
  return npz.read(str(tmp_path / 'my.npz'))


def refusal(tmp_path, contents=None):
  """The one line that `load` refuses with, without the path; contents None: as the file is."""
  with pytest.raises(UserError) as caught:
    if contents is None:
      npz.read(str(tmp_path / 'my.npz'))
    else:
      load(tmp_path, contents)
  assert '\n' not in str(caught.value)
  return str(caught.value).replace(str(tmp_path / 'my.npz'), 'FILE')


# What is read.


def test_images_without_an_axis_of_channels(tmp_path):
  data = load(tmp_path, IMAGES)
  assert data.train.inputs.shape == (4, 2, 3, 1) and data.train.inputs.dtype == np.uint8
  assert np.array_equal(data.train.inputs[..., 0], IMAGES['train_images'])
  assert data.train.labels.tolist() == [1, 0, -1, 1] and data.train.labels.dtype == np.int32
  assert data.facts['class_names'] == ('0', '1')
  assert data.validation is None and data.test is None and data.unlabeled_extra is None


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_every_split_of_images(tmp_path, channels, save):
  shape = (2, 3, channels)
  save(
    tmp_path / 'my.npz',
    train_images=images(3, *shape),
    train_labels=np.uint8([0, 1, 2]),
    unlabeled_images=images(2, *shape, first=3),
    validation_images=images(1, *shape, first=5),
    validation_labels=np.int64([2]),
    test_images=images(2, *shape, first=6),
    test_labels=np.int16([1, 1]),
    class_names=np.array(['ant', 'bee', 'emu']),
  )
  data = npz.read(str(tmp_path / 'my.npz'))
  assert data.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
  assert data.train.labels.tolist() == [0, 1, 2, -1, -1]
  for found, values, labels in ((data.validation, [5], [2]), (data.test, [6, 7], [1, 1])):
    assert found.inputs[:, 1, 2, 0].tolist() == values and found.labels.tolist() == labels
    assert found.inputs.shape[1:] == shape and found.inputs.dtype == np.uint8
    assert found.labels.dtype == np.int32
  names = data.facts['class_names']
  assert names == ('ant', 'bee', 'emu') and type(names[0]) is str


def test_an_axis_of_one_channel_goes_with_none(tmp_path):
  data = load(tmp_path, {**IMAGES, 'test_images': images(1, 2, 3, 1), 'test_labels': np.array([0])})
  assert data.test.inputs.shape == (1, 2, 3, 1)


def test_arrays_in_fortrans_order(tmp_path):
  values = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
  data = load(tmp_path, {**IMAGES, 'train_images': np.asfortranarray(values)})
  assert np.array_equal(data.train.inputs[..., 0], values)
  assert data.train.inputs.flags.c_contiguous


def test_points(tmp_path):
  data = load(
    tmp_path,
    {
      **POINTS,
      'unlabeled_points': np.float32([[6, 7]]),
      'validation_points': np.float32([[8, 9]]),
      'validation_labels': np.array([1]),
    },
  )
  assert data.train.inputs.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
  assert data.train.inputs.dtype == np.float32
  assert data.train.labels.tolist() == [0, 1, -1, -1]
  assert data.validation.inputs.tolist() == [[8, 9]] and data.validation.labels.tolist() == [1]
  assert data.test is None


# Files that are none.


UNREADABLE = ('FILE: the file cannot be read (', 'FILE: not a .npz file; ')


def test_files_that_cannot_be_read(tmp_path):
  assert refusal(tmp_path) == (
    'FILE: the file cannot be read (No such file or directory); make a new one with numpy.savez'
  )
  path = tmp_path / 'my.npz'
  no_arrays = io.BytesIO()
  np.savez(no_arrays)
  for content in (b'', b'no arrays', b'PK\x03\x04', pickle.dumps([1]), no_arrays.getvalue()):
    path.write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(UNREADABLE)
    assert message.endswith('; make a new one with numpy.savez')
  with open(path, 'wb') as file:
    np.save(file, np.zeros(3))
  assert refusal(tmp_path) == (
    'FILE: has no named arrays; make it with numpy.savez(path, train_images=...)'
  )
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('train_images', 'no array')
  assert refusal(tmp_path) == ('FILE: train_images is not an array; make the file with numpy.savez')
  path.unlink()
  path.mkdir()
  assert refusal(tmp_path).startswith(UNREADABLE)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_damaged_files(tmp_path, save):
  file = io.BytesIO()
  save(file, **IMAGES)
  content, path = file.getvalue(), tmp_path / 'my.npz'
  for length in range(0, len(content), 31):
    path.write_bytes(content[:length])
    assert refusal(tmp_path).startswith(UNREADABLE)
  # The first array's bytes begin behind the archive's 66. There each is checked, except for one
  # bit of the first, which says whether more compressed blocks follow.
  for position in range(67, 110):
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    message = refusal(tmp_path)
    assert message.startswith('FILE: train_images cannot be read (')
    assert message.endswith('); make a new one with numpy.savez')


def test_damaged_headers_of_arrays(tmp_path):
  file = io.BytesIO()
  np.save(file, IMAGES['train_images'])
  content = file.getvalue()
  for position in range(80):
    changed = content[:position] + b'\x07' + content[position + 1 :]
    with zipfile.ZipFile(tmp_path / 'my.npz', 'w') as archive:
      archive.writestr('train_images.npy', changed)
    assert 'train_images' in refusal(tmp_path)


def test_python_objects_are_not_unpickled(tmp_path):
  class Trap:
    def __reduce__(self):
      return pytest.fail, ('unpickled',)

  for name in ('train_images', 'class_names'):
    contents = {'class_names': np.array(['a', 'b']), **IMAGES}
    contents[name] = np.array([Trap(), Trap()], object)
    assert refusal(tmp_path, contents) == (
      f'FILE: {name} holds Python objects; save it as an array of numbers (or of str for class_names)'
    )


# Arrays that do not fit: (what is changed, None for left out; the line).

INTEGERS = np.array([1, 0, -1, 1])
IMAGE_FORM = 'make it uint8 [N, H, W] or [N, H, W, C], C 1 or 3'
EXTRA = (
  'rename it or leave it out, the optional arrays with train_images are class_names, test_images, '
  'test_labels, train_labels, unlabeled_images, validation_images, validation_labels'
)

UNFIT = {
  'no inputs': (
    {'train_images': None, 'x_train': INTEGERS},
    'FILE: has neither train_images nor train_points, only train_labels, x_train; rename its arrays',
  ),
  'no labels': (
    {'train_labels': None},
    'FILE: has train_images but no train_labels; give both or neither',
  ),
  'no test labels': (
    {'test_images': images(1, 2, 3)},
    'FILE: has test_images but no test_labels; give both or neither',
  ),
  'no validation images': (
    {'validation_labels': INTEGERS},
    'FILE: has validation_labels but no validation_images; give both or neither',
  ),
  'unknown': ({'val_images': INTEGERS}, f"FILE: has an unknown array 'val_images'; {EXTRA}"),
  'both kinds': ({'test_points': INTEGERS}, f"FILE: has an unknown array 'test_points'; {EXTRA}"),
  'float images': (
    {'train_images': np.zeros([4, 2, 3])},
    f'FILE: train_images is float64 [4, 2, 3]; {IMAGE_FORM}',
  ),
  'flat images': ({'train_images': images(4, 6)}, f'FILE: train_images is uint8 [4, 6]; {IMAGE_FORM}'),
  'alpha': (
    {'train_images': images(4, 2, 3, 4)},
    f'FILE: train_images is uint8 [4, 2, 3, 4]; {IMAGE_FORM}',
  ),
  'empty': (
    {'train_images': images(0, 2, 3)},
    'FILE: train_images is empty (uint8 [0, 2, 3]); fill it or leave it out',
  ),
  'empty unlabeled': (
    {'unlabeled_images': images(0, 2, 3)},
    'FILE: unlabeled_images is empty (uint8 [0, 2, 3]); fill it or leave it out',
  ),
  'no pixels': (
    {'train_images': images(4, 2, 0)},
    'FILE: train_images is empty (uint8 [4, 2, 0]); fill it or leave it out',
  ),
  'other size': (
    {'unlabeled_images': images(1, 3, 3)},
    'FILE: an example of unlabeled_images has the shape [3, 3, 1], '
    'one of train_images has [2, 3, 1]; make them equal',
  ),
  'other channels': (
    {'test_images': images(1, 2, 3, 3), 'test_labels': np.array([0])},
    'FILE: an example of test_images has the shape [2, 3, 3], '
    'one of train_images has [2, 3, 1]; make them equal',
  ),
  'float labels': (
    {'train_labels': np.zeros(4)},
    'FILE: train_labels is float64 [4]; make it integers [N]',
  ),
  'yes and no': ({'train_labels': INTEGERS > 0}, 'FILE: train_labels is bool [4]; make it integers [N]'),
  'one-hot': (
    {'train_labels': np.eye(4, dtype=int)},
    'FILE: train_labels is int64 [4, 4]; make it integers [N]',
  ),
  'fewer labels': (
    {'train_labels': INTEGERS[:3]},
    'FILE: has 4 train_images, but 3 train_labels; give one label for each',
  ),
  'low label': (
    {'train_labels': np.array([0, 1, -2, 0])},
    'FILE: train_labels has -2 at 2; labels are 0 and up, or -1 where unknown',
  ),
  'unknown test label': (
    {'test_images': images(2, 2, 3), 'test_labels': np.array([0, -1])},
    'FILE: test_labels has -1 at 1; labels are 0 and up',
  ),
  'no label': (
    {'train_labels': np.full(4, -1)},
    'FILE: all train_labels are -1; label some examples of every class',
  ),
  'one class': ({'train_labels': np.zeros(4, int)}, 'FILE: has 1 class; give two or more'),
  'high label': (
    {'class_names': np.array(['a', 'b']), 'train_labels': np.array([0, 1, 2, 1])},
    'FILE: has a label 2, but 2 class_names; labels are 0 to 1',
  ),
  'high test label': (
    {'class_names': np.array(['a', 'b']), 'test_images': images(1, 2, 3), 'test_labels': np.array([5])},
    'FILE: has a label 5, but 2 class_names; labels are 0 to 1',
  ),
  'huge label': (
    {'train_labels': np.array([0, 1, 1, 2**64 - 1], np.uint64)},
    f'FILE: has a label {2**64 - 1}; number the classes from 0',
  ),
  'class missing': (
    {'train_labels': np.array([0, 2, 5, -1])},
    "FILE: no training example has label 1 ('1'; 3 of 6 classes are missing); "
    'label some, or renumber the classes',
  ),
  'named class missing': (
    {'class_names': np.array(['a', 'b', 'c'])},
    "FILE: no training example has label 2 ('c'; 1 of 3 classes are "
    'missing); label some, or renumber the classes',
  ),
  'only in the test': (
    {'test_images': images(1, 2, 3), 'test_labels': np.array([2])},
    "FILE: no training example has label 2 ('2'; 1 of 3 classes are "
    'missing); label some, or renumber the classes',
  ),
  'numbers for names': (
    {'class_names': np.array([1, 2])},
    'FILE: class_names is int64 [2]; make it str [K]',
  ),
  'a name for names': ({'class_names': np.array('a')}, 'FILE: class_names is <U1 []; make it str [K]'),
  'no names': ({'class_names': np.array([], str)}, 'FILE: class_names is empty; fill it or leave it out'),
  'names twice': (
    {'class_names': np.array(['a', 'b', 'a'])},
    "FILE: class_names has 'a' 2 times; give every class its own name",
  ),
}


@pytest.mark.parametrize('name', UNFIT)
def test_arrays_that_do_not_fit(tmp_path, name):
  change, expected = UNFIT[name]
  contents = {key: value for key, value in {**IMAGES, **change}.items() if value is not None}
  assert refusal(tmp_path, contents) == expected


@pytest.mark.parametrize(
  'points, expected',
  [
    (np.zeros([3, 2]), 'is float64 [3, 2]; make it float32 [N, D]'),
    (np.zeros([3], np.float32), 'is float32 [3]; make it float32 [N, D]'),
    (np.zeros([3, 0], np.float32), 'is empty (float32 [3, 0]); fill it or leave it out'),
    (
      np.float32([[0, 1], [2, np.nan], [np.inf, 5]]),
      'has numbers that are not finite, first in row 1; replace them',
    ),
  ],
)
def test_points_that_do_not_fit(tmp_path, points, expected):
  assert refusal(tmp_path, {**POINTS, 'train_points': points}) == f'FILE: train_points {expected}'


def test_points_of_another_dimension(tmp_path):
  assert refusal(tmp_path, {**POINTS, 'unlabeled_points': np.zeros([1, 3], np.float32)}) == (
    'FILE: an example of unlabeled_points has the shape [3], one of train_points has [2]; make them equal'
  )
