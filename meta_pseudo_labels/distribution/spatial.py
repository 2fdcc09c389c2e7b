"""One replica on several TPU cores, each with a part of every image (--use_xla_sharding).

Written from the documentation, never tried on a TPU; tests/distribution/test_spatial.py says what was.
"""

import math

from meta_pseudo_labels.errors import UserError

import tensorflow as tf

INSTEAD = '--nouse_xla_sharding --num_cores_per_replica=1, and --remat to save memory'


def choose_grid(cores):
  """(rows, columns) of parts that an image is cut into: as square as a power of two allows."""
  rows = 2 ** math.ceil(math.log2(cores) / 2)
  return rows, cores // rows


def choose_block(mesh_shape, cores):
  """The block of a TPU's mesh that one replica takes.

  Args:
    mesh_shape: ints, the mesh's extents; the last one is the cores of a chip.
    cores: int, a power of two.

  Returns:
    list of ints, whose product is `cores`: the cores of a chip first, then near chips, so that parts of
    an image that touch are near each other.

  Raises:
    UserError: the mesh cannot be divided into such blocks.
  """
  shape = [1] * len(mesh_shape)
  while math.prod(shape) < cores:
    larger = [axis for axis, extent in enumerate(mesh_shape) if extent % (2 * shape[axis]) == 0]
    if not larger:
      raise UserError(
        f'--num_cores_per_replica={cores}: a TPU of {math.prod(mesh_shape)} cores (mesh '
        f'{"x".join(map(str, mesh_shape))}) cannot be divided among such replicas; '
        f'give {INSTEAD}'
      )
    axis = len(shape) - 1 if len(shape) - 1 in larger else min(larger, key=lambda axis: shape[axis])
    shape[axis] *= 2
  return shape


class SplitReplicas(tf.distribute.TPUStrategy):
  """TPUStrategy whose replicas are `cores` TPU cores each.

  Without the strategy's SPMD mode: that names variables without their layers, by which weight decay
  and the release's checkpoints know them, and wants every input annotated.
  """

  def __init__(self, resolver, topology, cores):
    """Takes the whole TPU; `topology` is a tf.tpu.experimental.Topology, `cores` a power of two.

    Raises:
      UserError: see `choose_block`.
    """
    mesh = topology.mesh_shape.tolist()
    super().__init__(
      resolver,
      tf.tpu.experimental.DeviceAssignment.build(
        topology, computation_shape=choose_block(mesh, cores), num_replicas=math.prod(mesh) // cores
      ),
    )
    self.grid = choose_grid(cores)


def split(images):
  """The same tensor; under `SplitReplicas` each core of the replica holds its part of every image.

  Args:
    images: `[n, height, width, channels]`, which has to be divisible (`check_sizes`); of another rank: as it
      is.
  """
  strategy = tf.distribute.get_strategy()
  if not isinstance(strategy, SplitReplicas) or images.shape.rank != 4:
    return images
  return strategy.experimental_split_to_logical_devices(images, [1, *strategy.grid, 1])


def check_sizes(strategy, sizes):
  """Whether images of these numbers of pixels a side can be split, if `strategy` splits them.

  Raises:
    UserError: they cannot, or there are none.
  """
  if not isinstance(strategy, SplitReplicas):
    return
  rows, columns = strategy.grid
  wrong = [size for size in sizes if size % rows]
  if wrong or not sizes:
    reason = f'{wrong[0]} pixels a side cannot be divided by {rows}' if wrong else 'there are none'
    raise UserError(
      f'--num_cores_per_replica={rows * columns}: cuts images into {rows} x {columns} '
      f'parts, and {reason}; give {INSTEAD}'
    )
