"""Meta Pseudo Labels (Pham et al., CVPR 2021) for TensorFlow 2 / Keras.

Examples in docstrings run as they stand after these lines:

  >>> import meta_pseudo_labels as mpl
  >>> import numpy as np
  >>> import tensorflow as tf
"""

import importlib.util
import os
from typing import TYPE_CHECKING

__version__ = '0.1.0'  # pyproject.toml, CITATION.cff and CHANGELOG.md follow it.

# TensorFlow 2.16 and later bring Keras 3 as tf.keras unless this is set before the import; the
# methods here are Keras 2 models, which tf-keras carries on. Without tf-keras TensorFlow 2.15
# must not see it: it would look for that package.
if importlib.util.find_spec('tf_keras') is not None:
  os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')

# TensorFlow leaves oneDNN off on x86 CPUs without AVX-512, where it is faster all the same: an MPL
# step of the digits recipe takes .6 of the time (2026-11-22, AMD EPYC, TensorFlow 2.15.1).
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')

import tensorflow as tf

if not getattr(tf.keras, '__version__', '2').startswith('2'):
  raise ImportError(
    f'meta_pseudo_labels needs Keras 2, but tf.keras is {tf.keras.__version__}: install '
    'tf-keras and import meta_pseudo_labels before tensorflow, or set TF_USE_LEGACY_KERAS=1'
  )


from meta_pseudo_labels import data, models
from meta_pseudo_labels.errors import Failure, UserError
from meta_pseudo_labels.methods import (
  UDA,
  Batch,
  MetaPseudoLabels,
  PseudoLabels,
  ReducedMetaPseudoLabels,
  Supervised,
)
from meta_pseudo_labels.optim import optimizers

if TYPE_CHECKING:
  from meta_pseudo_labels.trained import Predictions, TrainedRun, load_run, train

# What needs the whole program is imported when it is first used.
_LATE = ('Predictions', 'TrainedRun', 'load_run', 'train')

__all__ = [
  'Batch',
  'Failure',
  'MetaPseudoLabels',
  'Predictions',
  'PseudoLabels',
  'ReducedMetaPseudoLabels',
  'Supervised',
  'TrainedRun',
  'UDA',
  'UserError',
  'data',
  'load_run',
  'models',
  'optimizers',
  'train',
]


# Hidden from type checkers, to which it would promise every name.
if not TYPE_CHECKING:

  def __getattr__(name):
    """Returns a public name of `_LATE`. Raises AttributeError for any other."""
    if name not in _LATE:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from meta_pseudo_labels import trained

    return getattr(trained, name)


def __dir__():
  """Returns the module's names, those that are imported late among them."""
  return sorted({*globals(), *__all__})
