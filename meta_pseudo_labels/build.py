"""From a Config to what it describes: the problem, the models, the method, the phases.

The only place that reads many of Config's fields; what it makes takes plain arguments.
"""

import dataclasses
import math

from meta_pseudo_labels import models
from meta_pseudo_labels.data import (
  registry,
  semi_supervised,
  service,
  splits,
  storage,
  teacher_predictions,
)
from meta_pseudo_labels.data.augment.views import PadCrop, Points, ResizedCrop
from meta_pseudo_labels.data.dataset_info import CACHE_DIR
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.methods import (
  UDA,
  MetaPseudoLabels,
  PseudoLabels,
  ReducedMetaPseudoLabels,
  Supervised,
)
from meta_pseudo_labels.models.calibration import calibration
from meta_pseudo_labels.optim import optimizers
from meta_pseudo_labels.optim.schedules import LearningRate

import numpy as np
import tensorflow as tf
from PIL import ImageColor

RESIZED_CROP_FROM = 96  # Pixels: from here on one's own images are cropped as ImageNet's are.
# Of --image_size: the shorter side of prepared images. Evaluation's central square, 7/8 of it, has then
# as many pixels as the network sees.
STORED_SIDE = 1.15
# Datasets whose EfficientNets stride less, by words in their names (release: modeling).
SMALL_IMAGES = ('cifar', 'tinyimages', 'svhn')


def problem(config, say=None):
  """Builds the Problem of a configuration: reads its data, splits them, chooses the views.

  Args:
    config: Config.
    say: function of a line, told what was found; or None.

  Raises:
    UserError: no such dataset, not found, or the split asked for cannot be made.
  """
  info = registry.info(config.dataset)
  address = config.dataset_service_address and service.check_dispatcher(config.dataset_service_address)
  crops = (
    config.views
    or info.views
    or ('resized_crop' if config.image_size >= RESIZED_CROP_FROM else 'pad_crop')
  )
  data = _load(config, info, crops, say)
  info = dataclasses.replace(info, **data.facts)
  prepare = lambda found: (
    found and semi_supervised.at_size(found, config.image_size, in_memory=config.cache)
  )
  train = prepare(data.train)
  split = splits.split(
    train.labels,
    num_labeled=config.labeled_count,
    label_seed=config.label_seed,
    num_validation=_num_validation(config, info, data),
    num_classes=info.num_classes,
  )
  unlabeled = semi_supervised.unlabeled(
    train, split, prepare(data.unlabeled), prepare(data.unlabeled_extra)
  )
  if config.unlabeled_manifest:
    unlabeled = unlabeled.chosen(
      splits.read_selection(
        config.unlabeled_manifest, dataset=info.name, count=len(unlabeled), names=unlabeled.names
      )
    )
  found = semi_supervised.Problem(
    info=info,
    split=split,
    inputs=train.inputs,
    labels=train.labels,
    names=train.names,
    unlabeled=unlabeled.inputs,
    truth=unlabeled.labels,
    unlabeled_names=unlabeled.names,
    evaluated=_evaluated(config, train, split, prepare(data.validation), prepare(data.test)),
    views=_views(config, info, train.inputs, crops),
    decoding=data.decoding,
    service_address=address,
  )
  if not config.reads_predictions:
    return found
  return dataclasses.replace(
    found, predictions=teacher_predictions.read(config.teacher_predictions, found.described)
  )


def _load(config, info, crops, say):
  """Reads the data: a storage.Data."""
  return registry.load(
    info,
    config.data_dir,
    config.seed,
    decoding=_decoding(config, crops),
    cache_dir=config.cache_dir or CACHE_DIR,
    own_range=config.image_range == 'data',
    skip_bad_images=config.skip_bad_images,
    say=say or (lambda line: None),
  )


def _decoding(config, crops):
  """Returns how one's own image files become pixels. Raises UserError for a color that is none."""
  try:
    background = ImageColor.getrgb(config.image_background)[:3]
  except ValueError as error:
    raise UserError(
      f'--image_background={config.image_background}: no color; give a name such as white, or #rrggbb'
    ) from error
  if crops == 'pad_crop':
    return Decoding(config.image_size, square=True, background=background)
  return Decoding(math.ceil(STORED_SIDE * config.image_size), background=background)


