"""Where examples come from: `load` looks a dataset's source up and reads it.

What is read is in an order that never changes, so that a position names an example for good
(`splits.manifest` writes positions down).
"""
from meta_pseudo_labels.data import arrays, binary_files, examples, folder, records, tfds_source
from meta_pseudo_labels.errors import UserError

import numpy as np

# scikit-learn's digits have no test split of their own: 50 images of every class are drawn for it
# (from RandomState, whose streams are frozen for good). Never to be changed: every accuracy on
# digits that was ever reported depends on these 500 images.
DIGITS_TEST_PER_CLASS = 50
DIGITS_TEST_SEED = 1797


def load(info, data_dir=None, seed=0, *, image_size=None, encoded=False, skip_bad_images=False,
         say=None):
  """Reads a dataset.

  Args:
    info: a `datasets.DatasetInfo`.
    data_dir: the folder to look in (npz: the file); None or '' for the usual one: TFDS's
      ($TFDS_DATA_DIR or ~/tensorflow_datasets), or where Debian installs the IDX files.
    seed: int >= 0; only generated datasets depend on it.
    image_size: int, the pixels a side that one's own images are brought to in memory.
    encoded: whether one's own images stay in their files (`examples.Files`).
    skip_bad_images: leave out what cannot be decoded (one's own images).
    say: function of a line, told what was found; or None.

  Returns:
    An `examples.Data`.

  Raises:
    UserError: the data is not there and cannot be fetched, or is damaged.
  """
  source, _, name = info.source.partition(':')
  if source in ('folder', 'npz') and not data_dir:
    raise UserError(f'--dataset_name={info.name}: --data_dir must say where the data are')
  if source == 'sklearn':
    return _load_digits()
  if source == 'generated':
    return _load_two_moons(seed)
  if source == 'idx':
    return binary_files.load_idx(info, data_dir)
  if source == 'folder':
    return folder.load(data_dir, image_size=image_size, in_memory=not encoded,
                       skip_bad_images=skip_bad_images, say=say)
  if source == 'npz':
    return arrays.load(data_dir)
  if source == 'imagenet':
    return _load_imagenet(info, tfds_source.default_folder(data_dir))
  records_folder = binary_files.cifar10_folder(data_dir) if info.name == 'cifar10' else None
  if records_folder:
    return binary_files.load_cifar10_records(info, records_folder)
  return tfds_source.load(info, name, data_dir)


def _load_digits():
  from sklearn import datasets as sklearn_datasets  # pylint: disable=import-outside-toplevel
  digits = sklearn_datasets.load_digits()
  images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
  labels = digits.target.astype(np.int32)
  random = np.random.RandomState(DIGITS_TEST_SEED)
  test = np.sort(np.concatenate([
      random.permutation(np.flatnonzero(labels == digit))[:DIGITS_TEST_PER_CLASS]
      for digit in range(10)]))
  train = np.setdiff1d(np.arange(len(labels)), test)
  return examples.Data(train=examples.Examples(images[train], labels[train]),
                       test=examples.Examples(images[test], labels[test]))


def _load_imagenet(info, data_dir):
  """The release's shards, or what TFDS has prepared."""
  folder = tfds_source.prepared_folder(data_dir, 'imagenet2012')
  if folder is None:
    return records.load_release(info, data_dir, info.name)
  if info.name != 'imagenet':
    raise UserError(f'dataset {info.name!r}: TFDS has no such split; take the shards of the release, '
                    'or --dataset_name=imagenet with --num_labeled and --label_seed')
  return records.load_tfds(info, tfds_source.builder(folder))


def _load_two_moons(seed):
  from sklearn import datasets as sklearn_datasets  # pylint: disable=import-outside-toplevel

  def draw(stream):
    points, labels = sklearn_datasets.make_moons(
        (1000, 1000), noise=.1, random_state=np.random.RandomState([seed, stream]))
    return examples.Examples(points.astype(np.float32), labels.astype(np.int32))
  return examples.Data(train=draw(0), test=draw(1))
