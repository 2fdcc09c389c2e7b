"""What is public from Python: docs/python.md lists it, docstrings and type hints describe it."""

import doctest
import inspect
import pathlib
import re
import types

import meta_pseudo_labels as mpl

import numpy as np
import pytest
import reference
import tensorflow as tf

DOCUMENT = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'python.md'
MODULES = ('data', 'models', 'optimizers')
NAMES = [name for name in mpl.__all__ if name not in MODULES] + [
  f'{module}.{name}' for module in MODULES for name in getattr(mpl, module).__all__
]
# They take and return no tensors, or such of other public names.
SHAPELESS = ('Failure', 'UserError', 'load_run', 'optimizers.build', 'optimizers.get', 'train')
SHAPE = re.compile(r'`\[\w[\w, .*+]*\]`|\bscalar\b')
ERRORLESS = ('Failure', 'Predictions', 'UserError', 'data.ImageFolder')  # They hold what is true already.
UNTOLD = {'self', 'cls', 'args', 'kwargs', 'name'}  # The last is Keras' own.


def find(name):
  """The object of a public name such as 'data.batches'."""
  found = mpl
  for part in name.split('.'):
    found = getattr(found, part)
  return found


def functions_of(name):
  """{what: function} of a public name: itself, or the constructor and the public methods of a class."""
  found = find(name)
  if not inspect.isclass(found):
    return {name: found}
  own = {
    key: getattr(value, '__func__', getattr(value, 'fget', value))
    for key, value in vars(found).items()
    if key == '__init__' or not key.startswith('_')
  }
  return {f'{name}.{key}': value for key, value in own.items() if inspect.isfunction(value)}


def text_of(name, what, function):
  """What a reader finds on a function: its docstring, and those of its class, bases, and constructors."""
  owner = find(name)
  if not inspect.isclass(owner):
    return inspect.getdoc(function)
  bases = [base for base in owner.__mro__ if base.__module__.startswith('meta_pseudo_labels')]
  texts = [inspect.getdoc(getattr(owner, what.rsplit('.', 1)[1]))]
  for base in bases:
    texts += [inspect.getdoc(base), inspect.getdoc(base.__init__)]
  return '\n'.join(filter(None, texts))


def raises(function):
  """Whether a function has a raise of its own; one that dataclasses wrote has none."""
  try:
    return bool(re.search(r'^\s+raise \w', inspect.getsource(function), re.MULTILINE))
  except OSError:
    return False


def problems(name):
  """One line for each thing that a public name's docstrings or type hints lack."""
  found, lines = find(name), []
  first = (inspect.getdoc(found) or '').split('\n')[0]
  if not first.endswith('.'):
    lines.append(f'{name}: no docstring whose first line is a sentence')
  for what, function in functions_of(name).items():
    text, parameters = text_of(name, what, function), inspect.signature(function).parameters
    if not text:
      lines.append(f'{what}: no docstring')
      continue
    # `load_run` makes a TrainedRun, nobody else.
    constructs = (what == name or what.endswith('.__init__')) and name != 'TrainedRun'
    for parameter in parameters.values():
      if parameter.name in UNTOLD:
        continue
      if constructs and not re.search(rf'\b{parameter.name}\b', text):
        lines.append(f'{what}: its docstring does not name {parameter.name}')
    if constructs and raises(function) and 'Raises' not in text:
      lines.append(f'{what}: its docstring does not say what it raises')
  return lines + [
    line for what, function in all_functions_of(name).items() for line in unhinted(what, function)
  ]


def all_functions_of(name):
  """`functions_of` with the public methods that a class has from others of this project."""
  found = find(name)
  if not inspect.isclass(found):
    return functions_of(name)
  own = {}
  for base in found.__mro__:
    if base.__module__.startswith('meta_pseudo_labels'):
      for key, value in vars(base).items():
        function = getattr(value, '__func__', getattr(value, 'fget', value))
        if inspect.isfunction(function) and (key == '__init__' or not key.startswith('_')):
          own.setdefault(f'{name}.{key}', function)
  return own


