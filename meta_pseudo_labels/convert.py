"""Writes the newest checkpoint of a run in the official release's format.

    python -m meta_pseudo_labels.convert --output_dir=RUN --to=PATH

PATH is the checkpoint's path without .index: PATH.index and PATH.data-00000-of-00001 are written.
For the release to go on from it, PATH is its own <output_dir>/ckpt_last/ckpt-<step>.
"""
import argparse
import dataclasses
import json
import os
import sys

import meta_pseudo_labels  # pylint: disable=unused-import  # Chooses Keras 2, before TensorFlow.
from meta_pseudo_labels import checkpoint_files, release_checkpoints, train
from meta_pseudo_labels import config as config_lib
from meta_pseudo_labels.data import registry
from meta_pseudo_labels.errors import UserError

import tensorflow as tf

# What the variable of train.Run is called in a checkpoint.
IDENTITY = 'identity/.ATTRIBUTES/VARIABLE_VALUE'


@dataclasses.dataclass(frozen=True)
class Shapes:
  """All that models need to know of a Problem; the data need not be at hand.

  Attributes:
    input_shape: (H, W, C) or (D,).
    num_classes: int.
  """
  input_shape: tuple
  num_classes: int


def shapes(config, class_names):
  """The Shapes of a configuration, the classes' names being its checkpoint's.

  Raises:
    UserError: there is no such data set, or only the data say what shape they have.
  """
  info = registry.info(config.dataset)
  if info.default_channels is None and info.image_shape is None:
    raise UserError('--output_dir: a run on a .npz file cannot be written in the release\'s format, '
                    'as only that file says what shape its arrays have')
  channels = info.default_channels or info.image_shape[-1]
  input_shape = info.image_shape if info.kind == 'points' else (
      config.image_size, config.image_size, channels)
  return Shapes(input_shape, len(class_names))


def convert(output_dir, path):
  """Writes the newest checkpoint of the run in `output_dir` to `path`; returns its step.

  Raises:
    UserError: no run or no checkpoint there, or `path` cannot be written.
  """
  try:
    with open(os.path.join(output_dir, 'hparams.json'), 'rb') as file:
      config = config_lib.from_json(file.read()).replace(
          output_dir=output_dir, load_checkpoint=None, mpl_teacher_checkpoint=None,
          mpl_student_checkpoint=None)
  except OSError as error:
    raise UserError(f'--output_dir={output_dir}: no hparams.json in it ({error.strerror}); give '
                    'the folder of a run') from error
  config_lib.validate(config)
  newest = checkpoint_files.newest_whole(os.path.join(output_dir, 'ckpt_last'), print)
  if not newest:
    raise UserError(f'--output_dir={output_dir}: no checkpoint in its ckpt_last; train first')
  try:
    identity = json.loads(tf.train.load_variable(newest, IDENTITY))
  except tf.errors.NotFoundError as error:
    raise UserError(f'{newest} does not say which classes it has: it is from another version; '
                    'train again') from error
  phases = train.build_phases(config, shapes(config, identity['class_names']))
  method = next(phase.method for phase in phases if phase.name == 'train')
  tf.train.Checkpoint(train=method).read(
      newest).assert_existing_objects_matched().expect_partial()
  release_checkpoints.write(path, method)
  return train.steps_made(method)


def main(argv=None):
  """Runs the command line: 0 done, 2 a request that cannot be carried out (one line)."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output_dir', required=True, help='the folder of the run')
  parser.add_argument('--to', required=True, help='path of the checkpoint, without .index')
  args = parser.parse_args(argv)
  try:
    step = convert(args.output_dir, args.to)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'{args.to}: the checkpoint of step {step} under the release\'s names')
  return 0


if __name__ == '__main__':
  sys.exit(main())
