"""The memory of a training step: an estimate from the shapes of the networks' layers and the flags.

Nothing is run. `measure` looks at a network, `needed_bytes` at the flags too, and `choose` decides by it.
docs/scaling.md compares the estimate with measured peaks.
"""

import math
from typing import NamedTuple, Optional

from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.methods import parts
from meta_pseudo_labels.models import batch_norm, remat
from meta_pseudo_labels.optim import optimizers

import tensorflow as tf

BY_DERIVATIVE = ('soft', 'sampled_dot')  # Feedbacks that differentiate the labeled loss.

# What the gradient of a layer needs, by words in the names of its classes: the first that is found. The
# input, if none is.
NEEDS = (
  ('same', ('InputLayer', 'Dropout', 'StochasticDepth', 'Flatten', 'Reshape')),  # Their input, or nearly.
  ('output', ('ReLU',)),
  ('both', ('MaxPooling',)),
  (
    'nothing',
    ('Add', 'Subtract', 'Average', 'Padding', 'Cropping', 'Concatenate', 'UpSampling', 'Rescaling'),
  ),
)
FROM_OUTPUT = ('relu', 'relu6', 'sigmoid', 'tanh', 'softmax')  # Activations.


class Network(NamedTuple):
  """A network's size.

  Attributes:
    parameters: int, number of trainable parameters.
    variables: int, the same with batch norm's averages.
    activations: int, number of elements that a training pass holds at most for one image.
    rematerialized: int, the same with `--remat`; None: it has no blocks.
    couples_examples: bool, see `batch_norm.couples_examples`.
  """

  parameters: int
  variables: int
  activations: int
  rematerialized: Optional[int] = None
  couples_examples: bool = False


def _needs(layer):
  """Returns what the gradient of a layer needs: same (its input in place of its output), or of NEEDS."""
  if isinstance(layer, tf.keras.layers.Activation):
    name = layer.get_config()['activation']
    return 'same' if name == 'linear' else 'output' if name in FROM_OUTPUT else 'input'
  names = ' '.join(kind.__name__ for kind in type(layer).__mro__)
  return next((need for need, words in NEEDS if any(word in names for word in words)), 'input')


def _find_ends(model):
  """Returns the ids of the tensors between the blocks of a model; an empty set if it has no blocks."""
  try:
    return set(map(id, remat.find_boundaries(model)))
  except ValueError:
    return set()


class _Tensors:
  """The tensors of a model's pass over one image: which are the same, and how large they are."""

  def __init__(self, model, side):
    self._same, self._shapes = {}, {}
    if None in model.input.shape[1:]:
      self._shapes[id(model.input)] = (side, side, model.input.shape[-1])

  def _shape(self, tensor):
    return self._shapes.get(id(tensor), tuple(tensor.shape[1:]))

  def of(self, tensors):
    """Returns [(id, number of elements)] of nested tensors."""
    return [
      (self._same.get(id(tensor), id(tensor)), math.prod(self._shape(tensor)))
      for tensor in tf.nest.flatten(tensors)
    ]

  def add(self, layer, same):
    """Notes the outputs of a layer; `same`: whether they are its input."""
    for output in tf.nest.flatten(layer.output):
      if None in output.shape[1:] and id(output) not in self._shapes:
        shapes = [(None, *self._shape(tensor)) for tensor in tf.nest.flatten(layer.input)]
        self._shapes[id(output)] = layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])[1:]
      if same:
        self._same[id(output)] = self.of(layer.input)[0][0]


