"""The launchers, run for real in a small checkout: the scripts, no requirements, a stub of main.

The stub prints what it was given, so that these tests need no TensorFlow and no network.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BASH = shutil.which('bash')

STUB = """
import json, os, sys, time
print(json.dumps({
    'argv': sys.argv[1:], 'cwd': os.getcwd(), 'pid': os.getpid(), 'prefix': sys.prefix,
    'environ': dict(os.environ)}), flush=True)
if '--wait' in sys.argv:
  time.sleep(60)
sys.exit(3 if '--fail' in sys.argv else 0)
"""


def make_checkout(folder):
  """A checkout in `folder` with the real launchers and the stub package."""
  for name in ('environment.sh', 'run_gpu.sh', 'run_tpu.sh', 'tests/run.sh'):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, folder / name)
  (folder / 'requirements.txt').write_text('# nothing\n')
  (folder / 'requirements-test.txt').write_text('# nothing for tests\n')
  (folder / 'flags').mkdir()
  (folder / 'flags/digits_mpl.flags').write_text('--seed=1\n')
  (folder / 'meta_pseudo_labels').mkdir()
  (folder / 'meta_pseudo_labels/__init__.py').write_text('')
  (folder / 'meta_pseudo_labels/main.py').write_text(STUB)
  (folder / 'pytest.py').write_text(STUB)
  return folder


@pytest.fixture(name='bare')
def bare_checkout(tmp_path):
  """A checkout without an environment, for one test."""
  return make_checkout(tmp_path / 'checkout')


@pytest.fixture(name='ready', scope='module')
def ready_checkout(tmp_path_factory):
  """A checkout whose .venv was made by the launcher, shared by the tests."""
  folder = make_checkout(tmp_path_factory.mktemp('ready') / 'a checkout')
  result = run(folder / 'run_gpu.sh')
  assert result.returncode == 0, result.stderr
  assert 'making' in result.stderr and 'installing' in result.stderr
  return folder


def environment(**changes):
  """This process's environment without what steers the launchers, changed (None removes)."""
  result = dict(os.environ, PYTHON=sys.executable, PIP_NO_INDEX='1')
  for name in ('VENV', 'PYTHONPATH', 'TF_CPP_MIN_LOG_LEVEL'):
    result.pop(name, None)
  result.update(changes)
  return {name: value for name, value in result.items() if value is not None}


