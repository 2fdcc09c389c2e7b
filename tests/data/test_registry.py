"""The list of datasets: complete, consistent, and a helpful word for a name that is not there."""

import dataclasses

from meta_pseudo_labels.data import registry
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest


@pytest.mark.parametrize(
  'name, classes, shape, flip',
  [
    ('digits', 10, (8, 8, 1), False),
    ('two_moons', 2, (2,), False),
    ('cifar10', 10, (32, 32, 3), True),
    ('cifar100', 100, (32, 32, 3), True),
    ('svhn', 10, (32, 32, 3), False),
    ('fashion_mnist', 10, (28, 28, 1), True),
    ('stl10', 10, (96, 96, 3), True),
  ],
)
def test_what_is_known_of_each(name, classes, shape, flip):
  info = registry.info(name)
  assert (info.name, info.num_classes, info.image_shape, info.flip) == (name, classes, shape, flip)
  assert info.kind == ('image' if len(shape) == 3 else 'points')
  assert len(info.mean) == len(info.std) == shape[-1]
  if info.kind == 'image':  # in 0..255, not 0..1
    assert all(50 < value < 150 for value in info.mean + info.std)
  assert len(set(info.class_names)) == classes
  assert info.license and info.citation


def test_all_names_are_tested_here():
  assert registry.names() == (
    'digits',
    'two_moons',
    'cifar10',
    'cifar100',
    'svhn',
    'fashion_mnist',
    'stl10',
    'imagenet',
    'imagenet_10_percent',
    'imagenet_heldout',
    'folder',
    'npz',
  )


def test_cifar10_constants_are_the_releases():
  info = registry.info('cifar10')
  np.testing.assert_allclose(info.mean, [125.307, 122.95029, 113.8653795])
  np.testing.assert_allclose(info.std, [62.99316, 62.088675, 66.70545])


def test_cifar100_names_are_alphabetical():
  names = registry.info('cifar100').class_names
  assert list(names) == sorted(names)
  assert (names[0], names[39], names[99]) == ('apple', 'keyboard', 'worm')


def test_an_entry_cannot_be_changed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    registry.info('digits').flip = True


@pytest.mark.parametrize(
  'name, hint',
  [
    ('cifar01', "did you mean 'cifar10'?"),
    ('fashion-mnist', "did you mean 'fashion_mnist'?"),
    ('digit', "did you mean 'digits'?"),
  ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
  with pytest.raises(UserError) as caught:
    registry.info(name)
  message = str(caught.value)
  assert (
    f'--dataset_name={name}: unknown dataset (' in message and hint in message and 'two_moons' in message
  )
  assert '\n' not in message


def test_a_name_like_no_other():
  with pytest.raises(UserError) as caught:
    registry.info('qqqqqq')
  assert 'did you mean' not in str(caught.value) and 'digits' in str(caught.value)


@pytest.mark.parametrize('name', ['imagenet', 'imagenet_10_percent', 'imagenet_heldout'])
def test_imagenet_in_the_releases_three_ways(name):
  info = registry.info(name)
  assert (info.num_classes, info.views, info.flip) == (1000, 'resized_crop', True)
  np.testing.assert_allclose(info.mean, [123.675, 116.28, 103.53])
  np.testing.assert_allclose(info.std, [58.395, 57.12, 57.375])


@pytest.mark.parametrize('name', ['folder', 'npz'])
def test_ones_own_images_are_known_when_they_have_been_read(name):
  info = registry.info(name)
  assert (info.class_names, info.image_shape, info.holds_out) == ((), None, True)
