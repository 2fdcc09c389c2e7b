"""From a Config to its Problem: the data, the split, the views."""

import dataclasses
import math

from meta_pseudo_labels import models
from meta_pseudo_labels.build import features
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

import numpy as np
import tensorflow as tf
from PIL import ImageColor

RESIZED_CROP_FROM = 96  # Pixels: from here on one's own images are cropped as ImageNet's are.
# Of --image_size: the shorter side of prepared images. Evaluation's central square, 7/8 of it, has then
# as many pixels as the network sees.
STORED_SIDE = 1.15


def problem(config, say=None):
  """Builds the Problem of a configuration: reads its data, splits them, chooses the views.

  Args:
    config: Config.
    say: function of a line, told what was found; or None.

  Raises:
    UserError: no such dataset, not found, or the split asked for cannot be made.
  """
  info, say = registry.info(config.dataset), say or (lambda line: None)
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
  own, extra = prepare(data.unlabeled), prepare(data.unlabeled_extra)
  unlabeled = semi_supervised.unlabeled(train, split, own, extra)
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
    balanced=config.balanced_sampling,
  )
  if config.features:
    found = features.take_features(config, found, say, 0 if config.uses_all_labels else None)
  if not config.reads_predictions:
    return found
  return dataclasses.replace(
    found, predictions=teacher_predictions.read(config.teacher_predictions, found.described)
  )


def identify(config, problem):
  """Returns the `Problem.identity` of what a run with this Config learns from: JSON text.

  Stored predictions are a part of the problem for the method that learns from them.
  """
  learned_from = config.method_name == 'reduced_mpl'
  return (problem if learned_from else dataclasses.replace(problem, predictions=None)).identity


def _load(config, info, crops, say):
  """Reads the data: a storage.Data."""
  return registry.load(
    info,
    config.data_dir,
    config.seed,
    decoding=_decoding(config, crops),
    cache_dir=config.cache_dir or CACHE_DIR,
    labels=config.labels,
    own_range=config.image_range == 'data',
    skip_bad_images=config.skip_bad_images,
    say=say,
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
  if (
    not config.uses_all_labels
    and 'validation' not in evaluated
    and ('test' not in evaluated or config.eval_split == 'validation')
  ):
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
  if config.uses_all_labels:
    return 0  # Cross-validation holds out each in turn.
  if config.num_validation is not None:
    return config.num_validation
  known = np.count_nonzero(data.train.labels >= 0)
  return max(info.num_classes, round(known / 5)) if info.holds_out else 0


def _views(config, info, inputs, crops):
  """Returns the views: one of data/augment/views.py."""
  dtype = tf.bfloat16 if config.computes_in == 'bfloat16' else tf.float32
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
    fill=config.augment_fill,
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
    whole=config.whole_image,
    least_area=config.crop_area,
    **common,
  )
