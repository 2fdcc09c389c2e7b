"""Tests of data/augment/rand_augment.py and data/augment/image_ops.py."""

import collections
import json
import pathlib
import re

from meta_pseudo_labels import rng
from meta_pseudo_labels.data.augment import image_ops, rand_augment

import numpy as np
import pytest
import tensorflow as tf

GOLDEN = pathlib.Path(__file__).resolve().parents[3] / 'tests/golden'
BLENDS = ('color', 'contrast', 'brightness', 'sharpness')


def golden_name(name):
  """The name in case9.npz of an operation of RandAugment: solarize_add of SolarizeAdd."""
  return re.sub('(?<!^)(?=[A-Z])', '_', name).lower().replace('auto_contrast', 'autocontrast')


def operation(name):
  """The operation `name` of image_ops, of images and of arguments, one per image or one for all."""
  if hasattr(image_ops, name):
    return getattr(image_ops, name)

  def apply(images, *arguments, **fill):
    images = tf.convert_to_tensor(images)
    (count, *_), (height, width) = tf.unstack(tf.shape(images)), images.shape[1:3]
    arguments = [tf.broadcast_to(argument, [count]) for argument in arguments]
    if name == 'identity':
      return images
    if hasattr(image_ops, f'{name}_tables'):
      arguments += [height * width] if name == 'contrast' else []
      tables = getattr(image_ops, f'{name}_tables')(*arguments)
      return image_ops.apply_tables(images, tf.broadcast_to(tables, [count, 256]))
    arguments = [tf.cast(argument, tf.float32) for argument in arguments]
    arguments += [height, width] if name == 'rotate' else []
    return image_ops.transform(images, getattr(image_ops, f'{name}_transforms')(*arguments), **fill)

  return apply


FUNCTIONS = {name: operation(golden_name(name)) for name in rand_augment.AUGMENT_OPS if name != 'Cutout'}
SIGNED = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')


def random_images(count, height, width, channels, seed=0):
  """Noise, with smooth and flat images among it (ops that look at the image differ on them)."""
  generator = np.random.RandomState(seed)
  images = generator.randint(0, 256, (count, height, width, channels))
  images[1::4] = images[1::4] // 5 + 60
  images[2::4] = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] % 256
  images[3::8] = 77
  return images.astype(np.uint8)


def augment(images, key, magnitude, consts, **kwargs):
  """Applies RandAugment; `consts` are those of cutout and of translation."""
  cutout_const, translate_const = consts
  return rand_augment.rand_augment(
    images, key, magnitude=magnitude, cutout_const=cutout_const, translate_const=translate_const, **kwargs
  )


def in_dataset(function, *tensors):
  """Returns the function's result inside tf.data's map, where graph optimizers can change it."""
  return next(iter(tf.data.Dataset.from_tensors(tensors).map(function)))


def golden_cases():
  """op -> list of (image, argument, expected, exact mask)."""
  cases = collections.defaultdict(list)
  with np.load(GOLDEN / 'case9.npz') as data:
    for key in data.files:
      image, *rest = key.split('/')
      if image not in ('noise', 'disc') or rest[-1] == 'overflow':
        continue
      exact = np.ones([32, 32, 3], bool)
      if key + '/overflow' in data.files:
        exact = np.unpackbits(data[key + '/overflow']).reshape(32, 32, 3) == 0
      argument = rest[1] if len(rest) > 1 else None
      cases[rest[0]].append((data['input/' + image].astype(np.uint8), argument, data[key], exact))
  return cases


GOLDEN_CASES = golden_cases()


def golden_arguments(op, texts):
  """The cases' arguments as one array an argument of the function, a row an image."""
  if texts[0] is None:
    return []
  if op == 'cutout':
    numbers = np.array([[int(n) for n in re.findall(r'\d+', text)] for text in texts])
    return [numbers[:, 0], numbers[:, 1:]]
  whole = op in ('posterize', 'solarize', 'solarize_add')
  return [np.array(texts, np.int32 if whole else np.float32)]


