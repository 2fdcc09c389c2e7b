"""Measures how fast the views are made: ours in batches, and two others image by image.

    python benchmarks/augment.py [--seconds=3] [--rounds=3] [--magnitude=16]

Each makes, from 32x32 pixels in memory, the original and the augmented view of the release's CIFAR
recipe: mirrored, padded and cropped; two layers of RandAugment over its 15 operations; cutout;
mirrored, padded and cropped once more. Both views are normalized.

  ours                in tf.data, one batch per call, all cores
  tensorflow-addons   in tf.data, one image per call, all cores (if it is installed)
  Pillow              one process, times the number of cores

They run in turn, `rounds` times. The output has the median of images per second of each, and the ratio
of our rate to it.
"""

import argparse
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2.
from meta_pseudo_labels import rng
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.data.augment import rand_augment
from meta_pseudo_labels.data.augment.views import PadCrop

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

SIZE, PAD, GREY, BATCH = 32, 4, 128, 128
INFO = registry.info('cifar10')


def build_ours(images, magnitude):
  """Builds a dataset of batches (original, augmented), float32 `[128, 32, 32, 3]` each."""
  views = PadCrop(mean=INFO.mean, std=INFO.std, flip=True, magnitude=magnitude)
  held = tf.constant(images)

  @tf.autograph.experimental.do_not_convert
  def make(step):
    key = rng.key(0, step)
    chosen = rng.uniform(key, 'chosen', [BATCH], 0, len(images), tf.int32)
    return views.unlabeled(tf.ensure_shape(tf.gather(held, chosen), [BATCH, SIZE, SIZE, 3]), key, 0, BATCH)

  return tf.data.Dataset.range(2**40).map(make, os.cpu_count()).prefetch(2)


def list_addons_operations(tfa_image, level):
  """Returns functions of one uint8 image, in the order of RELEASE_OPS, from TensorFlow and its addons."""
  factor, sign = level['Color'][0], lambda value: value * tf.sign(tf.random.uniform([]) - 0.5)
  grey = lambda image: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
  blend = lambda first, image: tf.saturate_cast(tfa_image.blend(first, image, factor), tf.uint8)

  def autocontrast(image):
    low, high = (tf.cast(reduce(image, [0, 1]), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max))
    scaled = (tf.cast(image, tf.float32) - low) * 255 / tf.maximum(high - low, 1)
    return tf.cast(tf.where(high > low, scaled, tf.cast(image, tf.float32)), tf.uint8)

  def posterize(image):
    shift = tf.constant(8 - max(level['Posterize'][0], 1), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)

  def translate(column, row):
    return lambda image: tfa_image.translate(
      image, sign(level['TranslateX'][0]) * tf.constant([column, row]), fill_value=GREY
    )

  cutout = 2 * max(level['Cutout'][0], 1)
  threshold = level['Solarize'][0] % 256
  return (
    autocontrast,
    tfa_image.equalize,
    lambda image: 255 - image,
    lambda image: tfa_image.rotate(image, sign(level['Rotate'][0]) * np.pi / 180, fill_value=float(GREY)),
    posterize,
    lambda image: tf.where(image < threshold, image, 255 - image),
    lambda image: blend(grey(image), image),
    lambda image: tf.image.adjust_contrast(image, factor),
    lambda image: blend(tf.zeros_like(image), image),
    lambda image: tfa_image.sharpness(image, factor),
    lambda image: tfa_image.shear_x(image, sign(level['ShearX'][0]), [GREY] * 3),
    lambda image: tfa_image.shear_y(image, sign(level['ShearY'][0]), [GREY] * 3),
    translate(1.0, 0.0),
    translate(0.0, 1.0),
    lambda image: tfa_image.random_cutout(image[None], cutout, constant_values=GREY)[0],
  )