def run(script, *arguments, cwd=None, **changes):
  """Runs a launcher to its end; the result has returncode, stdout and stderr (str)."""
  return subprocess.run(
    [BASH, str(script), *arguments],
    cwd=cwd or script.parent,
    env=environment(**changes),
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def refused(result, *words):
  """True if it ended with status 2 and one line that holds all the words."""
  assert result.returncode == 2, result
  assert result.stdout == ''
  assert len(result.stderr.splitlines()) == 1, result.stderr
  for word in words:
    assert word in result.stderr
  return True


@pytest.mark.parametrize('name', ['run_gpu.sh', 'run_tpu.sh'])
@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_prints_usage_and_makes_nothing(bare, name, flag):
  result = run(bare / name, flag)
  assert result.returncode == 0
  assert result.stdout.startswith(f'usage: {name} [FLAGFILE]')
  assert 'PYTHON' in result.stdout and 'VENV' in result.stdout and '--output_dir' in result.stdout
  assert result.stderr == ''
  assert not list(bare.glob('.venv*'))


@pytest.mark.parametrize('name', ['run_gpu.sh', 'run_tpu.sh'])
def test_a_missing_flagfile_is_one_line(bare, name):
  assert refused(run(bare / name, 'flags/none.flags'), 'flags/none.flags', str(bare / 'flags'))
  assert refused(run(bare / name, '--flagfile=flags/none.flags'), 'flags/none.flags')
  assert not list(bare.glob('.venv*'))


def test_no_python_at_all_is_one_line(bare):
  result = run(bare / 'run_gpu.sh', PATH='/nonexistent', PYTHON=None)
  assert refused(result, 'no Python 3.9-3.13', 'PYTHON=', 'install')


@pytest.mark.parametrize('name', ['run_gpu.sh', 'tests/run.sh'])
def test_an_unusable_python_is_one_line(bare, name):
  assert refused(run(bare / name, PYTHON='/nonexistent/python3'), '/nonexistent/python3')
  old = bare / 'python-too-old'
  old.write_text('#!/bin/sh\necho "Python 2.7"; exit 1\n')
  old.chmod(0o755)
  assert refused(run(bare / name, PYTHON=str(old)), str(old), '3.9-3.13')


def test_the_default_run(ready):
  result = run(ready / 'run_gpu.sh')
  assert result.returncode == 0
  assert result.stderr == ''  # the environment is there: nothing is made or installed again
  seen = json.loads(result.stdout)
  assert seen['argv'] == [f'--flagfile={ready}/flags/digits_mpl.flags', '--output_dir=runs/digits_mpl']
  assert seen['prefix'] == str(ready / '.venv')
  assert seen['environ']['TF_CPP_MIN_LOG_LEVEL'] == '2'
  # What the driver compiles for a new card is kept, and has room.
  assert seen['environ']['CUDA_CACHE_PATH'].endswith('/meta_pseudo_labels/cuda')
  assert int(seen['environ']['CUDA_CACHE_MAXSIZE']) >= 2**32


def test_flags_alone_go_with_the_default_flagfile(ready):
  seen = json.loads(run(ready / 'run_gpu.sh', '--seed=4', '--name=a b').stdout)
  assert seen['argv'] == [
    f'--flagfile={ready}/flags/digits_mpl.flags',
    '--output_dir=runs/digits_mpl',
    '--seed=4',
    '--name=a b',
  ]


@pytest.mark.parametrize('first', ['my.flags', '--flagfile=my.flags'])
def test_paths_stay_relative_to_the_callers_folder(ready, tmp_path, first):
  (tmp_path / 'my.flags').write_text('--seed=2\n')
  # A folder of the package's name in the caller's folder must not be taken for ours. Python 3.9
  # and 3.10 cannot be told so.
  if sys.version_info >= (3, 11):
    (tmp_path / 'meta_pseudo_labels').mkdir()
    (tmp_path / 'meta_pseudo_labels/__init__.py').write_text('raise ImportError("not this one")')
  result = run(
    ready / 'run_gpu.sh',
    first,
    '--data_dir=data',
    cwd=tmp_path,
    PYTHONPATH='/other',
    TF_CPP_MIN_LOG_LEVEL='0',
  )
  assert result.returncode == 0, result.stderr
  seen = json.loads(result.stdout)
  assert seen['cwd'] == str(tmp_path)
  assert seen['argv'] == ['--flagfile=my.flags', '--output_dir=runs/my', '--data_dir=data']
  assert seen['environ']['PYTHONPATH'] == f'{ready}:/other'
  assert seen['environ']['TF_CPP_MIN_LOG_LEVEL'] == '0'


@pytest.mark.parametrize(
  'arguments, text',
  [
    (['my.flags', '--output_dir=x'], ''),
    (['my.flags', '--output_dir', 'x'], ''),
    (['my.flags', '-output_dir=x'], ''),
    (['my.flags'], '--seed=1\n--output_dir=x\n'),
  ],
)
def test_a_given_output_dir_is_kept(ready, tmp_path, arguments, text):
  (tmp_path / 'my.flags').write_text(text)
  seen = json.loads(run(ready / 'run_gpu.sh', *arguments, cwd=tmp_path).stdout)
  assert seen['argv'] == ['--flagfile=my.flags'] + arguments[1:]


def test_the_exit_status_is_mains(ready):
  assert run(ready / 'run_gpu.sh', '--fail').returncode == 3


def test_a_signal_reaches_python(ready):
  # A shell's background jobs ignore SIGINT, and so would a run of these tests in one.
  heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
  with subprocess.Popen(
    [BASH, str(ready / 'run_gpu.sh'), '--wait'],
    env=environment(),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    preexec_fn=heed,
  ) as process:
    assert json.loads(process.stdout.readline())['pid'] == process.pid  # bash has become python
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
  assert 'KeyboardInterrupt' in errors


@pytest.mark.long
def test_changed_requirements_are_installed_once(ready, tmp_path):
  checkout = tmp_path / 'checkout'
  shutil.copytree(ready, checkout, ignore=shutil.ignore_patterns('.venv*'))
  venv = tmp_path / 'venv'
  shutil.copytree(ready / '.venv', venv, symlinks=True)
  (checkout / 'requirements.txt').write_text('# changed\n')
  first = run(checkout / 'run_gpu.sh', VENV='../venv')  # relative to the caller's folder
  assert first.returncode == 0
  assert 'installing' in first.stderr and 'making' not in first.stderr
  assert json.loads(first.stdout)['prefix'] == str(venv)
  assert run(checkout / 'run_gpu.sh', VENV=str(venv)).stderr == ''

  (checkout / 'requirements.txt').write_text('no-such-requirement-of-ours==1\n')
  failed = run(checkout / 'run_gpu.sh', VENV=str(venv))
  assert failed.returncode == 1
  assert failed.stdout == ''
  assert failed.stderr.splitlines()[-1].startswith('run_gpu.sh: installing')

  (checkout / 'requirements.txt').write_text('# repaired\n')
  repaired = run(checkout / 'run_gpu.sh', VENV=str(venv))
  assert repaired.returncode == 0
  assert 'installing' in repaired.stderr and 'making' not in repaired.stderr
  assert run(checkout / 'run_gpu.sh', VENV=str(venv)).stderr == ''

  # Interrupted while it was made: made again from nothing.
  (tmp_path / 'venv.unfinished').write_text('')
  (venv / 'left-over').write_text('')
  again = run(checkout / 'run_gpu.sh', VENV=str(venv))
  assert again.returncode == 0 and 'making' in again.stderr
  assert not (venv / 'left-over').exists()
  assert not (tmp_path / 'venv.unfinished').exists()


def test_a_folder_that_is_no_environment_is_left_alone(bare, tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine/precious').write_text('x')
  assert refused(run(bare / 'run_gpu.sh', VENV=str(tmp_path / 'mine')), str(tmp_path / 'mine'))
  assert (tmp_path / 'mine/precious').read_text() == 'x'


@pytest.mark.parametrize(
  'there, expected',
  [
    (None, '.venv-tpu'),
    ('%d.%d' % sys.version_info[:2], '.venv-tpu'),
    ('3.9' if sys.version_info[:2] != (3, 9) else '3.10', '.venv-tpu-%d.%d' % sys.version_info[:2]),
  ],
)
def test_another_minor_version_gets_its_own_environment(bare, there, expected):
  if there:  # all that is asked of an environment's python here is its version
    python = bare / '.venv-tpu/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho {there}\n')
    python.chmod(0o755)
  line = run(bare / 'run_tpu.sh', '--dry_run').stdout.splitlines()[0]
  assert line.startswith(f'environment: {bare}/{expected},')


def test_tpu_dry_run_prints_the_command_and_makes_nothing(bare):
  result = run(bare / 'run_tpu.sh', '--seed=4', '--dry_run', '--name=a b')
  assert result.returncode == 0 and result.stderr == ''
  environment_line, tensorflow_line, command = result.stdout.splitlines()
  assert f'{bare}/.venv-tpu' in environment_line and sys.executable in environment_line
  assert tensorflow_line.startswith('tensorflow:')
  assert command.split(None, 1)[1] == (
    'python -m meta_pseudo_labels.main '
    f'--flagfile={bare}/flags/digits_mpl.flags --output_dir=runs/digits_mpl --seed=4 '
    '--name=a\\ b --use_tpu --strategy=tpu'
  )
  assert not list(bare.glob('.venv*'))


@pytest.mark.long
def test_tpu_keeps_the_systems_tensorflow(bare):
  """Without one it stops; with one, only requirements.txt's other lines are installed."""
  lines = 'tensorflow==0.0.1 ; python_version >= "3"\ntf-keras==0.0.* ; python_version < "3"\n'
  (bare / 'requirements.txt').write_text(lines)
  empty = bare.parent / 'empty'
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(empty)], check=True)
  assert refused(
    run(bare / 'run_tpu.sh', PYTHON=str(empty / 'bin/python')), 'no TensorFlow', 'tpu-vm-tf-2.15.1-pjrt'
  )

  site = bare.parent / 'site'
  (site / 'tensorflow-2.15.1.dist-info').mkdir(parents=True)
  (site / 'tensorflow-2.15.1.dist-info/METADATA').write_text(
    'Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.15.1\n'
  )
  result = run(bare / 'run_tpu.sh', PYTHONPATH=str(site))
  assert result.returncode == 0, result.stderr  # pip has no index here: it asked for nothing more
  seen = json.loads(result.stdout)
  assert seen['argv'][-2:] == ['--use_tpu', '--strategy=tpu']
  assert 'include-system-site-packages = true' in (bare / '.venv-tpu/pyvenv.cfg').read_text()
  installed = (bare / '.venv-tpu/.requirements').read_text()
  assert 'tensorflow==2.15.1 ;' in installed and 'tf-keras==2.15.* ;' in installed
  assert installed.endswith('\n# nothing for tests\n')


@pytest.mark.parametrize(
  'arguments, expected',
  [
    ([], ['tests', '-n', '2', '--dist', 'loadfile']),
    (['-q', '-k', 'loss'], ['tests', '-n', '2', '--dist', 'loadfile', '-q', '-k', 'loss']),
    (['-q', 'tests/run.sh::test_one'], ['-q', 'tests/run.sh::test_one']),
  ],
)
def test_tests_run_sh(ready, tmp_path, arguments, expected):
  result = run(ready / 'tests/run.sh', *arguments, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  seen = json.loads(result.stdout)
  assert seen['argv'] == expected
  assert seen['cwd'] == str(ready)
  assert seen['prefix'] == str(ready / '.venv')
