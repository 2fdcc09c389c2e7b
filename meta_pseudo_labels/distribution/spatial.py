"""One replica on several TPU cores, each with a part of every image (--use_xla_sharding).

This was written from the documentation and never run on a TPU. tests/distribution/test_spatial.py
shows what has been tested without one.
"""

import math

from meta_pseudo_labels.errors import UserError

import tensorflow as tf

INSTEAD = '--nouse_xla_sharding --num_cores_per_replica=1, and --remat to save memory'


def choose_grid(cores):
  """Returns (rows, columns) of the parts of an image, as square as powers of two allow."""
  rows = 2 ** math.ceil(math.log2(cores) / 2)
  return rows, cores // rows


def choose_block(mesh_shape, cores):
  """Returns the shape of the block of a TPU's mesh that one replica occupies.

  Args:
    mesh_shape: ints, the mesh's extents; the last one is the number of cores per chip.
    cores: int, a power of two.

  Returns:
    list of ints, whose product is `cores`. It takes the cores of a chip first, then neighbouring chips,
    so that adjacent parts of an image are close to each other.

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
  """TPUStrategy whose replicas have `cores` TPU cores each.

  It does not use the strategy's SPMD mode. That mode drops the layers from the variables' names, which
  weight decay and the release's checkpoints need. It also requires an annotation of every input.
  """

  def __init__(self, resolver, topology, cores):
    """Assigns all cores of the TPU; `topology` is a tf.tpu.experimental.Topology, `cores` a power of two.

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
  """Returns the same tensor; under `SplitReplicas` each core of a replica holds a part of every image.

  Args:
    images: `[n, height, width, channels]`; height and width must be divisible (`check_sizes`). A tensor
      of another rank is returned unchanged.
  """
  strategy = tf.distribute.get_strategy()
  if not isinstance(strategy, SplitReplicas) or images.shape.rank != 4:
    return images
  return strategy.experimental_split_to_logical_devices(images, [1, *strategy.grid, 1])


def check_sizes(strategy, sizes):
  """Checks that images of these sizes (pixels per side) can be split, if `strategy` splits images.

  Raises:
    UserError: they cannot be split, or there are no images.
  """
  if not isinstance(strategy, SplitReplicas):
    return
  rows, columns = strategy.grid
  wrong = [size for size in sizes if size % rows]
  if wrong or not sizes:
    reason = f'{wrong[0]} pixels per side cannot be divided by {rows}' if wrong else 'there are no images'
    raise UserError(
      f'--num_cores_per_replica={rows * columns}: splits images into {rows} x {columns} '
      f'parts, and {reason}; give {INSTEAD}'
    )
