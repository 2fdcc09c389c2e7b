"""What one run trains and is measured on: examples, labels, views, and the split between them."""
import dataclasses
import json
from typing import Optional

from meta_pseudo_labels import models
from meta_pseudo_labels.data import (
  dataset_info,
  input_pipeline,
  registry,
  service,
  splits,
  storage,
  teacher_predictions,
)
from meta_pseudo_labels.data.augment import decode
from meta_pseudo_labels.data.augment.views import PadCrop, Points, ResizedCrop
from meta_pseudo_labels.errors import UserError

import numpy as np
import tensorflow as tf

RESIZED_CROP_FROM = 96  # Pixels: from here on one's own images are cropped as ImageNet's are.


@dataclasses.dataclass(frozen=True)
class Problem:
  """A semi-supervised problem.

  Attributes:
    info: DatasetInfo, completed by what the data say.
    split: Split, indices into the training split.
    inputs: N of the training split: uint8 `[N, H, W, C]`, float32 `[N, D]`, storage.Files or
      storage.Records.
    labels: int32 `[N]`, all of them; only those of `split.labeled` may be learned from.
    unlabeled: the M unlabeled inputs.
    truth: int32 `[M]`, their labels where known, else -1: never learned from, only for the logs.
    evaluated: {'validation', 'test': Examples}, those of the two that there are.
    views: one of data/views.py.
    names: str `[N]`, what the inputs are called, or None (storage.Examples).
    unlabeled_names: str `[M]`, likewise.
    service_address: of the tf.data service that makes the training batches, or None.
    predictions: what a teacher said of the labeled and the unlabeled examples, or None.
  """
  info: dataset_info.DatasetInfo
  split: splits.Split
  inputs: storage.Inputs
  labels: np.ndarray
  unlabeled: storage.Inputs
  truth: np.ndarray
  evaluated: dict
  views: object
  names: Optional[np.ndarray] = None
  unlabeled_names: Optional[np.ndarray] = None
  service_address: Optional[str] = None
  predictions: Optional[teacher_predictions.Predictions] = None

  @property
  def input_shape(self):
    """Of what the model sees: (H, W, C) or (D,); (None, None, 3) where evaluation has a size of
    its own."""
    if storage.is_encoded(self.inputs):
      same = self.views.size == self.views.eval_size
      return (self.views.size, self.views.size, 3) if same else (None, None, 3)
    return self.inputs.shape[1:]

  @property
  def image_sizes(self):
    """The pixels a side of the images that the model sees, those of evaluation last; () of points."""
    if storage.is_encoded(self.inputs):
      return self.views.size, self.views.eval_size
    return self.input_shape[:1] if len(self.input_shape) == 3 else ()

  @property
  def num_classes(self):
    return self.info.num_classes

  @property
  def identity(self):
    """Text that is the same for the same classes and labeled, unlabeled and validation examples,
    and the same predictions for them, if any."""
    text = splits.identity(self.split, labels=self.labels, class_names=self.info.class_names,
                           unlabeled=len(self.unlabeled), names=self.names)
    if self.predictions is None:
      return text
    return json.dumps({**json.loads(text), 'teacher_predictions': self.predictions.sha256},
                      sort_keys=True)

  @property
  def described(self):
    """`predictions.description` of these data, whatever predictions there are."""
    bare = dataclasses.replace(self, predictions=None)
    return teacher_predictions.description(
        bare.identity, dataset=self.info.name, labeled=self.labeled[0], unlabeled=self.unlabeled,
        truth=self.truth, names=self.unlabeled_names)

  def fit(self, image):
    """An image of any size as this problem's images in memory were brought to theirs: uint8
    `[H, W, C]` -> `[S, S, C]`. Of a folder the middle is cut out; arrays are stretched."""
    size = self.input_shape[0]
    if self.info.fit == 'center':
      return decode.fit(image, size)
    return stretched(image[tf.newaxis], size)[0]

  def reported(self, eval_split):
    """The split that accuracies are reported on: `eval_split`, or what there is of it."""
    return eval_split if eval_split in self.evaluated else 'validation'

  @property
  def labeled(self):
    """(inputs of the n labeled examples, labels int32 `[n]`) that may be learned from."""
    return self.inputs[self.split.labeled], self.labels[self.split.labeled]

  def train_batches(self, *, batch_size, seed, uda_data=0, start_step=0, replicas=1,
                    context=None):
    """`input_pipeline.train_batches` for this worker; uda_data 0: labeled batches alone."""
    inputs, labels = self.labeled
    return input_pipeline.train_batches(
        inputs, labels, self.unlabeled if uda_data else None, views=self.views,
        batch_size=batch_size, uda_data=uda_data, seed=seed, start_step=start_step,
        truth=self.truth if uda_data else None,
        predictions=self.predictions if uda_data else None, service_address=self.service_address,
        **_replicas(replicas, context))

  def eval_batches(self, split, *, batch_size, replicas=1, context=None):
    """`input_pipeline.eval_batches` of a split for this worker."""
    found = self.evaluated[split]
    return input_pipeline.eval_batches(found.inputs, found.labels, views=self.views,
                                 batch_size=batch_size, **_replicas(replicas, context))


def _replicas(replicas, context):
  """Which replicas a worker feeds, from tf.distribute's InputContext (None: all)."""
  if context is None:
    return dict(replicas=replicas)
  local = replicas // context.num_input_pipelines
  return dict(replicas=replicas, local_replicas=local,
              first_replica=local * context.input_pipeline_id)


