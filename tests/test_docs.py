"""The documentation's own words: its Python runs, and its commands lead to what it promises."""
import csv
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(name, language='', heading=None):
  """The fenced code blocks of a language in a Markdown file, or in one section of it."""
  text = (ROOT / name).read_text(encoding='utf-8')
  if heading:
    text = re.search(rf'^## {heading}\n(.*?)(?=^## |\Z)', text, re.DOTALL | re.MULTILINE).group(1)
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize('name, heading', [('README.md', 'From Python'), ('docs/python.md', None)])
def test_the_python_blocks_run(tmp_path, name, heading):
  found = blocks(name, 'python', heading)
  assert len(found) == (1 if heading else 6)
  (tmp_path / 'example.py').write_text('\n'.join(found))
  result = subprocess.run(
      [sys.executable, 'example.py'], cwd=tmp_path, capture_output=True, text=True, timeout=300,
      env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=False)
  assert result.returncode == 0, result.stderr[-3000:]
  if not heading:
    assert (tmp_path / 'student.weights.h5').exists() and "'mpl/dot_product'" in result.stdout


def make_images(root):
  """The README's folder of images, without test images, and `photos` to be classified."""
  random = np.random.RandomState(0)
  for place, count in (('images/labeled/cat', 10), ('images/labeled/a dog', 10),
                       ('images/unlabeled/more', 20), ('photos', 5)):
    (root / place).mkdir(parents=True)
    for number in range(count):
      size = *random.randint(20, 60, 2), 3
      Image.fromarray(random.randint(0, 256, size).astype(np.uint8)).save(
          root / place / f'{number}.{"jpg" if number % 2 else "png"}')


def make_checkout(root):
  """A checkout whose environment is the one that these tests run in, taken for complete."""
  root.mkdir()
  requirements = ('requirements.txt', 'requirements-test.txt')
  for name in ('environment.sh', 'run_gpu.sh', 'flags', 'meta_pseudo_labels', *requirements):
    (root / name).symlink_to(ROOT / name)
  (root / '.venv' / 'bin').mkdir(parents=True)
  python = root / '.venv' / 'bin' / 'python'
  python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
  python.chmod(0o755)
  (root / '.venv' / '.requirements').write_text(
      '# Python %d.%d\n' % sys.version_info[:2]
      + ''.join((ROOT / name).read_text() for name in requirements))


def test_from_a_folder_of_images_to_predictions_by_the_readmes_commands(tmp_path):
  """As they stand there, with flags behind them that make the run small."""
  checkout = tmp_path / 'checkout'
  make_checkout(checkout)
  make_images(checkout)
  commands = [line for block in blocks('README.md', heading='Train on your own images')
              for line in block.splitlines() if line.startswith('./run_gpu.sh')]
  assert ['--task_mode=predict' in command for command in commands] == [False, True]
  small = ('--image_size=16 --model_type=wrn-10-1 --train_batch_size=4 --uda_data=1 '
           '--num_train_steps=2 --finetune_steps=1 --finetune_batch_size=4 --eval_batch_size=8')
  environment = {name: value for name, value in os.environ.items()
                 if name not in ('VENV', 'PYTHON', 'PYTHONPATH')}
  printed = []
  for command in commands:
    result = subprocess.run(
        f'{command} {small}', shell=True, cwd=checkout, capture_output=True, text=True, timeout=300,
        env={**environment, 'PIP_NO_INDEX': '1'}, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    printed.append(result.stdout)
  assert '16 labeled, 36 unlabeled, 4 validation examples of folder' in printed[0]
  # What the README says there is: in the folder, and in what was printed.
  for name in ('report.html', 'results.json', 'ckpt_best'):
    assert (checkout / 'runs' / 'mine' / name).exists() and f'runs/mine/{name}' in printed[0]
  assert '5 images in' in printed[1] and 'runs/mine/predictions.csv' in printed[1]
  with open(checkout / 'runs' / 'mine' / 'predictions.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [row['path'] for row in rows] == [f'photos/{number}' for number in (
      '0.png', '1.jpg', '2.png', '3.jpg', '4.png')]
  assert {row['class'] for row in rows} <= {'cat', 'a dog'}