def measure(model, side=None):
  """Measures a functional Keras model.

  A training pass keeps the tensors that the gradients of its layers need: the input of a convolution
  whose kernel learns, the output of a ReLU, nothing for a sum. A tensor counts once. What comes before
  the first layer that learns keeps nothing. To that comes the pass's working memory, three times the
  largest tensor: an output, and the gradients by the output and by the input.

  Args:
    model: of `models.build`.
    side: int, pixels per side of the images, where the model leaves them open.

  Returns:
    Network.
  """
  ends, tensors = _find_ends(model), _Tensors(model, side)
  blocks, between, learns, largest = [{}], [{}], set(), 0
  for layer in model.layers:
    need = _needs(layer)
    tensors.add(layer, need == 'same' and not isinstance(layer, tf.keras.layers.InputLayer))
    inputs, outputs = tensors.of(layer.input), tensors.of(layer.output)
    largest = max(largest, *(size for _, size in inputs + outputs))
    if layer.trainable_weights or learns & dict(inputs).keys():
      learns |= dict(outputs).keys()
      # A product with constant weights is linear.
      linear = layer.weights and not layer.trainable_weights
      kept = {'input': [] if linear else inputs, 'output': outputs, 'both': inputs + outputs}
      blocks[-1].update(kept.get(need, ()))
    if id(layer.output) in ends:
      blocks.append({})
      between.append({**between[-1], **dict(outputs)})
  size = lambda variables: sum(v.shape.num_elements() for v in variables)
  total = lambda *kept: sum({tensor: size for one in kept for tensor, size in one.items()}.values())
  return Network(
    size(model.trainable_variables),
    size(model.variables),
    total(*blocks) + 3 * largest,
    # The backward pass is in one block at a time, and what lies behind it is gone.
    max(map(total, blocks, between)) + 3 * largest if ends else None,
    batch_norm.couples_examples(model),
  )


def count_rows(batch_size, uda_data, micro_batches):
  """Counts the examples of one part of a replica's batch: (labeled, unlabeled), ints."""
  if not uda_data:
    return batch_size // parts.fewest(batch_size, -(-batch_size // micro_batches)), 0
  return batch_size // math.gcd(batch_size, micro_batches), batch_size * uda_data // micro_batches


