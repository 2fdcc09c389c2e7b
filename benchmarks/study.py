"""Tests whether the student's feedback helps, in comparisons paired by data, split and seed.

    python benchmarks/study.py --recipe=flags/study_digits.flags [--output=study.jsonl]
        [--datasets=digits_20,digits_40,digits_100] [--seeds=0-9] [--settings=NAME,...]
        [--processes=2] [--flag=value ...]
    python benchmarks/study.py --recipe=flags/digits_uda.flags --strategies=uda,freematch [...]
    python benchmarks/study.py --output=study.jsonl --table

Every setting trains once per (data set, seed). The seed determines the labeled examples, the weights and
the order of the data. A finished run is a line of the output file and is not run again. The table has
each setting's mean accuracy over seeds, and its difference to its control, paired by seed, with the 95 %
interval of Student's t. The control is a student that is distilled from a UDA teacher in the same way,
without any feedback: `MPL 0` (soft labels) for `soft`, `late`, `release` and the baselines; `sampled 0`
(labels drawn from the teacher) for `sampled` and `sampled_dot`; `argmax 0`, `slow 0` and `patient 0` for
the settings of the same name. The accuracy is that of the student's average on the recipe's --eval_split
after training, before any finetune.

`--strategies` are those of --pseudo_labels, and each has three settings: `freematch` alone (UDA with it),
`freematch MPL 0` (the student distilled from such a teacher) and `freematch soft 1` (with feedback). The
control of the first is `uda`, and that of each other the one before it. So the differences are what the
strategy, MPL's student and the feedback are worth.

A data set's name may end in a change of its labeled examples, which keeps their number. `+noisy` gives a
quarter of them a wrong label. `+imbalanced` draws five of six from the first half of the classes.
"""

import argparse
import collections
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build
from meta_pseudo_labels.config import parse as parse_flags
from meta_pseudo_labels.config import validate
from meta_pseudo_labels.config.choices import PSEUDO_LABELS
from meta_pseudo_labels.training.run import Run

import numpy as np

CHECKOUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
CONTROL = 'MPL 0'


def mpl(feedback, weight, **more):
  """Returns the flags of an MPL setting."""
  return dict(method='mpl', mpl_feedback=feedback, mpl_weight=weight, **more)


SETTINGS = {
  'supervised': dict(method='supervised'),
  'pseudo labels': dict(method='pseudo_labels', uda_weight=1),
  'UDA': dict(method='uda'),
  CONTROL: mpl('soft', 0),
  'release': mpl('release', 1),
  'soft 0.1': mpl('soft', 0.1),
  'soft 1': mpl('soft', 1),
  'soft 10': mpl('soft', 10),
  'sampled 0': mpl('sampled', 0),
  'sampled 1': mpl('sampled', 1),
  # Weight 1 is the release's mean over the unlabeled batch; the true gradient has the sum.
  'sampled true': mpl('sampled', 1),
  'sampled_dot 1': mpl('sampled_dot', 1),
  'argmax 0': mpl('argmax', 0),
  'argmax 1': mpl('argmax', 1),
  # The student's learning rate is a quarter of its usual value.
  'slow 0': mpl('soft', 0, mpl_student_lr=0.4),
  'slow 1': mpl('soft', 1, mpl_student_lr=0.4),
  # No feedback in the first half of the training.
  'late 1': mpl('soft', 1),
  'late 10': mpl('soft', 10),
  # The student makes four steps per step of the teacher.
  'patient 0': mpl('soft', 0),
  'patient 1': mpl('soft', 1),
}
STRATEGIES = {  # By `--strategies`, besides SETTINGS.
  name: changes
  for strategy in PSEUDO_LABELS
  for name, changes in (
    (strategy, dict(method='uda', pseudo_labels=strategy)),
    (f'{strategy} MPL 0', mpl('soft', 0, pseudo_labels=strategy)),
    (f'{strategy} soft 1', mpl('soft', 1, pseudo_labels=strategy)),
  )
}
ALL = {**SETTINGS, **STRATEGIES}
PATIENCE = 4


def find_control(setting):
  """Returns the setting without feedback that a setting (or its teacher) is compared with."""
  name, _, kind = setting.removesuffix(' (teacher)').partition(' ')
  if name in PSEUDO_LABELS:
    return {'': 'uda', 'MPL 0': name, 'soft 1': f'{name} MPL 0'}[kind]
  name = name.split('_')[0]
  return f'{name} 0' if name in ('sampled', 'argmax', 'slow', 'patient') else CONTROL


