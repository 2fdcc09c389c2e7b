"""Views of batches: RandAugment, the weak view and cutout for images; noise for vectors.

All functions take batches, eagerly or inside tf.data, and draw through `rng`. So a view is a function
of (seed, step, position in the global batch). `total` is the number of rows of the global batch
(default: the number of given rows). `offset` is the position of the first given row in it. So a replica
that holds rows [offset, offset + N) makes the same views as a single device.

Source: the release's augment.py and data_utils.py; RandAugment is Cubuk et al. 2020
(arXiv:1909.13719), cutout DeVries and Taylor 2017 (arXiv:1708.04552).
"""

import functools

from meta_pseudo_labels import rng
from meta_pseudo_labels.config.choices import AUGMENT_OPS, RELEASE_OPS
from meta_pseudo_labels.data.augment import image_ops

import numpy as np
import tensorflow as tf


def levels(magnitude, cutout_const, translate_const):
  """Computes the arguments of every operation at a magnitude: dict of name -> tuple.

  `magnitude` is a number of at least 0; 10 is the nominal maximum. Above it the arguments exceed their
  ranges, as in the release. `cutout_const` and `translate_const` are pixels at magnitude 10. The
  arguments have no signs. Floats are rounded to float32. Solarize's threshold is the one before the
  cast to uint8.
  """
  share = magnitude / 10
  none = ()
  enhance = (float(np.float32(share * 1.8 + 0.1)),)
  shear = (float(np.float32(share * 0.3)),)
  translate = (float(np.float32(share * float(translate_const))),)

  def integer(multiplier):
    # In float32 like the release, since float64 can be on the other side of an integer.
    return (int(np.float32(magnitude) / np.float32(10) * np.float32(multiplier)),)

  return {
    'Identity': none,
    'AutoContrast': none,
    'Equalize': none,
    'Invert': none,
    'Rotate': (float(np.float32(share * 30.0)),),
    'Posterize': integer(4),
    'Solarize': integer(256),
    'SolarizeAdd': integer(110),
    'Color': enhance,
    'Contrast': enhance,
    'Brightness': enhance,
    'Sharpness': enhance,
    'ShearX': shear,
    'ShearY': shear,
    'TranslateX': translate,
    'TranslateY': translate,
    'Cutout': integer(cutout_const),
  }


def _draw(images, key, purpose, columns, offset, total):
  """Returns the images' rows of the global batch's draw: uniform [0, 1), float32 `[N, columns]`."""
  count = tf.shape(images)[0]
  draws = rng.uniform(key, purpose, [count if total is None else total, columns])
  return rng.rows(draws, offset, count)


def _up_to(draws, limit):
  """Maps uniform draws in [0, 1) to integers in [0, limit), int32."""
  return tf.cast(draws * tf.cast(limit, tf.float32), tf.int32)


_TABLES = {
  'Invert': lambda pixels: image_ops.invert_tables(),
  'Posterize': lambda pixels, bits: image_ops.posterize_tables(bits),
  'Solarize': lambda pixels, threshold: image_ops.solarize_tables(threshold),
  'SolarizeAdd': lambda pixels, addition: image_ops.solarize_add_tables(addition),
  'Contrast': lambda pixels, factor: image_ops.contrast_tables(factor, pixels),
  'Brightness': lambda pixels, factor: image_ops.brightness_tables(factor),
}
_TRANSFORMS = {
  'Rotate': image_ops.rotate_transforms,
  'ShearX': lambda level, *size: image_ops.shear_x_transforms(level),
  'ShearY': lambda level, *size: image_ops.shear_y_transforms(level),
  'TranslateX': lambda pixels, *size: image_ops.translate_x_transforms(pixels),
  'TranslateY': lambda pixels, *size: image_ops.translate_y_transforms(pixels),
}
_OTHERS = ('AutoContrast', 'Equalize', 'Color', 'Sharpness', 'Cutout')
# The images of a layer are sorted into these groups and each group is computed at once.
_GROUPS = ('unchanged', 'tables', 'transforms') + _OTHERS


def _group_of(name):
  """Returns the number of the group of operation `name`. Raises ValueError for an unknown operation."""
  if name == 'Identity':
    return _GROUPS.index('unchanged')
  if name in _TABLES:
    return _GROUPS.index('tables')
  if name in _TRANSFORMS:
    return _GROUPS.index('transforms')
  if name in _OTHERS:
    return _GROUPS.index(name)
  raise ValueError(f'RandAugment: has no operation {name!r}; choose from {", ".join(AUGMENT_OPS)}')


