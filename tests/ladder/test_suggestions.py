"""Task suggest from a folder to labels, and back with --labels."""

import csv
import json
import re
import shutil

from meta_pseudo_labels import main

import pytest
from test_ladder import command
from test_own_images import COLORS


def suggest(place, folder, *flags):
  """The exit status of the task on the images in `place`."""
  return main.run(command(place, folder, '--task_mode=suggest', '--suggest_images=8', *flags))


def rows_in(folder):
  with (folder / 'suggest' / 'suggest.csv').open() as file:
    return list(csv.DictReader(file))


def read_page(folder):
  page = (folder / 'suggest' / 'suggest.html').read_text(encoding='utf-8')
  return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def truth(path):
  """The color of an unlabeled image: they take turns."""
  return list(COLORS)[int(path.split('/')[-1][:3]) % 3]


def write_labels(path, names):
  lines = [f'{name},{truth(name)}' for name in names]
  path.write_text('\n'.join(['path,class', *lines]) + '\n')
  return f'--labels={path}'


def test_from_suggestions_to_labels_and_back(place, tmp_path, capsys):
  assert suggest(place, tmp_path / 'run') == 0
  lines = capsys.readouterr().out
  assert '8 of 100 unlabeled images: ' in lines and '36 labeled images in 3 classes' in lines
  rows = rows_in(tmp_path / 'run')
  assert list(rows[0]) == ['path', 'guess', 'confidence', 'second_guess', 'stands_for']
  assert len({row['path'] for row in rows}) == 8
  assert all(row['path'].startswith('unlabeled/more/') for row in rows)
  assert sum(row['guess'] == truth(row['path']) for row in rows) >= 6  # Colors are easy.
  assert all(0.3 < float(row['confidence']) <= 1 and row['guess'] != row['second_guess'] for row in rows)
  data = read_page(tmp_path / 'run')
  assert [item['path'] for item in data['items']] == [row['path'] for row in rows]
  assert data['classes'] == list(COLORS) and data['given'] == []
  assert all(item['image'].startswith('data:image/jpeg;base64,') for item in data['items'])
  # With the labels of these, others are suggested.
  labels = write_labels(tmp_path / 'labels.csv', [row['path'] for row in rows])
  assert suggest(place, tmp_path / 'run', labels) == 0
  lines = capsys.readouterr().out
  assert '8 of 92 unlabeled images: ' in lines and '44 labeled images in 3 classes' in lines
  assert not {row['path'] for row in rows} & {row['path'] for row in rows_in(tmp_path / 'run')}
  # The file that the second page saves has the first labels too.
  assert read_page(tmp_path / 'run')['given'] == [[row['path'], truth(row['path'])] for row in rows]


def test_the_same_command_gives_the_same_page(place, tmp_path):
  pages = []
  for name in ('first', 'second'):
    assert suggest(place, tmp_path / name) == 0
    pages.append((tmp_path / name / 'suggest' / 'suggest.html').read_bytes())
  assert pages[0] == pages[1]  # So labels that a browser keeps are found again.


def test_labels_without_folders(place, tmp_path, capsys):
  shutil.copytree(place / 'images' / 'unlabeled', tmp_path / 'images' / 'unlabeled')
  labels = write_labels(tmp_path / 'labels.csv', [f'unlabeled/more/{n:03d}.jpg' for n in range(12)])
  flags = [f'--data_dir={tmp_path}/images', labels, '--suggest_images=1000']
  assert suggest(place, tmp_path / 'run', *flags) == 0
  assert '12 labeled images in 3 classes (4 to 4 each), 88 unlabeled' in capsys.readouterr().out
  rows = rows_in(tmp_path / 'run')
  assert len(rows) == 88 and sum(row['guess'] == truth(row['path']) for row in rows) > 70


@pytest.mark.parametrize('case', ['nothing unlabeled', 'not a folder'])
def test_where_nothing_can_be_suggested(place, tmp_path, capsys, case):
  shutil.copytree(place / 'images' / 'labeled', tmp_path / 'images' / 'labeled')
  flags, words = [f'--data_dir={tmp_path}/images'], 'no image is without a label; add some to the folder'
  if case == 'not a folder':
    flags, words = ['--dataset_name=digits_40'], 'is for your own images in folders'
  assert suggest(place, tmp_path / 'run', *flags) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.splitlines()) == 1
