"""Reads and writes checkpoints under the official release's variable names.

The release (TensorFlow 1) stores variables by name:

    model/<name>            the student, in UDA and Supervised the only model
    teacher/<name>          the teacher of MPL
    ema/model/<name>        the student's moving average; its ckpt_best has only these
    <one of the first two>/Momentum, /LARSOptimizer, /RMSProp, /RMSProp_1    optimizer slots
    global_step, moving_dot_product, cross_entropy_old

Our variables have the same <name>. `map_names` returns this map; `load` and `write` use it.
"""

import collections
import dataclasses
import os
from typing import List, Tuple

from meta_pseudo_labels import methods
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.optim import optimizers

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

# The suffix that TensorFlow 1 appends to a variable's name for a slot of the release's optimizers.
SLOT_SUFFIXES = {
  optimizers.Momentum: {'momentum': 'Momentum'},
  optimizers.LARS: {'momentum': 'LARSOptimizer'},
  optimizers.RMSProp: {'rms': 'RMSProp', 'momentum': 'RMSProp_1'},
}
# These are not weights. A checkpoint that shares only these with a run is of another model.
SCALARS = ('global_step', 'moving_dot_product', 'cross_entropy_old')
# The scopes that may hold each role's weights in a checkpoint, in order of preference. An average comes
# before its model: it is the better classifier, and the release evaluates it.
PLACES = {'teacher': ('teacher', 'ema/model', 'model'), 'student': ('ema/model', 'model')}
# The key under which `tf.train.Checkpoint`, used by our own runs, stores its graph of objects.
OBJECT_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
EXAMPLES = 2  # Number of names from a long list that a line of a report shows.


def release_name(variable, scope):
  """Returns the release's name of a model's variable in `scope`: model, teacher or ema/model."""
  return f'{scope}/{variable.name.split(":")[0]}'


def map_names(method):
  """Returns {release's name: our variable} of a method; no variable occurs twice.

  These have no entry:
    `cross_entropy_old`, for which we need no variable.
    `moving_dot_product`, unless `mpl_feedback` is `release`. Only there it is the same quantity; the
    other feedbacks have it with the opposite sign or not at all.
    The moving average of its square, which only the logs need.
    The slots of optimizers that the release does not have.
  """
  found = {'global_step': method.step}
  estimator = getattr(method, 'estimator', None)
  if estimator is not None and estimator.released_dot_product:
    found['moving_dot_product'] = method.moving_dot_product
  for scope, role in (('model', 'student'), ('teacher', 'teacher')):
    model = getattr(method, role, None)
    if model is not None:
      found.update({release_name(v, scope): v for v in model.variables})
      found.update(_map_slots(getattr(method, f'{role}_optimizer', None), model, scope))
  averaged = [v for v in method.student.variables if v.dtype.is_floating]
  found.update(
    {release_name(v, 'ema/model'): average for v, average in zip(averaged, method.average.averages)}
  )
  return found


def _map_slots(optimizer, model, scope):
  """Returns {release's name: slot variable} of an optimizer, {} for None."""
  return {
    f'{release_name(v, scope)}/{suffix}': value
    for slot, suffix in SLOT_SUFFIXES.get(type(optimizer), {}).items()
    for v, value in zip(model.trainable_variables, optimizer.slots[slot])
  }


@dataclasses.dataclass(frozen=True)
class Report:
  """Comparison of a checkpoint with the variables to load, by the release's names.

  Attributes:
    path: of the checkpoint, as given by the caller.
    found: names in it with the right shape.
    missing: names that are not in it.
    wrong_shape: (name, shape in the checkpoint, our shape).
    unused: names in it that are not among the variables.
  """

  path: str
  found: List[str]
  missing: List[str]
  wrong_shape: List[Tuple[str, tuple, tuple]]
  unused: List[str]

  def lines(self):
    """Returns the report as up to four lines of text, long lists as counts with examples."""
    shapes = [f'{name} ({theirs} in it, {ours} here)' for name, theirs, ours in self.wrong_shape]
    lines = [f'{self.path}: loaded {_format_counts(self.found) or "nothing"}']
    for what, found, examples in (
      ('not in it, left unchanged', self.missing, self.missing),
      ('of another shape', [name for name, _, _ in self.wrong_shape], shapes),
      ('in it and not used', self.unused, self.unused),
    ):
      if found:
        rest = f', and {len(found) - EXAMPLES} more' if len(found) > EXAMPLES else ''
        lines.append(f'  {what}: {_format_counts(found)} ({", ".join(examples[:EXAMPLES])}{rest})')
    return lines


