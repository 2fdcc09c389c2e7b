"""A folder of one's own images as arrays."""

import meta_pseudo_labels as mpl
from meta_pseudo_labels.data import dataset_info
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
from own_images import write

COLORS = {
  'labeled/dog/b.png': 90,
  'labeled/cat/1.png': 10,
  'labeled/cat/2.png': 20,
  'unlabeled/deep/x.png': 30,
  'unlabeled/a.png': 40,
  'test/dog/1.png': 50,
  'test/cat/1.png': 60,
}


@pytest.fixture(name='folder')
def fixture_folder(tmp_path):
  write(tmp_path / 'images', COLORS)
  return tmp_path / 'images'


def test_every_image_is_where_its_name_and_label_are(folder):
  found = mpl.data.load_folder(folder, image_size=8)
  assert found.class_names == ('cat', 'dog') and found.validation is None
  assert found.names['labeled'] == ('labeled/cat/1.png', 'labeled/cat/2.png', 'labeled/dog/b.png')
  assert found.names['validation'] == ()
  for split, (images, labels) in {'labeled': found.labeled, 'test': found.test}.items():
    assert images.shape == (len(labels), 8, 8, 3) and images.dtype == np.uint8
    for image, label, name in zip(images, labels, found.names[split], strict=True):
      assert (image == COLORS[name]).all() and found.class_names[label] == name.split('/')[1]
  assert found.names['unlabeled'] == ('unlabeled/a.png', 'unlabeled/deep/x.png')
  assert found.unlabeled[:, 0, 0, 0].tolist() == [40, 30]


def test_a_folder_without_others_and_a_file_of_labels(folder, tmp_path):
  file = tmp_path / 'labels.csv'
  file.write_text('path,class\nunlabeled/a.png,dog\nunlabeled/deep/x.png,cat\n', encoding='utf-8')
  lines: list = []
  found = mpl.data.load_folder(str(folder), image_size=8, labels=file, say=lines.append)
  assert found.unlabeled is None and found.names['unlabeled'] == ()
  assert found.labeled[0][:, 0, 0, 0].tolist() == [10, 20, 30, 90, 40]
  assert found.labeled[1].tolist() == [0, 0, 0, 1, 1]
  assert any('5 labeled images in 2 classes' in line for line in lines)


def test_the_stored_images_are_used_again(folder, tmp_path, monkeypatch):
  """The second call decodes nothing; another folder for the store is made anew."""
  first = mpl.data.load_folder(folder, image_size=8, cache_dir=tmp_path / 'store')
  lines: list = []
  second = mpl.data.load_folder(folder, image_size=8, cache_dir=tmp_path / 'store', say=lines.append)
  np.testing.assert_array_equal(first.labeled[0], second.labeled[0])
  assert (tmp_path / 'store').is_dir() and not any('prepar' in line for line in lines), lines
  assert str(tmp_path) not in dataset_info.CACHE_DIR


@pytest.mark.parametrize(
  'change, reason',
  [
    (dict(image_size=0), 'image_size=0: not a number of pixels; give a positive integer'),
    (dict(image_size=8.5), 'image_size=8.5: not a number of pixels'),
    (dict(folder='nowhere'), 'nowhere: not a folder; images go into labeled/<class>/ and unlabeled/'),
  ],
)
def test_what_is_wrong_is_said_in_one_line(folder, change, reason):
  with pytest.raises(UserError, match=reason) as raised:
    mpl.data.load_folder(change.get('folder', folder), image_size=change.get('image_size', 8))
  assert '\n' not in str(raised.value)


def test_images_that_cannot_be_read(folder):
  (folder / 'unlabeled' / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  with pytest.raises(UserError, match='broken.png'):
    mpl.data.load_folder(folder, image_size=8)
  assert len(mpl.data.load_folder(folder, image_size=8, skip_bad_images=True).unlabeled) == 2