def make_noisy(labels, chosen, num_classes, random):
  """Returns (labels, of which a quarter of the chosen ones are wrong, the chosen positions)."""
  labels = labels.copy()
  wrong = random.permutation(chosen)[: len(chosen) // 4]
  labels[wrong] = (labels[wrong] + random.randint(1, num_classes, len(wrong))) % num_classes
  return labels, chosen


def make_imbalanced(labels, chosen, num_classes, random):
  """Returns (labels, as many positions, five of six of them from the first half of the classes)."""
  rare = max(1, len(chosen) // 6 // (num_classes - num_classes // 2))
  counts = np.full(num_classes, rare)
  often = num_classes // 2
  rest = len(chosen) - rare * (num_classes - often)
  counts[:often] = rest // often + (np.arange(often) < rest % often)
  return labels, np.sort(
    np.concatenate(
      [random.permutation(np.flatnonzero(labels == class_))[:count] for class_, count in enumerate(counts)]
    )
  )


def scale_by_batch(method, config):
  """Scales the feedback to the sum over the unlabeled batch instead of the mean."""
  method.mpl_weight *= config.train_batch_size * config.uda_data


def delay_feedback(method, config):
  """Turns the feedback off in the first half of the steps."""
  import tensorflow as tf

  weight = method.mpl_weight
  method.mpl_weight = lambda step: tf.where(2 * step < config.num_train_steps, 0.0, weight)


def accumulate_gradients(method, config):
  """Updates the teacher only at every fourth step, by the mean of its gradients since the last update."""
  del config
  from meta_pseudo_labels.optim import optimizers

  import tensorflow as tf

  class Gathering(optimizers.Optimizer):
    """An optimizer that makes another optimizer's steps with the mean of several gradients.

    The other one makes its whole `update`, so with its decoupled weight decay and its factors of the rate.
    It counts its own steps, as Adam's start needs it. Its rate is still that of the training's step.
    """

    def __init__(self, inner):
      super().__init__(inner.learning_rate)
      self.inner = inner
      self.slot_starts = {'gathered': 0.0, **inner.slot_starts}
      inner.learning_rate = lambda made: self.rate((made + 1) * PATIENCE - 1)
      inner.scale_rates(inner._scales, inner._wait // PATIENCE)

    def build(self, variables):
      super().build(variables)
      self.inner.build(variables)

    def update(self, gradients, values, slots, step):
      own = dict(slots)
      gathered = [sum_ + gradient / PATIENCE for sum_, gradient in zip(own.pop('gathered'), gradients)]
      now = tf.equal((step + 1) % PATIENCE, 0)
      either = lambda new, old: [tf.where(now, *pair) for pair in zip(new, old)]
      moved, moved_slots = self.inner.update(gathered, values, own, step // PATIENCE)
      return either(moved, values), {
        'gathered': either([tf.zeros_like(one) for one in gathered], gathered),
        **{slot: either(moved_slots[slot], own[slot]) for slot in own},
      }

  method.set_optimizers(teacher_optimizer=Gathering(method.teacher_optimizer))


PREPARED = {
  'sampled true': scale_by_batch,
  'late 1': delay_feedback,
  'late 10': delay_feedback,
  'patient 0': accumulate_gradients,
  'patient 1': accumulate_gradients,
}
VARIANTS = {'noisy': make_noisy, 'imbalanced': make_imbalanced}


def vary_labels(problem, variant, seed):
  """Returns the problem with its labeled examples changed by `variant`; '' changes nothing."""
  if not variant:
    return problem
  labels, chosen = VARIANTS[variant](
    problem.labels,
    problem.split.labeled,
    problem.num_classes,
    np.random.RandomState([seed, 2]),
  )
  return dataclasses.replace(
    problem, labels=labels, split=dataclasses.replace(problem.split, labeled=chosen)
  )


def run_one(flags, seed, variant='', prepare=None):
  """Trains once in this process; returns {model's name: accuracy in [0, 1]} after training.

  `prepare`: function of (method, Config) that changes the method before it trains.
  """
  import io

  import meta_pseudo_labels  # Chooses Keras 2.
  from meta_pseudo_labels.checkpoints import run_folder
  from meta_pseudo_labels.distribution import devices
  from meta_pseudo_labels.training import logs

  import tensorflow as tf

  folder = tempfile.mkdtemp()
  try:
    config = parse_flags(
      [
        'study',
        *flags,
        f'--seed={seed}',
        f'--label_seed={seed}',
        f'--output_dir={folder}/run',
        '--finetune_steps=0',
        '--baselines=',
      ]
    )
    validate(config)
    devices.set_up(config.seed, dtype=config.computes_in)
    config = config.replace(save_every=config.num_train_steps)
    run_folder.prepare_folder(config)
    data = vary_labels(build.problem(config), variant, seed)
    run = Run(config, data, tf.distribute.OneDeviceStrategy('CPU:0'), logs.Progress(io.StringIO()))
    if prepare:
      prepare(run.phases[0].method, config)
    results = run.train()
    return {name: values['top1'] for name, values in results['phases']['train'].items()}
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def read(path):
  """Reads the runs in an output file: {(data set, setting, seed): line}."""
  if not os.path.isfile(path):
    return {}
  with open(path, encoding='utf-8') as file:
    lines = [json.loads(line) for line in file]
  return {(line['dataset'], line['setting'], line['seed']): line for line in lines}


def work(args, part):
  """Runs every `args.processes`-th unfinished run, starting at the `part`-th."""
  runs = [
    (dataset, setting, seed)
    for seed in args.seeds
    for dataset in args.datasets
    for setting in args.settings
  ]
  for dataset, setting, seed in runs[part :: args.processes]:
    if (dataset, setting, seed) in read(args.output):
      continue
    changes = [f'--{name}={value}' for name, value in ALL[setting].items()]
    name, _, variant = dataset.partition('+')
    flags = [f'--flagfile={args.recipe}', *args.flags, f'--dataset_name={name}', *changes]
    line = {
      'dataset': dataset,
      'setting': setting,
      'seed': seed,
      'flags': flags,
      'accuracy': run_one(flags, seed, variant, PREPARED.get(setting)),
    }
    with open(args.output, 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


def compute_interval(differences):
  """Computes half the width of the 95 % interval of a mean (Student's t)."""
  from scipy import stats

  count = len(differences)
  if count < 2:
    return float('nan')
  return stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / np.sqrt(count)


def format_table(runs):
  """Formats a table of every data set in `runs` (from `read`) as lines of Markdown."""
  by_dataset = collections.defaultdict(lambda: collections.defaultdict(dict))
  for (dataset, setting, seed), line in runs.items():
    by_dataset[dataset][setting][seed] = 100 * line['accuracy']['student']
    if 'teacher' in line['accuracy']:
      by_dataset[dataset][f'{setting} (teacher)'][seed] = 100 * line['accuracy']['teacher']
  lines = []
  for dataset, settings in by_dataset.items():
    lines += [
      '',
      f'**{dataset}**',
      '',
      '| setting | seeds | accuracy | minus control, 95 % |',
      '|---|---|---|---|',
    ]
    order = [name for setting in ALL for name in (setting, f'{setting} (teacher)')]
    for name in sorted(settings, key=lambda n: order.index(n) if n in order else len(order)):
      seeds, control = settings[name], settings.get(find_control(name), {})
      values = np.array(list(seeds.values()))
      spread = f' ± {values.std(ddof=1):.2f}' if len(values) > 1 else ''
      paired = np.array([seeds[seed] - control[seed] for seed in seeds if seed in control])
      difference = (
        ''
        if name == find_control(name) or not len(paired)
        else f'{paired.mean():+.2f} ± {compute_interval(paired):.2f}'
      )
      lines.append(f'| {name} | {len(values)} | {values.mean():.2f}{spread} | {difference} |')
  return lines


def parse(argv):
  """Parses the command line; flags that are not the study's own are passed to every run."""

  def seeds(text):
    first, _, last = text.partition('-')
    return list(range(int(first), int(last or first) + 1))

  names = lambda text: text.split(',')
  parser = argparse.ArgumentParser(
    description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--recipe', default=os.path.join(CHECKOUT, 'flags', 'study_digits.flags'))
  parser.add_argument('--output', default='study.jsonl')
  parser.add_argument('--datasets', type=names, default=names('digits_20,digits_40,digits_100'))
  parser.add_argument('--seeds', type=seeds, default=seeds('0-9'))
  parser.add_argument('--settings', type=names, help='default: all, if there are no --strategies')
  parser.add_argument('--strategies', type=names, default=[])
  parser.add_argument('--processes', type=int, default=1, choices=range(1, 257), metavar='1..256')
  parser.add_argument('--part', type=int, help=argparse.SUPPRESS)
  parser.add_argument('--table', action='store_true', help='only print the table')
  args, args.flags = parser.parse_known_args(argv)
  for dataset in args.datasets:
    variant = dataset.partition('+')[2]
    if variant and variant not in VARIANTS:
      parser.error(f'--datasets={dataset}: unknown +{variant}; use +{" or +".join(VARIANTS)}')
  for strategy in args.strategies:
    if strategy not in PSEUDO_LABELS:
      parser.error(f'--strategies={strategy}: unknown; use some of {", ".join(PSEUDO_LABELS)}')
  if args.settings is None:
    args.settings = [] if args.strategies else list(SETTINGS)
  for setting in args.settings:
    if setting not in ALL:
      parser.error(f'--settings={setting}: unknown; use some of {", ".join(SETTINGS)}')
  args.settings += [name for name in STRATEGIES if name.split(' ')[0] in args.strategies]
  return args


def main(argv):
  args = parse(argv)
  if args.part is not None:
    from meta_pseudo_labels.errors import UserError

    try:
      work(args, args.part)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)
    return
  if not args.table:
    # Several processes, since a small network does not use more than one core.
    command = [sys.executable, os.path.abspath(__file__), *argv]
    workers = [subprocess.Popen([*command, f'--part={part}']) for part in range(args.processes)]
    statuses = [worker.wait() for worker in workers]
    if any(statuses):
      print('a run failed; finished runs are kept, and the same command continues', file=sys.stderr)
      sys.exit(max(statuses, key=abs))
  print('\n'.join(format_table(read(args.output))))


if __name__ == '__main__':
  main(sys.argv[1:])
