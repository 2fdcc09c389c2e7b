"""The flags that say what to run, where, on what, and what to make of it: one entry each.

A section is a dataclass, so that an editor knows a flag's type and `Config` has them all as
attributes. absl's definitions, the checks and `--help` come from these entries. The flags of the
official release (google-research, meta_pseudo_labels/flag_utils.py) have its names and defaults;
those that nothing reads, there or here, are in unread.py.
"""

import dataclasses
from typing import Optional

from meta_pseudo_labels.config.choices import (
  BASELINES,
  EXPORT_FORMATS,
  METHODS,
  SELECTIONS,
  STRATEGIES,
  TASKS,
)
from meta_pseudo_labels.config.fields import COUNT, FEW, NON_NEGATIVE, POSITIVE, SEED, Names, flag


@dataclasses.dataclass(frozen=True)
class RunFlags:
  """What to run, and where its results go."""

  task_mode: Optional[str] = flag(
    None,
    'What to do (none: train; evals means eval).',
    TASKS + ('evals',),
    may_change=True,
    per_command=True,
    in_report=False,
  )
  dataset_name: Optional[str] = flag(
    None,
    'Dataset, as <name>[_<labels>][_<method>]: cifar10_4000_mpl is CIFAR-10 with 4,000 '
    'labeled examples, trained by Meta Pseudo Labels.',
    may_change=True,
  )
  method: str = flag(
    '',
    'Training method (empty: from the end of dataset_name: _mpl, _uda, _pseudo_labels, '
    '_reduced_mpl, else supervised).',
    ('',) + METHODS,
    may_change=True,
  )
  output_dir: Optional[str] = flag(
    None,
    'Folder of checkpoints, logs and hparams.json. A run that finds a checkpoint in it '
    'continues from there.',
    may_change=True,
    per_command=True,
  )
  reset_output_dir: bool = flag(
    False,
    'Empty output_dir first, if this program made it. Not with eval tasks.',
    may_change=True,
    per_command=True,
    in_report=False,
  )
  time_limit: str = flag(
    '1h',
    'Of --task_mode=ladder: what would end later than this after the start is left out: 90s, 30m, 2h.',
    may_change=True,
    per_command=True,
  )
  seed: int = flag(0, 'Seed of weights, data order, augmentation and dropout.', SEED)
  running_local_dev: bool = flag(False, 'Marks a trial run; accepted as in the release.', may_change=True)
  use_vizier: bool = flag(
    False, 'Accepted as in the release; there is no tuning service.', may_change=True
  )


@dataclasses.dataclass(frozen=True)
class ComparisonFlags:
  """Baselines, seeds, and what is reported."""

  baselines: str = flag(
    '',
    'Methods that are trained before the main run on the same data and shown in the same table.',
    Names('method', BASELINES),
    may_change=True,
  )
  num_seeds: int = flag(
    1,
    'Repeat the run and its baselines with this many seeds. seed and label_seed count up; the'
    ' table shows mean and standard deviation.',
    COUNT,
    may_change=True,
  )
  eval_split: str = flag(
    'test', 'Split whose accuracies are reported.', ('validation', 'test'), may_change=True
  )
  select: str = flag(
    '',
    'Which student is reported. validation: the best on the validation split, then measured '
    'once on eval_split. last: that of the last step, as in the paper. best_on_test: the best'
    ' on the test split, as in the release, which flatters it. Empty: validation where there '
    'is such a split, else last.',
    ('',) + SELECTIONS,
  )


