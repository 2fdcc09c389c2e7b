"""Four CPU devices for every test, before TensorFlow touches one: strategies run in-process."""

import meta_pseudo_labels
from meta_pseudo_labels.distribution import devices

import pytest
import tensorflow as tf

devices.configure_devices(4)


def pytest_addoption(parser):
  parser.addoption('--write-table', action='store_true', help='write docs/bad_requests.md anew')


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
