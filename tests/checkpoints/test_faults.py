"""Faults put in on purpose: damaged checkpoints, full and lost disks, NaN, second writers."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

from meta_pseudo_labels import experiment, main
from meta_pseudo_labels.checkpoints import files, run_folder, saver
from meta_pseudo_labels.data import semi_supervised
from meta_pseudo_labels.distribution import gpus
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training import interrupts, logs
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
import tensorflow as tf
from tiny import quick_path, tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]


def short(folder, *flags):
  """A supervised run of six steps with three checkpoints."""
  return tiny(
    folder,
    '--dataset_name=two_moons_6_supervised',
    '--lr=1',
    '--save_every=2',
    '--log_every=1',
    '--save_retry_seconds=1',
    *flags,
  )


def flip(path):
  """Changes a bit in the middle of a file."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def saved(folder, numbers=(1, 2, 3), keep=3):
  """(variable, Checkpoints, the lines it says) with a checkpoint of each number saved."""
  said, variable = [], tf.Variable(tf.zeros([100]))
  made = saver.Checkpoints(str(folder), keep, said.append, variable=variable)
  for number in numbers:
    variable.assign(tf.fill([100], float(number)))
    made.save(number)
  return variable, made, said


@pytest.mark.parametrize('suffix', ['.data-00000-of-00001', '.index'])
@pytest.mark.parametrize('damage', [flip, cut, os.remove])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, damage, suffix):
  variable, made, said = saved(tmp_path)
  folder = tmp_path / 'ckpt_last'
  damage(folder / f'ckpt-3{suffix}')
  assert made.restore() == f'{folder}/ckpt-2'
  assert variable.numpy().tolist() == [2] * 100
  assert len(said) == 1 and '\n' not in said[0]
  assert said[0].startswith(f'{folder}/ckpt-3: damaged (')
  assert said[0].endswith(f'resuming from {folder}/ckpt-2')
  damage(folder / f'ckpt-2{suffix}')
  damage(folder / f'ckpt-1{suffix}')
  with pytest.raises(UserError, match='all 3 checkpoints in it are damaged'):
    made.restore()


def test_the_newest_few_are_kept_and_nothing_else(tmp_path):
  variable, made, _ = saved(tmp_path, numbers=(1, 2), keep=2)
  folder = tmp_path / 'ckpt_last'
  (folder / 'ckpt-7_temp').mkdir()  # Of a run that was killed while it saved.
  (folder / 'ckpt-7.data-00000-of-00001').write_text('half')
  variable.assign(tf.fill([100], 9.0))
  made.save(9, best=True)
  assert sorted(name for name in os.listdir(folder) if name.endswith('.index')) == [
    'ckpt-2.index',
    'ckpt-9.index',
  ]
  assert not [name for name in os.listdir(folder) if 'ckpt-7' in name]
  assert tf.train.latest_checkpoint(folder) == f'{folder}/ckpt-9' == made.newest
  assert made.restore_best() == str(tmp_path / 'ckpt_best' / 'ckpt-9')
  (folder / 'checkpoint').write_text('')  # A machine that lost its power.
  assert made.restore() == f'{folder}/ckpt-9'


def test_what_does_not_read_back_is_not_pointed_to(tmp_path, monkeypatch):
  _, made, _ = saved(tmp_path)
  write = tf.train.Checkpoint.write

  def half(self, path, *args):
    found = write(self, path, *args)
    with open(f'{path}.data-00000-of-00001', 'r+b') as file:
      file.truncate(10)
    return found

  monkeypatch.setattr(tf.train.Checkpoint, 'write', half)
  with pytest.raises(OSError):
    made.save(4, best=True)
  assert made.newest == str(tmp_path / 'ckpt_last' / 'ckpt-3')
  assert made.restore_best() is None


