"""From a Config to its networks, and to how fast each part of them learns."""

import dataclasses

from meta_pseudo_labels import models
from meta_pseudo_labels.config import is_pretrained
from meta_pseudo_labels.models import heads, pretrained
from meta_pseudo_labels.models.calibration import calibration

# Datasets whose EfficientNets stride less, by words in their names (release: modeling).
SMALL_IMAGES = ('cifar', 'tinyimages', 'svhn')


def model(config, number, input_shape, num_classes, *, views=None, architectures=None, features=None):
  """Builds a fresh model by `config.model_type`: inputs `[N, *input_shape]` -> logits `[N, num_classes]`.

  Args:
    config: Config.
    number: that of the network in a run, 0 or 1; their initial weights differ. Number 0 of reduced_mpl
      is the small one, on stored log probabilities `[N, num_classes]`. Number 1 is a student beside its
      teacher, which may be another network (`student_model_type`).
    input_shape: (H, W, C) or (D,).
    num_classes: int.
    views: the views that it gets, for pretrained networks; None: pixels of 0 to 255.
    architectures: `Serving.architectures`, if a checkpoint brings the weights; None: they are loaded.
    features: `[N, D]`, by which a head standardizes its inputs; None: a checkpoint knows it.
  """
  if config.method_name == 'reduced_mpl' and number == 0:
    return calibration(
      num_classes,
      units=config.calibration_units,
      depth=config.calibration_layers,
      seed=f'{config.seed}/{number}',
    )
  if config.features and len(input_shape) == 1:
    return heads.head(
      config.head,
      num_classes=num_classes,
      num_features=input_shape[0],
      dropout=config.dense_dropout_rate,
      seed=f'{config.seed}/{number}',
      standardized_by=features,
    )
  name, use = _network(config, number)
  if hasattr(views, 'mean'):  # Points have none, and no such network takes them.
    use = dataclasses.replace(use, mean=tuple(views.mean), std=tuple(views.std))
  return models.build(
    name,
    num_classes=num_classes,
    input_shape=input_shape,
    dropout=config.dense_dropout_rate,
    bn_decay=config.batch_norm_decay,
    bn_epsilon=config.batch_norm_epsilon,
    bn_batch_size=config.batch_norm_batch_size,
    stochastic_depth=config.stochastic_depth_drop_rate,
    small_images=any(word in config.dataset_name.lower() for word in SMALL_IMAGES),
    seed=f'{config.seed}/{number}',
    use=use,
    architecture=None if architectures is None else architectures.get(name, ''),
  )


def backbone(config, input_shape, num_classes, *, views, architectures=None):
  """Builds the network before its last layer: a Keras model, views `[N, H, W, C]` -> features `[N, D]`.

  Args:
    config, input_shape, num_classes, views, architectures: as of `model`; input_shape is of images.
  """
  whole = model(config, 0, input_shape, num_classes, views=views, architectures=architectures)
  return pretrained.cut_before_head(whole)


def _network(config, number):
  """Returns (a network's name, the Pretrained that says how it is used); `number` as of `model`."""
  name, weights = config.model_type, config.model_weights
  if number and config.student_model_type:
    name, weights = config.student_model_type, config.student_model_weights
  return name, pretrained.Pretrained(
    weights=weights,
    inputs=config.model_inputs,
    freeze=config.freeze,
    train_batch_norm=config.train_batch_norm,
    feature_layers=config.feature_layers,
  )


def architectures(config):
  """Returns the descriptions of networks that come as files, for `Serving`: {path: text}."""
  networks = dict(_network(config, number) for number in (0, 1))
  texts = {name: pretrained.describe(name, use) for name, use in networks.items()}
  return {name: text for name, text in texts.items() if text}


def rate_scales(config, model, number):
  """Returns the factors of the rate for a model's variables; see `pretrained.rate_scales`."""
  name, use = _network(config, number)
  if (
    config.features
    or not is_pretrained(name)
    or use.from_scratch
    or config.method_name == 'reduced_mpl'
    and number == 0
  ):
    return {}
  return pretrained.rate_scales(model, config.backbone_lr_scale, config.layer_decay)