@pytest.mark.parametrize('where', ['eager', 'dataset'])
@pytest.mark.parametrize('op', sorted(GOLDEN_CASES))
def test_golden(op, where):
  images, texts, expected, exact = (np.array(x) for x in zip(*GOLDEN_CASES[op]))
  function = operation(op)
  arguments = golden_arguments(op, list(texts))
  if where == 'eager':
    result = function(images, *arguments)
  else:
    result = in_dataset(function, images, *arguments)
  np.testing.assert_array_equal(result.numpy()[exact], expected[exact])
  assert (result.numpy()[~exact] == 255).all()  # what the release leaves undefined saturates
  assert op in BLENDS or exact.all()


def test_golden_covers_every_op():
  assert len(FUNCTIONS) == 16
  assert set(GOLDEN_CASES) == {golden_name(name) for name in FUNCTIONS} | {'cutout'}


def test_scalar_argument_is_for_all_images():
  images = random_images(5, 9, 7, 3)
  for name, argument in (('Posterize', 3), ('Rotate', 20.0), ('Sharpness', 1.7)):
    one_each = FUNCTIONS[name](images, np.full([5], argument))
    np.testing.assert_array_equal(FUNCTIONS[name](images, argument), one_each)


def test_levels_golden():
  golden = json.loads((GOLDEN / 'case9_levels.json').read_text())
  assert len(golden) == 6
  for magnitude, configs in golden.items():
    (_, cifar), (_, imagenet) = sorted(configs.items())
    for expected, consts in ((cifar, (4, 4)), (imagenet, (40, 100))):
      levels = rand_augment.levels(int(magnitude), *consts)
      assert {name: list(arguments) for name, arguments in levels.items()} == expected


def test_there_is_every_operation_that_can_be_asked_for():
  assert sorted(rand_augment.AUGMENT_OPS) == sorted(rand_augment.levels(5, 4, 4))
  images = np.random.RandomState(0).randint(50, 240, [32, 24, 24, 3]).astype(np.uint8)
  for name in rand_augment.AUGMENT_OPS:
    done = augment(images, rng.key(0, 0), 9, (4, 4), ops=[name])
    assert np.any(done != images) == (name != 'Identity'), name


def test_levels_cut_off_in_float32():
  # 3 / 10 * 110 and 7 / 10 * 110 by hand; float32(.7) * 110 = 76.99999... rounds to 77.
  assert rand_augment.levels(3, 4, 4)['SolarizeAdd'] == (33,)
  assert rand_augment.levels(7, 4, 4)['SolarizeAdd'] == (77,)


def apply_by_hand(images, key, magnitude, consts, ops, num_layers=2, fill=128):
  """RandAugment image by image from the documented draws; also counts the applied ops."""
  count, height, width, _ = images.shape
  levels = rand_augment.levels(magnitude, *consts)
  probability = 0.2 + 0.6 * rng.uniform(key, 'rand_augment/probability', [count, 1]).numpy()[:, 0]
  images, applied = [image[None] for image in images], collections.Counter()
  for layer in range(num_layers):
    draws = rng.uniform(key, f'rand_augment/layer{layer}', [count, 5]).numpy()
    for number, (op, apply, sign, row, column) in enumerate(draws):
      name = ops[int(op * len(ops))]
      if apply > probability[number]:
        continue
      applied[name] += 1
      argument = [(1 if sign >= 0.5 or name not in SIGNED else -1) * a for a in levels[name]]
      if name == 'Cutout':
        images[number] = image_ops.cutout(
          images[number], argument[0], [[int(row * height), int(column * width)]], fill
        )
      else:
        outside = {'fill': fill} if name in SIGNED else {}
        images[number] = FUNCTIONS[name](images[number], *argument, **outside)
  return np.concatenate(images), applied


