"""How inputs become what a model sees: one class for each kind of input.

Each has the same three methods: `plain` for evaluation, `labeled` for labeled training examples,
`unlabeled` for the original and the augmented view. They take a batch of inputs, eagerly or
inside tf.data; the last two the key of the step (int32 `[2]`), and where the inputs stand in the
global batch: rows [offset, offset + N) of `total`. So N replicas make the views that one would.
"""

import dataclasses
from typing import Any, Callable, NamedTuple, Tuple

from meta_pseudo_labels import rng
from meta_pseudo_labels.config.choices import RELEASE_OPS
from meta_pseudo_labels.data.augment import crops, image_ops, rand_augment

import numpy as np
import tensorflow as tf

Pair = Tuple[tf.Tensor, tf.Tensor]  # The original and the augmented view.


@dataclasses.dataclass(frozen=True)
class Points:
  """Points float32 `[N, D]`: the augmented view is the original and normal noise.

  Attributes:
    stddev: of the noise, in the units of the points (`augment_stddev`).
    dtype: of the result, float32 or bfloat16.

  Raises:
    tf.errors.InvalidArgumentError: inputs of another rank.

  Example:
    >>> original, augmented = mpl.data.Points(stddev=0.5).unlabeled(
    ...   np.zeros([6, 2], np.float32), tf.constant([0, 1]), 0, total=6
    ... )
    >>> float(tf.reduce_max(tf.abs(original))), augmented.shape
    (0.0, TensorShape([6, 2]))
  """

  stddev: float = 0.1
  dtype: tf.DType = tf.float32

  def plain(self, inputs: Any) -> tf.Tensor:
    """`[N, D]` of `dtype`."""
    return tf.cast(inputs, self.dtype)

  def labeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> tf.Tensor:
    """The same: nothing is done to labeled points."""
    del key, offset, total
    return self.plain(inputs)

  def unlabeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> Pair:
    """(original, augmented), each `[N, D]` of `dtype`."""
    noisy = rand_augment.jitter(
      inputs, rng.fold(key, 'unlabeled'), self.stddev, offset=offset, total=total
    )
    return self.plain(inputs), self.plain(noisy)


@dataclasses.dataclass(frozen=True)
class Features:
  """Features float16 `[N, 1 + 2 V, D]` of the plain, V original and V augmented views of each image.

  Training draws among the V. Without any, all views are the plain one.

  Attributes:
    num_views: int V.
    dtype: of the result, float32 or bfloat16.
  """

  num_views: int = 0
  dtype: tf.DType = tf.float32

  def plain(self, inputs: Any) -> tf.Tensor:
    """`[N, D]` of `dtype`, of the plain view."""
    return tf.cast(inputs[:, 0], self.dtype)

  def labeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> tf.Tensor:
    """`[N, D]` of `dtype`, of the plain or of one of the original views."""
    drawn = self._drawn(inputs, rng.fold(key, 'labeled'), 'view', 1 + self.num_views, offset, total)
    return tf.cast(tf.gather(inputs, drawn, batch_dims=1), self.dtype)

  def unlabeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> Pair:
    """(of the plain or an original view, of an augmented view), each `[N, D]` of `dtype`."""
    key = rng.fold(key, 'unlabeled')
    original = self._drawn(inputs, key, 'original', 1 + self.num_views, offset, total)
    augmented = original
    if self.num_views:
      augmented = self._drawn(inputs, key, 'augmented', self.num_views, offset, total) + self.num_views + 1
    found = tf.gather(inputs, tf.stack([original, augmented], axis=1), batch_dims=1)
    return tf.cast(found[:, 0], self.dtype), tf.cast(found[:, 1], self.dtype)

  @staticmethod
  def _drawn(inputs, key, purpose, count, offset, total):
    """Returns one of `count` numbers for each input: int32 `[N]`."""
    return rng.rows(rng.uniform(key, purpose, [total], 0, count, tf.int32), offset, tf.shape(inputs)[0])


