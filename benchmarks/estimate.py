"""What a recipe takes: FLOPs, memory and hours, computed from its networks' shapes and its flags.

    python benchmarks/estimate.py flags/x.flags ... [--device=a100,v3-8] [--utilization=0.35]
        [--flag=value ...]

Nothing is trained and nothing is measured. Each network is built in a graph that never runs, so that
its variables take no memory: the shapes are those of the real one. What is counted, and what is not:

FLOPs: convolutions, depthwise convolutions and dense layers, 2 a multiply-add; nothing else. A
backward pass is twice the forward pass. In passes of one image, with B labeled and u unlabeled
examples in a step (methods/*.py):

    supervised     3 B              forward and backward
    uda            3 (B + 2 u)      one pass over labeled, original and augmented views
    pseudo_labels  3 B, then        the teacher, then
                   u + 3 (B + u)    its labels, and the student on augmented and labeled images
    mpl            3 (B + 2 u)      the teacher, as UDA; its gradient has the feedback in it
                 + 3 (B + u)        the student on augmented and labeled images
      release    + B                the student on the labeled images again, after its update
      sampled    + 2 B              the same, before and after (argmax too)
      soft       + 3 B              the same with its gradient (sampled_dot too)
                 + 2 (B + u)        the derivative along that gradient, the transpose of the student's
                                    backward pass: two products a layer, as in the pass itself
    reduced_mpl    as mpl, without the teacher's 3 (B + 2 u)
    finetune       3 n              n: its own batch

Memory: float32 networks with their statistics, moving averages, optimizer slots and gradients ("fixed":
every device holds them), and of the activations the outputs of all layers of the passes that live at
one time, in the precision of the run. That is an upper estimate of what has to be kept for the backward
passes, but it leaves out the working memory of the passes themselves. Baselines, evaluations,
other seeds and the input pipeline are left out.

Hours: FLOPs / (peak of the devices * --utilization). The utilization is an ASSUMPTION: .35 of the peak
unless given; small networks reach less, and communication is not in it. A device's peak is its
vendor's number.
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
from meta_pseudo_labels.build import SMALL_IMAGES
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.optim import optimizers

import tensorflow as tf

GB = 1e9
USABLE = 0.9  # Of a device's memory: the rest is the runtime's.
BY_DERIVATIVE = ('soft', 'sampled_dot')  # Feedbacks that differentiate the labeled loss.


@dataclasses.dataclass(frozen=True)
class Device:
  """`count` devices (a GPU, a TPU core, a CPU): peaks in TFLOP/s and memory in GB of one of them;
  one that has no bfloat16 trains, and keeps its activations, in float32; those that split images can
  have a part each of a replica's (--num_cores_per_replica)."""

  words: str
  count: int
  memory: float
  bfloat16: float
  float32: float
  has_bfloat16: bool = True
  splits_images: bool = False


# Dense peaks of the vendors' data sheets. TensorFlow takes TF32 for float32 where there is one; a TPU
# multiplies float32 in bfloat16.
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
class Network:
  """A network's size.

  Attributes:
    parameters: trainable ones.
    variables: the same with batch norm's averages.
    flops: of the forward pass of one image.
    activations: elements of all layers' outputs for one image.
  """

  parameters: int
  variables: int
  flops: int
  activations: int


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What one recipe takes: FLOPs of a step of its main phase and of the run, bytes of `fixed` and
  of the step's activations over the whole batch, the labeled batch, whether in bfloat16, and how many
  cores may share a replica."""

  network: Network
  step_flops: float
  run_flops: float
  fixed_bytes: float
  activation_bytes: float
  batch: int
  bfloat16: bool
  cores_per_replica: int = 1


def layer_flops(layer):
  """FLOPs of a layer's forward pass for one example: int."""
  if isinstance(layer, tf.keras.layers.DepthwiseConv2D):  # A Conv2D too, to Keras.
    height, width, channels = layer.output_shape[1:]
    return 2 * math.prod(layer.kernel_size) * height * width * channels
  if isinstance(layer, tf.keras.layers.Conv2D):
    height, width, channels = layer.output_shape[1:]
    return 2 * math.prod(layer.kernel_size) * layer.input_shape[-1] * height * width * channels
  if isinstance(layer, tf.keras.layers.Dense):
    return 2 * layer.input_shape[-1] * layer.output_shape[-1]
  return 0


