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


def pytest_addoption(parser):
  parser.addoption(
    '--write-table', action='store_true', help='write docs/bad_requests.md and docs/image_kinds.md anew'
  )


def pytest_configure(config):
  config.addinivalue_line('markers', 'slow: takes minutes; run with -m slow')


def pytest_collection_modifyitems(config, items):
  if not config.getoption('-m'):
    skip = pytest.mark.skip(reason='slow; run with -m slow')
    for item in items:
      if 'slow' in item.keywords:
        item.add_marker(skip)


def pytest_collection_finish():
  """Keeps the garbage collector from going through all of TensorFlow again and again."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(10000, 20, 20)


@pytest.fixture(autouse=True, scope='module')
def fixture_sketches(request):
  """Outside tests/report, a report's charts are built but not rendered: half the time of a small run."""
  with pytest.MonkeyPatch.context() as patch:
    if request.path.parent.name != 'report':
      patch.setattr(plots, '_png', lambda drawing: b'not rendered')
    yield


@pytest.fixture(name='one_device')
def fixture_one_device():
  """A strategy of one device."""
  return tf.distribute.OneDeviceStrategy('CPU:0')
