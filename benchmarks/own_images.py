"""What each method makes of your own images, from a pretrained network and from scratch.

  python benchmarks/own_images.py --data_dirs=clip1,clip2,clip3 --model_type=PATH [--image_size=96]

For each folder: logistic regression on the network's features, then each method finetunes the network from
it, for the same number of steps (MPL's student then a third as many on the labels). With --scratch=STEPS
also WRN-10-2 at 32 pixels from random weights; without --model_type, that alone. Prints the test
accuracies. Nothing is chosen by them.
"""

import argparse
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.ladder import rungs

import numpy as np

METHODS = ('supervised', 'pseudo_labels', 'uda', 'mpl')
# Of a small network from random weights: the rates and weights of the recipes that train from scratch.
SCRATCH = (
  *(
    '--model_type=wrn-10-2',
    '--image_size=32',
    '--nowhole_image',
    '--crop_area=0.08',
    '--feature_layers=0',
  ),
  *(
    '--train_batch_size=32',
    '--optim_type=momentum',
    '--lr=0.24',
    '--weight_decay=5e-4',
    '--ema_decay=0.99',
  ),
  *(
    '--uda_weight=8',
    '--mpl_student_lr=0.24',
    '--mpl_teacher_lr=0.24',
    '--mpl_teacher_lr_warmup_steps=50',
  ),
)
RECIPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'flags')


def logistic_regression(argv, path):
  """Returns the test accuracy in [0, 1]; writes the last layer to `path`."""
  config = parse([*argv, '--features', '--feature_views=0'])
  validate(config)
  problem = build.problem(config, print)
  found = rungs.fit_logistic_regression(problem)
  found.write(path)
  test = problem.evaluated['test']
  return float(np.mean(found.logits(test.inputs[:, 0]).argmax(axis=1) == test.labels))


def finetune(argv, folder):
  """Trains a run; returns its student's test accuracy in [0, 1]."""
  if main.run([*argv, f'--output_dir={folder}']):
    sys.exit(1)
  with open(os.path.join(folder, 'results.json'), encoding='utf-8') as file:
    phases = json.load(file)['phases']
  return phases.get('finetune', phases['train'])['student']['top1']


def command(method, data_dir, seed, steps, *flags):
  """Returns the command line of one run."""
  return [
    *('', f'--flagfile={RECIPES}/folder_{method}.flags', f'--data_dir={data_dir}', f'--seed={seed}'),
    *('--baselines=', '--num_validation=0', '--select=last', '--skip_bad_images'),
    *([f'--finetune_steps={steps // 3}'] if method == 'mpl' else []),
    *(f'--num_train_steps={steps}', f'--save_every={steps}', f'--uda_steps={steps // 4}', *flags),
  ]


def measure(flags, data_dir, seed, others):
  """Yields (row's name, test accuracy) for one folder."""
  with tempfile.TemporaryDirectory() as folder:
    if flags.model_type:
      yield from measure_pretrained(flags, data_dir, seed, others, folder)
    for method in flags.methods.split(',') if flags.scratch else ():
      argv = command(method, data_dir, seed, flags.scratch, *SCRATCH, *others)
      yield f'from scratch, {method}', finetune(argv, os.path.join(folder, f'scratch_{method}'))


def measure_pretrained(flags, data_dir, seed, others, folder):
  """Yields the rows of the pretrained network; `folder` is for its runs."""
  head = os.path.join(folder, 'head.npz')
  network = [f'--model_type={flags.model_type}', f'--image_size={flags.image_size}', *others]
  argv = [*command('supervised', data_dir, seed, flags.steps, *network), f'--output_dir={folder}/unused']
  yield 'logistic regression', logistic_regression(argv, head)
  for method in flags.methods.split(','):
    argv = command(method, data_dir, seed, flags.steps, *network, f'--head_weights={head}')
    yield f'finetuned, {method}', finetune(argv, os.path.join(folder, method))


def run():
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dirs', required=True)
  parser.add_argument('--model_type', default='', help='a pretrained network; left out: --scratch alone')
  parser.add_argument('--image_size', type=int, default=96)
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--first_seed', type=int, default=1, help='of the first folder')
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--scratch', type=int, default=0, help='steps from scratch; 0: left out')
  flags, others = parser.parse_known_args()
  rows = {}
  for seed, data_dir in enumerate(flags.data_dirs.split(','), flags.first_seed):
    for name, accuracy in measure(flags, data_dir, seed, others):
      rows.setdefault(name, []).append(100 * accuracy)
      print(f'{data_dir}: {name} {100 * accuracy:.1f} %', flush=True)
  for name, found in rows.items():
    spread = f' +- {np.std(found, ddof=1):.1f}' if len(found) > 1 else ''
    print(f'| {name} | {np.mean(found):.1f}{spread} |')


if __name__ == '__main__':
  run()
