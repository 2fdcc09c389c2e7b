"""What tests/conftest.py leaves out of most tests, left out of the processes that they start.

Python imports this at its start where the folder is on PYTHONPATH: `quick_path` of tests/tiny.py. Without
the package's report nothing changes, and TensorFlow is not imported.
"""

import importlib.abc
import importlib.machinery
import sys

PLOTS = 'meta_pseudo_labels.report.plots'


class Finder(importlib.abc.MetaPathFinder):
  """Finds PLOTS: its charts are built but not rendered. And graphs run as they were traced."""

  def find_spec(self, name, path, target=None):
    if name != PLOTS:
      return None
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    execute = spec.loader.exec_module

    def execute_and_change(module):
      execute(module)
      module._png = lambda drawing: b'not rendered'

    spec.loader.exec_module = execute_and_change
    return spec


sys.meta_path.insert(0, Finder())
