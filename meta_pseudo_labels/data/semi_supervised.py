"""What one run trains and is measured on: examples, labels, views, and the split between them."""

import dataclasses
import json
from typing import Any, Optional

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
from meta_pseudo_labels.data.augment import crops
from meta_pseudo_labels.data.augment.views import PadCrop, Points, ResizedCrop
from meta_pseudo_labels.data.images.decoding import Decoding
from meta_pseudo_labels.errors import UserError

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
  """A semi-supervised problem.

  Attributes:
    info: DatasetInfo, completed by what the data say.
    split: Split, indices into the training split.
    inputs: N of the training split: uint8 `[N, H, W, C]`, float32 `[N, D]`, storage.Prepared or
      storage.Records.
    labels: int32 `[N]`, all of them; only those of `split.labeled` may be learned from.
    unlabeled: the M unlabeled inputs.
    truth: int32 `[M]`, their labels where known, else -1: never learned from, only for the logs.
    evaluated: {'validation', 'test': Examples}, those of the two that there are.
    views: one of data/augment/views.py.
    decoding: images.decoding.Decoding by which files became the inputs, or None.
    names: str `[N]`, what the inputs are called, or None (storage.Examples).
    unlabeled_names: str `[M]`, likewise.
    service_address: of the tf.data service that makes the training batches, or None.
    predictions: what a teacher said of the labeled and the unlabeled examples, or None.
    balanced: whether every class counts as much, however many labeled examples it has.
    images: where the inputs are features of images, the Problem with these images; else None.
    backbone: Keras model, views of these images -> features `[N, D]`; or None.
    backbone_sha256: str, of its weights and what else the features depend on; or ''.
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
  decoding: Optional[Decoding] = None
  predictions: Optional[teacher_predictions.Predictions] = None
  balanced: bool = False
  images: Optional['Problem'] = None
  backbone: Any = None
  backbone_sha256: str = ''

  @property
  def input_shape(self):
    """Of what the model sees: (H, W, C) or (D,); (None, None, 3) where evaluation has a size of
    its own."""
    if not storage.of_one_size(self.inputs):
      same = self.views.size == self.views.eval_size
      return (self.views.size, self.views.size, 3) if same else (None, None, 3)
    return self.inputs.shape[-1:] if self.images else self.inputs.shape[1:]

  @property
  def image_sizes(self):
    """The pixels a side of the images that the model sees, those of evaluation last; () of points."""
    if not storage.of_one_size(self.inputs):
      return self.views.size, self.views.eval_size
    return self.input_shape[:1] if len(self.input_shape) == 3 else ()

  @property
  def num_classes(self):
    return self.info.num_classes

  @property
  def identity(self):
    """Text that is the same for the same classes and labeled, unlabeled and validation examples,
    and the same predictions for them, if any."""
    text = splits.identity(
      self.split,
      labels=self.labels,
      class_names=self.info.class_names,
      unlabeled=len(self.unlabeled),
      names=self.names,
    )
    more = {'features': self.backbone_sha256} if self.images else {}
    if self.predictions is not None:
      more['teacher_predictions'] = self.predictions.sha256
    return json.dumps({**json.loads(text), **more}, sort_keys=True) if more else text

  @property
  def described(self):
    """`predictions.description` of these data, whatever predictions there are."""
    bare = dataclasses.replace(self, predictions=None)
    return teacher_predictions.describe(
      bare.identity,
      dataset=self.info.name,
      labeled=self.labeled[0],
      unlabeled=self.unlabeled,
      truth=self.truth,
      names=self.unlabeled_names,
    )

  def reported(self, eval_split):
    """The split that accuracies are reported on: `eval_split`, or the first that there is."""
    return eval_split if eval_split in self.evaluated else next(iter(self.evaluated), 'validation')

  @property
  def labeled(self):
    """(inputs of the n labeled examples, labels int32 `[n]`) that may be learned from."""
    return self.inputs[self.split.labeled], self.labels[self.split.labeled]

  def train_batches(
    self,
    *,
    batch_size,
    seed,
    uda_data=0,
    start_step=0,
    with_positions=False,
    replicas=1,
    context=None,
  ):
    """`input_pipeline.train_batches` for this worker; uda_data 0: labeled batches alone."""
    inputs, labels = self.labeled
    return input_pipeline.train_batches(
      inputs,
      labels,
      self.unlabeled if uda_data else None,
      views=self.views,
      batch_size=batch_size,
      uda_data=uda_data,
      seed=seed,
      start_step=start_step,
      truth=self.truth if uda_data else None,
      predictions=self.predictions if uda_data else None,
      with_positions=with_positions,
      balanced=self.balanced,
      service_address=self.service_address,
      **_replicas(replicas, context),
    )

  def eval_batches(self, split, *, batch_size, replicas=1, context=None):
    """`input_pipeline.eval_batches` of a split for this worker."""
    found = self.evaluated[split]
    return input_pipeline.eval_batches(
      found.inputs, found.labels, views=self.views, batch_size=batch_size, **_replicas(replicas, context)
    )


def _replicas(replicas, context):
  """Which replicas a worker feeds, from tf.distribute's InputContext (None: all)."""
  if context is None:
    return dict(replicas=replicas)
  local = replicas // context.num_input_pipelines
  return dict(replicas=replicas, local_replicas=local, first_replica=local * context.input_pipeline_id)


def at_size(found, size, in_memory=False):
  """Brings Examples to where training takes them from.

  Args:
    found: Examples.
    size: int; images in memory are brought to size x size (bicubic, where they are not).
    in_memory: whether encoded images are read into memory.

  Raises:
    UserError: images of that size do not fit into memory.
  """
  inputs = found.inputs
  if not isinstance(inputs, np.ndarray):
    return dataclasses.replace(found, inputs=storage.held(inputs)) if in_memory else found
  if inputs.ndim != 4 or inputs.shape[1:3] == (size, size):
    return found
  try:
    resized = np.empty((len(inputs), size, size, inputs.shape[3]), np.uint8)
  except MemoryError as error:
    raise UserError(
      f'--image_size={size}: {len(inputs)} images of that size do not fit into memory; give a smaller one'
    ) from error
  for first in range(0, len(inputs), 1000):  # In pieces: the results are float32 for a moment.
    resized[first : first + 1000] = crops.stretch_all(inputs[first : first + 1000], size)
  return dataclasses.replace(found, inputs=resized)


def unlabeled(train, split, own=None, extra=None):
  """Returns the Examples that are used without labels; theirs are for the logs alone.

  Args:
    train: Examples of the training split.
    split: Split.
    own: Examples to use instead of those of the training split, or None.
    extra: more Examples to use, or None.
  """
  if own is None:
    names = None if train.names is None else train.names[split.unlabeled]
    own = storage.Examples(train.inputs[split.unlabeled], train.labels[split.unlabeled], names)
  else:
    own = dataclasses.replace(own, names=None)
  if extra is None:
    return own
  return storage.Examples(
    storage.joined(own.inputs, extra.inputs), np.concatenate([own.labels, extra.labels]), own.names
  )