@dataclasses.dataclass(frozen=True)
class HardwareFlags:
  """Devices, precision, memory."""

  strategy: str = flag('auto', 'How to distribute over devices.', STRATEGIES, may_change=True)
  precision: str = flag(
    'auto',
    'What to compute in. Variables, batch statistics, logits and losses stay float32. auto: bfloat16 for '
    'images on GPUs that have units for it (Ampere and later), else float32; a run that goes on keeps its '
    'own.',
    ('auto', 'float32', 'bfloat16', 'float16'),
    may_change=True,  # computes_in may not.
  )
  use_bfloat16: Optional[bool] = flag(
    None, 'Compute in bfloat16 (none: as --precision says).', may_change=True
  )
  use_float16: Optional[bool] = flag(
    None,
    'Compute in float16 with loss scaling, for GPUs without bfloat16 (none: as --precision says).',
    may_change=True,
  )
  jit_compile: Optional[bool] = flag(
    None,
    'Compile the training step with XLA (none: on one GPU in runs of 1,000 steps and more, where it is '
    'several times as fast).',
    may_change=True,  # It only rounds otherwise.
  )
  memory: Optional[float] = flag(
    None,
    'GB of memory that a run may take on each device (none: what the device has free). By an estimate '
    '--micro_batches and --remat are chosen for it, where they are not given.',
    POSITIVE,
    may_change=True,
  )
  remat: Optional[bool] = flag(
    None,
    "Keep less of the networks' passes in memory and compute it again, block by block: "
    'slower, same results (none: as --memory needs).',
    may_change=True,
  )
  micro_batches: int = flag(
    0,
    "Parts of a step's batch on each device that are processed one after the other, with one update at "
    'the end: less memory. Batch norms take their statistics over a part; otherwise the results are the '
    'same. Must divide the unlabeled examples of a device (0: as --memory needs).',
    NON_NEGATIVE,
    may_change=True,  # micro_batch_count may not.
  )
  deterministic: bool = flag(False, 'Slower, bit-identical order of operations.')
  intra_op_threads: int = flag(
    0,
    'CPU threads that one operation may use (0: as many as cores). With 1, operations run '
    'beside each other instead: faster for small networks.',
    FEW,
    may_change=True,
  )
  num_virtual_devices: int = flag(
    0,
    'CPU devices to split the CPU into, for trying a strategy without GPUs (0: one).',
    FEW,
    may_change=True,
  )
  use_tpu: bool = flag(False, 'With --strategy=auto, use the TPU if there is one.', may_change=True)
  master: Optional[str] = flag(None, 'Name or address of the TPU.', may_change=True)
  tpu_topology: str = flag('', 'Shape of the TPU slice, such as 2x2 or 4x4.', may_change=True)
  tpu_platform: Optional[str] = flag(
    None, "Accepted as in the release's commands; the TPU tells it.", may_change=True
  )
  use_xla_sharding: bool = flag(
    False, 'Split images over num_cores_per_replica TPU cores.', may_change=True, per_command=True
  )
  num_cores_per_replica: int = flag(
    1, 'TPU cores that share one replica.', COUNT, may_change=True, per_command=True
  )


@dataclasses.dataclass(frozen=True)
class CheckpointFlags:
  """Saving, logging, and continuing after a failure."""

  save_every: int = flag(1000, 'Steps between checkpoints and evaluations.', COUNT, may_change=True)
  log_every: int = flag(10, 'Steps between log lines and summaries.', COUNT, may_change=True)
  steps_per_loop: int = flag(100, 'Steps that run without returning to Python.', COUNT, may_change=True)
  keep_checkpoints: int = flag(3, 'Newest checkpoints to keep, besides the best.', COUNT, may_change=True)
  save_retry_seconds: int = flag(
    300,
    'Seconds to keep trying to save when the disk is full or gone, before the run ends.',
    NON_NEGATIVE,
    may_change=True,
  )
  max_restarts: int = flag(
    3,
    'Restarts from the newest checkpoint after failures that pass by themselves, such as a lost worker.',
    NON_NEGATIVE,
    may_change=True,
  )


@dataclasses.dataclass(frozen=True)
class InferenceFlags:
  """What is made of a trained run: predictions, a SavedModel, a checkpoint of the release."""

  input: str = flag(
    '',
    'Images that --task_mode=predict classifies: a file, a folder, or a pattern such as '
    '"photos/**/*.jpg".',
    may_change=True,
    per_command=True,
  )
  output: str = flag(
    '',
    'File that predict, select, label or convert writes (empty: predictions.csv or .jsonl, '
    'selected.json, teacher_predictions.npz in output_dir).',
    may_change=True,
    per_command=True,
  )
  format: str = flag(
    '',
    'How predictions are written (empty: jsonl where the output file is called so, else csv).',
    ('', 'csv', 'jsonl'),
    may_change=True,
    per_command=True,
  )
  saved_model: str = flag(
    '',
    'Exported folder that predict takes the network from (empty: the checkpoint in output_dir).',
    may_change=True,
    per_command=True,
  )
  export_dir: str = flag(
    '',
    'Folder of the SavedModel that --task_mode=export writes (empty: saved_model in output_dir).',
    may_change=True,
    per_command=True,
  )
  export_weights: str = flag(
    'ema',
    "Network that export, predict, select and label take: the student's averaged weights, its"
    ' raw ones, or the teacher.',
    ('ema', 'raw', 'teacher'),
    may_change=True,
    per_command=True,
  )
  export_formats: str = flag(
    '',
    'Files that export writes into the folder of the SavedModel too, from preprocessed images to logits: '
    'tflite and onnx in float32, tflite_float16 of half and tflite_int8 of a quarter of the size. Each is '
    'compared with the run on its test images.',
    Names('format', EXPORT_FORMATS),
    may_change=True,
    per_command=True,
  )
  export_tflite: bool = flag(
    False, 'The same as --export_formats=tflite.', may_change=True, per_command=True
  )
