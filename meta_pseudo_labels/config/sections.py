"""All flags in one `Config`, by section."""

import dataclasses
import re
from typing import Optional, Tuple

from meta_pseudo_labels.config.choices import EXPORT_FORMATS, METHODS
from meta_pseudo_labels.config.fields import Names, flags_of
from meta_pseudo_labels.config.pseudo_label_flags import PseudoLabelFlags
from meta_pseudo_labels.config.run_flags import (
  CheckpointFlags,
  ComparisonFlags,
  HardwareFlags,
  InferenceFlags,
  RunFlags,
)
from meta_pseudo_labels.config.training_flags import (
  AugmentationFlags,
  DataFlags,
  FinetuneFlags,
  ModelFlags,
  MplFlags,
  OptimizationFlags,
  UdaFlags,
)

_RELEASE_CLASSES = {'imagenet': 1000, 'cifar100': 100, 'cifar10': 10}


@dataclasses.dataclass(frozen=True)
class Config(
  RunFlags,
  ComparisonFlags,
  DataFlags,
  AugmentationFlags,
  ModelFlags,
  OptimizationFlags,
  UdaFlags,
  PseudoLabelFlags,
  MplFlags,
  FinetuneFlags,
  HardwareFlags,
  CheckpointFlags,
  InferenceFlags,
):
  """All flags of all sections as attributes, and what follows from them.

  `Config(dataset_name='digits_40_mpl', seed=1)` takes the defaults for everything else.
  """

  def replace(self, **changes) -> 'Config':
    """Returns a copy with some fields changed. Raises TypeError for a name that is no flag."""
    return dataclasses.replace(self, **changes)

  @property
  def task(self) -> str:
    """`task_mode` with the release's words resolved: none is train, evals is eval."""
    return {None: 'train', 'evals': 'eval'}.get(self.task_mode, self.task_mode)

  @property
  def uses_all_labels(self) -> bool:
    """Whether the task works on features, and holds no labeled images out of its own accord."""
    return self.task in ('ladder', 'suggest')

  @property
  def method_name(self) -> str:
    """The method: `method` if given, else the end of dataset_name as in the release."""
    return self.method or _split_name(self.dataset_name)[2] or 'supervised'

  @property
  def dataset(self) -> str:
    """dataset_name in lower case without labels and method: cifar10 of cifar10_4000_mpl."""
    return _split_name(self.dataset_name)[0]

  @property
  def labeled_count(self) -> Optional[int]:
    """Labeled examples: `num_labeled`, else the number in dataset_name, else None for all."""
    return self.num_labeled if self.num_labeled is not None else _split_name(self.dataset_name)[1]

  @property
  def dataset_classes(self) -> Optional[int]:
    """Number of classes of the release's datasets; None: the data layer knows its own."""
    return _RELEASE_CLASSES.get(self.dataset.split('_')[0])

  @property
  def computes_in(self) -> str:
    """The dtype that networks compute in: 'bfloat16', 'float16' or 'float32'."""
    if self.precision != 'auto':
      return self.precision
    return 'bfloat16' if self.use_bfloat16 else 'float16' if self.use_float16 else 'float32'

  @property
  def micro_batch_count(self) -> int:
    """The parts of a batch: `micro_batches`, 1 where they are not chosen yet."""
    return self.micro_batches or 1

  @property
  def reads_predictions(self) -> bool:
    """Whether something is trained on `teacher_predictions`."""
    return 'reduced_mpl' in (self.method_name, *self.baseline_names)

  @property
  def exported_formats(self) -> Tuple[str, ...]:
    """`export_formats`, and what `export_tflite` adds, each once, in the order of EXPORT_FORMATS."""
    asked = (*Names.split(self.export_formats), *(('tflite',) if self.export_tflite else ()))
    return tuple(name for name in EXPORT_FORMATS if name in asked)

  @property
  def baseline_names(self) -> Tuple[str, ...]:
    """`baselines` as a tuple, in the order given."""
    return Names.split(self.baselines)

  @property
  def augment_op_names(self) -> Tuple[str, ...]:
    """`augment_ops` as a tuple, in the order given."""
    return Names.split(self.augment_ops)


SECTIONS = Config.__bases__
FLAGS_BY_NAME = {flag.name: flag for section in SECTIONS for flag in flags_of(section)}


def _split_name(dataset_name: Optional[str]) -> Tuple[str, Optional[int], str]:
  """'cifar10_4000_mpl' -> ('cifar10', 4000, 'mpl'); a missing part is None or ''."""
  pattern = r'(.*?)(?:_([0-9]+))?(?:_(%s))?' % '|'.join(METHODS)
  name, count, method = re.fullmatch(pattern, (dataset_name or '').lower(), re.DOTALL).groups()
  return name, None if count is None else int(count), method or ''
