"""What datasets exist: one entry each, its facts and its loader.

What is read is in an order that never changes, so that a position names an example for good
(`splits.manifest` writes positions down). A new dataset is an entry of `DATASETS`; a new format is
a file in data/formats/ with a function `load(info, request)` besides.
"""

from meta_pseudo_labels.data.dataset_info import DatasetInfo, Request
from meta_pseudo_labels.data.formats import (
  cifar_binary,
  digits,
  idx,
  image_folder,
  imagenet_tfrecord,
  npz,
  tfds,
  two_moons,
)
from meta_pseudo_labels.errors import UserError, did_you_mean

_DIGIT_NAMES = tuple('0123456789')

_CIFAR10_NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

# The "fine" labels: alphabetical.
_CIFAR100_NAMES = tuple(
  """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)

_FASHION_NAMES = (
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
)

_CIFAR_CITATION = (
  'Krizhevsky, A. (2009). Learning multiple layers of features from tiny images. '
  'Technical report, University of Toronto.'
)
_CIFAR_LICENSE = 'none stated by its authors (https://www.cs.toronto.edu/~kriz/cifar.html)'


def _times_255(*values):
  return tuple(255.0 * value for value in values)


# The release's numbers.
_IMAGENET_MEAN, _IMAGENET_STD = _times_255(0.485, 0.456, 0.406), _times_255(0.229, 0.224, 0.225)


DATASETS = {
  entry.name: entry
  for entry in (
    DatasetInfo(
      name='digits',
      load=digits.load,
      kind='image',
      class_names=_DIGIT_NAMES,
      image_shape=(8, 8, 1),
      flip=False,
      # Over the 1,297 training images that `digits.load` leaves after the test draw.
      mean=(77.59793,),
      std=(95.73860,),
      # Bright strokes on black: no image here is inverted or has its grey levels redrawn.
      # Their effect on accuracy is within noise (docs/digits.md).
      augment_ops=(
        'Rotate',
        'ShearX',
        'ShearY',
        'TranslateX',
        'TranslateY',
        'Brightness',
        'Contrast',
        'Sharpness',
      ),
      license='CC BY 4.0 (UCI Machine Learning Repository); ships with scikit-learn',
      citation='Alpaydin, E. and Kaynak, C. (1998). Optical Recognition of Handwritten Digits. '
      'UCI Machine Learning Repository. https://doi.org/10.24432/C50P49',
    ),
    DatasetInfo(
      name='two_moons',
      load=two_moons.load,
      kind='points',
      class_names=('upper', 'lower'),
      image_shape=(2,),
      flip=False,
      mean=(0.0, 0.0),
      std=(1.0, 1.0),  # the points stay in the units that a plot shows
      license='generated',
      citation='Pham, H. et al. (2021). Meta Pseudo Labels. CVPR.',
    ),
    DatasetInfo(
      name='cifar10',
      load=cifar_binary.load,
      kind='image',
      class_names=_CIFAR10_NAMES,
      image_shape=(32, 32, 3),
      flip=True,
      # The release's numbers.
      mean=_times_255(0.4914, 0.482158, 0.4465309),
      std=_times_255(0.247032, 0.243485, 0.26159),
      license=_CIFAR_LICENSE,
      citation=_CIFAR_CITATION,
    ),
    DatasetInfo(
      name='cifar100',
      load=tfds.load,
      kind='image',
      class_names=_CIFAR100_NAMES,
      image_shape=(32, 32, 3),
      flip=True,
      # As commonly published for the training split; not computed here.
      mean=(129.3, 124.1, 112.4),
      std=(68.2, 65.4, 70.4),
      license=_CIFAR_LICENSE,
      citation=_CIFAR_CITATION,
    ),
    DatasetInfo(
      name='svhn',
      load=tfds.loader('svhn_cropped'),
      kind='image',
      class_names=_DIGIT_NAMES,
      image_shape=(32, 32, 3),
      flip=False,
      # As commonly published for the training split without `extra`; not computed here.
      mean=_times_255(0.4376821, 0.4437697, 0.4728044),
      std=_times_255(0.1980301, 0.2010156, 0.1970361),
      license='non-commercial use only (http://ufldl.stanford.edu/housenumbers)',
      citation='Netzer, Y. et al. (2011). Reading digits in natural images with unsupervised '
      'feature learning. NIPS Workshop on Deep Learning.',
    ),
    DatasetInfo(
      name='fashion_mnist',
      load=idx.load,
      kind='image',
      class_names=_FASHION_NAMES,
      image_shape=(28, 28, 1),
      flip=True,
      mean=(72.94035,),
      std=(90.02118,),  # over the 60,000 training images
      license='MIT (Zalando SE)',
      citation='Xiao, H., Rasul, K. and Vollgraf, R. (2017). Fashion-MNIST: a novel image '
      'dataset for benchmarking machine learning algorithms. arXiv:1708.07747.',
    ),
    DatasetInfo(
      name='stl10',
      load=tfds.load,
      kind='image',
      class_names=('airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck'),
      image_shape=(96, 96, 3),
      flip=True,
      mean=_IMAGENET_MEAN,
      std=_IMAGENET_STD,  # Its images are ImageNet's; not computed here.
      license='none stated by its authors (https://cs.stanford.edu/~acoates/stl10)',
      citation='Coates, A., Lee, H. and Ng, A. Y. (2011). An analysis of single layer networks '
      'in unsupervised feature learning. AISTATS.',
    ),
    *(
      DatasetInfo(
        name=name,
        load=imagenet_tfrecord.load,
        own_resolution=True,
        default_channels=3,
        kind='image',
        class_names=tuple(map(str, range(1000))),
        image_shape=None,
        flip=True,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        views='resized_crop',
        license='non-commercial research and education only (https://image-net.org/download)',
        citation='Russakovsky, O. et al. (2015). ImageNet large scale visual recognition challenge. IJCV.',
      )
      for name in ('imagenet', 'imagenet_10_percent', 'imagenet_heldout')
    ),
    DatasetInfo(
      name='folder',
      load=image_folder.load,
      fit='center',
      default_channels=3,
      mean=_IMAGENET_MEAN,
      std=_IMAGENET_STD,
      views='',
      holds_out=True,
    ),
    DatasetInfo(name='npz', load=npz.load, holds_out=True),
  )
}


def names():
  """Returns the names of all datasets (tuple of str), in the order they are listed to people."""
  return tuple(DATASETS)


def info(name):
  """Returns the `DatasetInfo` called `name` (str). Raises UserError if there is none."""
  if name in DATASETS:
    return DATASETS[name]
  raise UserError(
    f'--dataset_name={name}: unknown dataset{did_you_mean(name, DATASETS)}; use one of '
    f'{", ".join(DATASETS)}'
  )


def load(info, *args, **kwargs):
  """Reads a dataset.

  Args:
    info: a `DatasetInfo`.
    *args, **kwargs: of a `Request`.

  Returns:
    A `storage.Data`.

  Raises:
    UserError: the data is not there and cannot be fetched, or is damaged.
  """
  return info.load(info, Request(*args, **kwargs))
