"""Two interleaved half circles of points in a plane, made by scikit-learn."""

from meta_pseudo_labels.data.storage import Data, Examples

import numpy as np


def load(info, request):
  """Returns the `Data` of `request.seed`: 2,000 points for training and for the test, float32 `[N, 2]`."""
  del info
  from sklearn import datasets

  def draw(stream):
    points, labels = datasets.make_moons(
      (1000, 1000), noise=0.1, random_state=np.random.RandomState([request.seed, stream])
    )
    return Examples(points.astype(np.float32), labels.astype(np.int32))

  return Data(train=draw(0), test=draw(1))
