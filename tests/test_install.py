"""The project as pip installs it, far from the checkout: a wheel, its command, its version; and ruff."""

import collections
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import meta_pseudo_labels

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = (
  'pyproject.toml',
  'MANIFEST.in',
  'README.md',
  'LICENSE',
  'requirements.txt',
  'requirements-test.txt',
  'requirements-onnx.txt',
  'requirements-images.txt',
)


def run(*command, cwd, **changes):
  """Runs a command without this checkout's PYTHONPATH; the result has returncode, stdout, stderr."""
  environment = {**os.environ, 'PIP_NO_INDEX': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1', **changes}
  environment.pop('PYTHONPATH', None)
  return subprocess.run(
    [str(word) for word in command],
    cwd=cwd,
    env=environment,
    text=True,
    capture_output=True,
    timeout=300,
    check=False,
  )


def requirements(name):
  """Names (lower case, with dashes) of the packages in a file of requirements."""
  lines = (ROOT / name).read_text(encoding='utf-8').splitlines()
  return {
    re.match(r'[\w-]+', line).group().lower().replace('_', '-')
    for line in lines
    if line and not line.startswith('#')
  }


@pytest.fixture(name='wheel', scope='module')
def fixture_wheel(tmp_path_factory):
  """Path of a wheel of this checkout, made from a copy: building leaves folders behind."""
  folder = tmp_path_factory.mktemp('wheel')
  copy = folder / 'checkout'
  copy.mkdir()
  for name in SOURCES:
    shutil.copy(ROOT / name, copy / name)
  shutil.copytree(
    ROOT / 'meta_pseudo_labels', copy / 'meta_pseudo_labels', ignore=shutil.ignore_patterns('__pycache__')
  )
  result = run(
    sys.executable,
    '-m',
    'pip',
    'wheel',
    '--no-deps',
    '--no-build-isolation',
    '-w',
    folder,
    copy,
    cwd=folder,
  )
  assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
  (found,) = folder.glob('*.whl')
  return found


@pytest.fixture(name='venv', scope='module')
def fixture_venv(tmp_path_factory, wheel):
  """A fresh environment (its bin folder) that has the wheel, and sees this one's packages."""
  folder = tmp_path_factory.mktemp('installed') / 'venv'
  assert run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd='/').returncode == 0
  site = next(folder.glob('lib/python*/site-packages'))
  # After the venv's own packages, which therefore win.
  (site / 'seen.pth').write_text(
    ''.join(f'{sysconfig.get_path(kind)}\n' for kind in ('purelib', 'platlib'))
  )
  result = run(folder / 'bin/python', '-m', 'pip', 'install', '--no-deps', wheel, cwd='/')
  assert result.returncode == 0, result.stderr
  return folder / 'bin'


def test_the_wheel_has_the_page_to_label_on(wheel):
  assert 'meta_pseudo_labels/ladder/labeling.html' in zipfile.ZipFile(wheel).namelist()


