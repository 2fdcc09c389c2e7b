"""What one run trains and is measured on: examples, labels, views, and the split between them."""
import dataclasses

import numpy as np
import tensorflow as tf

from meta_pseudo_labels.data import datasets
from meta_pseudo_labels.data import pipeline
from meta_pseudo_labels.data import sources
from meta_pseudo_labels.data import splits
from meta_pseudo_labels.errors import UserError


@dataclasses.dataclass(frozen=True)
class Problem:
  """A semi-supervised problem in memory.

  Attributes:
    info: DatasetInfo.
    split: Split, indices into the training split.
    inputs: uint8 `[N, H, W, C]` or float32 `[N, D]`, the whole training split.
    labels: int32 `[N]`, all of them; only those of `split.labeled` may be learned from.
    unlabeled: `[M, ...]`, the unlabeled inputs, extra ones included.
    truth: int32 `[M]`, their labels where known, else -1: never learned from, only for the logs.
    eval_inputs, eval_labels: of the split that is evaluated, `[V, ...]` and int32 `[V]`.
    views: pipeline.Views.
  """
  info: datasets.DatasetInfo
  split: splits.Split
  inputs: np.ndarray
  labels: np.ndarray
  unlabeled: np.ndarray
  truth: np.ndarray
  eval_inputs: np.ndarray
  eval_labels: np.ndarray
  views: pipeline.Views

  @property
  def input_shape(self):
    """(H, W, C) or (D,)."""
    return self.inputs.shape[1:]

  @property
  def num_classes(self):
    return self.info.num_classes

  @property
  def labeled(self):
    """(inputs `[n, ...]`, labels int32 `[n]`) that may be learned from."""
    return self.inputs[self.split.labeled], self.labels[self.split.labeled]

  def train_batches(self, *, batch_size, seed, uda_data=0, start_step=0, replicas=1,
                    context=None):
    """`pipeline.train_batches` for this worker; uda_data 0: labeled batches alone."""
    inputs, labels = self.labeled
    return pipeline.train_batches(
        inputs, labels, self.unlabeled if uda_data else None, views=self.views,
        batch_size=batch_size, uda_data=uda_data, seed=seed, start_step=start_step,
        truth=self.truth if uda_data else None, **_replicas(replicas, context))

  def eval_batches(self, *, batch_size, replicas=1, context=None):
    """`pipeline.eval_batches` for this worker."""
    return pipeline.eval_batches(self.eval_inputs, self.eval_labels, views=self.views,
                                 batch_size=batch_size, **_replicas(replicas, context))


def _replicas(replicas, context):
  """Which replicas a worker feeds, from tf.distribute's InputContext (None: all)."""
  if context is None:
    return dict(replicas=replicas)
  local = replicas // context.num_input_pipelines
  return dict(replicas=replicas, local_replicas=local,
              first_replica=local * context.input_pipeline_id)


def _resized(inputs, size):
  """Images `[N, H, W, C]` uint8 at size x size, bicubic; as they are when they have it."""
  if inputs.shape[1:3] == (size, size):
    return inputs
  images = tf.image.resize(inputs, [size, size], 'bicubic')
  return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8).numpy()


def build(config):
  """The Problem of a configuration.

  Raises:
    UserError: no such data set, not found, or the split asked for cannot be made.
  """
  if config.eval_split == 'validation' and not config.num_validation:
    raise UserError('--eval_split=validation: --num_validation=0 holds no examples out; give a '
                    'number such as --num_validation=300')
  info = datasets.info(config.dataset)
  data = sources.load(info, config.data_dir, config.seed)
  split = splits.split(
      data.train.labels, num_labeled=config.labeled_count, label_seed=config.label_seed,
      num_validation=config.num_validation, num_classes=info.num_classes)
  prepare = (lambda x: x) if info.kind == 'points' else (
      lambda x: _resized(x, config.image_size))
  inputs = prepare(data.train.inputs)
  unlabeled, truth = inputs[split.unlabeled], data.train.labels[split.unlabeled]
  if data.unlabeled_extra is not None:
    unlabeled = np.concatenate([unlabeled, prepare(data.unlabeled_extra.inputs)])
    truth = np.concatenate([truth, data.unlabeled_extra.labels])
  if config.eval_split == 'validation':
    eval_inputs, eval_labels = inputs[split.validation], data.train.labels[split.validation]
  else:
    eval_inputs, eval_labels = prepare(data.test.inputs), data.test.labels
  views = pipeline.Views(
      kind=info.kind, mean=info.mean, std=info.std, flip=info.flip, ops=info.augment_ops,
      magnitude=config.augment_magnitude, stddev=config.augment_stddev,
      strong_labeled=config.use_augment,
      dtype=tf.bfloat16 if config.use_bfloat16 else tf.float32)
  return Problem(info=info, split=split, inputs=inputs, labels=data.train.labels,
                 unlabeled=unlabeled, truth=truth, eval_inputs=eval_inputs,
                 eval_labels=eval_labels, views=views)
