"""From a dataset's name, or from data of one's own, to batches."""

from meta_pseudo_labels.data.augment.views import PadCrop, Points, ResizedCrop
from meta_pseudo_labels.data.own_batches import batches
from meta_pseudo_labels.data.own_folder import ImageFolder, load_folder

__all__ = ['ImageFolder', 'PadCrop', 'Points', 'ResizedCrop', 'batches', 'load_folder']
