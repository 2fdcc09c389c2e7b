"""From a Config to its method, its optimizers and the phases of its training."""

import dataclasses

from meta_pseudo_labels.build import networks
from meta_pseudo_labels.features import linear
from meta_pseudo_labels.methods import (
  UDA,
  MetaPseudoLabels,
  PseudoLabels,
  ReducedMetaPseudoLabels,
  Supervised,
)
from meta_pseudo_labels.methods.pseudo_label_strategies import STRATEGIES
from meta_pseudo_labels.models import heads
from meta_pseudo_labels.optim import optimizers
from meta_pseudo_labels.optim.schedules import LearningRate

import tensorflow as tf


def _optimizer(config, rate, model, number, *, num_warmup_steps, num_wait_steps=0):
  """Returns the configuration's optimizer of a model, with the release's schedule for this rate."""
  schedule = LearningRate(
    rate,
    batch_size=config.train_batch_size,
    decay_type=config.lr_decay_type,
    num_train_steps=config.num_train_steps,
    num_warmup_steps=num_warmup_steps,
    num_wait_steps=num_wait_steps,
    num_decay_steps=config.num_decay_steps,
    decay_rate=config.lr_decay_rate,
  )
  built = optimizers.build(
    config.optim_type,
    schedule,
    rmsprop_rho=config.rmsprop_rho,
    rmsprop_momentum=config.rmsprop_momentum,
    rmsprop_epsilon=config.rmsprop_epsilon,
    weight_decay=config.weight_decay,
  )
  return built.scale_rates(networks.rate_scales(config, model, number), config.head_steps)


def _strategy(config):
  """Returns the configuration's pseudo-labeling strategy."""
  name, given = config.pseudo_labels, config.pseudo_labels_threshold
  threshold = {} if given is None else {'threshold': given}
  settings = {
    'uda': dict(temperature=config.uda_temp, threshold=config.uda_threshold),
    'fixmatch': threshold,
    'flexmatch': threshold,
    'freematch': dict(fairness=config.pseudo_labels_fairness),
    'softmatch': {},
  }
  return STRATEGIES[name](
    momentum=config.pseudo_labels_momentum,
    distribution_alignment=config.distribution_alignment,
    **settings[name],
  )


def _consistency(config, num_unlabeled):
  """Returns the arguments of `ConsistencyMethod`, or those of them that reduced_mpl takes."""
  common = dict(
    uda_weight=config.uda_weight, uda_steps=config.uda_steps, original_view=config.original_view
  )
  if config.method_name == 'reduced_mpl':
    return common
  views = {'student_targets_from': config.student_targets_from} if config.method_name == 'mpl' else {}
  return dict(
    pseudo_labels=_strategy(config),
    pseudo_labels_smoothing=config.pseudo_labels_smoothing,
    num_unlabeled=num_unlabeled,
    **views,
    **common,
  )


def method(config, *, student, teacher=None, num_unlabeled=None):
  """Builds the method named by `config.method_name`, with its optimizers; in the strategy's scope.

  Args:
    config: Config.
    student: Keras model.
    teacher: Keras model, for mpl and reduced_mpl (trained with the student) and pseudo_labels
      (trained before).
    num_unlabeled: int, the unlabeled examples in all; None: not known, and the method does not train.
  """
  common = dict(
    # AdamW has it apart from the gradient.
    weight_decay=0.0 if config.optim_type == 'adamw' else config.weight_decay,
    grad_bound=config.grad_bound,
    label_smoothing=config.label_smoothing,
    ema_decay=config.ema_decay,
    ema_start=config.ema_start,
    num_train_steps=config.num_train_steps,
    seed=config.seed,
    remat=bool(config.remat),
    loss_scaling=config.computes_in == 'float16',
    micro_batches=config.micro_batch_count,
  )
  if config.method_name in ('mpl', 'reduced_mpl'):
    kind = MetaPseudoLabels if config.method_name == 'mpl' else ReducedMetaPseudoLabels
    built = kind(
      teacher=teacher,
      student=student,
      mpl_feedback=config.mpl_feedback,
      mpl_weight=config.mpl_weight,
      **_consistency(config, num_unlabeled),
      **common,
    )
    built.set_optimizers(**_mpl_optimizers(config, teacher, student))
    return built
  if config.method_name == 'pseudo_labels':
    built = PseudoLabels(
      teacher=teacher,
      student=student,
      pseudo_weight=config.uda_weight,
      soft=config.pseudo_labels_soft,
      threshold=config.pseudo_labels_threshold or 0.0,
      **common,
    )
  elif config.method_name == 'uda':
    built = UDA(student, **_consistency(config, num_unlabeled), **common)
  else:
    built = Supervised(student, **common)
  number = 0 if teacher is None else 1
  built.set_optimizers(
    _optimizer(config, config.lr, student, number, num_warmup_steps=config.num_warmup_steps)
  )
  return built