def _format_counts(found):
  """Formats names as counts: '90 teacher, 90 student, global_step'."""
  suffixes = [suffix for slots in SLOT_SUFFIXES.values() for suffix in slots.values()]
  groups = {'teacher': 'teacher', 'model': 'student', 'ema': 'average'}
  kind = lambda name: (
    'optimizer slots' if name.rsplit('/', 1)[-1] in suffixes else (groups.get(name.split('/')[0], 'other'))
  )
  counts = collections.Counter(kind(name) for name in found if name not in SCALARS)
  return ', '.join(
    [f'{count} {what}' for what, count in counts.items()] + [name for name in SCALARS if name in found]
  )


def open_checkpoint(path):
  """Opens a checkpoint, given by its path prefix or by a folder whose `checkpoint` file names it.

  Returns:
    A reader as of `tf.train.load_checkpoint`.

  Raises:
    UserError: there is no checkpoint.
  """
  prefix = path
  if tf.io.gfile.isdir(path):
    state = tf.train.get_checkpoint_state(path)
    if state is None:
      raise UserError(
        f'{path}: a folder without a `checkpoint` file that names the newest one; '
        'give the path of a checkpoint without .index, such as '
        f'{os.path.join(path, "ckpt-1000")}'
      )
    prefix = os.path.join(path, os.path.basename(state.model_checkpoint_path))
    if not tf.io.gfile.exists(f'{prefix}.index'):
      prefix = state.model_checkpoint_path
  try:
    reader = tf.train.load_checkpoint(prefix)
    # TensorFlow also accepts the name of the file PREFIX.index, but finds no variables in it.
    if reader.get_variable_to_shape_map():
      return reader
  except (tf.errors.OpError, ValueError, RuntimeError):
    pass  # TensorFlow's reason, about tables and slices, does not help a user.
  if prefix != path:
    raise UserError(
      f'{path}: its `checkpoint` file names {prefix}, which is not there; give the '
      'path of a checkpoint without .index'
    )
  raise UserError(
    f'{path}: no checkpoint there; give its path without .index or '
    '.data-00000-of-00001, or a folder with a `checkpoint` file'
  )


def _read_tensor(path, reader, key):
  """Reads a tensor of a checkpoint. Raises UserError if its data are damaged."""
  try:
    return reader.get_tensor(key)
  except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
    raise UserError(
      f'{path}: damaged ({" ".join(str(error).split())[:200]}); copy it again, its .data files too'
    ) from error


def stored_keys(path, reader, method=None):
  """Returns {release's name: key of the tensor in the checkpoint}.

  In a checkpoint by name the keys are the names. A checkpoint of our own runs stores a graph of objects.
  Its phase `train` and `method` are traversed in parallel. A tensor gets the name that
  `map_names(method)` gives to the variable at the same position.

  Raises:
    UserError: it stores objects, but is not from a run of this program, or `method` is None.
  """
  shapes = reader.get_variable_to_shape_map()
  if OBJECT_GRAPH not in shapes:
    return {name: name for name in shapes}
  graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
    _read_tensor(path, reader, OBJECT_GRAPH)
  )
  phases = {child.local_name: child.node_id for child in graph.nodes[0].children}
  if method is None or 'train' not in phases:
    raise UserError(
      f'{path}: stores objects (tf.train.Checkpoint), not names, and is not from a '
      'run of this program; give one that tf.compat.v1.train.Saver or '
      '`python -m meta_pseudo_labels.convert` wrote'
    )
  keys, seen, pending = {}, {}, [(phases['train'], method)]
  while pending:
    number, ours = pending.pop()
    if id(ours) in seen:
      continue
    seen[id(ours)] = ours  # A reference, so that no other object gets the same id.
    node = graph.nodes[number]
    keys.update({id(ours): attribute.checkpoint_key for attribute in node.attributes})
    children = tf.train.TrackableView.children(ours)
    pending += [
      (child.node_id, children[child.local_name])
      for child in node.children
      if child.local_name in children
    ]
  return {name: keys[id(v)] for name, v in map_names(method).items() if id(v) in keys}


def compare(path, variables, method=None):
  """Compares a checkpoint with `variables` without loading it: Report. For arguments see `load`."""
  reader = open_checkpoint(path)
  keys, shapes = stored_keys(path, reader, method), reader.get_variable_to_shape_map()
  pairs = {
    name: (tuple(shapes[keys[name]]), tuple(v.shape)) for name, v in variables.items() if name in keys
  }
  return Report(
    path=path,
    found=[name for name, (theirs, ours) in pairs.items() if theirs == ours],
    missing=[name for name in variables if name not in pairs],
    wrong_shape=[(name, *both) for name, both in pairs.items() if both[0] != both[1]],
    unused=sorted(set(keys) - set(variables)),
  )