@dataclasses.dataclass(frozen=True)
class Images:
  """What the views of images have in common.

  Attributes:
    mean, std: per channel, in units of 0..255.
    flip: whether mirroring keeps an image's label.
    ops: RandAugment's operations.
    magnitude: RandAugment's (`augment_magnitude`).
    fill: 0 to 255, the value of pixels that shifts, rotations and cutout leave empty (`augment_fill`).
    strong_labeled: RandAugment on labeled images too (`use_augment`).
    dtype: of the results, float32 or bfloat16.
  """

  mean: tuple = (0.0,)
  std: tuple = (255.0,)
  flip: bool = False
  ops: tuple = RELEASE_OPS
  magnitude: float = 5
  fill: int = image_ops.GREY
  strong_labeled: bool = False
  dtype: tf.DType = tf.float32


@dataclasses.dataclass(frozen=True)
class PadCrop(Images):
  """Images uint8 `[N, H, W, C]` of one size: the release's views of CIFAR.

  Raises:
    ValueError: images of another shape or dtype, or of another number of channels than `mean` has.

  Example:
    >>> views = mpl.data.PadCrop(mean=(128.0,), std=(64.0,), flip=True)
    >>> views.plain(np.full([1, 8, 8, 1], 192, np.uint8))[0, 0, 0].numpy()
    array([1.], dtype=float32)
  """

  def plain(self, inputs: Any) -> tf.Tensor:
    """`[N, H, W, C]` of `dtype`, normalized."""
    return rand_augment.normalize(inputs, self.mean, self.std, self.dtype)

  def labeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> tf.Tensor:
    """Mirrored, padded and cropped: `[N, H, W, C]` of `dtype`, normalized."""
    key = rng.fold(key, 'labeled')
    rows = dict(fill=self.fill, offset=offset, total=total)
    if self.strong_labeled:
      inputs = rand_augment.views(
        inputs, key, flip=self.flip, magnitude=self.magnitude, ops=self.ops, **rows
      )[1]
    else:
      inputs = rand_augment.weak(
        inputs, key, 'weak', flip=self.flip, pad=min(inputs.shape[1:3]) // 8, **rows
      )
    return self.plain(inputs)

  def unlabeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> Pair:
    """(original, augmented), each `[N, H, W, C]` of `dtype`, normalized; see `rand_augment.views`."""
    original, augmented = rand_augment.views(
      inputs,
      rng.fold(key, 'unlabeled'),
      flip=self.flip,
      magnitude=self.magnitude,
      ops=self.ops,
      fill=self.fill,
      offset=offset,
      total=total,
    )
    return self.plain(original), self.plain(augmented)


class Ragged(NamedTuple):
  """A batch of images of differing sizes, each read when it is asked for.

  Attributes:
    positions: int64 `[N]`.
    read: function of a position, int64 [] -> uint8 `[h, w, 3]`.
  """

  positions: tf.Tensor
  read: Callable


def _each(function, inputs, *others):
  """Returns function(image, *others[n]) of every image n, float32 `[N, ...]`."""
  read = inputs.read if isinstance(inputs, Ragged) else lambda image: image
  elements = inputs.positions if isinstance(inputs, Ragged) else inputs
  return tf.map_fn(
    lambda parts: function(read(parts[0]), *parts[1:]),
    (elements, *others),
    fn_output_signature=tf.float32,
  )


