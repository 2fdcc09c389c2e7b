"""What NVIDIA's cards are in this machine, and what this TensorFlow can do with them.

The facts about which card works with which TensorFlow are those of TensorFlow's wheels: a wheel holds
kernels for some compute capabilities, and for one of them a text (PTX) that the driver compiles for newer
cards when it first needs it.
"""

import dataclasses
import os
import re
import shutil
import subprocess
from typing import Optional, Tuple

import tensorflow as tf

OLDEST_DRIVER = 525  # CUDA 12's.
AMPERE, BLACKWELL = (8, 0), (10, 0)
NEWER_STACK = 'Python 3.12 or 3.13 installs a TensorFlow that can (docs/scaling.md)'
TAKEN = 0.1  # The share of a card's memory in use by others from which it is said.
XLA_PAYS = 1000  # Steps. It was 330 for WRN-28-2 and bfloat16 on an H100.
# The first TensorFlow of which losses that are not numbers were reported with several GPUs, and the
# first whose wheels run on Blackwell.
NAN_SINCE, BLACKWELL_SINCE = (2, 16), (2, 18)
QUERY = 'index,name,compute_cap,memory.total,memory.used,driver_version'


@dataclasses.dataclass(frozen=True)
class Card:
  """One GPU.

  Attributes:
    name: str, such as 'NVIDIA A100-SXM4-80GB'.
    capability: its compute capability, such as (8, 0).
    memory, used: bytes that it has, and that are taken.
  """

  name: str
  capability: Tuple[int, int]
  memory: float
  used: float


@dataclasses.dataclass(frozen=True)
class Machine:
  """A machine with NVIDIA's driver.

  Attributes:
    driver: str, its version, such as '535.129.03'.
    cards: the cards that this process may use.
    tensorflow: str, its version.
    built_for: compute capabilities of its kernels as in `tf.sysconfig.get_build_info`, such as
      ('sm_80', 'compute_90'); empty if it was built without CUDA.
    seen: int, the GPUs that TensorFlow sees.
  """

  driver: str
  cards: Tuple[Card, ...]
  tensorflow: str
  built_for: Tuple[str, ...]
  seen: int


def probe() -> Optional[Machine]:
  """Asks the driver and TensorFlow for this machine's cards, without starting them.

  Returns:
    Machine; None if there is no driver, no card, or if CUDA_VISIBLE_DEVICES hides all of them.
  """
  if not shutil.which('nvidia-smi'):
    return None
  command = ['nvidia-smi', f'--query-gpu={QUERY}', '--format=csv,noheader,nounits']
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
  except (OSError, subprocess.TimeoutExpired):
    return None
  driver, cards = parse_cards(done.stdout, os.environ.get('CUDA_VISIBLE_DEVICES'))
  if not cards:
    return None
  build = tf.sysconfig.get_build_info()
  return Machine(
    driver=driver,
    cards=cards,
    tensorflow=tf.__version__,
    built_for=tuple(build.get('cuda_compute_capabilities', ())) if build.get('is_cuda_build') else (),
    seen=len(tf.config.list_physical_devices('GPU')),
  )


def parse_cards(text, visible=None):
  """Parses what nvidia-smi answers to QUERY.

  Args:
    text: str, a line for each card.
    visible: str, CUDA_VISIBLE_DEVICES, or None: all cards.

  Returns:
    (version of the driver: str, tuple of Card); ('', ()) if there are none.
  """
  driver, found = '', {}
  for line in text.splitlines():
    cells = [cell.strip() for cell in line.split(',')]
    capability = re.fullmatch(r'(\d+)\.(\d+)', cells[2]) if len(cells) == 6 else None
    if not capability:
      continue
    driver = cells[5]
    mebibytes = [float(cell) if cell.replace('.', '').isdigit() else 0.0 for cell in cells[3:5]]
    found[cells[0]] = Card(
      cells[1], (int(capability[1]), int(capability[2])), *(2**20 * number for number in mebibytes)
    )
  if visible is not None and all(re.fullmatch(r'-?\d+', name) for name in visible.split(',') if name):
    found = {name: found[name] for name in visible.split(',') if name in found}
  return driver, tuple(found.values())


def parse_version(text):
  """Returns (major, minor) of a version such as '2.15.1', or (0, 0)."""
  found = re.match(r'(\d+)\.(\d+)', text)
  return (int(found[1]), int(found[2])) if found else (0, 0)


def kernels_for(capability, built_for):
  """Returns how kernels come to a card.

  Args:
    capability: of the card, such as (9, 0).
    built_for: as in `Machine`.

  Returns:
    'built' if the wheel has them; 'compiled' if the driver compiles them when they are first needed;
    '' if neither is possible.
  """
  numbers = [(kind, divmod(int(number), 10)) for kind, number in (name.split('_') for name in built_for)]
  if any(own[0] == capability[0] and own <= capability for _, own in numbers):
    return 'built'
  return 'compiled' if any(kind == 'compute' and own <= capability for kind, own in numbers) else ''


def find_obstacle(machine):
  """Returns why TensorFlow cannot use the cards, in one line, or ''."""
  card, version = machine.cards[0], f'TensorFlow {machine.tensorflow}'
  if not machine.built_for:
    return (
      f'{version} was installed without support for GPUs, so it trains on the CPU; install it with '
      f"pip install 'tensorflow[and-cuda]=={machine.tensorflow}'"
    )
  if parse_version(machine.driver)[0] < OLDEST_DRIVER:
    return (
      f'its driver {machine.driver} is too old for {version}, which trains on the CPU; install '
      f"NVIDIA's driver {OLDEST_DRIVER} or later"
    )
  blackwell = card.capability >= BLACKWELL and parse_version(machine.tensorflow) < BLACKWELL_SINCE
  if blackwell or not kernels_for(card.capability, machine.built_for):
    newer = card.capability > AMPERE
    return (
      f'{version} has no kernels for compute capability {_dotted(card.capability)}, so it trains on the '
      f'CPU; {NEWER_STACK if newer else "use an older TensorFlow or another card"}'
    )
  if not machine.seen:
    return (
      f'{version} does not see it, so it trains on the CPU; most often libraries of CUDA are missing: '
      f"pip install 'tensorflow[and-cuda]=={machine.tensorflow}'"
    )
  return ''


