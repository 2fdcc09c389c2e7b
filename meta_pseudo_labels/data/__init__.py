"""From a dataset's name, or from data of one's own, to batches."""

from meta_pseudo_labels.data.augment.views import PadCrop, Points, ResizedCrop
from meta_pseudo_labels.data.own_batches import batches

__all__ = ['PadCrop', 'Points', 'ResizedCrop', 'batches']