def build_addons(images, magnitude):
  """Builds a dataset like `build_ours`, image by image; None if tensorflow-addons is not installed."""
  try:
    from tensorflow_addons import image as tfa_image
  except ImportError:
    return None
  level = rand_augment.levels(magnitude, SIZE // 8, SIZE // 8)
  operations = list_addons_operations(tfa_image, level)

  def weak(image):
    image = tf.image.random_flip_left_right(image)
    image = tf.pad(image, [[PAD, PAD], [PAD, PAD], [0, 0]], constant_values=GREY)
    return tf.image.random_crop(image, [SIZE, SIZE, 3])

  def make(image):
    original = augmented = weak(image)
    probability = tf.random.uniform([], 0.2, 0.8)
    for _ in range(2):

      def branch(operation, image=augmented):
        return lambda: tf.cond(
          tf.random.uniform([]) <= probability, lambda: operation(image), lambda: image
        )

      augmented = tf.ensure_shape(
        tf.switch_case(
          tf.random.uniform([], 0, len(operations), tf.int32), [branch(o) for o in operations]
        ),
        [SIZE, SIZE, 3],
      )
    augmented = tfa_image.random_cutout(augmented[None], SIZE // 2, constant_values=GREY)[0]
    normalize = lambda view: (tf.cast(view, tf.float32) - INFO.mean) / INFO.std
    return normalize(original), normalize(weak(augmented))

  return (
    tf.data.Dataset.from_tensor_slices(images).repeat().map(make, os.cpu_count()).batch(BATCH).prefetch(2)
  )


def list_pillow_operations(level):
  """Returns functions of one Pillow image, in the order of RELEASE_OPS."""
  factor, sign = level['Color'][0], lambda value: random.choice((-1, 1)) * value
  enhance = lambda kind: lambda image: kind(image).enhance(factor)
  affine = lambda *matrix: (
    lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=(GREY,) * 3)
  )
  shear, shift = level['ShearX'][0], level['TranslateX'][0]
  return (
    ImageOps.autocontrast,
    ImageOps.equalize,
    ImageOps.invert,
    lambda image: image.rotate(sign(level['Rotate'][0]), fillcolor=(GREY,) * 3),
    lambda image: ImageOps.posterize(image, max(level['Posterize'][0], 1)),
    lambda image: ImageOps.solarize(image, level['Solarize'][0] % 256),
    enhance(ImageEnhance.Color),
    enhance(ImageEnhance.Contrast),
    enhance(ImageEnhance.Brightness),
    enhance(ImageEnhance.Sharpness),
    lambda image: affine(1, sign(shear), 0, 0, 1, 0)(image),
    lambda image: affine(1, 0, 0, sign(shear), 1, 0)(image),
    lambda image: affine(1, 0, sign(shift), 0, 1, 0)(image),
    lambda image: affine(1, 0, 0, 0, 1, sign(shift))(image),
    lambda image: cut_out(image, level['Cutout'][0]),
  )


def cut_out(image, pad):
  """Pastes a grey box of up to 2 * pad pixels per side around a random pixel."""
  column, row = random.randrange(SIZE), random.randrange(SIZE)
  image = image.copy()
  image.paste(
    (GREY,) * 3, (max(column - pad, 0), max(row - pad, 0), min(column + pad, SIZE), min(row + pad, SIZE))
  )
  return image


def build_pillow(images, magnitude):
  """Yields (original, augmented) endlessly in this process, float32 `[32, 32, 3]` each."""
  operations = list_pillow_operations(rand_augment.levels(magnitude, SIZE // 8, SIZE // 8))
  mean, std = np.array(INFO.mean, np.float32), np.array(INFO.std, np.float32)

  def weak(image):
    if random.random() < 0.5:
      image = ImageOps.mirror(image)
    image = ImageOps.expand(image, PAD, (GREY,) * 3)
    column, row = random.randrange(2 * PAD + 1), random.randrange(2 * PAD + 1)
    return image.crop((column, row, column + SIZE, row + SIZE))

  while True:
    for pixels in images:
      original = augmented = weak(Image.fromarray(pixels))
      probability = random.uniform(0.2, 0.8)
      for _ in range(2):
        if random.random() <= probability:
          augmented = random.choice(operations)(augmented)
      augmented = weak(cut_out(augmented, SIZE // 4))
      yield tuple((np.asarray(view, np.float32) - mean) / std for view in (original, augmented))


def measure_rate(iterator, count, seconds):
  """Measures the images per second of an iterator whose elements hold `count` images."""
  for _ in range(3):
    next(iterator)
  began, made = time.perf_counter(), 0
  while time.perf_counter() - began < seconds:
    next(iterator)
    made += count
  return made / (time.perf_counter() - began)


def main(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--seconds', type=float, default=3.0)
  parser.add_argument('--rounds', type=int, default=3, choices=range(1, 1001), metavar='1..1000')
  parser.add_argument('--magnitude', type=float, default=16.0)
  args = parser.parse_args(argv)
  for name, low, high in (('seconds', 0.01, 3600), ('magnitude', 0, 20)):
    if not low <= getattr(args, name) <= high:
      parser.error(f'--{name}={getattr(args, name)}: out of range; give {low} to {high}')
  images = np.random.RandomState(0).randint(0, 256, [1000, SIZE, SIZE, 3]).astype(np.uint8)
  cores = os.cpu_count()
  makers = {'ours': (iter(build_ours(images, args.magnitude)), BATCH)}
  peer = build_addons(images, args.magnitude)
  if peer is None:
    print('tensorflow-addons: not installed (no version for this TensorFlow); left out')
  else:
    makers['tensorflow-addons, image by image'] = (iter(peer), BATCH)
  # The rate of one process times the number of cores, as if each core ran one.
  makers[f'Pillow, one process times {cores}'] = (build_pillow(images, args.magnitude), cores)
  found = {name: [] for name in makers}
  for _ in range(args.rounds):
    for name, (iterator, count) in makers.items():
      found[name].append(measure_rate(iterator, count, args.seconds))
  ours_rate = np.median(found['ours'])
  for name, rates in found.items():
    middle = np.median(rates)
    print(
      f'{name:36}{middle:9.0f} images/s ({min(rates):.0f} to {max(rates):.0f})   ours makes '
      f'{ours_rate / middle:.2f} times as many'
    )


if __name__ == '__main__':
  main(sys.argv[1:])
