"""What must be known of a dataset before it is read, and what a loader is asked for."""

import dataclasses
import os
from typing import Any, Callable, Optional, Tuple

from meta_pseudo_labels.config.choices import RELEASE_OPS
from meta_pseudo_labels.errors import UserError

# Where prepared images are kept, unless --cache_dir says otherwise.
CACHE_DIR = os.path.join(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'meta_pseudo_labels')


@dataclasses.dataclass(frozen=True)
class Request:
  """What a run asks of a dataset's loader.

  Attributes:
    data_dir: the folder to look in (npz: the file); None or '' for the usual one.
    seed: int >= 0; only generated datasets depend on it.
    decoding: images.decoding.Decoding of one's own image files; None where there are none.
    cache_dir: folder where prepared images and indices are kept.
    labels: str, a file of labels of one's own images, or None.
    own_range: whether images of more than 8 bits are scaled by the largest value that there is.
    skip_bad_images: leave out what cannot be decoded (one's own images).
    say: function of a line, told what was found.
  """

  data_dir: Optional[str] = None
  seed: int = 0
  decoding: Any = None
  cache_dir: str = CACHE_DIR
  labels: Optional[str] = None
  own_range: bool = False
  skip_bad_images: bool = False
  say: Callable[[str], None] = lambda line: None


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """The facts of a dataset that are known before anything of it is read.

  The defaults are those of one's own images, of which only the data say more.

  Attributes:
    name: what `--dataset_name` calls it.
    load: its loader, a function (DatasetInfo, Request) -> `storage.Data`, of data/formats/.
    kind: 'image' (uint8 [H, W, C]) or 'points' (float32 [D]).
    class_names: one name per class, in the order of the labels; empty where only the data say.
    image_shape: the shape of one example, (H, W, C) or (D,); None where only the data say.
    mean, std: per channel, over the training split, in the inputs' own units (0..255 for
      images); `(x - mean) / std` normalizes. Of one number: the same for all channels.
    flip: whether the mirror image of an example keeps its label.
    license, citation: for the report page and the docs.
    augment_ops: the RandAugment operations that keep the label.
    views: 'pad_crop' or 'resized_crop' (views.py); '' for one that depends on the image size.
    holds_out: whether a fifth of the labeled examples is held out for validation where neither
      the data nor `--num_validation` says otherwise.
    fit: how images in memory are brought to `--image_size`: 'stretch', or 'center' for the central
      square.
    own_resolution: whether a network with a resolution of its own is evaluated at it.
    default_channels: channels of an image where `image_shape` is None; None where only the data say.
  """

  name: str
  load: Callable[['DatasetInfo', Request], Any]
  kind: str = 'image'
  class_names: Tuple[str, ...] = ()
  image_shape: Optional[Tuple[int, ...]] = None
  mean: Tuple[float, ...] = (127.5,)
  std: Tuple[float, ...] = (64.0,)
  flip: bool = True
  license: str = 'yours'
  citation: str = ''
  augment_ops: Tuple[str, ...] = RELEASE_OPS
  views: str = 'pad_crop'
  holds_out: bool = False
  fit: str = 'stretch'
  own_resolution: bool = False
  default_channels: Optional[int] = None

  @property
  def num_classes(self):
    """The number of classes (int)."""
    return len(self.class_names)


def require_data_dir(info, request):
  """Raises UserError unless the request says where the data are."""
  if not request.data_dir:
    raise UserError(f'--dataset_name={info.name}: needs --data_dir; say where the data are')