@pytest.mark.parametrize(
  'magnitude,size',
  [(magnitude, (32, 32, 3)) for magnitude in (1, 5, 10, 16, 17)] + [(16, (33, 47, 3)), (16, (28, 28, 1))],
)
def test_rand_augment_is_its_ops_image_by_image(magnitude, size):
  images = random_images(96, *size, seed=magnitude)
  key = rng.key(magnitude, size[0])
  consts = dict(cutout_const=size[0] // 8, translate_const=size[0] // 8)

  def ours(x):
    return rand_augment.rand_augment(x, key, magnitude=magnitude, **consts)

  result = in_dataset(ours, images) if magnitude == 16 else ours(images)
  expected, applied = apply_by_hand(images, key, magnitude, consts.values(), rand_augment.RELEASE_OPS)
  np.testing.assert_array_equal(result, expected)
  assert set(applied) == set(rand_augment.RELEASE_OPS)


def test_rand_augment_with_other_ops():
  images, key = random_images(40, 12, 12, 1), rng.key(3, 4)
  ops = ('SolarizeAdd', 'Identity', 'Equalize')
  result = augment(images, key, 9, (1, 1), num_layers=3, ops=ops)
  expected, applied = apply_by_hand(images, key, 9, (1, 1), ops, num_layers=3)
  np.testing.assert_array_equal(result, expected)
  assert set(applied) == set(ops)


def test_rand_augment_draws_one_probability_an_image():
  # Black images gain 11 each time. Applied 0, 1, 2 times with E[(1-p)^2], 2E[p(1-p)], E[p^2],
  # p ~ U(.2, .8): E[p^2] = .25 + .36 / 12 = .28 (.25 if each layer drew its own).
  count = 20000
  result = augment(np.zeros([count, 2, 2, 1], np.uint8), rng.key(0, 0), 1, (1, 1), ops=('SolarizeAdd',))
  result = result.numpy()[:, 0, 0, 0]
  shares = [np.mean(result == value) for value in (0, 11, 22)]
  np.testing.assert_allclose(shares, [0.28, 0.44, 0.28], atol=0.015)


def test_rand_augment_signs_are_random():
  image = np.zeros([1, 9, 9, 1], np.uint8)
  image[:, 4, 4] = 255
  moved = augment(np.repeat(image, 4000, 0), rng.key(1, 2), 10, (1, 2), num_layers=1, ops=('TranslateX',))
  moved = moved.numpy()[:, 4, :, 0]
  shares = [np.mean(moved[:, column] == 255) for column in (2, 4, 6)]
  np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.03)


def weak_by_hand(images, draws, flip, pad, fill=128):
  """Flip, pad, crop with numpy, image by image, from the documented draws."""
  height, width = images.shape[1:3]
  result = []
  for image, (mirrored, row, column) in zip(images, draws):
    image = image[:, ::-1] if flip and mirrored < 0.5 else image
    image = np.pad(image, [[pad, pad], [pad, pad], [0, 0]], constant_values=fill)
    row, column = int(row * (2 * pad + 1)), int(column * (2 * pad + 1))
    result.append(image[row : row + height, column : column + width])
  return np.array(result)


@pytest.mark.parametrize('flip', [True, False])
@pytest.mark.parametrize('pad,fill', [(0, 128), (1, 128), (4, 0), (40, 9)])
def test_weak(flip, pad, fill):
  images, key = random_images(50, 13, 17, 3), rng.key(5, 6)
  result = rand_augment.weak(images, key, 'some', flip=flip, pad=pad, fill=fill)
  draws = rng.uniform(key, 'some', [50, 3]).numpy()
  np.testing.assert_array_equal(result, weak_by_hand(images, draws, flip, pad, fill))


def test_weak_draws_everything_evenly():
  image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
  result = rand_augment.weak(np.repeat(image, 9000, 0), rng.key(0, 0), 'even', pad=1).numpy()
  _, counts = np.unique(result.reshape(9000, 9), axis=0, return_counts=True)
  assert len(counts) == 18  # 2 mirrorings, 3 rows, 3 columns
  np.testing.assert_allclose(counts, 500, atol=100)


