"""The methods: each a Keras model whose `train_step` reads like its algorithm."""

from meta_pseudo_labels.methods.batch import Batch
from meta_pseudo_labels.methods.mpl import MetaPseudoLabels
from meta_pseudo_labels.methods.pseudo_labels import PseudoLabels
from meta_pseudo_labels.methods.reduced_mpl import ReducedMetaPseudoLabels
from meta_pseudo_labels.methods.supervised import Supervised
from meta_pseudo_labels.methods.uda import UDA

__all__ = [
  'Batch',
  'MetaPseudoLabels',
  'PseudoLabels',
  'ReducedMetaPseudoLabels',
  'Supervised',
  'UDA',
]
