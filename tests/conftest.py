"""Four CPU devices for every test, before TensorFlow touches one: strategies run in-process.

And a cache folder for the session alone, before the package asks where it is: none writes to the user's.
"""

# ruff: noqa: E402
import atexit
import os
import shutil
import tempfile

CACHE_HOME = tempfile.mkdtemp(prefix='meta_pseudo_labels_tests_')
os.environ['XDG_CACHE_HOME'] = CACHE_HOME
atexit.register(shutil.rmtree, CACHE_HOME, ignore_errors=True)

import meta_pseudo_labels
from meta_pseudo_labels.distribution import devices

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


@pytest.fixture(name='one_device')
def fixture_one_device():
  """A strategy of one device."""
  return tf.distribute.OneDeviceStrategy('CPU:0')