def _evaluated(config, train, split, validation, test):
  """Returns {'validation', 'test': Examples} of those that there are."""
  evaluated = {
    name: found for name, found in (('validation', validation), ('test', test)) if found is not None
  }
  if len(split.validation):
    evaluated['validation'] = storage.Examples(
      train.inputs[split.validation], train.labels[split.validation]
    )
  if 'validation' not in evaluated and ('test' not in evaluated or config.eval_split == 'validation'):
    raise UserError(
      f'--eval_split={config.eval_split}: --num_validation=0 holds no examples out; '
      'give a number such as --num_validation=300'
    )
  return evaluated


def _num_validation(config, info, data):
  """Returns how many labeled examples are held out of the training split."""
  if data.validation is not None:
    if config.num_validation:
      raise UserError(
        f'--num_validation={config.num_validation}: {info.name} has validation '
        'examples of its own; leave the flag out'
      )
    return 0
  if config.num_validation is not None:
    return config.num_validation
  known = np.count_nonzero(data.train.labels >= 0)
  return max(info.num_classes, round(known / 5)) if info.holds_out else 0


def _views(config, info, inputs, crops):
  """Returns the views: one of data/augment/views.py."""
  dtype = tf.bfloat16 if config.use_bfloat16 else tf.float32
  if info.kind == 'points':
    for flag, given in (
      ('flip', config.flip),
      ('noflip', config.flip is False),
      ('augment_ops', config.augment_ops),
    ):
      if given:
        raise UserError(f'--{flag}: {info.name} has points, not images; leave it out')
    return Points(config.augment_stddev, dtype)
  common = dict(
    mean=info.mean,
    std=info.std,
    flip=info.flip if config.flip is None else config.flip,
    ops=config.augment_op_names or info.augment_ops,
    magnitude=config.augment_magnitude,
    strong_labeled=config.use_augment,
    dtype=dtype,
  )
  if storage.of_one_size(inputs) == (crops == 'resized_crop'):
    other = 'pad_crop' if crops == 'resized_crop' else 'resized_crop'
    raise UserError(f'--views={crops}: not for {info.name}; leave it out, or --views={other}')
  if crops == 'pad_crop':
    return PadCrop(**common)
  return ResizedCrop(
    size=config.image_size,
    eval_size=models.eval_image_size(config.model_type, config.image_size, info.own_resolution),
    **common,
  )


def model(config, number, input_shape, num_classes):
  """Builds a fresh model by `config.model_type`: inputs `[N, *input_shape]` -> logits `[N, num_classes]`.

  `number` is that of the network in a run, 0 or 1; their initial weights differ. Number 0 of
  reduced_mpl is the small one, on stored log probabilities `[N, num_classes]`.
  """
  if config.method_name == 'reduced_mpl' and number == 0:
    return calibration(
      num_classes,
      units=config.calibration_units,
      depth=config.calibration_layers,
      seed=f'{config.seed}/{number}',
    )
  return models.build(
    config.model_type,
    num_classes=num_classes,
    input_shape=input_shape,
    dropout=config.dense_dropout_rate,
    bn_decay=config.batch_norm_decay,
    bn_epsilon=config.batch_norm_epsilon,
    bn_batch_size=config.batch_norm_batch_size,
    stochastic_depth=config.stochastic_depth_drop_rate,
    small_images=any(word in config.dataset_name.lower() for word in SMALL_IMAGES),
    seed=f'{config.seed}/{number}',
  )


def _optimizer(config, rate, *, num_warmup_steps, num_wait_steps=0):
  """Returns the configuration's optimizer with the release's schedule for this rate."""
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
  return optimizers.build(
    config.optim_type,
    schedule,
    rmsprop_rho=config.rmsprop_rho,
    rmsprop_momentum=config.rmsprop_momentum,
    rmsprop_epsilon=config.rmsprop_epsilon,
    weight_decay=config.weight_decay,
  )


