"""All that a trained network needs in order to classify, besides its weights: kept in checkpoints."""

import dataclasses
import json
from typing import Any, Dict, Optional, Tuple

from meta_pseudo_labels.data.augment import crops, views
from meta_pseudo_labels.data.images.decoding import Decoding

import tensorflow as tf

_VIEWS = {kind.__name__: kind for kind in (views.Points, views.PadCrop, views.ResizedCrop)}
_FITS = {'center': crops.fit, 'stretch': crops.stretch}


@dataclasses.dataclass(frozen=True)
class Serving:
  """How inputs become what a network sees, and what its classes are called.

  Attributes:
    class_names: tuple of str, in the order of the labels.
    input_shape: of what the network sees, as Problem.input_shape.
    views: one of data/augment/views.py; its `plain` is what evaluation does.
    fit: how images come to be of one size: 'center' or 'stretch'.
    decoding: Decoding of one's own image files, or None: files are decoded at their full size.
    architectures: {network's path: its description}, see `models.pretrained.describe`.
  """

  class_names: Tuple[str, ...]
  input_shape: Tuple[Optional[int], ...]
  views: Any
  fit: str = 'center'
  decoding: Optional[Decoding] = None
  architectures: Dict[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, problem, architectures=None):
    """Returns the Serving of a Problem, with the `architectures` of networks that came as files.

    Of features it is that of the images that they are of.
    """
    problem = problem.images or problem
    return cls(
      tuple(problem.info.class_names),
      tuple(problem.input_shape),
      problem.views,
      problem.info.fit,
      problem.decoding,
      architectures or {},
    )

  def fitted(self, image):
    """Returns an image, uint8 `[H, W, C]`, as images in memory come to their size: `[S, S, C]`."""
    return _FITS[self.fit](image, self.input_shape[0])

  def to_json(self):
    """Returns the text of this."""
    values = dataclasses.asdict(self)
    values['views'] = {
      'kind': type(self.views).__name__,
      **{name: value for name, value in values['views'].items() if name != 'dtype'},
      'dtype': self.views.dtype.name,
    }
    return json.dumps(values, sort_keys=True)

  @classmethod
  def from_json(cls, text):
    """Returns the Serving of a text of `to_json`."""
    values = json.loads(text)
    found = dict(values['views'])
    kind, dtype = _VIEWS[found.pop('kind')], tf.as_dtype(found.pop('dtype'))
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    decoding = values['decoding']
    if decoding is not None:
      decoding = Decoding(**{name: tuple(v) if isinstance(v, list) else v for name, v in decoding.items()})
    return cls(
      tuple(values['class_names']),
      tuple(values['input_shape']),
      kind(dtype=dtype, **found),
      values['fit'],
      decoding,
      values.get('architectures', {}),
    )