@functools.lru_cache(maxsize=32)
def _constants(ops, arguments, height, width):
  """Computes the data of `ops` that depend on no image: tables `[K, 256]`, transforms `[K, 2, 8]`.

  `arguments` are those of `ops`, in the same order. The transforms are those of the negative and of the
  positive argument. Rows of operations of other groups are zeros. The results are Numpy arrays. They are
  computed eagerly, also while a graph is built, since a graph optimizer could round them differently.
  """
  tables = np.zeros([len(ops), 256], np.uint8)
  transforms = np.zeros([len(ops), 2, 8], np.float32)
  with tf.init_scope():
    for number, (name, argument) in enumerate(zip(ops, arguments)):
      if name in _TABLES:
        tables[number] = _TABLES[name](height * width, *argument)[0].numpy()
      elif name in _TRANSFORMS:
        signed = tf.constant([-argument[0], argument[0]])
        transforms[number] = _TRANSFORMS[name](signed, height, width).numpy()
  return tables, transforms


def _apply_group(group, images, op, positive, centers, constants, arguments, fill):
  """Applies the operations of one group to the images (possibly none) that drew one of them."""
  tables, transforms = constants
  if group == 'unchanged':
    return images
  if group == 'tables':
    return image_ops.apply_tables(images, tf.gather(tables, op))
  if group == 'transforms':
    return image_ops.transform(images, tf.gather_nd(transforms, tf.stack([op, positive], 1)), fill)
  if group == 'Cutout':
    return image_ops.cutout(images, arguments['Cutout'][0], centers, fill)
  function = {
    'AutoContrast': image_ops.autocontrast,
    'Equalize': image_ops.equalize,
    'Color': image_ops.color,
    'Sharpness': image_ops.sharpness,
  }[group]
  return function(images, *arguments[group])


def _layer(images, applied, op, positive, centers, ops, arguments, fill):
  """Applies operation `ops[op[n]]` to every image n where `applied`.

  `applied` is bool `[N]`, `op` and `positive` are int32 `[N]`, `centers` is int32 `[N, 2]`.
  """
  height, width, _ = images.shape[1:]
  groups = np.array([_group_of(name) for name in ops], np.int32)
  constants = _constants(ops, tuple(arguments[name] for name in ops), height, width)
  group = tf.where(applied, tf.gather(groups, op), _GROUPS.index('unchanged'))

  def split(values):
    return tf.dynamic_partition(values, group, len(_GROUPS))

  parts = zip(_GROUPS, split(images), split(op), split(positive), split(centers))
  present = set(groups) | {_GROUPS.index('unchanged')}
  done = [
    _apply_group(name, *part, constants, arguments, fill) if number in present else part[0]
    for number, (name, *part) in enumerate(parts)
  ]
  result = tf.dynamic_stitch(split(tf.range(tf.shape(images)[0])), done)
  return tf.ensure_shape(result, images.shape)


def rand_augment(
  images,
  key,
  *,
  num_layers=2,
  magnitude,
  cutout_const,
  translate_const,
  ops=RELEASE_OPS,
  fill=image_ops.GREY,
  offset=0,
  total=None,
):
  """Applies RandAugment to a batch, with the release's operations, ranges and probabilities.

  Each image draws one probability from U(0.2, 0.8). Each layer draws one of `ops` for the image and
  applies it with that probability. The signs of geometric arguments and the centers of cutout are drawn
  too. The draws are `rand_augment/probability` [total, 1], and for each layer `rand_augment/layer<i>`
  [total, 5]: operation, apply, sign, center row, center column.

  Args:
    images: `[N, H, W, C]` uint8; H, W, C static, C 1 or 3.
    key: int32 `[2]` from `rng.key(seed, step)`.
    num_layers: int, number of successive operations.
    magnitude, cutout_const, translate_const: see `levels`.
    ops: names of the operations to draw from.
    fill: int in 0..255, the value of pixels outside the image and in cutout's box.
    offset, total: position of the images in the global batch; see the module.

  Returns:
    `[N, H, W, C]` uint8.

  Raises:
    ValueError: the images have another shape or type, or an operation is unknown.
  """
  images = image_ops.as_images(images)
  ops = tuple(ops)
  arguments = levels(magnitude, cutout_const, translate_const)
  draws = _draw(images, key, 'rand_augment/probability', 1, offset, total)
  probability = 0.2 + 0.6 * draws[:, 0]
  for layer in range(num_layers):
    draws = _draw(images, key, f'rand_augment/layer{layer}', 5, offset, total)
    images = _layer(
      images,
      applied=draws[:, 1] <= probability,
      op=_up_to(draws[:, 0], len(ops)),
      positive=tf.cast(draws[:, 2] >= 0.5, tf.int32),
      centers=_up_to(draws[:, 3:], images.shape[1:3]),
      ops=ops,
      arguments=arguments,
      fill=fill,
    )
  return images


