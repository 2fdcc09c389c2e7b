"""Four CPU devices for every test, before TensorFlow touches one: strategies run in-process.

And a cache folder for the session alone, before the package asks where it is: none writes to the user's.
"""

# ruff: noqa: E402
import atexit
import gc
import os
import shutil
import tempfile

CACHE_HOME = tempfile.mkdtemp(prefix='meta_pseudo_labels_tests_')
os.environ['XDG_CACHE_HOME'] = CACHE_HOME
atexit.register(shutil.rmtree, CACHE_HOME, ignore_errors=True)

import meta_pseudo_labels
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.report import plots

import pytest
import tensorflow as tf

devices.configure_devices(4)

# Tests that are left out of the suite that takes ten minutes.
APART = {
  'long': 'takes half a minute or more, or has a quicker sister; CI runs it',
  'slow': 'takes minutes; nothing runs it by itself',
}
# Whose graphs TensorFlow optimizes as it does in a run; tests/quick_process is for processes likewise.
OPTIMIZED = ('test_train.py', 'test_parity.py', 'test_remat.py', 'test_replicas.py')


def pytest_addoption(parser):
  parser.addoption(
    '--write-table', action='store_true', help='write docs/bad_requests.md and docs/image_kinds.md anew'
  )


def pytest_configure(config):
  for name, what in APART.items():
    config.addinivalue_line('markers', f'{name}: {what}; run with -m {name}')


def pytest_collection_modifyitems(config, items):
  if not config.getoption('-m'):
    for item in items:
      for name in APART:
        if name in item.keywords:
          item.add_marker(pytest.mark.skip(reason=f'{name}; run with -m {name}'))


def pytest_collection_finish():
  """Keeps the garbage collector from going through all of TensorFlow again and again."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(10000, 10, 10)


@pytest.fixture(autouse=True, scope='module')
def fixture_quick(request):
  """Leaves out what takes long around the code that most tests look at.

  A report's charts are built but not rendered, outside tests/report: half the time of a small run. Graphs
  run as they were traced, but for OPTIMIZED: to optimize those of the data takes longer than to run them.
  """
  tf.config.optimizer.set_experimental_options(
    {'disable_meta_optimizer': request.path.name not in OPTIMIZED}
  )
  with pytest.MonkeyPatch.context() as patch:
    if request.path.parent.name != 'report':
      patch.setattr(plots, '_png', lambda drawing: b'not rendered')
    yield
  gc.collect()


@pytest.fixture(name='one_device')
def fixture_one_device():
  """A strategy of one device."""
  return tf.distribute.OneDeviceStrategy('CPU:0')