def method(config, *, student, teacher=None):
  """Builds the method named by `config.method_name`, with its optimizers; in the strategy's scope.

  Args:
    config: Config.
    student: Keras model.
    teacher: Keras model, for mpl and reduced_mpl (trained with the student) and pseudo_labels
      (trained before).
  """
  common = dict(
    weight_decay=config.weight_decay,
    grad_bound=config.grad_bound,
    label_smoothing=config.label_smoothing,
    ema_decay=config.ema_decay,
    ema_start=config.ema_start,
    num_train_steps=config.num_train_steps,
    seed=config.seed,
    remat=config.remat,
    loss_scaling=config.use_float16,
    micro_batches=config.micro_batches,
  )
  consistency = dict(
    uda_temp=config.uda_temp,
    uda_threshold=config.uda_threshold,
    uda_weight=config.uda_weight,
    uda_steps=config.uda_steps,
    original_view=config.original_view,
  )
  if config.method_name in ('mpl', 'reduced_mpl'):
    kind = MetaPseudoLabels if config.method_name == 'mpl' else ReducedMetaPseudoLabels
    built = kind(
      teacher=teacher,
      student=student,
      mpl_feedback=config.mpl_feedback,
      mpl_weight=config.mpl_weight,
      **consistency,
      **common,
    )
    built.set_optimizers(
      teacher_optimizer=_optimizer(
        config, config.mpl_teacher_lr, num_warmup_steps=config.mpl_teacher_lr_warmup_steps
      ),
      student_optimizer=_optimizer(
        config,
        config.mpl_student_lr,
        num_warmup_steps=config.mpl_student_lr_warmup_steps,
        num_wait_steps=config.mpl_student_lr_wait_steps,
      ),
    )
    return built
  if config.method_name == 'pseudo_labels':
    built = PseudoLabels(teacher=teacher, student=student, pseudo_weight=config.uda_weight, **common)
  elif config.method_name == 'uda':
    built = UDA(student, **consistency, **common)
  else:
    built = Supervised(student, **common)
  built.set_optimizers(_optimizer(config, config.lr, num_warmup_steps=config.num_warmup_steps))
  return built


@dataclasses.dataclass
class Phase:
  """A stretch of training with one method.

  Attributes:
    name: teacher, train or finetune.
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


def phases(config, input_shape, num_classes):
  """Builds the phases of a configuration, with fresh models; in the strategy's scope.

  Args:
    config: Config.
    input_shape: (H, W, C) or (D,) of what the models see.
    num_classes: int.

  Returns:
    list of Phase.
  """
  build = lambda number: model(config, number, input_shape, num_classes)
  # A teacher is the first network, as the only one of UDA and Supervised is: so they start alike,
  # and a teacher that gets no feedback is the UDA baseline of the same seed, weight for weight.
  if config.method_name in ('mpl', 'reduced_mpl', 'pseudo_labels'):
    teacher, student = build(0), build(1)
  else:
    teacher, student = None, build(0)
  found = []
  if config.method_name == 'pseudo_labels':
    # Fixed while the student trains: its moving average is copied into it in between.
    before = method(config.replace(method='supervised'), student=teacher)
    found.append(
      Phase(
        'teacher',
        before,
        config.num_train_steps,
        config.train_batch_size,
        0,
        {'teacher': (teacher, before.average)},
      )
    )
  main = method(config, teacher=teacher, student=student)
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
  return [*found, _finetune(config, student)] if config.finetune_steps else found


def _finetune(config, student):
  """Builds the Phase of the finetune."""
  method = Supervised(
    student,
    seed=config.seed,
    num_train_steps=config.finetune_steps,
    remat=config.remat,
    loss_scaling=config.use_float16,
    micro_batches=config.micro_batches,
  )
  method.set_optimizers(optimizers.SGD(config.finetune_lr))
  return Phase(
    'finetune', method, config.finetune_steps, config.finetune_batch_size, 0, {'student': (student, None)}
  )
