"""One package, one direction: every module imports only from the layers below its own.

The imports are read with `ast`, wherever in a file they stand, so nothing has to be importable.
"""

import ast
import pathlib

import pytest

PACKAGE = 'meta_pseudo_labels'
ROOT = pathlib.Path(__file__).resolve().parents[1]

# Lowest first. A file imports from the packages and files on the lines below its own, and within its
# own package. '' is the package itself, which hands out the public names.
LAYERS = (
  'errors rng losses',
  'files',
  'config',
  'distribution',
  'optim',
  'models',
  'data',
  'features',
  'methods',
  'checkpoints',
  'build',
  'training',
  'inference report',
  'ladder',
  'experiment',
  'tasks',
  'main trained',
  '__main__',
)
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line.split()}
LEVEL[''] = LEVEL['methods']
MAY_READ_FLAGS = ('config.command_line',)
# Who knows Config; everything below takes plain arguments.
MAY_IMPORT_CONFIG = (
  'checkpoints',
  'build',
  'training',
  'report',
  'ladder',
  'experiment',
  'tasks',
  'main',
  'trained',
)


MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # From `def` to the last line, docstring and inner functions included.


def too_long(name, text):
  """One line for a file that is too long and for each such function in it."""
  lines = []
  if len(text.splitlines()) > MAX_FILE_LINES:
    lines.append(f'{name}: {len(text.splitlines())} lines')
  for node in ast.walk(ast.parse(text, filename=name)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      if length > MAX_FUNCTION_LINES:
        lines.append(f'{name}: {node.name} has {length} lines')
  return lines


def read_modules(root):
  """{module name within the package: ast} of every file under `root`/PACKAGE."""
  folder = root / PACKAGE
  modules = {}
  for path in sorted(folder.rglob('*.py')):
    parts = path.relative_to(folder).with_suffix('').parts
    name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
    modules[name] = ast.parse(path.read_text(encoding='utf-8'), filename=str(path))
  return modules


def imported_names(name, tree, is_package):
  """Absolute dotted names that a module imports: 'a.b' of `import a.b` and `from a import b`."""
  package = [PACKAGE] + [part for part in name.split('.') if part]
  if not is_package:
    package = package[:-1]
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else []
      base = '.'.join(base + ([node.module] if node.module else []))
      yield from (f'{base}.{alias.name}' for alias in node.names)


def dependencies(modules):
  """{module: modules of the package it imports}, an imported name being its module's."""
  packages = {'.'.join(name.split('.')[:-1]) for name in modules if name} | {''}
  graph = {}
  for name, tree in modules.items():
    graph[name] = set()
    for imported in imported_names(name, tree, name in packages):
      if imported.split('.')[0] != PACKAGE:
        continue
      target = imported.split('.')[1:]
      while '.'.join(target) not in modules:  # A name in a module stands for the module.
        target.pop()
      graph[name].add('.'.join(target))
  return graph


def room(name):
  """The line of LAYERS that a module belongs to: its package, or itself."""
  return name.split('.')[0]


def upward_imports(graph):
  """One line for each import that does not go to a lower layer."""
  lines = [
    f'{name or PACKAGE}: no place in LAYERS of tests/test_layout.py; give it one'
    for name in graph
    if room(name) not in LEVEL
  ]
  lines += [
    f'{name or PACKAGE} imports {target or PACKAGE}, which is not below it'
    for name, targets in graph.items()
    for target in sorted(targets)
    if room(name) in LEVEL
    and room(target) in LEVEL
    and room(name) != room(target)
    and LEVEL[room(target)] >= LEVEL[room(name)]
    and name
  ]
  return lines


def find_cycle(graph):
  """Modules that import each other in a circle, the first one repeated at the end, or []."""
  done = set()

  def visit(name, path):
    if name in path:
      return path[path.index(name) :] + [name]
    if name in done:
      return []
    for target in sorted(graph.get(name, ())):
      cycle = visit(target, path + [name])
      if cycle:
        return cycle
    done.add(name)
    return []

  return next((cycle for cycle in (visit(name, []) for name in sorted(graph)) if cycle), [])


def flag_readers(modules):
  """Modules that import absl.flags or speak of FLAGS."""
  readers = []
  for name, tree in modules.items():
    imports = set(imported_names(name, tree, False))
    words = {getattr(node, 'id', getattr(node, 'attr', None)) for node in ast.walk(tree)}
    if 'FLAGS' in words or any((i + '.').startswith('absl.flags.') for i in imports):
      readers.append(name)
  return readers


@pytest.fixture(name='modules', scope='module')
def _modules():
  return read_modules(ROOT)


def test_imports_go_down(modules):
  assert upward_imports(dependencies(modules)) == []


def test_no_circle(modules):
  assert find_cycle(dependencies(modules)) == []


def test_flags_stop_at_the_command_line(modules):
  assert [name for name in flag_readers(modules) if name not in MAY_READ_FLAGS] == []


def test_config_stays_at_the_top(modules):
  # RandAugment's names are facts that the flags share with the operations.
  users = [
    name
    for name, targets in dependencies(modules).items()
    if room(name) != 'config' and {'config', 'config.validation'} & targets
  ]
  assert [name for name in users if room(name) not in MAY_IMPORT_CONFIG] == []


def test_files_and_functions_are_short():
  paths = [
    path for folder in (PACKAGE, 'tests', 'tools', 'benchmarks') for path in (ROOT / folder).rglob('*.py')
  ]
  assert len(paths) > 80
  assert [
    line
    for path in sorted(paths)
    for line in too_long(str(path.relative_to(ROOT)), path.read_text(encoding='utf-8'))
  ] == []


def test_what_is_too_long_is_seen():
  body = '  x = 1\n' * 59
  assert too_long('a.py', f'def f():\n{body}\n' * 6) == []
  assert too_long('a.py', f'def f():\n{body}  x = 2\n') == ['a.py: f has 61 lines']
  assert too_long('a.py', 'class C:\n  async def g(self):\n    def h():\n' + '      x = 1\n' * 60) == [
    'a.py: g has 62 lines',
    'a.py: h has 61 lines',
  ]
  assert too_long('a.py', 'x = 1\n' * 401) == ['a.py: 401 lines']


def test_config_needs_no_tensorflow(modules):
  own = [name for name in modules if room(name) in ('config', 'errors')]
  seen = {i.split('.')[0] for name in own for i in imported_names(name, modules[name], False)}
  assert not seen & {'tensorflow', 'tf_keras', 'keras', 'numpy', 'tensorflow_datasets'}
  graph = dependencies(modules)
  assert {room(target) for name in own for target in graph[name]} <= {'config', 'errors'}


@pytest.fixture(name='house')
def _house(tmp_path):
  """A function that builds a small package from {file: text} and reads it."""

  def build(files):
    for name, text in files.items():
      path = tmp_path / PACKAGE / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return read_modules(tmp_path)

  return build


@pytest.mark.parametrize(
  'line',
  [
    'from meta_pseudo_labels import losses',
    'from meta_pseudo_labels.losses import cross_entropy',
    'import meta_pseudo_labels.losses as l',
    'from . import losses',
    'from .losses import cross_entropy',
    'def late():\n  from meta_pseudo_labels import losses',
  ],
)
def test_upward_import_is_seen_in_every_form(house, line):
  modules = house({'__init__.py': '', 'losses.py': 'cross_entropy = 1', 'rng.py': line})
  assert upward_imports(dependencies(modules)) == ['rng imports losses, which is not below it']


@pytest.mark.parametrize('line', ['from ..losses import f', 'from .. import losses'])
def test_relative_imports_from_a_subpackage(house, line):
  modules = house({'__init__.py': '', 'losses.py': '', 'models/__init__.py': '', 'models/layers.py': line})
  assert dependencies(modules)['models.layers'] == {'losses'}


def test_relative_import_in_a_subpackages_init(house):
  modules = house({'__init__.py': '', 'models/__init__.py': 'from . import mlp', 'models/mlp.py': ''})
  assert dependencies(modules)['models'] == {'models.mlp'}


def test_strangers_are_seen(house):
  modules = house(
    {'__init__.py': '', 'losses.py': '', 'misc.py': '', 'rng.py': 'import meta_pseudo_labels as mpl'}
  )
  assert upward_imports(dependencies(modules)) == [
    'misc: no place in LAYERS of tests/test_layout.py; give it one',
    'rng imports meta_pseudo_labels, which is not below it',
  ]


def test_a_package_is_a_layer(house):
  modules = house(
    {
      '__init__.py': '',
      'data/__init__.py': '',
      'models/__init__.py': '',
      'models/mlp.py': 'from meta_pseudo_labels.data import splits',
      'data/splits.py': 'from meta_pseudo_labels.data import storage',
      'data/storage.py': 'from meta_pseudo_labels.models import mlp',
    }
  )
  assert upward_imports(dependencies(modules)) == ['models.mlp imports data.splits, which is not below it']


def test_circle_is_seen(house):
  modules = house(
    {
      '__init__.py': '',
      'a.py': 'from meta_pseudo_labels import b',
      'b.py': 'from meta_pseudo_labels.c import x',
      'c.py': 'from . import a, d',
      'd.py': '',
    }
  )
  assert find_cycle(dependencies(modules)) == ['a', 'b', 'c', 'a']


@pytest.mark.parametrize(
  'line',
  [
    'from absl import flags',
    'import absl.flags',
    'from absl.flags import DEFINE_string',
    'import tensorflow as tf\ntf.compat.v1.flags.FLAGS',
    'def f(FLAGS_):\n  return FLAGS.seed',
  ],
)
def test_flag_reader_is_seen(house, line):
  assert flag_readers(house({'train.py': line, 'rng.py': 'from absl import logging'})) == ['train']
