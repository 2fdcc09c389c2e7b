"""Estimates a recipe's FLOPs, memory and hours from its networks' shapes and its flags.

    python benchmarks/estimate.py flags/x.flags ... [--device=a100] [--utilization=0.35] [--flag=value ...]

Nothing is trained or measured. Each network is built in a graph that never runs. The estimate includes:

FLOPs: convolutions, depthwise convolutions and dense layers, 2 per multiply-add. A backward pass counts
as two forward passes. In passes of one image, with B labeled and u unlabeled examples in a step:

    supervised     3 B              forward and backward
    uda            3 (B + 2 u)      one pass over labeled, original and augmented views
      separate     - 2 u            --original_view=separate, and without batch norm; mpl's teacher too
    pseudo_labels  3 B, then        the teacher, then
                   u + 3 (B + u)    its labels, and the student on augmented and labeled images
    mpl            3 (B + 2 u)      the teacher, as in UDA; its gradient includes the feedback
                 + 3 (B + u)        the student on augmented and labeled images
      release    + B                the student on the labeled images again, after its update
      sampled    + 2 B              the same, before and after (argmax too)
      soft       + 3 B              the same with its gradient (sampled_dot too)
                 + 2 (B + u)        the derivative along that gradient, the transpose of the student's
                                    backward pass: two products per layer, as in the pass itself
    reduced_mpl    as mpl, without the teacher's 3 (B + 2 u)
      --micro_batches: + B + 2 u    (separate: B + u) the teacher again, not for release; soft: + B + u
      freematch    + B + 2 u        uda and mpl with --micro_batches: the sums that its fairness loss needs
                                    (--pseudo_labels_fairness above 0), by a pass over all views ahead
    finetune       3 n              n: its own batch

With --features these are passes of the new last layer alone. Those of the network, once forward over each
view of each image, are not in the estimate: it does not know how many images there are.

Memory: as meta_pseudo_labels/build/memory.py estimates it, which --memory goes by. Float32 networks with
their statistics, moving averages, optimizer slots and gradients ("fixed", on every device), and the
activations: what the passes that are in memory at the same time keep for their gradients, in the precision
of the run; with --micro_batches those of one pass over one part, with --remat those between the blocks and
within one. The input pipeline is not in it.

Hours: FLOPs / (peak of the devices, by their vendors, * --utilization). The utilization is an ASSUMPTION,
0.35 of the peak by default. Small networks reach less.
"""

import argparse
import dataclasses
import functools
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels import models
from meta_pseudo_labels.build import memory
from meta_pseudo_labels.build.networks import SMALL_IMAGES
from meta_pseudo_labels.config import parse as parse_flags
from meta_pseudo_labels.config import validate
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.models import heads, pretrained

import tensorflow as tf

GB = 1e9
USABLE = 0.9  # The share of a device's memory for the program; the runtime needs the rest.


@dataclasses.dataclass(frozen=True)
class Device:
  """Devices of one kind: GPUs, TPU cores or CPUs.

  Attributes:
    words: str, a description.
    count: int, how many there are.
    memory: GB of one device.
    bfloat16, float32: peaks of one device in TFLOP/s.
    has_bfloat16: bool; without it, training and its activations are in float32.
    splits_images: bool, whether several devices can share a replica (--num_cores_per_replica).
  """

  words: str
  count: int
  memory: float
  bfloat16: float
  float32: float
  has_bfloat16: bool = True
  splits_images: bool = False


