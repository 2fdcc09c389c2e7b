"""Makes a measurement in a process of its own, so that it shares no memory or devices with others."""

import json
import subprocess
import sys

ONE = '--one='


def measure(program, what, flags):
  """Runs `program --one=WHAT FLAG ...` and returns the JSON value in its last line of output.

  If it fails, the calling program ends too, with the same line and status, or with status 1.
  """
  done = subprocess.run(
    [sys.executable, program, ONE + what, *flags], capture_output=True, text=True, check=False
  )
  if not done.returncode:
    return json.loads(done.stdout.splitlines()[-1])
  reason = (
    done.stderr.strip().splitlines()[-1].removeprefix('error: ')
    if done.returncode > 0
    else (f'killed by signal {-done.returncode}, perhaps out of memory')
  )
  print(f'error: {what}: {reason}', file=sys.stderr)
  return sys.exit(2 if done.returncode == 2 else 1)


def answer(argument, function):
  """Prints, in the measuring process, the result of `function` of the comma-separated parts of WHAT.

  A UserError ends the process with one line and status 2, like the program itself.
  """
  from meta_pseudo_labels.errors import UserError

  try:
    print(json.dumps(function(*argument[len(ONE) :].split(','))))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


def parse_numbers(text):
  """Parses '4,8' to [4, 8], for argparse. Raises ValueError, also for numbers below 1."""
  numbers = [int(part) for part in text.split(',')]
  if min(numbers) < 1:
    raise ValueError('below 1')
  return numbers
