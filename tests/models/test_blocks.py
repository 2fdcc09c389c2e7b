"""Where networks can be cut, and what their blocks are."""

from meta_pseudo_labels.models import blocks, remat

import numpy as np
import pytest
import tensorflow as tf


def small_network(merge):
  """A stem, then two blocks whose shortcut goes around a convolution."""
  x = inputs = tf.keras.Input([8, 8, 4])
  x = tf.keras.layers.Conv2D(4, 3, padding='same', name='stem')(x)
  for block in 'ab':
    shortcut = x
    x = tf.keras.layers.Conv2D(4, 3, padding='same', name=f'{block}_1')(x)
    x = tf.keras.layers.ReLU(name=f'{block}_2')(x)
    x = merge(x, shortcut)
    x = tf.keras.layers.ReLU(name=f'{block}_out')(x)
  return tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
  'merge', [lambda x, y: tf.keras.layers.Add()([x, y]), lambda x, y: x + y, lambda x, y: y + x]
)
def test_no_cut_is_inside_of_a_block(merge):
  """However the shortcut is added: an operator's layer names its first input alone."""
  model = small_network(merge)
  names = [layer.name for layer in blocks.find_cuts(model)]
  assert [name for name in names if name[0] in 'ab' and name[1] == '_'] == ['a_out', 'b_out']
  assert names[0] == 'stem' and len(names) == 5  # And each sum.


@pytest.mark.parametrize('name, count', [('ConvNeXtTiny', 3 + 3 + 9 + 3), ('RegNetX002', 1 + 1 + 4 + 7)])
def test_blocks_of_networks_that_add_by_operator(name, count):
  model = getattr(tf.keras.applications, name)(weights=None, input_shape=(64, 64, 3))
  assert len(blocks.block_ends(model)) == count


def test_a_network_that_adds_by_operator_is_rematerialized():
  model = tf.keras.applications.RegNetX002(weights=None, include_top=False, input_shape=(64, 64, 3))
  inputs = tf.random.stateless_normal([2, 64, 64, 3], [0, 1])
  passed = remat.Rematerialized(model)
  np.testing.assert_array_equal(passed(inputs), model(inputs, training=True))
