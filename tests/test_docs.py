"""The documentation's own words: its Python runs, and its commands lead to what it promises.

Every fenced block says its language: `sh` for commands, `python`, or `text` for all else. A line
`<!-- needs: REASON -->` before a block says that no test can run it. Every other command is in
COMMANDS, with what is put behind it to make it small, and is run as it stands, in the document's order.
"""

import csv
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import quick_path

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = (
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  *(f'docs/{path.name}' for path in sorted((ROOT / 'docs').glob('*.md'))),
)
BLOCK = re.compile(
  r'(?:^<!-- needs: (?P<needs>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$',
  re.DOTALL | re.MULTILINE,
)
FOLDER = '--data_dir=images --output_dir=runs/mine'
SMALL_STEPS = '--num_train_steps=2 --save_every=2'
SMALL_FOLDER = (
  '--image_size=16 --model_type=mlp-8x1 --train_batch_size=4 --uda_data=1 '
  '--num_train_steps=2 --finetune_steps=1 --finetune_batch_size=4 --eval_batch_size=8 '
  '--mpl_feedback=release'
)
# Seconds of a command. So the README's two commands from a folder to predictions end within ten minutes.
LIMIT = 300
ANSWER = './run_gpu.sh flags/folder.flags --data_dir=images --output_dir=runs/answer --time_limit=30m'
SMALL_ANSWER = (
  '--model_type=network.h5 --image_size=16 --views=resized_crop --feature_views=1 --num_train_steps=2 '
  '--time_limit=1s'
)
COMMANDS = {
  'README.md': {
    './run_gpu.sh': (
      f'{SMALL_STEPS} --finetune_steps=1 --image_size=8 --model_type=mlp-8x1 --baselines= '
      '--mpl_feedback=release'
    ),
    './tests/run.sh': 'tests/test_losses.py -q',
    './run_gpu.sh flags/two_moons_mpl.flags': f'{SMALL_STEPS} --num_seeds=1 --baselines=supervised',
    ANSWER: SMALL_ANSWER,
    './run_gpu.sh flags/folder.flags --output_dir=runs/answer --task_mode=predict '
    '--saved_model=runs/answer/saved_model --input=photos': '',
    f'./run_gpu.sh flags/folder_mpl.flags {FOLDER}': SMALL_FOLDER,
    f'./run_gpu.sh flags/folder_mpl.flags {FOLDER} --task_mode=predict --input=photos': SMALL_FOLDER,
  },
  'CONTRIBUTING.md': {
    './tests/run.sh tests/test_losses.py -q': '--collect-only',
    'ruff check': '--no-cache',
    'mypy': '--version',
    'python tools/reference.py': '--output=reference',
    'python tools/parity.py tests/golden/case6.npz': '',
    'python benchmarks/study.py --recipe=flags/study_digits.flags --output=study.jsonl': (
      '--datasets=digits_20 --seeds=0 --settings=supervised --num_train_steps=2'
    ),
    'python benchmarks/study.py --output=study.jsonl --table': '',
  },
  'docs/serving.md': {  # Of the run that the README's commands made.
    'python -m meta_pseudo_labels.main --task_mode=predict --output_dir=runs/mine --input=photos': '',
    'python -m meta_pseudo_labels.main --task_mode=export --output_dir=runs/mine': '',
    'saved_model_cli show --dir runs/mine/saved_model --tag_set serve': '',
    'saved_model_cli show --dir runs/mine/saved_model --tag_set serve --signature_def images': '',
    'python -c \'import numpy as np; np.save("black.npy", np.zeros([1, 32, 32, 3], np.uint8))\'': '',
    'saved_model_cli run --dir runs/mine/saved_model --tag_set serve --signature_def images '
    '--inputs images=black.npy': '',
    'python -m meta_pseudo_labels.main --task_mode=export --output_dir=runs/mine '
    '--export_formats=tflite,tflite_float16,tflite_int8': '',
  },
}
PYTHON = ('README.md', 'docs/python.md', 'docs/serving.md')  # Their Python is run by tests below.


def read(name):
  return (ROOT / name).read_text(encoding='utf-8')


def commands_in(block):
  """The commands of a block of shell, one a line; comments behind them left out."""
  lines = [re.sub(r'(^|\s+)#.*', '', line).strip() for line in block.replace('\\\n', ' ').splitlines()]
  return [line for line in lines if line]