def cutout_by_hand(images, draws, pad, fill=128):
  images = images.copy()
  height, width = images.shape[1:3]
  for image, (row, column) in zip(images, draws):
    row, column = int(row * height), int(column * width)
    image[max(0, row - pad) : row + pad, max(0, column - pad) : column + pad] = fill
  return images


@pytest.mark.parametrize('pad,fill', [(0, 128), (3, 128), (5, 0), (60, 7)])
def test_random_cutout(pad, fill):
  images, key = random_images(50, 11, 19, 3), rng.key(5, 7)
  result = rand_augment.random_cutout(images, key, 'hole', pad_size=pad, fill=fill)
  draws = rng.uniform(key, 'hole', [50, 2]).numpy()
  np.testing.assert_array_equal(result, cutout_by_hand(images, draws, pad, fill))


@pytest.mark.parametrize(
  'size,flip,pad,fill',
  [((32, 32, 3), True, None, 128), ((8, 8, 1), False, 2, 128), ((16, 16, 3), True, 1, 3)],
)
def test_views_are_the_recipe(size, flip, pad, fill):
  images, key = random_images(24, *size), rng.key(8, 9)
  original, augmented = in_dataset(
    lambda x: rand_augment.views(x, key, flip=flip, magnitude=16, pad=pad, fill=fill), images
  )
  eighth, pad = size[0] // 8, size[0] // 8 if pad is None else pad

  def draws(purpose, columns):
    return rng.uniform(key, purpose, [24, columns]).numpy()

  expected = weak_by_hand(images, draws('views/original', 3), flip, pad, fill)
  np.testing.assert_array_equal(original, expected)
  expected, _ = apply_by_hand(expected, key, 16, (eighth, eighth), rand_augment.RELEASE_OPS, fill=fill)
  expected = cutout_by_hand(expected, draws('views/cutout', 2), size[0] // 4, fill)
  expected = weak_by_hand(expected, draws('views/augmented', 3), flip, pad, fill)
  np.testing.assert_array_equal(augmented, expected)
  assert original.dtype == augmented.dtype == tf.uint8


@pytest.mark.parametrize('size', [(8, 8, 1), (28, 28, 1), (33, 47, 3), (2, 1, 3)])
def test_any_size(size):
  images = random_images(60, *size)
  original, augmented = rand_augment.views(images, rng.key(0, 1), flip=True, magnitude=16)
  assert original.shape == augmented.shape == images.shape
  assert (original.numpy() != augmented.numpy()).any()


def test_a_replica_draws_its_rows_of_the_global_batch():
  images, key = random_images(30, 16, 16, 3), rng.key(1, 1)
  whole = rand_augment.views(images, key, flip=True, magnitude=16)

  def part_of(rows, offset):
    return rand_augment.views(rows, key, flip=True, magnitude=16, offset=offset, total=30)

  for start, stop in ((0, 10), (10, 27), (29, 30), (12, 12)):
    run = in_dataset if start == 10 else lambda function, *rows: function(*rows)
    part = run(part_of, images[start:stop], start)
    for ours, all_rows in zip(part, whole):
      np.testing.assert_array_equal(ours, all_rows[start:stop])


def test_same_key_same_pixels_other_step_other_pixels():
  images = random_images(30, 16, 16, 3)
  first, again, later, seeded = (
    rand_augment.views(images, rng.key(*key), flip=True, magnitude=10)[1].numpy()
    for key in ((1, 1), (1, 1), (1, 2), (2, 1))
  )
  np.testing.assert_array_equal(first, again)
  assert (first != later).any(axis=(1, 2, 3)).mean() > 0.9
  assert (first != seeded).any(axis=(1, 2, 3)).mean() > 0.9


def test_one_channel_is_a_channel_of_three():
  grey = random_images(12, 20, 15, 1)
  for name, function in FUNCTIONS.items():
    arguments = rand_augment.levels(13, 4, 4)[name]
    one = function(grey, *arguments).numpy()
    if name == 'Color':
      np.testing.assert_array_equal(one, grey)
    else:
      three = function(np.repeat(grey, 3, 3), *arguments).numpy()
      np.testing.assert_array_equal(one[..., 0], three[..., 1])


def test_posterize_and_solarize_at_their_ends():
  ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  for bits, mask in ((0, 0x80), (1, 0x80), (7, 0xFE), (8, 0xFF), (10, 0x80)):
    np.testing.assert_array_equal(FUNCTIONS['Posterize'](ramp, bits), ramp & mask)
  for threshold, same in ((0, 0), (256, 0), (409, 153), (255, 255)):
    expected = np.where(ramp < same, ramp, 255 - ramp)
    np.testing.assert_array_equal(FUNCTIONS['Solarize'](ramp, threshold), expected)


def test_against_tensorflow_addons():
  tfa_image = pytest.importorskip('tensorflow_addons').image
  images = random_images(40, 32, 40, 3, seed=4)
  generator = np.random.RandomState(5)
  degrees = generator.uniform(-60, 60, 40).astype(np.float32)
  level = generator.uniform(-0.6, 0.6, 40).astype(np.float32)
  # No exact halves: 'nearest' of those is the kernel's business.
  pixels = (generator.uniform(-12, 12, 40) // 0.3 * 0.3).astype(np.float32)
  zeros = np.zeros_like(pixels)
  np.testing.assert_array_equal(
    FUNCTIONS['Rotate'](images, degrees),
    tfa_image.rotate(images, degrees * np.float32(np.pi / 180), fill_value=128.0),
  )
  for name, move in (('TranslateX', [-pixels, zeros]), ('TranslateY', [zeros, -pixels])):
    expected = tfa_image.translate(images, np.stack(move, 1), fill_value=128.0)
    np.testing.assert_array_equal(FUNCTIONS[name](images, pixels), expected)
  np.testing.assert_array_equal(image_ops.equalize(images), tfa_image.equalize(images))
  for name, other in (('ShearX', tfa_image.shear_x), ('ShearY', tfa_image.shear_y)):
    expected = [other(tf.constant(i), v, [128] * 3) for i, v in zip(images[:12], level)]
    np.testing.assert_array_equal(FUNCTIONS[name](images[:12], level[:12]), expected)


def test_sharpness_against_tensorflow_addons():
  tfa_image = pytest.importorskip('tensorflow_addons').image
  images = random_images(16, 32, 40, 3, seed=6)
  wide = images.astype(np.int32)
  total = 4 * wide[:, 1:-1, 1:-1] + sum(
    wide[:, i : i + 30, j : j + 38] for i in range(3) for j in range(3)
  )
  # Addons truncates the smoothed value after a convolution, whose rounding at multiples of 13
  # depends on its kernel. It rounds t after blending, where the release truncates t * 255.5 / 255:
  # the same or one higher.
  same = np.pad(total % 13 != 0, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=True)
  for factor in (0.3, 1.9):
    expected = tfa_image.sharpness(images, factor).numpy().astype(np.int32)
    difference = (image_ops.sharpness(images, factor).numpy() - expected)[same]
    assert set(np.unique(difference)) <= {-1, 0}
  assert same.mean() > 0.5


@pytest.mark.parametrize(
  'images',
  [np.zeros([2, 4, 4, 3], np.float32), np.zeros([4, 4, 3], np.uint8), np.zeros([2, 4, 4, 4], np.uint8)],
)
def test_other_images_are_refused(images):
  with pytest.raises(ValueError, match=r'uint8 \[N, H, W, C\]'):
    rand_augment.views(images, rng.key(0, 0), flip=True, magnitude=5)


def test_unknown_operation_is_named():
  with pytest.raises(ValueError, match="no operation 'Blur'; .*Posterize"):
    augment(np.zeros([1, 4, 4, 1], np.uint8), rng.key(0, 0), 5, (1, 1), ops=('Invert', 'Blur'))
