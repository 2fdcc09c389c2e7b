"""What a checkpoint knows of its inputs, as text and back."""

from meta_pseudo_labels.data.augment import views
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.data.serving import Serving

import numpy as np
import pytest
import tensorflow as tf

COLORS = dict(mean=(1.5, 2.0, 3.0), std=(4.0, 5.0, 6.0), ops=('Rotate', 'Cutout'), flip=False, magnitude=7)


@pytest.mark.parametrize(
  'serving',
  [
    Serving(('one', 'two'), (2,), views.Points(0.5)),
    Serving(('\u00e9', 'b, "c"'), (8, 8, 3), views.PadCrop(**COLORS), 'stretch'),
    Serving(
      ('a',) * 9, (32, 32, 1), views.PadCrop(dtype=tf.bfloat16), 'center', Decoding(32, square=True)
    ),
    Serving(
      ('a', 'b'),
      (None, None, 3),
      views.ResizedCrop(size=96, eval_size=128, **COLORS),
      decoding=Decoding(111, background=(1, 2, 3), depth=(0, 4095)),
    ),
  ],
)
def test_what_is_written_is_read_again(serving):
  assert Serving.from_json(serving.to_json()) == serving


def test_images_come_to_their_size_by_cutting_or_stretching():
  image = np.zeros([4, 8, 3], np.uint8)
  image[:, 2:6] = 200
  fitted = lambda fit: Serving(('a', 'b'), (4, 4, 3), views.PadCrop(), fit).fitted(image).numpy()
  assert (fitted('center') == 200).all() and (fitted('stretch') == 0).any()