def untested(text, commands, python=False):
  """One line for each block of a Markdown text that no test runs and that does not say why.

  Args:
    text: str.
    commands: those that a test runs.
    python: whether a test runs its Python.
  """
  found = []
  for block in BLOCK.finditer(text):
    first = block['text'].splitlines()[0] if block['text'] else ''
    if block['language'] not in ('sh', 'python', 'text'):
      found.append(f'```{block["language"]} before {first!r}: write ```sh, ```python or ```text')
    elif block['needs']:
      continue
    elif block['language'] == 'sh':
      found += [
        f'{line!r}: neither run nor marked' for line in commands_in(block['text']) if line not in commands
      ]
    elif block['language'] == 'python' and not python:
      found.append(f'Python {first!r}: neither run nor marked')
  return found


@pytest.mark.parametrize('name', DOCUMENTS)
def test_every_block_is_run_or_says_why_not(name):
  text, commands = read(name), COMMANDS.get(name, {})
  assert len(re.findall('^```', text, re.MULTILINE)) == 2 * len(BLOCK.findall(text))
  assert untested(text, commands, name in PYTHON) == []
  there = [
    line
    for block in BLOCK.finditer(text)
    if block['language'] == 'sh' and not block['needs']
    for line in commands_in(block['text'])
  ]
  assert there == list(commands)  # In the document's order, too.


@pytest.mark.parametrize('name', DOCUMENTS)
def test_files_that_are_named_exist(name):
  """Marked commands, and those within sentences, name recipes, programs and documents."""
  text = read(name)
  named = set(re.findall(r'\b((?:flags|benchmarks|tests|docs)/[\w./]+\.(?:flags|py|sh|md|png))\b', text))
  named |= {
    str(pathlib.PurePosixPath(name).parent / link)
    for link in re.findall(r'\]\(([\w./]+)(?:#[\w-]+)?\)', text)
  }
  assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_what_is_neither_run_nor_marked_is_seen():
  assert untested('```sh\nls  # all\nrm \\\n  x\n```\n', {'ls'}) == ["'rm    x': neither run nor marked"]
  assert untested('<!-- needs: a TPU -->\n```sh\nls\n```\n\n```sh\nls\n```\n', {}) == [
    "'ls': neither run nor marked"
  ]
  assert untested('```\nls\n```\n', {'ls'}) == ["``` before 'ls': write ```sh, ```python or ```text"]
  assert untested('```python\nx\n```\n```text\nx\n```\n', {}) == ["Python 'x': neither run nor marked"]
  assert untested('```python\nx\n```\n', {}, python=True) == []


def blocks(name, language):
  """The unmarked blocks of a language in a file."""
  return [
    block['text']
    for block in BLOCK.finditer(read(name))
    if block['language'] == language and not block['needs']
  ]


