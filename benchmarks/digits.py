"""Trains the default recipe with several seeds; prints mean and spread of every row of its table.

    python benchmarks/digits.py [--seeds=0,1,2,3,4] [--output_dir=runs/digits_seeds]
        [--flag=value ...]

Each seed draws its own 40 labeled examples and its own weights (--label_seed and --seed). The test
images are the same. Finished seeds are read, not run again. Further flags are passed to the recipe. For
tuning give --num_validation=300 --eval_split=validation, which does not use the test images.
"""

import json
import os
import subprocess
import sys

import numpy as np

CHECKOUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')


def run_seed(seed, folder, flags):
  """Trains one seed; returns {row's name: accuracy in percent}."""
  path = os.path.join(folder, 'table.json')
  if not os.path.isfile(path):
    subprocess.run(
      [
        sys.executable,
        '-m',
        'meta_pseudo_labels.main',
        f'--flagfile={os.path.join(CHECKOUT, "flags", "digits_mpl.flags")}',
        f'--output_dir={folder}',
        f'--seed={seed}',
        f'--label_seed={seed}',
        *flags,
      ],
      check=True,
      env={**os.environ, 'PYTHONPATH': CHECKOUT},
    )
  with open(path, encoding='utf-8') as file:
    return {row['name']: 100 * row['accuracy'] for row in json.load(file)}


def summarize(tables):
  """Formats each row's mean +- standard deviation, and its paired difference to MPL's student: lines."""
  names = list(tables[0])
  values = {name: np.array([table[name] for table in tables]) for name in names}
  student = values['MPL student']
  width = max(map(len, names))
  error = lambda x: np.std(x, ddof=1) / np.sqrt(len(x)) if len(x) > 1 else float('nan')
  lines = [f'{"":{width}}   mean +- std    MPL student minus this (+- standard error)']
  for name in names:
    std = np.std(values[name], ddof=1) if len(tables) > 1 else float('nan')
    difference = student - values[name]
    lines.append(
      f'{name:{width}}  {np.mean(values[name]):6.2f} +- {std:4.2f}   '
      f'{np.mean(difference):+6.2f} +- {error(difference):4.2f}    '
      f'({", ".join(f"{v:.1f}" for v in values[name])})'
    )
  return lines


def main(argv):
  seeds, output_dir, flags = [0, 1, 2, 3, 4], 'runs/digits_seeds', []
  for argument in argv:
    if argument.startswith('--seeds='):
      seeds = [int(seed) for seed in argument.split('=')[1].split(',')]
    elif argument.startswith('--output_dir='):
      output_dir = argument.split('=', 1)[1]
    else:
      flags.append(argument)
  tables = [run_seed(seed, os.path.join(output_dir, f'seed{seed}'), flags) for seed in seeds]
  print(f'seeds {seeds}; flags {" ".join(flags) or "of the recipe"}')
  print('\n'.join(summarize(tables)))


if __name__ == '__main__':
  main(sys.argv[1:])