def unhinted(what, function):
  """One line for each parameter without a type hint, and for a result without one."""
  signature = inspect.signature(function)
  missing = [
    parameter.name
    for parameter in signature.parameters.values()
    if parameter.annotation is parameter.empty and parameter.name not in ('self', 'cls')
  ]
  if signature.return_annotation is signature.empty and not what.endswith('.__init__'):
    missing.append('what it returns')
  return [f'{what}: no type hint for {one}' for one in missing]


def test_the_document_lists_exactly_what_is_public():
  section = DOCUMENT.read_text(encoding='utf-8').split('## What is public')[1]
  listed = re.findall(r'^\| `mpl\.([\w.]+)` \| [^|]+ \|$', section, re.MULTILINE)
  assert sorted(listed) == sorted(NAMES)
  assert len(set(mpl.__all__)) == len(mpl.__all__)


def test_a_star_brings_these_names_alone():
  namespace = {}
  exec('from meta_pseudo_labels import *', namespace)  # noqa: S102
  assert set(namespace) - {'__builtins__'} == set(mpl.__all__)
  assert {name for name, value in namespace.items() if isinstance(value, types.ModuleType)} == set(MODULES)
  with pytest.raises(AttributeError, match='no attribute'):
    getattr(mpl, 'nothing')  # noqa: B009


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_and_hints(name):
  assert problems(name) == []


def told(name):
  """All that a reader finds on a public name."""
  texts = [inspect.getdoc(find(name))]
  texts += [text_of(name, what, function) for what, function in functions_of(name).items()]
  return '\n'.join(filter(None, texts))


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_give_shapes_and_errors(name):
  if name not in SHAPELESS:
    assert SHAPE.search(told(name))
  if name not in ERRORLESS:
    assert re.search(r'^ *Raises:\n +[\w.]+: ', told(name), re.MULTILINE)


def example_of(name):
  """The example in a name's own docstring, as a doctest."""
  text = inspect.getdoc(find(name))
  start = text.find('\nExample:\n')
  own = text[start:] if start >= 0 else ''
  return doctest.DocTestParser().get_doctest(own, {'mpl': mpl, 'np': np, 'tf': tf}, name, None, 0)


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_have_an_example(name):
  assert any(example.want for example in example_of(name).examples)


@pytest.mark.long
def test_examples_print_what_they_say(tmp_path, monkeypatch):
  """That of `train` comes first: it makes the run that others load."""
  monkeypatch.chdir(tmp_path)
  runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
  failed, printed = [], []
  for name in sorted(NAMES, key=lambda name: name != 'train'):
    if runner.run(example_of(name), out=printed.append).failed:
      failed.append(name)
  assert not failed, ''.join(printed)


def test_the_reference_has_a_place_for_each_name(tmp_path):
  pytest.importorskip('pdoc', reason='requirements-test.txt has it')
  reference.main([f'--output={tmp_path}'])
  pages = {path.stem: path.read_text(encoding='utf-8') for path in tmp_path.rglob('*.html')}
  for name in NAMES:
    module, _, own = name.rpartition('.')
    page = pages[module or 'meta_pseudo_labels']
    assert f'id="{own}"' in page and f'Error importing {name}' not in page
  # The sections of a docstring are headings, and an example is code.
  assert pages['meta_pseudo_labels'].count('Example:') >= len(mpl.__all__) - len(MODULES)
  assert 'class="pdoc-code codehilite"' in pages['data']


def test_what_is_missing_is_seen(monkeypatch):
  def bare(x, y: int = 0):
    raise ValueError(y)

  bare.__doc__ = 'Does it to x.'
  monkeypatch.setattr(mpl, 'bare', bare, raising=False)
  assert problems('bare') == [
    'bare: its docstring does not name y',
    'bare: its docstring does not say what it raises',
    'bare: no type hint for x',
    'bare: no type hint for what it returns',
  ]
