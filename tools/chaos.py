"""Kills and restarts a run at random moments, and compares it with an uninterrupted run.

    python tools/chaos.py [--kills=20] [--seed=0] [--flagfile=...] [flags of the program]

Both runs must end with the same bits: weights, averages, optimizer slots and counters of the newest and
the best checkpoint, every line of metrics.jsonl, the last evaluation, the labeled split. Only seconds
may differ. Without flags it trains the digits recipe with fewer steps. --intra_op_threads=1 is part of
that recipe, since with more threads the order of a summation may differ between any two runs.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
DIGITS = [
  f'--flagfile={CHECKOUT}/flags/digits_mpl.flags',
  '--baselines=uda',
  '--num_train_steps=120',
  '--finetune_steps=40',
  '--save_every=5',
  '--log_every=5',
  '--num_validation=100',
  '--keep_checkpoints=2',
]
STARTING = 8.0  # The approximate duration of a start in seconds.
SAVES = ('ckpt_last', 'ckpt_best')


def start(folder, flags, log):
  """Starts a run in a folder: Popen. Its output is written to the file `log`."""
  return subprocess.Popen(
    [sys.executable, '-m', 'meta_pseudo_labels.main', *flags, f'--output_dir={folder}'],
    cwd=CHECKOUT,
    stdout=log,
    stderr=subprocess.STDOUT,
    env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
  )


def observe(folder, what):
  """Returns a value that changes with an activity of the run in the folder.

  With `saving` it changes when the run begins to write a checkpoint. With `evaluating` and `training` it
  changes when the run writes a line of metrics, after which it evaluates or continues.
  """
  try:
    if what == 'saving':
      return {path for path in folder.glob('**/ckpt_*/*') if path.name.endswith('_temp')}
    return {path: path.stat().st_size for path in folder.glob('**/metrics.jsonl')}
  except OSError:
    return {}  # A file was moved after it was listed.


def kill_once(folder, flags, log, number, rng, seconds):
  """Starts the run and kills it; returns the moment as text, or None if the run ended before."""
  process = start(folder, flags, log)
  what = ('saving', 'evaluating', 'training', 'starting')[number % 4]
  # A save or an evaluation takes tens of milliseconds.
  wait = rng.uniform(
    0, {'saving': 0.03, 'evaluating': 0.05, 'training': seconds, 'starting': STARTING}[what]
  )
  began, skip = time.time(), 0 if what == 'starting' else rng.randint(1, 3)
  before = observe(folder, what)
  while process.poll() is None and skip:
    now = observe(folder, what)
    if now != before and now:
      skip -= 1
    before = now
    time.sleep(0.001)
  end = time.time() + wait
  while process.poll() is None and time.time() < end:
    time.sleep(0.001)
  if process.poll() is not None:
    if process.returncode:
      raise SystemExit(f'the run ended with status {process.returncode}; see {log.name}')
    return None
  process.send_signal(signal.SIGKILL)
  process.wait()
  return f'{what}, {time.time() - began:.2f} s after its start'


def drop_seconds(value):
  """Removes the durations from a JSON value."""
  if isinstance(value, dict):
    return {key: drop_seconds(entry) for key, entry in value.items() if key != 'seconds'}
  return [drop_seconds(entry) for entry in value] if isinstance(value, list) else value


def read_tensors(folder):
  """Reads {name: bytes} from the newest checkpoint in a folder, except for the seconds."""
  import tensorflow as tf

  path = tf.train.latest_checkpoint(str(folder))
  reader = tf.train.load_checkpoint(path)
  found = {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if not name.startswith(('seconds/', '_CHECKPOINTABLE'))
  }
  return {
    'newest': os.path.basename(path),
    **{name: value if isinstance(value, bytes) else value.tobytes() for name, value in found.items()},
  }


def read_state(folder):
  """Reads {name: value} of all results that must be equal, including baselines and further seeds."""
  found = {}
  for path in sorted(folder.glob('**/*')):
    name = str(path.relative_to(folder))
    if path.name in SAVES:
      found.update({f'{name}: {key}': value for key, value in read_tensors(path).items()})
    elif path.name == 'metrics.jsonl':
      found[name] = path.read_text(encoding='utf-8').splitlines()
    elif path.name in ('results.json', 'table.json', 'labeled_split.json'):
      found[name] = drop_seconds(json.loads(path.read_text(encoding='utf-8')))
  return found


def run(kills, seed, flags, folder, say=print):
  """Makes both runs in a folder; returns the list of differences, [] if there are none."""
  rng, killed = random.Random(seed), 0
  with open(folder / 'log.txt', 'w', encoding='utf-8') as log:
    began = time.time()
    if start(folder / 'whole', flags, log).wait():
      raise SystemExit(f'the uninterrupted run failed; see {log.name}')
    seconds = time.time() - began
    say(f'uninterrupted: {seconds:.0f} s')
    lifetime = max(0.0, seconds - STARTING) / (kills + 1)
    while killed < kills:
      how = kill_once(folder / 'killed', flags, log, killed, rng, lifetime)
      if how is None:
        say('finished before it was killed often enough')
        break
      killed += 1
      say(f'kill {killed}: {how}')
    if start(folder / 'killed', flags, log).wait():
      raise SystemExit(f'the killed run does not resume; see {log.name}')
  whole, after = read_state(folder / 'whole'), read_state(folder / 'killed')
  differences = [name for name in sorted({*whole, *after}) if whole.get(name) != after.get(name)]
  say(f'{killed} kills, {len(whole)} values compared, {len(differences)} differ')
  return differences


def main():
  """Runs the command line; returns 0 if both runs have equal results, else 1."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  args, flags = parser.parse_known_args()
  with tempfile.TemporaryDirectory() as folder:
    differences = run(args.kills, args.seed, flags or DIGITS, pathlib.Path(folder))
  for name in differences:
    print(f'differs: {name}')
  return 1 if differences else 0


if __name__ == '__main__':
  sys.exit(main())
