"""A measurement in a process of its own, whose memory and devices are no other measurement's."""

import json
import subprocess
import sys

ONE = '--one='


def measure(program, what, flags):
  """Runs `program --one=WHAT FLAG ...` and returns the value that its last line of output is, as JSON.

  Where it fails, the program that asks ends too: with the same line and status, or with status 1.
  """
  done = subprocess.run(
    [sys.executable, program, ONE + what, *flags], capture_output=True, text=True, check=False
  )
  if not done.returncode:
    return json.loads(done.stdout.splitlines()[-1])
  reason = (
    done.stderr.strip().splitlines()[-1].removeprefix('error: ')
    if done.returncode > 0
    else (f'killed by signal {-done.returncode}; out of memory, if nobody did')
  )
  print(f'error: {what}: {reason}', file=sys.stderr)
  return sys.exit(2 if done.returncode == 2 else 1)


def answer(argument, function):
  """The other side: prints what `function` of the parts of WHAT, between commas, returns.

  A request that cannot be carried out is one line and status 2, as the program itself has it.
  """
  from meta_pseudo_labels.errors import UserError

  try:
    print(json.dumps(function(*argument[len(ONE) :].split(','))))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def whole_numbers(text):
  """'4,8' -> [4, 8], for argparse. Raises ValueError, also for numbers below 1."""
  numbers = [int(part) for part in text.split(',')]
  if min(numbers) < 1:
    raise ValueError('below 1')
  return numbers