def diagnose(machine, precision='float32', nan=False):
  """Says in plain lines what the cards are, and what will not work or be slow.

  Args:
    machine: Machine.
    precision: of the run: 'float32', 'bfloat16' or 'float16'.
    nan: bool, `is_known_for_nan` of the run's devices.

  Returns:
    list of str, the first of which names the cards.
  """
  card, count = machine.cards[0], len(machine.cards)
  lines = [
    f'{f"{count} x " if count > 1 else ""}{card.name}, {card.memory / 1e9:.0f} GB, compute capability '
    f'{_dotted(card.capability)}, driver {machine.driver}, TensorFlow {machine.tensorflow}'
  ]
  obstacle = find_obstacle(machine)
  if obstacle:
    return lines + [obstacle]
  if kernels_for(card.capability, machine.built_for) == 'compiled':
    lines.append(
      f'TensorFlow {machine.tensorflow} brings no kernels for compute capability '
      f'{_dotted(card.capability)}: the driver compiles them when they are first needed, for up to half '
      f'an hour, and keeps them in {os.environ.get("CUDA_CACHE_PATH", "~/.nv")}'
      + (f'; {NEWER_STACK}' if parse_version(machine.tensorflow) < BLACKWELL_SINCE else '')
    )
  taken = max(machine.cards, key=lambda card: card.used / max(card.memory, 1.0))
  if taken.used > TAKEN * taken.memory:
    lines.append(
      f'{taken.used / 1e9:.1f} of {taken.memory / 1e9:.1f} GB of its memory are taken by other programs '
      '(nvidia-smi lists them)'
    )
  if nan:
    lines.append(
      f'losses that are not numbers were reported of TensorFlow {machine.tensorflow} with several GPUs: '
      'the run stops at the first one'
    )
  if precision == 'bfloat16' and card.capability < AMPERE:
    lines.append('it has no units for bfloat16, which will be slow; give --precision=float16')
  if precision == 'float16' and card.capability >= AMPERE:
    lines.append(
      'float16 needs a loss scale and is slow in depthwise convolutions; bfloat16 needs neither '
      '(--precision=bfloat16)'
    )
  return lines


def is_known_for_nan(strategy, version=tf.__version__):
  """Returns whether losses that are not numbers were reported of this TensorFlow on such devices: bool."""
  several = [name for name in strategy.extended.worker_devices if 'GPU' in name]
  return len(several) > 1 and parse_version(version) >= NAN_SINCE


def nan_remedy(strategy):
  """Returns what helps against the fault of `is_known_for_nan`, as words before others, or ''."""
  if not is_known_for_nan(strategy):
    return ''
  return (
    f'--strategy=one_device or Python 3.11 (TensorFlow {tf.__version__} with several GPUs is known for '
    'this), '
  )


def prepare(machine):
  """Lets TensorFlow take a card's memory as it needs it, and hides cards that it cannot use.

  Call it before TensorFlow uses any device; later it does nothing.
  """
  try:
    if machine and find_obstacle(machine):
      tf.config.set_visible_devices([], 'GPU')
    for gpu in tf.config.get_visible_devices('GPU'):
      tf.config.experimental.set_memory_growth(gpu, True)
  except (RuntimeError, ValueError):
    pass  # TensorFlow has started.


def choose_precision(config, machine, is_images, before=None):
  """Returns the Config with `--precision=auto` resolved: `use_bfloat16` and `use_float16` are bools.

  Automatic is bfloat16 for networks of images on cards from Ampere on, which have units for it. It is
  float32 everywhere else, and for features of images, since heads that learn from them are small.

  Args:
    config: Config.
    machine: Machine or None.
    is_images: bool, whether the network sees images.
    before: Config of the run in the folder, which goes on as it began, or None.
  """
  chosen = config.precision
  if chosen == 'auto':
    chosen = config.computes_in
    if config.use_bfloat16 is None and config.use_float16 is None:
      able = machine and not find_obstacle(machine) and is_images and not config.features
      able = able and all(card.capability >= AMPERE for card in machine.cards)
      able = able and config.strategy != 'tpu' and not config.use_tpu
      chosen = before.computes_in if before else 'bfloat16' if able else chosen
  return config.replace(use_bfloat16=chosen == 'bfloat16', use_float16=chosen == 'float16')


def choose_xla(asked, strategy, num_steps):
  """Returns whether the training step is compiled with XLA: bool.

  On one GPU it is, in runs long enough to pay for the compiler: steps were up to five times as fast there,
  and the first one took 40 s more (docs/scaling.md). On several GPUs it has not been tried. On CPUs it is
  slower for networks of images.

  Args:
    asked: bool, `--jit_compile`, or None: automatic.
    strategy: tf.distribute.Strategy.
    num_steps: int, steps of the phase.
  """
  if asked is not None:
    return asked
  names = strategy.extended.worker_devices
  return len(names) == 1 and 'GPU' in names[0] and num_steps >= XLA_PAYS


def _dotted(capability):
  return '.'.join(map(str, capability))