def load(path, variables, method=None):
  """Loads variables by name; those that the checkpoint does not have stay unchanged.

  Args:
    path: str, a checkpoint of the release or of our own runs, or a folder with a `checkpoint` file,
      whose newest checkpoint is loaded.
    variables: {release's name: variable}, such as `map_names(method)` or a part of it.
    method: Method that the names belong to; only checkpoints of our own runs need it.

  Returns:
    Report.

  Raises:
    UserError: the checkpoint is missing or damaged, has none of the weights, or has one of another
      shape. No variable has been changed then, except by a damaged checkpoint.
  """
  report = compare(path, variables, method)
  if report.wrong_shape:
    first, theirs, ours = report.wrong_shape[0]
    raise UserError(
      f'{path}: {len(report.wrong_shape)} variable(s) have another shape, such as '
      f'{first}: {theirs} in it, {ours} here; give the --model_type, --image_size and '
      '--dataset_name that it was trained with'
    )
  if not set(report.found) - set(SCALARS):
    raise UserError(
      f'{path}: has none of the {len(variables)} variables, such as '
      f'{next(name for name in variables if name not in SCALARS)}, but '
      f'{len(report.unused)} others such as {", ".join(report.unused[:EXAMPLES])}; '
      'give the --model_type that it was trained with'
    )
  reader = open_checkpoint(path)
  keys = stored_keys(path, reader, method)
  for name in report.found:
    variables[name].assign(tf.cast(_read_tensor(path, reader, keys[name]), variables[name].dtype))
  return report


def load_role(path, method, role):
  """Loads one model of a method; sets the student's average too.

  Args:
    path: see `load`.
    method: Method with an attribute `role`.
    role: teacher or student; `PLACES` lists the scopes that may hold its weights.

  Returns:
    (Report, scope in the checkpoint).

  Raises:
    UserError: see `load`.
  """
  keys = stored_keys(path, open_checkpoint(path), method)
  in_place = lambda place: {release_name(v, place): v for v in getattr(method, role).variables}
  place = next((place for place in PLACES[role] if keys.keys() & in_place(place).keys()), PLACES[role][-1])
  report = load(path, in_place(place), method)
  if role == 'student':
    # Before the first step the average equals the student.
    averaged = [v for v in method.student.variables if v.dtype.is_floating]
    for average, v in zip(method.average.averages, averaged):
      average.assign(v)
  return report, place


def start_from(config, method):
  """Loads the checkpoints that flags name into the phase `train` of a new run.

  `load_checkpoint` loads everything that the checkpoint has, as in the release; with
  `load_checkpoint_and_restart_global_step` everything except the step. Then `mpl_teacher_checkpoint`
  and `mpl_student_checkpoint` load one model each. The release defines these two and never reads them.

  Args:
    config: Config.
    method: Method of that phase.

  Returns:
    list of lines of text that report what was loaded.

  Raises:
    UserError: see `load`; or the method has no such model.
  """
  lines = []
  if config.load_checkpoint:
    flag = f'--load_checkpoint={config.load_checkpoint}'
    if config.method_name == 'pseudo_labels':
      raise UserError(
        f'{flag}: pseudo_labels trains its teacher from scratch; leave the flag out, or use --method=mpl'
      )
    variables = map_names(method)
    if config.load_checkpoint_and_restart_global_step:
      del variables['global_step']
    report = _name_flag('load_checkpoint', load, config.load_checkpoint, variables, method)
    lines += ['--load_checkpoint'] + report.lines()
  for role in PLACES:
    name, path = f'mpl_{role}_checkpoint', getattr(config, f'mpl_{role}_checkpoint')
    if not path:
      continue
    if config.method_name != 'mpl':
      raise UserError(
        f'--{name}={path}: only for the method mpl, not {config.method_name}; use --load_checkpoint'
      )
    report, place = _name_flag(name, load_role, path, method, role)
    lines += [f'--{name}: the {role} from {place}/...'] + report.lines()
  return lines


def _name_flag(flag, function, path, *args):
  """Calls function(path, *args); puts the flag's name before a UserError, which begins with the path."""
  try:
    return function(path, *args)
  except UserError as error:
    raise UserError(f'--{flag}={error}') from error


def write(path, method):
  """Writes a method's variables as a checkpoint of the release (`path`.index, `path`.data-...).

  The release only restores complete checkpoints. So one of MPL also has `cross_entropy_old` and
  `moving_dot_product`, as zeros if our method has no such value (see `map_names`).

  Raises:
    UserError: it cannot be written.
  """
  tensors = {name: v.read_value() for name, v in map_names(method).items()}
  if isinstance(method, methods.MetaPseudoLabels):
    tensors = {'cross_entropy_old': tf.zeros([]), 'moving_dot_product': tf.zeros([]), **tensors}
  try:
    tf.io.gfile.makedirs(os.path.dirname(path) or '.')
    tf.raw_ops.SaveV2(
      prefix=path,
      tensor_names=list(tensors),
      tensors=list(tensors.values()),
      shape_and_slices=[''] * len(tensors),
    )
  except (tf.errors.OpError, OSError) as error:
    raise UserError(
      f'{path}: cannot be written ({" ".join(str(error).split())[:200]}); give another path'
    ) from error