# Dense peaks of the vendors' data sheets. TensorFlow uses TF32 for float32 if the device supports it. A
# TPU multiplies float32 in bfloat16.
DEVICES = {
  'cpu': Device('two cores of a server CPU (matrix products measured)', 1, 16, 0.74, 0.395),
  't4': Device('NVIDIA T4, float32', 1, 16, 8.1, 8.1, False),
  'a100': Device('NVIDIA A100 80 GB', 1, 80, 312, 156),
  'h100': Device('NVIDIA H100 SXM 80 GB', 1, 80, 989, 495),
  'v3-8': Device('TPU v3, 4 chips of 2 cores', 8, 16, 61.5, 61.5, splits_images=True),
  'v5e-8': Device('TPU v5e, 8 chips', 8, 16, 197, 197, splits_images=True),
  'v3-2048': Device('TPU v3 pod, 1,024 chips of 2 cores', 2048, 16, 61.5, 61.5, splits_images=True),
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The estimate of one recipe.

  Attributes:
    network: memory.Network.
    flops: of the forward pass of one image.
    step_flops: of a step of the main phase.
    run_flops: of the run.
    fixed_bytes: of networks, averages, slots and gradients.
    activation_bytes: of a step's activations, for all devices together.
    batch: int, the labeled batch.
    bfloat16: bool.
    cores_per_replica: int.
  """

  network: memory.Network
  flops: int
  step_flops: float
  run_flops: float
  fixed_bytes: float
  activation_bytes: float
  batch: int
  bfloat16: bool
  cores_per_replica: int = 1


def count_flops(layer):
  """Computes the FLOPs of a layer's forward pass for one example: int."""
  if isinstance(layer, tf.keras.layers.DepthwiseConv2D):  # First, since in Keras it is a Conv2D too.
    height, width, channels = layer.output_shape[1:]
    return 2 * math.prod(layer.kernel_size) * height * width * channels
  if isinstance(layer, tf.keras.layers.Conv2D):
    height, width, channels = layer.output_shape[1:]
    return 2 * math.prod(layer.kernel_size) * layer.input_shape[-1] * height * width * channels
  if isinstance(layer, tf.keras.layers.Dense):
    return 2 * layer.input_shape[-1] * layer.output_shape[-1]
  return 0


@functools.cache
def measure_network(model_type, shape, classes, small_images=False, head=None):
  """Measures a model of `models.build` for inputs of this shape (tuple).

  Args:
    head: name of a classifier of its features, which is measured in its place; None: there is none.

  Returns:
    (FLOPs of the forward pass of one image, memory.Network).
  """
  with tf.Graph().as_default():
    settings = dict(small_images=small_images, architecture='')  # Weights are not loaded.
    model = models.build(model_type, num_classes=classes, input_shape=shape, **settings)
    if head:
      features = pretrained.cut_before_head(model).output_shape[-1]
      model = heads.head(head, num_classes=classes, num_features=features)
    return sum(map(count_flops, model.layers)), memory.measure(model)


def get_input_shape(config):
  """Returns (shape, number of classes) of a recipe's data; a user's own images: RGB, --num_classes."""
  info = registry.info(config.dataset)
  classes = info.num_classes or config.num_classes
  if info.kind == 'points':
    return info.image_shape, classes
  channels = info.image_shape[-1] if info.image_shape else 3
  return (config.image_size, config.image_size, channels), classes


def count_passes(config, together=True):
  """Counts the equivalent forward passes of a step of the main phase, in images.

  Args:
    config: Config.
    together: bool, whether the original views are in the backward pass of UDA's network.
  """
  labeled, unlabeled = config.train_batch_size, config.train_batch_size * config.uda_data
  if config.method_name == 'supervised':
    return 3 * labeled
  originals = unlabeled if together else 0  # In the backward pass.
  ahead = labeled + 2 * unlabeled if needs_sums_ahead(config) else 0
  if config.method_name == 'uda':
    return 3 * (labeled + unlabeled) + unlabeled + 2 * originals + ahead
  if config.method_name == 'pseudo_labels':
    return unlabeled + 3 * (labeled + unlabeled)
  worth, again = 6 * labeled + 7 * unlabeled + 2 * originals + ahead, labeled + unlabeled + originals
  if config.method_name == 'reduced_mpl':  # Its teacher's network is negligible.
    worth, again = 3 * (labeled + unlabeled), 0
  by_derivative, release = config.mpl_feedback in memory.BY_DERIVATIVE, config.mpl_feedback == 'release'
  worth += 3 * labeled + 2 * (labeled + unlabeled) if by_derivative else labeled * (1 if release else 2)
  if config.micro_batch_count > 1:
    worth += (0 if release else again) + (labeled + unlabeled if by_derivative else 0)
  return worth


def needs_sums_ahead(config):
  """Returns whether the loss of a part waits for sums over the whole batch (`methods.uda.sums_ahead`)."""
  return (
    config.method_name in ('uda', 'mpl')
    and config.pseudo_labels == 'freematch'
    and config.pseudo_labels_fairness > 0
    and config.micro_batch_count > 1
  )


def estimate(config):
  """Computes the Estimate of a valid Config."""
  shape, classes = get_input_shape(config)
  small_images = any(word in config.dataset_name.lower() for word in SMALL_IMAGES)
  head = config.head if config.features else None
  flops, net = measure_network(config.model_type, tuple(shape), classes, small_images, head)
  worth = count_passes(config, config.original_view == 'together' and net.couples_examples)
  images = worth * config.num_train_steps
  if config.method_name == 'pseudo_labels':  # Its teacher, which is trained before.
    images += 3 * config.train_batch_size * config.num_train_steps
  images += 3 * config.finetune_batch_size * config.finetune_steps
  return Estimate(
    net,
    flops,
    worth * flops,
    images * flops,
    memory.fixed_bytes(config, net, net),
    memory.step_activations(config, net, net),
    config.train_batch_size,
    config.computes_in == 'bfloat16',
    config.num_cores_per_replica,
  )


def count_usable_devices(found, device):
  """Returns how many such devices can share a step: each needs a labeled image, or a part of one."""
  return found.batch * (found.cores_per_replica if device.splits_images else 1)


def find_device_count(found, device):
  """Returns the smallest number of such devices whose memory suffices for a step.

  It is a divisor of `count_usable_devices`, or None if there is none.
  """
  free = USABLE * device.memory * GB - found.fixed_bytes
  if free <= 0:
    return None
  wider = 2 if found.bfloat16 and not device.has_bfloat16 else 1
  least, most = math.ceil(found.activation_bytes * wider / free), count_usable_devices(found, device)
  return next((n for n in range(max(1, least), most + 1) if most % n == 0), None)


def compute_hours(found, device, utilization, count):
  """Computes the hours of the run on `count` such devices."""
  peak = device.bfloat16 if found.bfloat16 else device.float32
  return found.run_flops / (count * peak * 1e12 * utilization) / 3600


def format_number(value):
  """Formats a number with three digits, without an exponent: 0.0123, 1.23, 12,300, <0.001."""
  if value < 1e-3:
    return '<0.001'
  digits = 2 - math.floor(math.log10(value))
  return f'{round(value, digits):,.{max(0, digits)}f}'


def format_cell(found, device, utilization):
  """Formats the hours on a device.

  '12.3' is for the device itself, '12.3 on 4' if the memory requires more of them, and '-' if there are
  more devices than can share a batch.
  """
  if device.count > count_usable_devices(found, device):
    return '-'
  needed = find_device_count(found, device)
  if needed is None or (needed > device.count and device.count > 1):
    what = 'too large' if needed is None else f'needs {needed}'
    return f'{what} ({format_number(compute_hours(found, device, utilization, device.count))})'
  count = max(needed, device.count)
  time = format_number(compute_hours(found, device, utilization, count))
  return time if count == device.count else f'{time} on {count}'


def format_table(found, names, utilization):
  """Formats {recipe: Estimate} as lines of Markdown."""
  head = [
    'recipe',
    'parameters, M',
    'GFLOP per image',
    'TFLOP per step',
    'EFLOP per run',
    'GB fixed',
    'GB activations',
  ] + [f'h {name}' for name in names]
  lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
  for recipe, one in found.items():
    values = [
      one.network.parameters / 1e6,
      one.flops / 1e9,
      one.step_flops / 1e12,
      one.run_flops / 1e18,
      one.fixed_bytes / GB,
      one.activation_bytes / GB,
    ]
    cells = [format_cell(one, DEVICES[name], utilization) for name in names]
    lines.append('| ' + ' | '.join([recipe, *map(format_number, values), *cells]) + ' |')
  return lines


def parse(argv):
  """Parses to (recipes' paths, devices' names, utilization, flags for all recipes). Raises UserError."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('recipes', nargs='*', metavar='flags/x.flags')
  parser.add_argument(
    '--device', default=','.join(DEVICES), help=f'some of {", ".join(DEVICES)}, separated by commas'
  )
  parser.add_argument('--utilization', default='0.35', help='assumed share of the peak')
  args, rest = parser.parse_known_args(argv)
  stray = [argument for argument in rest if not argument.startswith('-')]
  if stray or not args.recipes:
    raise UserError(
      f'{stray[0]}: unexpected argument; write flags as --name=value'
      if stray
      else 'no recipe; give one or more, such as flags/paper/cifar10_4000_mpl.flags'
    )
  names = args.device.split(',')
  for name in names:
    if name not in DEVICES:
      raise UserError(f'--device={name}: unknown; use some of {", ".join(DEVICES)}')
  try:
    utilization = float(args.utilization)
  except ValueError:
    utilization = 0.0
  if not 0 < utilization <= 1:
    raise UserError(f'--utilization={args.utilization}: out of range; give a number above 0, at most 1')
  return args.recipes, names, utilization, rest


def read(path, extra=()):
  """Reads the valid Config of a recipe. Raises UserError."""
  config = parse_flags(['estimate', f'--flagfile={path}', *extra])
  validate(config)
  return config


def main(argv):
  try:
    recipes, names, utilization, extra = parse(argv)
    found = {os.path.splitext(os.path.basename(path))[0]: estimate(read(path, extra)) for path in recipes}
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  print('\n'.join(format_table(found, names, utilization)))
  print(
    f'\nComputed, not measured. Hours at {100 * utilization:g} % of the peak, an assumption. '
    '"12.3 on 4": the memory requires 4 devices;\n"needs 16 (12.3)": more than there are; "too large": '
    'no number of them has the memory for a step; then the hours are\nby FLOPs only. '
    '"-": more devices than can share a batch.'
  )
  for name in names:
    device = DEVICES[name]
    print(
      f'{name}: {device.words}; {device.count} x {format_number(device.bfloat16)} TFLOP/s bfloat16, '
      f'{format_number(device.float32)} float32, {format_number(device.memory)} GB'
    )


if __name__ == '__main__':
  main(sys.argv[1:])