def _stored(layer):
  """Whether a layer's output is a tensor of its own."""
  linear = isinstance(layer, tf.keras.layers.Activation) and (
    layer.activation is tf.keras.activations.linear
  )
  return not linear and not isinstance(layer, (tf.keras.layers.InputLayer, tf.keras.layers.Flatten))


@functools.cache
def network(model_type, shape, classes, small_images=False):
  """The Network of `models.build`'s for inputs of this shape (tuple)."""
  with tf.Graph().as_default():
    model = models.build(model_type, num_classes=classes, input_shape=shape, small_images=small_images)
    size = lambda variables: sum(v.shape.num_elements() for v in variables)
    return Network(
      size(model.trainable_variables),
      size(model.variables),
      sum(map(layer_flops, model.layers)),
      sum(math.prod(layer.output_shape[1:]) for layer in model.layers if _stored(layer)),
    )


def inputs(config):
  """(shape, number of classes) of a recipe's data; of one's own images: RGB, --num_classes."""
  info = registry.info(config.dataset)
  classes = info.num_classes or config.num_classes
  if info.kind == 'points':
    return info.image_shape, classes
  channels = info.image_shape[-1] if info.image_shape else 3
  return (config.image_size, config.image_size, channels), classes


def passes(config):
  """Of a step of the main phase, in images: (forward passes that its products are worth, images whose
  activations live at one time)."""
  labeled, unlabeled = config.train_batch_size, config.train_batch_size * config.uda_data
  if config.method_name == 'supervised':
    return 3 * labeled, labeled
  if config.method_name == 'uda':
    return 3 * (labeled + 2 * unlabeled), labeled + 2 * unlabeled
  if config.method_name == 'pseudo_labels':
    return unlabeled + 3 * (labeled + unlabeled), labeled + unlabeled
  worth, kept = 6 * labeled + 9 * unlabeled, 2 * labeled + 3 * unlabeled
  if config.method_name == 'reduced_mpl':  # Its teacher's network is next to nothing.
    worth, kept = 3 * (labeled + unlabeled), labeled + unlabeled
  if config.mpl_feedback in BY_DERIVATIVE:
    return worth + 3 * labeled + 2 * (labeled + unlabeled), kept + labeled
  if config.mpl_feedback == 'release':  # Its teacher is done before the student starts.
    return worth + labeled, min(kept, labeled + 2 * unlabeled)
  return worth + 2 * labeled, kept


def copies(config):
  """How many there are of: (all variables, trainable variables), in a run's process.

  The former: networks and moving averages, also those of a finetune; the latter: optimizer slots and
  gradients.
  """
  slots = len(optimizers.build(config.optim_type, 0.0).slot_starts)
  networks, averages, gradients = {
    'supervised': (1, 1, 1),
    'uda': (1, 1, 1),
    'pseudo_labels': (2, 2, 1),
    'mpl': (2, 1, 2),
    'reduced_mpl': (1, 1, 1),
  }[config.method_name]
  averages += bool(config.finetune_steps)
  return networks + averages, networks * slots + gradients


def estimate(config):
  """The Estimate of a valid Config."""
  shape, classes = inputs(config)
  small_images = any(word in config.dataset_name.lower() for word in SMALL_IMAGES)
  net = network(config.model_type, tuple(shape), classes, small_images)
  worth, kept = passes(config)
  images = worth * config.num_train_steps
  if config.method_name == 'pseudo_labels':  # Its teacher, before.
    images += 3 * config.train_batch_size * config.num_train_steps
  images += 3 * config.finetune_batch_size * config.finetune_steps
  whole, trainable = copies(config)
  return Estimate(
    net,
    worth * net.flops,
    images * net.flops,
    4 * (whole * net.variables + trainable * net.parameters),
    kept * net.activations * (2 if config.use_bfloat16 else 4),
    config.train_batch_size,
    config.use_bfloat16,
    config.num_cores_per_replica,
  )


def most_devices(found, device):
  """How many of such devices can share a step: each has to have a labeled image, or its part of one."""
  return found.batch * (found.cores_per_replica if device.splits_images else 1)


