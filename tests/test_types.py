"""The public type hints: mypy judges a user's program by them, and the modules that they stand in."""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip('mypy', reason='requirements-test.txt has it')

ROOT = pathlib.Path(__file__).resolve().parents[1]
RIGHT = """
import os
from typing import Dict, List, Optional, Tuple

import meta_pseudo_labels as mpl
import numpy as np
import tensorflow as tf

run: mpl.TrainedRun = mpl.train(['--flagfile=a.flags'], output_dir='runs/a', verbose=False)
run = mpl.load_run('runs/a', weights='raw')
found: mpl.Predictions = run.predict(['a.png', np.zeros([8, 8], np.uint8)], skip_unreadable=True)
names: List[Optional[str]] = found.class_names
best: np.ndarray = found.probabilities.argmax(axis=1)
measured: Dict[str, float] = run.evaluate(split='test')
classes: Tuple[str, ...] = run.class_names
count: int = len(found)
use = mpl.models.Pretrained(freeze='all')
network = mpl.models.build('mlp-8x1', num_classes=3, input_shape=(4,), use=use)
rate = mpl.optimizers.LearningRate(0.1, decay_type='cosine')
optimizer: mpl.optimizers.Optimizer = mpl.optimizers.Momentum(rate, nesterov=False)
optimizer = mpl.optimizers.get(tf.keras.optimizers.Adam())
method = mpl.MetaPseudoLabels(teacher=network, student=network, mpl_weight=lambda step: 0.5, seed=3)
method.compile(teacher_optimizer=optimizer, student_optimizer=optimizer)
method.fit(mpl.data.batches('labeled', 'unlabeled', batch_size=4, image_size=32), steps_per_epoch=2)
mpl.UDA(network, uda_temp=0.5).compile(student_optimizer=optimizer)
batch = mpl.Batch(labeled=tf.zeros([1, 4]), labels=tf.zeros([1], tf.int32))
views = mpl.data.PadCrop(mean=(128.0,), flip=True)
try:
  mpl.load_run(os.curdir)
except (mpl.UserError, mpl.Failure) as error:
  print(error)
"""
WRONG = {  # What a user writes, and a part of mypy's answer.
  "mpl.load_run('a', weight='raw')": 'Unexpected keyword argument "weight" for "load_run"',
  'mpl.load_run(3)': 'Argument 1 to "load_run" has incompatible type "int"',
  "run.predict('a', batch_size='3')": 'Argument "batch_size" to "predict"',
  "run.predicts('a')": '"TrainedRun" has no attribute "predicts"',
  "found.rows()['path']": 'No overload variant of "__getitem__"',
  "mpl.models.build('mlp-8x1', num_classes=3)": 'Missing named argument "input_shape" for "build"',
  "mpl.optimizers.SGD('fast')": 'Argument 1 to "SGD" has incompatible type "str"',
  'mpl.optimizers.LearningRate()': 'Missing positional argument "rate" in call to "LearningRate"',
  'mpl.UDA()': 'Missing positional argument "student" in call to "UDA"',
  "mpl.UDA(0, uda_temp='warm')": 'Argument "uda_temp" to "UDA"',
  "mpl.data.batches('a', 'b')": 'Missing named argument "batch_size" for "batches"',
  "mpl.data.PadCrop(flip='yes')": 'Argument "flip" to "PadCrop"',
  'mpl.Batch()': 'Missing positional arguments "labeled", "labels" in call to "Batch"',
  'mpl.devices': 'has no attribute "devices"',
}


@pytest.fixture(name='cache', scope='module')
def fixture_cache(tmp_path_factory):
  """mypy's cache: the second call reads what the first one has found out."""
  return tmp_path_factory.mktemp('mypy')


def check(cache, *arguments):
  """Runs mypy with the settings of pyproject.toml; returns its lines but the last, which counts."""
  command = [
    sys.executable,
    '-m',
    'mypy',
    f'--cache-dir={cache}',
    '--config-file=pyproject.toml',
    *arguments,
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  lines = (done.stdout + done.stderr).splitlines()
  assert lines and done.returncode == (0 if lines[-1].startswith('Success') else 1), lines
  return lines[:-1]


def test_the_modules_of_public_names_hold_what_they_promise(cache):
  assert check(cache) == []


def test_a_program_of_a_user_is_judged_by_them(cache, tmp_path):
  """One that is right passes; each wrong line is found, and nothing else."""
  right, wrong = tmp_path / 'right.py', tmp_path / 'wrong.py'
  right.write_text(RIGHT, encoding='utf-8')
  head = "import meta_pseudo_labels as mpl\n\nrun = mpl.load_run('a')\nfound = run.predict('b')\n"
  wrong.write_text(head + '\n'.join(WRONG) + '\n', encoding='utf-8')
  lines = check(cache, str(right), str(wrong))
  found: dict = {}
  for line in lines:
    place = re.search(r'(right|wrong)\.py:(\d+): error: (.*)', line)
    if place:
      found.setdefault((place[1], int(place[2])), []).append(place[3])
  first = head.count('\n') + 1
  assert sorted(found) == [('wrong', first + number) for number in range(len(WRONG))], '\n'.join(lines)
  for number, expected in enumerate(WRONG.values()):
    said = found['wrong', first + number]
    assert any(expected in message for message in said), said
