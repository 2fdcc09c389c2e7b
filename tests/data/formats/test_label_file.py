"""Labels of one's own images from a CSV file: what they give, and files that are wrong."""

import os
import pathlib

from meta_pseudo_labels import build
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data.formats import label_file

import pytest
from own_images import TWO_CLASSES, encoded, flat, load, noise, refusal, said, values, write

UNLABELED = {'unlabeled/a.png': 30, 'unlabeled/b/c.png': 40, 'unlabeled/d.png': 50}


@pytest.fixture(name='images')
def fixture_images(tmp_path):
  """A folder of two labeled and three unlabeled images: str."""
  return write(
    tmp_path / 'images', {**TWO_CLASSES, **UNLABELED, 'test/dog/1.png': 60, 'test/cat/1.png': 70}
  )


def csv_file(images, *lines, header='path,class'):
  """Writes a file of labels beside the folder; returns its path (str)."""
  path = f'{images}.csv'
  with open(path, 'w', encoding='utf-8', errors='surrogateescape') as file:
    file.write('\n'.join([header, *lines]) + '\n')
  return path


def test_labels_beside_folders(images):
  path = csv_file(
    images, 'unlabeled/d.png,cat', f'{images}/unlabeled/b/c.png,dog', 'labeled/cat/1.png,cat'
  )
  data = load(images, labels=path)
  assert data.facts['class_names'] == ('cat', 'dog')
  # Class by class, those of the folder first; the test images keep their labels.
  assert data.train.names.tolist() == [
    'labeled/cat/1.png',
    'unlabeled/d.png',
    'labeled/dog/1.png',
    'unlabeled/b/c.png',
    'unlabeled/a.png',
  ]
  assert data.train.labels.tolist() == [0, 0, 1, 1, -1] and values(data.train) == [10, 50, 20, 40, 30]
  assert data.test.labels.tolist() == [0, 1]
  assert said(images, labels=path)[-1] == (
    f'{images}: 4 labeled images in 2 classes (2 to 2 each), 1 unlabeled, 0 validation, 2 test'
  )


def test_labels_in_place_of_folders(tmp_path):
  images = write(tmp_path / 'images', UNLABELED)
  path = csv_file(images, 'unlabeled/a.png,dog', 'unlabeled/b/c.png,"a, ""b"""', 'unlabeled/d.png,dog')
  data = load(images, labels=path)
  assert data.facts['class_names'] == ('a, "b"', 'dog')
  assert data.train.labels.tolist() == [0, 1, 1] and values(data.train) == [40, 30, 50]
  assert not any('without a folder' in line for line in said(images, labels=path))


def test_a_class_without_a_folder_is_a_new_one_and_is_said(images):
  path = csv_file(images, 'unlabeled/a.png,dogs', 'unlabeled/d.png,dogs', 'unlabeled/b/c.png,owl')
  assert (
    f"--labels={path}: 2 classes without a folder: 'dogs' (2) (did you mean 'dog'?), 'owl' (1)"
    in said(images, labels=path)
  )
  assert load(images, labels=path).facts['class_names'] == ('cat', 'dog', 'dogs', 'owl')


def test_a_changed_file_is_seen_although_the_images_are_prepared(images):
  path = csv_file(images, 'unlabeled/a.png,cat')
  before = load(images, labels=path).train
  csv_file(images, 'unlabeled/a.png,dog')
  after = load(images, labels=path).train
  label = lambda found: found.labels[found.names.tolist().index('unlabeled/a.png')]
  assert (label(before), label(after)) == (0, 1)
  assert load(images).train.labels.tolist() == [0, 1, -1, -1, -1]


def test_files_of_spreadsheets_and_names_of_any_bytes(images):
  with open(os.fsencode(f'{images}/unlabeled/') + b'\xff.png', 'wb') as file:
    file.write(encoded(flat(80), 'PNG'))
  path = csv_file(
    images, 'dog,unlabeled/a.png\r', '\r', 'dog,unlabeled/\udcff.png\r', header='\ufeffclass, path\r'
  )
  assert sorted(values(load(images, labels=path).train)[1:4]) == [20, 30, 80]