@pytest.mark.long
def test_the_command_trains_far_from_the_checkout(venv, tmp_path):
  (tmp_path / 'meta_pseudo_labels').mkdir()  # Not to be taken for the package.
  (tmp_path / 'meta_pseudo_labels/__init__.py').write_text('raise ImportError("not this one")')
  result = run(
    venv / 'meta-pseudo-labels',
    f'--flagfile={ROOT}/flags/two_moons_supervised.flags',
    '--num_train_steps=20',
    '--output_dir=out',
    cwd=tmp_path,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  assert re.search(r'^supervised +20 +\d+ +\d+\.\d\d%$', result.stdout, re.MULTILINE), result.stdout
  assert (tmp_path / 'out/results.json').exists()


def test_what_is_imported_is_what_was_installed(venv, tmp_path):
  script = (
    'import os, importlib.metadata as m, meta_pseudo_labels as p\n'
    'print(p.__file__, p.__version__, m.version("meta-pseudo-labels"))\n'
    'print(os.path.exists(os.path.join(os.path.dirname(p.__file__), "py.typed")))'
  )
  result = run(venv / 'python', '-c', script, cwd=tmp_path)
  version = meta_pseudo_labels.__version__
  place = next(venv.parent.glob('lib/python*/site-packages')) / 'meta_pseudo_labels/__init__.py'
  assert result.stdout.split() == [str(place), version, version, 'True'], result.stderr


@pytest.mark.parametrize('flag, word', [('--uda_dat=7', 'uda_data'), ('--lr=-1', 'must be 0 or more')])
def test_the_commands_status_is_mains(venv, tmp_path, flag, word):
  result = run(
    venv / 'meta-pseudo-labels', '--dataset_name=digits_40_mpl', '--output_dir=out', flag, cwd=tmp_path
  )
  assert result.returncode == 2
  error = result.stderr.splitlines()[-1]  # Before it TensorFlow may tell of the machine.
  assert result.stdout == '' and error.startswith('error: --') and word in error
  assert 'Traceback' not in result.stderr


def test_the_wheel_holds_the_package_and_its_dependencies_alone(wheel):
  with zipfile.ZipFile(wheel) as file:
    names = set(file.namelist())
    metadata = next(name for name in names if name.endswith('.dist-info/METADATA'))
    lines = file.read(metadata).decode().splitlines()
  package = {
    str(path.relative_to(ROOT))
    for path in (ROOT / 'meta_pseudo_labels').rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  assert {name for name in names if '.dist-info/' not in name} == package
  assert any(name.endswith('/LICENSE') for name in names)
  needed = [line.split(':', 1)[1].strip() for line in lines if line.startswith('Requires-Dist:')]
  found = collections.defaultdict(set)
  for line in needed:
    extra = re.search(r'extra == ["\'](\w+)', line)
    found[extra[1] if extra else ''].add(re.match(r'[\w-]+', line).group().lower().replace('_', '-'))
  assert found == {
    '': requirements('requirements.txt'),
    'test': requirements('requirements-test.txt'),
    'dev': requirements('requirements-test.txt'),
    'onnx': {'onnx', 'tf2onnx', 'onnxruntime'},
    'images': {'pillow-heif'},
  }
  assert 'Requires-Python: <3.14,>=3.9' in lines
  assert f'Version: {meta_pseudo_labels.__version__}' in lines


def test_the_tests_have_what_the_export_to_onnx_needs():
  lines = [
    [
      line
      for line in (ROOT / name).read_text(encoding='utf-8').splitlines()
      if not line.startswith('#') and 'onnx' in line
    ]
    for name in ('requirements-onnx.txt', 'requirements-test.txt')
  ]
  assert len(lines[0]) == 5 and lines[0] == lines[1]


@pytest.mark.parametrize('name', ['CITATION.cff', 'CHANGELOG.md'])
def test_one_version(name):
  text = (ROOT / name).read_text(encoding='utf-8')
  found = re.search(r'^(?:version: |## )"?(\d+\.\d+\.\d+)', text, re.MULTILINE)
  assert found.group(1) == meta_pseudo_labels.__version__


def test_ruff_has_nothing_to_say():
  found = shutil.which('ruff', path=os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH'])
  if not found:
    pytest.skip('ruff is not installed: requirements-test.txt has it')
  result = run(found, 'check', '--no-cache', '--output-format=concise', '.', cwd=ROOT)
  assert result.returncode == 0, result.stdout + result.stderr


def test_what_the_package_exports_says_its_types():
  """py.typed promises them: of every argument, wherever among the parents a constructor stands."""
  optimizers = meta_pseudo_labels.optimizers
  functions = [optimizers.build, optimizers.get, optimizers.LearningRate.__call__]
  for class_ in (
    meta_pseudo_labels.MetaPseudoLabels,
    meta_pseudo_labels.PseudoLabels,
    meta_pseudo_labels.UDA,
    meta_pseudo_labels.Supervised,
    optimizers.SGD,
    optimizers.Momentum,
    optimizers.RMSProp,
    optimizers.LARS,
    optimizers.Adam,
  ):
    functions += [
      getattr(parent, name)
      for parent in class_.__mro__
      for name in ('__init__', 'compile', 'build', 'update')
      if name in vars(parent) and parent.__module__.startswith('meta_pseudo_labels')
    ]
  assert len(functions) > 15
  untyped = {
    f'{function.__qualname__}: {name}'
    for function in functions
    for name, argument in inspect.signature(function).parameters.items()
    if name != 'self' and argument.annotation is argument.empty
  }
  assert not untyped