def _mpl_optimizers(config, teacher, student):
  """Returns both optimizers of Meta Pseudo Labels, by the names of `set_optimizers`."""
  return dict(
    teacher_optimizer=_optimizer(
      config,
      config.mpl_teacher_lr,
      teacher,
      0,
      num_warmup_steps=config.mpl_teacher_lr_warmup_steps,
    ),
    student_optimizer=_optimizer(
      config,
      config.mpl_student_lr,
      student,
      1,
      num_warmup_steps=config.mpl_student_lr_warmup_steps,
      num_wait_steps=config.mpl_student_lr_wait_steps,
    ),
  )


@dataclasses.dataclass
class Phase:
  """A stretch of training with one method.

  Attributes:
    name: teacher, round_1, round_2, ..., train or finetune.
    method: Method.
    num_steps, batch_size (GLOBAL), uda_data (0: labeled batches alone): ints.
    models: {name in tables: (Keras model, moving average to evaluate it with, or None)}.
  """

  name: str
  method: tf.keras.Model
  num_steps: int
  batch_size: int
  uda_data: int
  models: dict


def phases(config, input_shape, num_classes, *, settle=None, num_unlabeled=None, **known):
  """Builds the phases of a configuration, with fresh models; in the strategy's scope.

  Args:
    config: Config.
    input_shape: (H, W, C) or (D,) of what the models see.
    num_classes: int.
    settle: function of (Config, teacher or None, student) to the Config with which they train, or None:
      this one.
    num_unlabeled: as of `method`.
    **known: views, architectures and features, as of `model`.

  Returns:
    list of Phase.
  """
  build = lambda number: networks.model(config, number, input_shape, num_classes, **known)
  # A teacher is the first network, as the only one of UDA and Supervised is: so they start alike,
  # and a teacher that gets no feedback is the UDA baseline of the same seed, weight for weight.
  if config.method_name in ('mpl', 'reduced_mpl', 'pseudo_labels'):
    teacher, student = build(0), build(1)
  else:
    teacher, student = None, build(0)
  config = settle(config, teacher, student) if settle else config
  found = []
  if config.method_name == 'pseudo_labels':
    found, teacher = _teachers(config, teacher, build)
  main = method(config, teacher=teacher, student=student, num_unlabeled=num_unlabeled)
  evaluated = {'student': (student, main.average), 'raw_student': (student, None)}
  if main.evaluates_teacher:
    evaluated['teacher'] = (teacher, None)
  found.append(
    Phase(
      'train',
      main,
      config.num_train_steps,
      config.train_batch_size,
      0 if config.method_name == 'supervised' else config.uda_data,
      evaluated,
    )
  )
  if config.finetune_steps:
    found.append(_finetune(config, student, 0 if teacher is None else 1))
  return found


def _teachers(config, first, build):
  """Builds the phases before the one of the last student: those of its teachers, one after the other.

  Each is fixed while the next one trains: its moving average is copied into it in between.

  Args:
    config: Config.
    first: Keras model, of the first one, which is supervised.
    build: function of a network's number to a fresh Keras model; 0 and 1 are in use.

  Returns:
    (list of Phase, the last of these models).
  """
  before = method(config.replace(method='supervised'), student=first)
  sizes = config.num_train_steps, config.train_batch_size
  found = [Phase('teacher', before, *sizes, 0, {'teacher': (first, before.average)})]
  for number in range(1, config.pseudo_label_rounds):
    teacher, student = found[-1].method.student, build(number + 1)
    trained = method(config, teacher=teacher, student=student)
    models = {'student': (student, trained.average), 'teacher': (teacher, None)}
    found.append(Phase(f'round_{number}', trained, *sizes, config.uda_data, models))
  return found, found[-1].method.student


def start_from_head(phases, path, num_classes):
  """Gives the last layers of all networks the weights in a file, and to their averages.

  Args:
    phases: list of Phase, of `phases`.
    path: str, `--head_weights`.
    num_classes: int.

  Raises:
    UserError: it is no such file, or is for other features or classes.
  """
  for phase in phases:
    for model in filter(None, (phase.method.student, getattr(phase.method, 'teacher', None))):
      heads.set_linear(model, *linear.read(path, heads.num_features(model), num_classes))
    phase.method.average.copy_from_model()


def _finetune(config, student, number):
  """Builds the Phase of the finetune; `number`: the student's, as of `model`."""
  method = Supervised(
    student,
    seed=config.seed,
    num_train_steps=config.finetune_steps,
    remat=bool(config.remat),
    loss_scaling=config.computes_in == 'float16',
    micro_batches=config.micro_batch_count,
  )
  optimizer = optimizers.SGD(config.finetune_lr)
  method.set_optimizers(optimizer.scale_rates(networks.rate_scales(config, student, number)))
  return Phase(
    'finetune', method, config.finetune_steps, config.finetune_batch_size, 0, {'student': (student, None)}
  )
