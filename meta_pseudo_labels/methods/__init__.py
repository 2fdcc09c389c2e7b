"""The methods: each a Keras model whose `train_step` reads like its algorithm."""
from meta_pseudo_labels import models
from meta_pseudo_labels.methods.mpl import MetaPseudoLabels
from meta_pseudo_labels.methods.pseudo_labels import PseudoLabels
from meta_pseudo_labels.methods.reduced_mpl import ReducedMetaPseudoLabels
from meta_pseudo_labels.methods.supervised import Supervised
from meta_pseudo_labels.methods.uda import UDA
from meta_pseudo_labels.models.calibration import calibration
from meta_pseudo_labels.optim import optimizers, schedules

__all__ = ['MetaPseudoLabels', 'PseudoLabels', 'ReducedMetaPseudoLabels', 'Supervised', 'UDA',
           'build_model', 'from_config']

# Data sets whose EfficientNets stride less, by words in their names (release: modeling).
SMALL_IMAGES = ('cifar', 'tinyimages', 'svhn')


def build_model(config, number, input_shape, num_classes):
  """A fresh model by `config.model_type`: the first (0) or the second (1) network of a run.

  Inputs `[N, *input_shape]` -> logits `[N, num_classes]`; their initial weights differ. The first
  of reduced_mpl is the small one, on stored log probabilities `[N, num_classes]`.
  """
  if config.method_name == 'reduced_mpl' and number == 0:
    return calibration(
        num_classes, units=config.calibration_units, depth=config.calibration_layers,
        seed=f'{config.seed}/{number}')
  return models.build(
      config.model_type, num_classes=num_classes, input_shape=input_shape,
      dropout=config.dense_dropout_rate, bn_decay=config.batch_norm_decay,
      bn_epsilon=config.batch_norm_epsilon, bn_batch_size=config.batch_norm_batch_size,
      stochastic_depth=config.stochastic_depth_drop_rate,
      small_images=any(word in config.dataset_name.lower() for word in SMALL_IMAGES),
      seed=f'{config.seed}/{number}')


def learning_rate(config, rate, *, num_warmup_steps, num_wait_steps=0):
  """A schedule of the release's by the configuration: a function of the step."""
  return schedules.LearningRate(
      rate, batch_size=config.train_batch_size, decay_type=config.lr_decay_type,
      num_train_steps=config.num_train_steps, num_warmup_steps=num_warmup_steps,
      num_wait_steps=num_wait_steps, num_decay_steps=config.num_decay_steps,
      decay_rate=config.lr_decay_rate)


def optimizer(config, schedule):
  """The configuration's optimizer with this schedule."""
  return optimizers.build(
      config.optim_type, schedule, rmsprop_rho=config.rmsprop_rho,
      rmsprop_momentum=config.rmsprop_momentum, rmsprop_epsilon=config.rmsprop_epsilon,
      weight_decay=config.weight_decay)


def from_config(config, student, teacher=None):
  """The method named by `config.method_name`, with its optimizers; under the strategy's scope.

  Args:
    config: Config.
    student: Keras model.
    teacher: Keras model, for mpl and reduced_mpl (trained with the student) and pseudo_labels
      (trained before).
  """
  common = dict(
      weight_decay=config.weight_decay, grad_bound=config.grad_bound,
      label_smoothing=config.label_smoothing, ema_decay=config.ema_decay,
      ema_start=config.ema_start, num_train_steps=config.num_train_steps, seed=config.seed,
      remat=config.remat, loss_scaling=config.use_float16)
  consistency = dict(uda_temp=config.uda_temp, uda_threshold=config.uda_threshold,
                     uda_weight=config.uda_weight, uda_steps=config.uda_steps)
  rate = learning_rate(config, config.lr, num_warmup_steps=config.num_warmup_steps)
  if config.method_name in ('mpl', 'reduced_mpl'):
    kind = MetaPseudoLabels if config.method_name == 'mpl' else ReducedMetaPseudoLabels
    method = kind(teacher, student, mpl_feedback=config.mpl_feedback,
                  mpl_weight=config.mpl_weight, **consistency, **common)
    method.set_optimizers(
        optimizer(config, learning_rate(
            config, config.mpl_student_lr,
            num_warmup_steps=config.mpl_student_lr_warmup_steps,
            num_wait_steps=config.mpl_student_lr_wait_steps)),
        optimizer(config, learning_rate(
            config, config.mpl_teacher_lr,
            num_warmup_steps=config.mpl_teacher_lr_warmup_steps)))
    return method
  if config.method_name == 'pseudo_labels':
    method = PseudoLabels(student, teacher, pseudo_weight=config.uda_weight, **common)
  elif config.method_name == 'uda':
    method = UDA(student, **consistency, **common)
  else:
    method = Supervised(student, **common)
  method.set_optimizers(optimizer(config, rate))
  return method