def weak(images, key, purpose, *, flip=True, pad, fill=image_ops.GREY, offset=0, total=None):
  """Mirrors images with probability 1/2 (if `flip`), pads them with `fill`, and crops them at random.

  Draws `purpose` [total, 3]: mirrored (below 0.5), first row, first column of the crop.

  Args:
    images: `[N, H, W, C]` uint8; H, W, C static, C 1 or 3.
    key: int32 `[2]`, the key of the step.
    purpose: str, the purpose of the draw.
    flip: bool; False for images whose left and right matter, such as digits.
    pad: int, pixels on each side.
    fill: int in 0..255.
    offset, total: position of the images in the global batch; see the module.

  Returns:
    `[N, H, W, C]` uint8.

  Raises:
    ValueError: the images have another shape or type.
  """
  images = image_ops.as_images(images)
  if not flip and not pad:
    return images
  draws = _draw(images, key, purpose, 3, offset, total)
  mirrored = tf.logical_and(draws[:, 0] < 0.5, flip)
  return image_ops.flip_and_shift(images, mirrored, _up_to(draws[:, 1:], 2 * pad + 1) - pad, fill)


def random_cutout(images, key, purpose, *, pad_size, fill=image_ops.GREY, offset=0, total=None):
  """Sets a box of up to 2 * `pad_size` pixels per side, around a random pixel, to `fill`.

  It takes and returns images `[N, H, W, C]` uint8, and raises ValueError for others. It draws `purpose`
  [total, 2]: center row and column.
  """
  images = image_ops.as_images(images)
  draws = _draw(images, key, purpose, 2, offset, total)
  return image_ops.cutout(images, pad_size, _up_to(draws, images.shape[1:3]), fill)


def views(
  images, key, *, flip, magnitude, pad=None, ops=RELEASE_OPS, fill=image_ops.GREY, offset=0, total=None
):
  """Makes the original and the augmented view of unlabeled images by the release's CIFAR recipe.

  Let size = min(H, W). The original view is flipped, padded by size // 8 (or `pad`) and cropped. The
  augmented view starts from the ORIGINAL view. Two layers of RandAugment (cutout and translation of
  size // 8 at magnitude 10) and a cutout of size // 4 to each side follow. Then it is flipped, padded
  and cropped once more.

  Args:
    images: `[N, H, W, C]` uint8; H, W, C static, C 1 or 3.
    key: int32 `[2]` from `rng.key(seed, step)`.
    flip, magnitude, pad, ops, fill, offset, total: see `weak` and `rand_augment`.

  Returns:
    (original, augmented), both `[N, H, W, C]` uint8.

  Raises:
    ValueError: the images have another shape or type, or an operation is unknown.
  """
  images = image_ops.as_images(images)
  size = min(images.shape[1:3])
  pad = size // 8 if pad is None else pad
  rows = dict(fill=fill, offset=offset, total=total)
  original = weak(images, key, 'views/original', flip=flip, pad=pad, **rows)
  augmented = rand_augment(
    original, key, magnitude=magnitude, cutout_const=size // 8, translate_const=size // 8, ops=ops, **rows
  )
  augmented = random_cutout(augmented, key, 'views/cutout', pad_size=size // 4, **rows)
  return original, weak(augmented, key, 'views/augmented', flip=flip, pad=pad, **rows)


def normalize(images, mean, std, dtype=tf.float32):
  """Computes (images - mean) / std: uint8 `[N, H, W, C]` -> `dtype` of the same shape.

  `mean` and `std` have one number per channel, in units of 0..255. It is computed in float32 and rounded
  to `dtype` once. Raises ValueError for other images.
  """
  images = image_ops.as_images(images)
  height, width, channels = images.shape[1:]
  # Flat and tiled, since broadcasting over an innermost axis of 3 is several times slower.
  mean, std = (
    np.tile(np.broadcast_to(np.asarray(value, np.float32), [channels]), height * width)
    for value in (mean, std)
  )
  pixels = tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.float32)
  return tf.reshape(tf.cast((pixels - mean) / std, dtype), [-1, height, width, channels])


def jitter(points, key, stddev, *, purpose='jitter', offset=0, total=None):
  """Makes views of vectors `[N, D]` float32: points + stddev * standard normal noise.

  `stddev` is in the units of the points. It draws `purpose` [total, D].
  """
  points = tf.convert_to_tensor(points, tf.float32)
  count, dimensions = tf.shape(points)[0], tf.shape(points)[1]
  noise = rng.normal(key, purpose, [count if total is None else total, dimensions])
  return points + stddev * rng.rows(noise, offset, count)