@pytest.mark.long
@pytest.mark.parametrize('name, count', [('README.md', 1), ('docs/python.md', 8)])
def test_the_python_blocks_run(tmp_path, name, count):
  found = blocks(name, 'python')
  assert len(found) == count
  (tmp_path / 'example.py').write_text('\n'.join(found))
  result = subprocess.run(
    [sys.executable, 'example.py'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, 'PYTHONPATH': quick_path(ROOT)},
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  if name == 'docs/python.md':
    assert (tmp_path / 'student.weights.h5').exists() and "'mpl/dot_product'" in result.stdout


def make_images(root):
  """The README's folder of images, without test images, and `photos` to be classified."""
  random = np.random.RandomState(0)
  for place, count in (
    ('images/labeled/cat', 10),
    ('images/labeled/a dog', 10),
    ('images/unlabeled/more', 20),
    ('photos', 5),
  ):
    (root / place).mkdir(parents=True)
    for number in range(count):
      size = *random.randint(20, 60, 2), 3
      Image.fromarray(random.randint(0, 256, size).astype(np.uint8)).save(
        root / place / f'{number}.{"jpg" if number % 2 else "png"}'
      )
  shutil.copy(root / 'photos/1.jpg', root / 'photo.jpg')
  inputs = tf.keras.Input((None, None, 3))
  x = tf.keras.layers.Conv2D(6, 3, activation='relu')(tf.keras.layers.Rescaling(1 / 255)(inputs))
  x = tf.keras.layers.Dense(4)(tf.keras.layers.GlobalAveragePooling2D()(x))
  tf.keras.Model(inputs, x).save(root / 'network.h5')


def make_checkout(root):
  """A checkout whose environment is the one that these tests run in, taken for complete."""
  root.mkdir()
  (root / 'tests').mkdir()
  requirements = ('requirements.txt', 'requirements-test.txt')
  for name in (
    'environment.sh',
    'run_gpu.sh',
    'pyproject.toml',
    'flags',
    'benchmarks',
    'tools',
    'meta_pseudo_labels',
    *requirements,
  ):
    (root / name).symlink_to(ROOT / name)
  for path in (ROOT / 'tests').iterdir():  # A folder of its own: run.sh looks for the checkout above it.
    (root / 'tests' / path.name).symlink_to(path)
  (root / '.venv' / 'bin').mkdir(parents=True)
  python = root / '.venv' / 'bin' / 'python'
  python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
  python.chmod(0o755)
  (root / '.venv' / '.requirements').write_text(
    '# Python %d.%d\n' % sys.version_info[:2] + ''.join((ROOT / name).read_text() for name in requirements)
  )


def run_commands(name, checkout):
  """Runs a document's commands in a checkout; returns {command: what it printed}."""
  environment = {name: value for name, value in os.environ.items() if name not in ('VENV', 'PYTHON')}
  environment['PYTHONPATH'] = quick_path()
  environment['PATH'] = os.pathsep.join(
    [str(checkout / '.venv/bin'), os.path.dirname(sys.executable), environment['PATH']]
  )
  printed = {}
  for command, more in COMMANDS[name].items():
    if command.startswith('ruff') and not shutil.which('ruff', path=environment['PATH']):
      continue
    result = subprocess.run(
      f'{command} {more}',
      shell=True,
      cwd=checkout,
      capture_output=True,
      text=True,
      timeout=LIMIT,
      env={**environment, 'PIP_NO_INDEX': '1'},
      check=False,
    )
    assert result.returncode == 0, f'{command}\n{result.stdout[-1000:]}\n{result.stderr[-3000:]}'
    printed[command] = result.stdout
  return printed


@pytest.fixture(name='checkout', scope='module')
def fixture_checkout(tmp_path_factory):
  """Path of a checkout with images."""
  checkout = tmp_path_factory.mktemp('docs') / 'checkout'
  make_checkout(checkout)
  make_images(checkout)
  return checkout


@pytest.fixture(name='readme', scope='module')
def fixture_readme(checkout):
  """What the README's commands printed, in this checkout."""
  return run_commands('README.md', checkout)


@pytest.mark.long
def test_the_readmes_commands_lead_from_images_to_predictions(checkout, readme):
  """As they stand there, with flags behind them that make the run small."""
  answered = readme[ANSWER]
  assert 'logistic regression' in answered and 'your unlabeled images' in answered
  with open(checkout / 'runs' / 'answer' / 'predictions.csv', encoding='utf-8') as file:
    assert len(list(csv.DictReader(file))) == 5
  trained, predicted = [text for command, text in readme.items() if 'folder_mpl' in command]
  assert '16 labeled, 36 unlabeled, 4 validation examples of folder' in trained
  # What the README says there is: in the folder, and in what was printed.
  for name in ('report.html', 'results.json', 'ckpt_best'):
    assert (checkout / 'runs' / 'mine' / name).exists() and f'runs/mine/{name}' in trained
  assert '5 images in' in predicted and 'runs/mine/predictions.csv' in predicted
  with open(checkout / 'runs' / 'mine' / 'predictions.csv', encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [row['path'] for row in rows] == [
    f'photos/{number}' for number in ('0.png', '1.jpg', '2.png', '3.jpg', '4.png')
  ]
  assert {row['class'] for row in rows} <= {'cat', 'a dog'}
  assert 'MPL student' in readme['./run_gpu.sh'] and ' passed' in readme['./tests/run.sh']
  assert (checkout / 'runs/two_moons_mpl/decision_regions.png').exists()


@pytest.mark.long
@pytest.mark.usefixtures('readme')
def test_servings_commands_and_python(checkout):
  printed = run_commands('docs/serving.md', checkout)
  shown, signature, classified = [
    text for command, text in printed.items() if command.startswith('saved_model_cli')
  ]
  assert all(name in shown for name in ('"serving_default"', '"images"', '"logits"'))
  files = next(text for command, text in printed.items() if '--export_formats' in command)
  assert all(f'model{kind}.tflite: ' in files for kind in ('', '_float16', '_int8'))
  assert 'top_5_probabilities' in signature and 'Result for output key probabilities' in classified
  (code,) = blocks('docs/serving.md', 'python')
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=checkout, capture_output=True, text=True, timeout=300, check=False
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert result.stdout.startswith(('cat [', 'a dog ['))


@pytest.mark.long
def test_contributings_commands(checkout):
  printed = run_commands('CONTRIBUTING.md', checkout)
  assert '| supervised | 1 |' in printed['python benchmarks/study.py --output=study.jsonl --table']
  assert 'NOT OK' not in printed['python tools/parity.py tests/golden/case6.npz']