def devices_needed(found, device):
  """How many of such devices hold a step: the smallest number, a divisor of `most_devices`, or None if
  there is none."""
  free = USABLE * device.memory * GB - found.fixed_bytes
  if free <= 0:
    return None
  wider = 2 if found.bfloat16 and not device.has_bfloat16 else 1
  least, most = math.ceil(found.activation_bytes * wider / free), most_devices(found, device)
  return next((n for n in range(max(1, least), most + 1) if most % n == 0), None)


def hours(found, device, utilization, count):
  """Hours of the run on `count` such devices."""
  peak = device.bfloat16 if found.bfloat16 else device.float32
  return found.run_flops / (count * peak * 1e12 * utilization) / 3600


def number(value):
  """Three digits, without an exponent: 0.0123, 1.23, 123, 12,300; <0.001 for less than that."""
  if value < 1e-3:
    return '<0.001'
  digits = 2 - math.floor(math.log10(value))
  return f'{round(value, digits):,.{max(0, digits)}f}'


def cell(found, device, utilization):
  """'12.3' hours on the device as it is, '12.3 on 4' where its memory takes more of them; '-' where
  there are more devices than can share a batch."""
  if device.count > most_devices(found, device):
    return '-'
  needed = devices_needed(found, device)
  if needed is None or (needed > device.count and device.count > 1):
    what = 'too large' if needed is None else f'needs {needed}'
    return f'{what} ({number(hours(found, device, utilization, device.count))})'
  count = max(needed, device.count)
  time = number(hours(found, device, utilization, count))
  return time if count == device.count else f'{time} on {count}'


def table(found, names, utilization):
  """Lines of Markdown for {recipe: Estimate}."""
  head = [
    'recipe',
    'parameters, M',
    'GFLOP an image',
    'TFLOP a step',
    'EFLOP a run',
    'GB fixed',
    'GB activations',
  ] + [f'h {name}' for name in names]
  lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
  for recipe, one in found.items():
    values = [
      one.network.parameters / 1e6,
      one.network.flops / 1e9,
      one.step_flops / 1e12,
      one.run_flops / 1e18,
      one.fixed_bytes / GB,
      one.activation_bytes / GB,
    ]
    cells = [cell(one, DEVICES[name], utilization) for name in names]
    lines.append('| ' + ' | '.join([recipe, *map(number, values), *cells]) + ' |')
  return lines


def arguments(argv):
  """(recipes' paths, devices' names, utilization, flags for all recipes). Raises UserError."""
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
      f'unexpected argument {stray[0]!r}: write flags as --name=value'
      if stray
      else 'no recipe: name one or more, such as flags/cifar10_4000_mpl.flags'
    )
  names = args.device.split(',')
  for name in names:
    if name not in DEVICES:
      raise UserError(f'--device: unknown {name!r}; use some of {", ".join(DEVICES)}')
  try:
    utilization = float(args.utilization)
  except ValueError:
    utilization = 0.0
  if not 0 < utilization <= 1:
    raise UserError(f'--utilization={args.utilization}: must be above 0 and at most 1')
  return args.recipes, names, utilization, rest


def read(path, extra=()):
  """The valid Config of a recipe. Raises UserError."""
  config = parse(['estimate', f'--flagfile={path}', *extra])
  validate(config)
  return config


def main(argv):
  try:
    recipes, names, utilization, extra = arguments(argv)
    found = {os.path.splitext(os.path.basename(path))[0]: estimate(read(path, extra)) for path in recipes}
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  print('\n'.join(table(found, names, utilization)))
  print(
    f'\nComputed, not measured. Hours at {100 * utilization:g} % of the peak, an assumption. '
    '"12.3 on 4": memory asks for 4 devices;\n"needs 16 (12.3)": more than there are, "too large": '
    "no number of them holds a step; then the hours are\nthose of the device's FLOPs alone. "
    '"-": more devices than can share a batch.'
  )
  for name in names:
    device = DEVICES[name]
    print(
      f'{name}: {device.words}; {device.count} x {number(device.bfloat16)} TFLOP/s bfloat16, '
      f'{number(device.float32)} float32, {number(device.memory)} GB'
    )


if __name__ == '__main__':
  main(sys.argv[1:])