@pytest.mark.parametrize(
  'lines, words',
  [
    (['unlabeled/x.png,cat'], 'no image unlabeled/x.png in '),
    (['unlabeled/aa.png,cat'], "(did you mean 'unlabeled/a.png'?); correct the line or remove it"),
    (['../a.png,cat'], 'line 2: ../a.png is outside of --data_dir='),
    (['/a.png,cat'], 'line 2: /a.png is outside of --data_dir='),
    (
      ['unlabeled/a.png,cat', 'unlabeled/./a.png,dog'],
      "line 3: unlabeled/a.png is 'dog' here and 'cat' before; remove one of the two lines",
    ),
    (['labeled/cat/1.png,dog'], "labeled/cat/1.png is 'dog', but lies in a folder of 'cat'"),
    (['test/dog/1.png,cat'], "test/dog/1.png is 'cat', but lies in a folder of 'dog'"),
    (['unlabeled/a.png'], 'line 2: has not just a path and a class'),
    (['unlabeled/a.png,'], 'line 2: has not just a path and a class'),
    (['unlabeled/a.png,cat,0.9'], 'line 2: has not just a path and a class'),
    (['"unlabeled/a.png,cat'], 'not CSV ('),
    ([], 'has no labels; add a line for each image'),
  ],
)
def test_lines_that_are_wrong(images, lines, words):
  message = refusal(images, labels=csv_file(images, *lines))
  assert message.startswith(f'--labels={images}.csv') and words in message


@pytest.mark.parametrize(
  'header, hint',
  [
    ('path,clas', " (did you mean 'class'?)"),
    ('path', ''),
    ('path;class', " (did you mean 'class'?)"),
    ('path,class,confidence', ''),
    ('unlabeled/a.png,cat', ''),
  ],
)
def test_columns_that_are_wrong(images, header, hint):
  message = refusal(images, labels=csv_file(images, 'unlabeled/a.png,cat', header=header))
  assert message == f"--labels={images}.csv: its first line is '{header}'{hint}; it must be path,class"


def test_files_that_are_not_there(images, tmp_path):
  assert 'No such file or directory' in refusal(images, labels=f'{tmp_path}/none.csv')
  assert 'Is a directory' in refusal(images, labels=str(tmp_path))


def test_one_class_is_too_few(tmp_path):
  images = write(tmp_path / 'images', UNLABELED)
  assert "all labels are 'dog'; give images of a second class" in refusal(
    images, labels=csv_file(images, 'unlabeled/a.png,dog')
  )
  (tmp_path / 'images' / 'unlabeled').rename(tmp_path / 'images' / 'photos')
  assert 'go into unlabeled/' in refusal(images, labels=csv_file(images, 'photos/a.png,dog'))


def test_an_image_that_cannot_be_read_takes_no_class_with_it(images):
  write(pathlib.Path(images), {'unlabeled/bad.png': b'no image'})
  path = csv_file(images, 'unlabeled/bad.png,cat')
  assert load(images, labels=path, skip_bad_images=True).train.labels.tolist() == [0, 1, -1, -1, -1]


def test_the_flag_reaches_the_problem_and_changes_what_a_run_is(images):
  files = {f'unlabeled/{number}.png': encoded(noise(9, 9, 3), 'PNG') for number in range(4)}
  write(pathlib.Path(images), files)
  argv = ['main', '--dataset_name=folder', f'--data_dir={images}', f'--cache_dir={images}.cache']
  argv += ['--num_validation=0', '--image_size=8', f'--output_dir={images}.run']
  path = csv_file(images, 'unlabeled/1.png,cat')
  problems = [build.problem(parse([*argv, *more])) for more in ((), (f'--labels={path}',))]
  assert [len(found.labeled[1]) for found in problems] == [2, 3]
  assert problems[0].identity != problems[1].identity


def test_names_are_read_without_a_folder(tmp_path):
  path = csv_file(str(tmp_path / 'images'), 'a/../b.png,x')
  assert label_file.read(path, '/data') == {'b.png': 'x'}