@dataclasses.dataclass(frozen=True)
class ResizedCrop(Images):
  """Images of any sizes: the release's views of ImageNet.

  They are `Ragged`, or N encoded images, string `[N]`.

  Attributes:
    size: int, pixels a side in training (`image_size`).
    eval_size: int, pixels a side in evaluation.
    whole: whether evaluation shows all of an image, squeezed to a square (`whole_image`).
    least_area: the least part of an image that a random crop shows (`crop_area`).

  Raises:
    ValueError: `mean` or `std` has neither one number nor three.
    tf.errors.InvalidArgumentError: an image cannot be decoded.

  Example:
    >>> views = mpl.data.ResizedCrop(size=32, eval_size=48)
    >>> images = tf.stack([tf.io.encode_png(np.zeros([100, 60, 3], np.uint8))] * 2)
    >>> views.labeled(images, tf.constant([0, 1]), 0, total=2).shape, views.plain(images).shape
    (TensorShape([2, 32, 32, 3]), TensorShape([2, 48, 48, 3]))
  """

  size: int = 224
  eval_size: int = 224
  flip: bool = True
  whole: bool = False
  least_area: float = 0.08

  @property
  def _fixed(self):
    """What shows an image where chance has no part in it."""
    return crops.whole if self.whole else crops.central_crop

  def plain(self, inputs: Any) -> tf.Tensor:
    """The central crop or all: `[N, eval_size, eval_size, 3]` of `dtype`, normalized."""
    return self.normalized(_each(lambda image: self._fixed(image, self.eval_size), inputs))

  def labeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> tf.Tensor:
    """A random crop, mirrored: `[N, size, size, 3]` of `dtype`, normalized."""
    key = rng.fold(key, 'labeled')
    images = self._crops(inputs, key, offset, total)
    images = self._mirrored(images, key, 'mirrored', offset, total)
    if self.strong_labeled:
      images = self._augmented(images, key, offset, total)
    return self.normalized(images)

  def unlabeled(self, inputs: Any, key: tf.Tensor, offset: Any, total: int) -> Pair:
    """(original, augmented), each `[N, size, size, 3]` of `dtype`, normalized.

    Both show the same crop; each is mirrored on its own. RandAugment's cutout and translation
    have the constants 40 and 100; no cutout comes after it.
    """
    key = rng.fold(key, 'unlabeled')
    found = self._crops(inputs, key, offset, total)
    original = self._mirrored(found, key, 'mirrored/original', offset, total)
    augmented = self._mirrored(found, key, 'mirrored/augmented', offset, total)
    return (self.normalized(original), self.normalized(self._augmented(augmented, key, offset, total)))

  def _crops(self, inputs, key, offset, total):
    seeds = rng.uniform(key, 'crop', [total, 2], 0, tf.int32.max, tf.int32)
    count = tf.shape(inputs.positions if isinstance(inputs, Ragged) else inputs)[0]
    return _each(
      lambda image, seed: crops.random_crop(image, self.size, seed, self.least_area, self._fixed),
      inputs,
      rng.rows(seeds, offset, count),
    )

  def _mirrored(self, images, key, purpose, offset, total):
    if not self.flip:
      return images
    draws = rng.rows(rng.uniform(key, purpose, [total]), offset, tf.shape(images)[0])
    # As rows of one image: TensorFlow reverses three channels of those several times as fast. `Select`
    # takes whole examples; tf.where would spread the condition over all pixels.
    rows = tf.reshape(images, [-1, self.size, crops.CHANNELS])
    mirrored = tf.reshape(tf.reverse(rows, [1]), tf.shape(images))
    return tf.raw_ops.Select(condition=draws < 0.5, x=mirrored, y=images)

  def _augmented(self, images, key, offset, total):
    """RandAugment of float32 images: as in the release cut off to uint8 and back."""
    images = tf.ensure_shape(
      tf.cast(tf.clip_by_value(images, 0, 255), tf.uint8), [None, self.size, self.size, crops.CHANNELS]
    )
    return tf.cast(
      rand_augment.rand_augment(
        images,
        key,
        magnitude=self.magnitude,
        cutout_const=40,
        translate_const=100,
        ops=self.ops,
        fill=self.fill,
        offset=offset,
        total=total,
      ),
      tf.float32,
    )

  def normalized(self, images: tf.Tensor) -> tf.Tensor:
    """(images - mean) / std of float32 `[N, H, W, 3]`: of `dtype`, rounded once."""
    width = images.shape[2]
    # A row of pixels at once: with three numbers at a time it takes five times as long.
    rows = tf.reshape(images, [-1, width * crops.CHANNELS])
    repeated = lambda values: tf.constant(
      np.tile(np.broadcast_to(np.float32(values), [crops.CHANNELS]), width)
    )
    normalized = (rows - repeated(self.mean)) / repeated(self.std)
    return tf.cast(tf.reshape(normalized, tf.shape(images)), self.dtype)