def stretched(images, size):
  """Images uint8 `[N, H, W, C]` at size x size: `[N, size, size, C]`, bicubic; unchanged if they
  have that size."""
  if images.shape[1:3] == (size, size):
    return images
  resized = tf.image.resize(images, [size, size], 'bicubic')
  return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _prepared(found, config):
  """Examples as training takes them: arrays of images at image_size x image_size (bicubic, where
  they are not), encoded images in memory if the configuration says so."""
  inputs, size = found.inputs, config.image_size
  if storage.is_encoded(inputs):
    return dataclasses.replace(found, inputs=storage.held(inputs)) if config.cache else found
  if inputs.ndim != 4 or inputs.shape[1:3] == (size, size):
    return found
  try:
    resized = np.empty((len(inputs), size, size, inputs.shape[3]), np.uint8)
  except MemoryError as error:
    raise UserError(f'--image_size={size}: {len(inputs)} images of that size do not fit into '
                    'memory; give a smaller one') from error
  for first in range(0, len(inputs), 1000):  # In pieces: the results are float32 for a moment.
    resized[first:first + 1000] = stretched(inputs[first:first + 1000], size)
  return dataclasses.replace(found, inputs=resized)


def build(config, say=None):
  """The Problem of a configuration.

  Args:
    config: Config.
    say: function of a line, told what was found; or None.

  Raises:
    UserError: no such data set, not found, or the split asked for cannot be made.
  """
  info = registry.info(config.dataset)
  address = config.dataset_service_address and service.reached(config.dataset_service_address)
  kind = config.views or info.views or (
      'resized_crop' if config.image_size >= RESIZED_CROP_FROM else 'pad_crop')
  data = registry.load(info, config.data_dir, config.seed, image_size=config.image_size,
                      encoded=kind == 'resized_crop', skip_bad_images=config.skip_bad_images, say=say)
  info = dataclasses.replace(info, **data.facts)
  train = _prepared(data.train, config)
  split = splits.split(
      train.labels, num_labeled=config.labeled_count, label_seed=config.label_seed,
      num_validation=_num_validation(config, info, data), num_classes=info.num_classes)
  evaluated = {name: _prepared(found, config) for name, found in (
      ('validation', data.validation), ('test', data.test)) if found is not None}
  if len(split.validation):
    evaluated['validation'] = storage.Examples(
        train.inputs[split.validation], train.labels[split.validation])
  if 'validation' not in evaluated and (
      'test' not in evaluated or config.eval_split == 'validation'):
    raise UserError(f'--eval_split={config.eval_split}: --num_validation=0 holds no examples out; '
                    'give a number such as --num_validation=300')
  if data.unlabeled is not None:
    unlabeled = _prepared(data.unlabeled, config)
    unlabeled, truth = unlabeled.inputs, unlabeled.labels
  else:
    unlabeled, truth = train.inputs[split.unlabeled], train.labels[split.unlabeled]
  if data.unlabeled_extra is not None:
    extra = _prepared(data.unlabeled_extra, config)
    unlabeled = storage.joined(unlabeled, extra.inputs)
    truth = np.concatenate([truth, extra.labels])
  names = None if train.names is None else train.names[split.unlabeled]
  if config.unlabeled_manifest:
    chosen = splits.read_selection(config.unlabeled_manifest, dataset=info.name,
                                   count=len(unlabeled), names=names)
    unlabeled, truth, names = unlabeled[chosen], truth[chosen], (
        None if names is None else names[chosen])
  problem = Problem(info=info, split=split, inputs=train.inputs, labels=train.labels,
                    unlabeled=unlabeled, truth=truth, evaluated=evaluated,
                    views=_views(config, info, train.inputs, kind), names=train.names,
                    unlabeled_names=names, service_address=address)
  if not config.reads_predictions:
    return problem
  return dataclasses.replace(problem, predictions=teacher_predictions.read(
      config.teacher_predictions, problem.described))


def _num_validation(config, info, data):
  """How many labeled examples are held out of the training split."""
  if data.validation is not None:
    if config.num_validation:
      raise UserError(f'--num_validation={config.num_validation}: {info.name} has validation '
                      'examples of its own; leave the flag out')
    return 0
  if config.num_validation is not None:
    return config.num_validation
  known = np.count_nonzero(data.train.labels >= 0)
  return max(info.num_classes, round(known / 5)) if info.holds_out else 0


def _views(config, info, inputs, kind):
  """The views of a configuration."""
  dtype = tf.bfloat16 if config.use_bfloat16 else tf.float32
  if info.kind == 'points':
    for flag, given in (('flip', config.flip), ('noflip', config.flip is False),
                        ('augment_ops', config.augment_ops)):
      if given:
        raise UserError(f'--{flag}: {info.name} has points, not images; leave it out')
    return Points(config.augment_stddev, dtype)
  common = dict(mean=info.mean, std=info.std,
                flip=info.flip if config.flip is None else config.flip,
                ops=config.augment_op_names or info.augment_ops,
                magnitude=config.augment_magnitude, strong_labeled=config.use_augment, dtype=dtype)
  if storage.is_encoded(inputs) != (kind == 'resized_crop'):
    other = 'pad_crop' if kind == 'resized_crop' else 'resized_crop'
    raise UserError(f'--views={kind}: not for {info.name}; leave it out, or --views={other}')
  if kind == 'pad_crop':
    return PadCrop(**common)
  imagenet = info.own_resolution
  return ResizedCrop(
      size=config.image_size, eval_size=models.eval_image_size(
          config.model_type, config.image_size, imagenet), **common)
