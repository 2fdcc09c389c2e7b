"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels that come with the package."""

from meta_pseudo_labels.data.storage import Data, Examples

import numpy as np

# They have no test split of their own: 50 images of every class are drawn for it (from
# RandomState, whose streams are frozen for good). Never to be changed: every accuracy on digits
# that was ever reported depends on these 500 images.
DIGITS_TEST_PER_CLASS = 50
DIGITS_TEST_SEED = 1797


def load(info, request):
  """Returns the `Data`: 1,297 training and 500 test images, uint8 `[N, 8, 8, 1]`."""
  del info, request
  from sklearn import datasets

  digits = datasets.load_digits()
  images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
  labels = digits.target.astype(np.int32)
  random = np.random.RandomState(DIGITS_TEST_SEED)
  test = np.sort(
    np.concatenate(
      [random.permutation(np.flatnonzero(labels == digit))[:DIGITS_TEST_PER_CLASS] for digit in range(10)]
    )
  )
  train = np.setdiff1d(np.arange(len(labels)), test)
  return Data(train=Examples(images[train], labels[train]), test=Examples(images[test], labels[test]))