def step_activations(config, teacher, student, replicas=1):
  """Computes the activations that a step holds at most on one replica, over all phases, in bytes.

  Args:
    config: Config, with `micro_batches` and `remat` as they are to be.
    teacher: Network, or None where the method has no large one.
    student: Network.
    replicas: int, that share the batch.
  """
  count = config.micro_batch_count
  kept = lambda network: (config.remat and network.rematerialized) or network.activations
  unlabeled_data = 0 if config.method_name == 'supervised' else config.uda_data
  labeled, unlabeled = count_rows(config.train_batch_size // replicas, unlabeled_data, count)
  # Where nothing mixes the views, the original ones need no gradient (`uda.original_alone`).
  together = lambda network: config.original_view == 'together' and network.couples_examples
  by_uda = lambda network: (labeled + (2 if together(network) else 1) * unlabeled) * kept(network)
  by_student = (labeled + unlabeled) * kept(student)
  if config.method_name == 'uda':
    most = by_uda(student)
  elif config.method_name == 'pseudo_labels':
    most = max(by_student, labeled * kept(teacher))
  elif config.method_name != 'mpl':
    most = by_student
  elif config.mpl_feedback == 'release' or count > 1:  # One network is done before the other one starts.
    most = max(by_uda(teacher), by_student)
  else:
    again = labeled * kept(student) if config.mpl_feedback in BY_DERIVATIVE else 0
    most = by_uda(teacher) + by_student + again
  if config.finetune_steps:
    most = max(most, count_rows(config.finetune_batch_size // replicas, 0, count)[0] * kept(student))
  return most * (4 if config.computes_in == 'float32' else 2)


def fixed_bytes(config, teacher, student):
  """Computes what every device holds besides: networks, averages, slots and gradients, in bytes.

  Args:
    config, teacher, student: as of `step_activations`.
  """
  slots = len(optimizers.build(config.optim_type, 0.0).slot_starts)
  both = config.method_name in ('mpl', 'pseudo_labels')
  variables = (2 + bool(config.finetune_steps)) * student.variables
  trained = (slots + 1) * student.parameters
  if both:  # The average of a teacher counts in pseudo_labels alone, its gradient in mpl alone.
    alone = config.method_name == 'pseudo_labels'
    variables += (1 + alone) * teacher.variables
    trained += (slots + 1 - alone) * teacher.parameters
  return 4 * (variables + trained)


def needed_bytes(config, teacher, student, replicas=1):
  """Computes what a run needs of a replica's device, in bytes; arguments as of `step_activations`.

  At the update there are, besides the gradients in `fixed_bytes`, those with weight decay, the clipped
  ones, the new weights and the new slots. The activations are gone by then, except for a teacher's that
  waits for the feedback. In parts there are a part's gradients beside their sums.
  """
  activations = step_activations(config, teacher, student, replicas)
  parameters = 4 * max(network.parameters for network in (teacher, student) if network)
  waits = (
    config.method_name == 'mpl' and config.mpl_feedback != 'release' and config.micro_batch_count == 1
  )
  in_parts = config.micro_batch_count > 1
  during = activations + (4 if waits else in_parts) * parameters
  return fixed_bytes(config, teacher, student) + max(during, 4 * parameters)


def list_choices(config, teacher, student, replicas=1):
  """Lists the Configs among which `choose` chooses, the preferred ones first.

  `micro_batches` and `remat` stay where they are given. With batch norms that take statistics the fewest
  parts are preferred, since parts change the statistics and `--remat` changes nothing. Otherwise neither
  changes anything, and parts are preferred, which cost less time.

  Args:
    config, teacher, student, replicas: as of `step_activations`.
  """
  known = [network for network in (teacher, student) if network]
  most = config.train_batch_size // replicas
  most *= 1 if config.method_name == 'supervised' else config.uda_data
  counts = [n for n in range(1, most + 1) if most % n == 0]
  if config.micro_batches:
    counts = [config.micro_batches]
  has_blocks = all(network.rematerialized is not None for network in known)
  remats = (False, True) if has_blocks else (False,)
  if config.remat is not None:
    remats = (config.remat,)
  found = [config.replace(micro_batches=count, remat=again) for count in counts for again in remats]
  coupled = any(network.couples_examples for network in known)
  return found if coupled else sorted(found, key=lambda one: one.remat)


def describe(config, teacher, student):
  """Returns '--micro_batches=4 --remat' of a Config, and what it changes: str; networks as of `choose`."""
  words = [f'--micro_batches={config.micro_batch_count}'] if config.micro_batch_count > 1 else []
  words = ' '.join(words + ['--remat'] * bool(config.remat))
  if config.micro_batch_count > 1 and any(one.couples_examples for one in (teacher, student) if one):
    words += ' (batch norms take their statistics over a part, so the results are others)'
  return words


def choose(config, teacher, student, usable, replicas=1):
  """Chooses `micro_batches` and `remat`, where they are not given.

  Args:
    config, teacher, student, replicas: as of `step_activations`.
    usable: bytes of a replica's device, or None if not known.

  Returns:
    (Config with both, a line that says what was chosen and why; '' if all fits as it is).

  Raises:
    UserError: nothing fits into `--memory`.
  """
  choices = list_choices(config, teacher, student, replicas)
  needed = [needed_bytes(one, teacher, student, replicas) for one in choices]
  fits = usable is None or min(needed) <= usable
  best = needed.index(min(needed))
  if not fits and config.memory is not None:
    least = _gigabytes(1.05 * needed[best])  # Enough when it has been rounded.
    raise UserError(
      f'--memory={config.memory:g}: a run takes at least {least} GB by estimate'
      f'{" with " * (best > 0)}{describe(choices[best], None, None)}; give as much, or a smaller '
      '--train_batch_size, --uda_data or --model_type'
    )
  if fits:
    best = next(index for index, size in enumerate(needed) if usable is None or size <= usable)
  line = (
    f'by estimate a run takes {_gigabytes(needed[0])} GB and the device has {_gigabytes(usable)} GB, so '
    f'{describe(choices[best], teacher, student)}: {_gigabytes(needed[best])} GB'
    + ('' if fits else ', which may be too much')
    if best
    else ''
  )
  return choices[best], line


def choose_less(config, used, teacher, student, replicas=1):
  """Returns the next choice that takes about half of the activations, or None if there is none.

  Args:
    config, teacher, student, replicas: as of `choose`.
    used: Config, the choice that was too much.
  """
  parts_used, again = used.micro_batch_count, bool(used.remat)
  return next(
    (
      one
      for one in list_choices(config, teacher, student, replicas)
      if one.remat >= again
      and one.micro_batch_count >= (parts_used if one.remat > again else 2 * parts_used)
    ),
    None,
  )


def _gigabytes(size):
  """Formats bytes as GB with two digits."""
  return f'{size / 1e9:.2g}' if size < 1e11 else f'{size / 1e9:.0f}'
