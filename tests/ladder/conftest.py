"""What tests of tasks on features share: a folder with images, and a small network."""

import pytest
import tensorflow as tf
from test_own_images import make_folder


@pytest.fixture(scope='module', name='place')
def fixture_place(tmp_path_factory):
  """A folder with images and network.h5, which knows colors."""
  place = tmp_path_factory.mktemp('ladder')
  make_folder(place / 'images')
  inputs = tf.keras.Input((None, None, 3))
  x = tf.keras.layers.Rescaling(1 / 255)(inputs)
  x = tf.keras.layers.Conv2D(
    8, 3, activation='relu', kernel_initializer=tf.keras.initializers.HeNormal(1)
  )(x)
  x = tf.keras.layers.GlobalAveragePooling2D()(x)
  tf.keras.Model(inputs, tf.keras.layers.Dense(4)(x)).save(place / 'network.h5')
  return place