def test_one_writer_a_folder(tmp_path, capsys):
  with run_folder.lock(str(tmp_path)):
    assert main.run(short(tmp_path)) == 2
    error = capsys.readouterr().err
    assert f'process {os.getpid()} is writing there' in error
    assert len(error.splitlines()) == 1
  holder = (
    'import sys, time\nfrom meta_pseudo_labels.checkpoints import run_folder\n'
    f'with run_folder.lock({str(tmp_path)!r}):\n  print("held", flush=True)\n  time.sleep(60)'
  )
  process = subprocess.Popen([sys.executable, '-c', holder], stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'held\n'
  with pytest.raises(UserError, match=f'process {process.pid} is writing'):
    with run_folder.lock(str(tmp_path)):
      pass
  process.send_signal(signal.SIGKILL)
  process.wait()
  with run_folder.lock(str(tmp_path)):
    pass


@pytest.mark.parametrize(
  'what, words',
  [
    ('home', 'home or root'),
    ('data', '--data_dir'),
    ('repository', '.git'),
    ('foreign', 'did not'),
    ('older', ''),
    ('ours', ''),
  ],
)
def test_reset_removes_only_what_this_program_made(tmp_path, monkeypatch, what, words):
  folder = tmp_path / 'a' / 'run'
  folder.mkdir(parents=True)
  if what == 'ours':
    run_folder.mark(str(folder))
    (folder / 'notes.txt').write_text('mine')
  (folder / 'hparams.json').write_text('{}')
  (folder / 'ckpt_last').mkdir()
  if what == 'home':
    monkeypatch.setenv('HOME', str(folder / 'ckpt_last'))
  elif what == 'repository':
    (folder / 'ckpt_last' / '.git').mkdir()
  elif what == 'foreign':
    (folder / 'thesis.tex').write_text('years of work')
  before = sorted(os.listdir(folder))
  data = str(folder / 'ckpt_last') if what == 'data' else None
  if words:
    with pytest.raises(UserError) as caught:
      run_folder.reset(str(folder), data)
    assert words in str(caught.value) and '\n' not in str(caught.value)
    assert sorted(os.listdir(folder)) == before
  else:
    assert 'removed' in run_folder.reset(str(folder), data)
    assert set(os.listdir(folder)) <= {run_folder.MARKER}


def test_a_run_says_what_a_reset_removed(tmp_path, capsys):
  assert main.run(short(tmp_path)) == 0
  assert main.run(short(tmp_path, '--reset_output_dir', '--seed=2')) == 0
  assert 'MB, from' in capsys.readouterr().out


@pytest.fixture(name='before_second_save')
def fixture_before_second_save(monkeypatch):
  """A function that has something done before the second checkpoint of the next run."""

  def plan(action):
    calls, save = [], Run._save

    def wrapped(self, *args):
      calls.append(1)
      if len(calls) == 2:
        action()
      return save(self, *args)

    monkeypatch.setattr(Run, '_save', wrapped)

  return plan


def one_error_line(capsys):
  captured = capsys.readouterr()
  lines = [line for line in captured.err.splitlines() if line.startswith('error')]
  assert len(lines) == 1 and 'Traceback' not in captured.err
  return lines[0], captured.out


@pytest.mark.parametrize('fault', ['full', 'read_only', 'gone'])
def test_a_disk_that_takes_nothing(tmp_path, capsys, before_second_save, fault):
  """Status 1, in one line, the checkpoint before whole; afterwards the same command goes on."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  folder = disk / 'run'
  if (
    fault != 'gone'
    and subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk], check=False, capture_output=True
    ).returncode
  ):
    pytest.skip('cannot mount a small disk')
  filler = disk / 'filler'

  def fill():
    with open(filler, 'wb', buffering=0) as file:
      try:
        while file.write(b'x' * 4096):
          pass
      except OSError:
        pass

  def read_only():
    # On top of itself: what the run has open keeps a remounted disk busy.
    subprocess.run(['mount', '--bind', folder, folder], check=True)
    subprocess.run(['mount', '-o', 'remount,ro,bind', folder], check=True)

  actions = {'full': fill, 'read_only': read_only, 'gone': lambda: folder.rename(disk / 'away')}
  undo = {
    'full': lambda: filler.unlink(),
    'read_only': lambda: subprocess.run(['umount', folder], check=True),
    'gone': lambda: (disk / 'away').rename(folder),
  }
  before_second_save(actions[fault])
  try:
    assert main.run(short(folder)) == 1
    line, printed = one_error_line(capsys)
    words = {'full': 'No space left', 'read_only': 'Read-only', 'gone': ''}[fault]
    assert line.startswith(f'error: cannot save: {words}')
    assert '--save_retry_seconds=1 have passed; the last intact checkpoint is ' in line
    assert printed.count('retrying for 1 s') == 1
    where = disk / 'away' if fault == 'gone' else folder
    files.check(str(where / 'ckpt_last' / 'ckpt-2'))
    undo[fault]()
    assert main.run(short(folder)) == 0
    assert 'Resuming at step 2' in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if line['kind'] == 'train'] == [1, 2, 3, 4, 5, 6]
  finally:
    if fault != 'gone':
      subprocess.run(['umount', '--recursive', '--lazy', disk], check=True)


def test_a_disk_that_comes_back(tmp_path, capsys, monkeypatch, before_second_save):
  monkeypatch.setattr(interrupts, 'SECONDS_BETWEEN_TRIES', 0.01)
  check, failures = files.check, [OSError(5, 'Input/output error')] * 3

  def failing(path):
    if failures:
      raise failures.pop()
    check(path)

  before_second_save(lambda: monkeypatch.setattr(files, 'check', failing))
  assert main.run(short(tmp_path, '--save_retry_seconds=60')) == 0
  printed = capsys.readouterr().out
  assert printed.count('cannot save: Input/output error; retrying for 60 s') == 1
  assert 'saved at the repeated try' in printed


def poisoned(first, count):
  """Problem.train_batches whose labeled inputs are NaN in `count` batches from `first` on."""
  batches = semi_supervised.Problem.train_batches

  def make(self, **kwargs):
    def poison(index, data):
      bad = (index >= first) & (index < first + count)
      return tf.where(bad, tf.fill(tf.shape(data[0]), np.nan), data[0]), *data[1:]

    made = batches(self, **kwargs).enumerate(kwargs['start_step'])
    return made.map(lambda index, data: poison(index, data))

  return make


@pytest.mark.parametrize('method', ['supervised', 'mpl'])
def test_nan_in_a_row_ends_the_run(tmp_path, capsys, monkeypatch, method):
  monkeypatch.setattr(semi_supervised.Problem, 'train_batches', poisoned(3, 100))
  flags = [f'--method={method}', '--max_nonfinite_steps=4', '--num_train_steps=50', '--mpl_feedback=soft']
  assert main.run(short(tmp_path, *flags)) == 1
  line, _ = one_error_line(capsys)
  assert line.startswith('error: step 7 of train: the gradient was not finite in 4 steps in a row')
  assert 'cross_entropy' in line and 'nan' in line
  assert f'the last intact checkpoint is {tmp_path}/ckpt_last/ckpt-6' in line
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  # Steps 1 to 3 were whole; the first bad one is the fourth.
  assert [line['skipped_steps'] for line in lines if line['kind'] == 'train'] == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize('known, step, words', [(0, 12, 'not there yet'), (1, 4, 'try --strategy=')])
def test_a_loop_ends_at_the_last_allowed_step(tmp_path, capsys, monkeypatch, known, step, words):
  monkeypatch.setattr(gpus, 'is_known_for_nan', lambda _: known)
  monkeypatch.setattr(semi_supervised.Problem, 'train_batches', poisoned(3, 1000))
  flags = [f'--{name}=500' for name in ('num_train_steps', 'log_every', 'save_every')]
  assert main.run(short(tmp_path, '--max_nonfinite_steps=9', *flags)) == 1
  assert re.match(f'error: step {step} of train: .*{words}', one_error_line(capsys)[0])


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
  """A disk that fills up in the middle of a line: later it is written once, and whole."""

  class Half(io.FileIO):
    """Writes half, as a full disk lets one."""

    def write(self, text):
      return super().write(text[: len(text) // 2])

  records = logs.Records(str(tmp_path), 'test')
  records.write('train', 'train', 1, 0, {'loss': 1.0})
  with monkeypatch.context() as patch:
    patch.setattr(logs, 'open', lambda path, *args, **kwargs: Half(path, 'ab'), raising=False)
    records.write('train', 'train', 2, 0, {'loss': 2.0})
    with pytest.raises(OSError, match='No space left'):
      records.flush()
  records.write('train', 'train', 3, 0, {'loss': 3.0})
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3]


def test_a_few_nan_steps_are_left_out_and_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(semi_supervised.Problem, 'train_batches', poisoned(2, 3))
  assert main.run(short(tmp_path, '--max_nonfinite_steps=4', '--num_train_steps=8')) == 0
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  trained = [line for line in lines if line['kind'] == 'train']
  assert [line['skipped_steps'] for line in trained] == [0, 0, 1, 2, 3, 3, 3, 3]
  assert np.isfinite(trained[-1]['loss/total'])


def test_failures_that_pass_restart_and_others_do_not(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(main, 'RESTART_SECONDS', 0.0)
  monkeypatch.setenv(main.RESTARTS, '0')
  restarted = []

  def fail(error):
    def raise_it(*args):
      raise error

    monkeypatch.setattr(experiment, 'train_and_compare', raise_it)

  def again(argv):
    restarted.append(argv)
    main.run(argv, again)

  fail(tf.errors.UnavailableError(None, None, 'worker 1 is gone'))
  assert main.run(short(tmp_path, '--max_restarts=2'), again) == 1
  assert len(restarted) == 2
  assert 'UnavailableError: worker 1 is gone; restarted 2 times' in capsys.readouterr().err
  monkeypatch.setenv(main.RESTARTS, '1')
  fail(tf.errors.DeadlineExceededError(None, None, 'no heartbeat'))
  assert main.run(short(tmp_path, '--max_restarts=2'), again) == 1
  assert len(restarted) == 3
  monkeypatch.setenv(main.RESTARTS, '0')
  fail(UserError('no'))
  assert main.run(short(tmp_path), again) == 2
  fail(tf.errors.InvalidArgumentError(None, None, 'shapes'))
  with pytest.raises(tf.errors.InvalidArgumentError):
    main.run(short(tmp_path), again)
  assert len(restarted) == 3


@pytest.mark.long
def test_a_restarted_process_goes_on_and_resets_nothing(tmp_path):
  """A worker is lost after the second checkpoint; the process starts itself anew."""
  program = f"""
import os, sys
from meta_pseudo_labels import main
from meta_pseudo_labels.training.run import Run
import tensorflow as tf
main.RESTART_SECONDS = 0.
save = Run._save
def failing(self, number, *args):
  save(self, number, *args)
  if number == 4:
    raise tf.errors.AbortedError(None, None, 'preempted')
Run._save = failing
sys.exit(main.run({short(tmp_path, '--reset_output_dir')!r}, main.restart_process))
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, 'PYTHONPATH': quick_path(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  assert 'AbortedError: preempted: restarting from the newest checkpoint' in done.stderr
  assert 'Resuming at step 4' in done.stdout
