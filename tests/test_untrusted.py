"""Nothing in the package turns data into code: no eval, no pickle, no shell."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'meta_pseudo_labels'
MODULES = {
  'pickle',
  'cPickle',
  'dill',
  'cloudpickle',
  'joblib',
  'marshal',
  'shelve',
  'subprocess',
  'yaml',
  'code',
  'pty',
}
BUILTINS = {'eval', 'exec', 'compile', '__import__'}
CALLS = {'os.system', 'os.popen', 'np.fromregex', 'pd.read_pickle', 'importlib.import_module'}


def dangers(text):
  """(line, what) of everything in a module's text that could run what a file or a flag says."""
  found = []
  for node in ast.walk(ast.parse(text)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module or '']
    found += [(node.lineno, name) for name in names if name.split('.')[0] in MODULES]
    if not isinstance(node, ast.Call):
      continue
    called = ast.unparse(node.func)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if (
      called in BUILTINS | CALLS
      or called.startswith(('os.exec', 'os.spawn'))
      or options.get('shell', 'False') != 'False'
      or called in ('np.load', 'numpy.load')
      and options.get('allow_pickle') != 'False'
      or options.get('allow_pickle', 'False') != 'False'
      or options.get('safe_mode', 'True') != 'True'
    ):
      found.append((node.lineno, called))
  return found


# After a lost worker main.py starts itself anew, by the interpreter and with the arguments that it had.
# nvidia-smi is asked for the cards, with arguments that are constants.
ALLOWED = {'main.py': ['os.execv'], 'distribution/gpus.py': ['subprocess']}


@pytest.mark.parametrize(
  'path', sorted(PACKAGE.rglob('*.py')), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_module_runs_data(path):
  found = [what for _, what in dangers(path.read_text(encoding='utf-8'))]
  assert found == ALLOWED.get(str(path.relative_to(PACKAGE)), [])


@pytest.mark.parametrize(
  'text',
  [
    'import pickle',
    'from pickle import loads',
    'import subprocess',
    'eval(x)',
    'exec(x)',
    'os.system(x)',
    'os.execv(x, y)',
    'run(x, shell=True)',
    'np.load(x)',
    'np.load(x, allow_pickle=True)',
    'numpy.load(x, allow_pickle=flag)',
    'import_module("x")\neval(y)',
  ],
)
def test_each_danger_is_seen(text):
  assert len(dangers(text)) == 1


def test_what_is_harmless():
  assert dangers('np.load(x, allow_pickle=False)\nre.compile(x)\nmodel.compile(y)\nself.eval(z)') == []
