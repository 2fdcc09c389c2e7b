"""The command line: argv -> task -> exit status. `python -m meta_pseudo_labels.main --help`."""

import os
import sys
import time

from meta_pseudo_labels import tasks
from meta_pseudo_labels.config import parse, unread_note, validate
from meta_pseudo_labels.errors import Failure, UserError, one_line, printable
from meta_pseudo_labels.training.interrupts import Interrupted
from meta_pseudo_labels.training.logs import Progress

import tensorflow as tf
from absl import logging

RESTARTS = 'META_PSEUDO_LABELS_RESTARTS'  # Environment variable: how many there were.
RESTART_SECONDS = 5.0  # Before the first one; each further one waits twice as long.
# What TensorFlow raises when another worker is lost, or does not answer in time.
PASSING = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
CONTINUES = 'the same command continues from the newest checkpoint'


def run(argv, restart=None):
  """Carries out a command line, program name first; returns the exit status.

  0 done; 1 a failure that was foreseen, 2 a request that cannot be carried out (one line on stderr
  each); 130 or 143 stopped by SIGINT or SIGTERM after saving. What fails otherwise raises.

  Args:
    argv: list of str.
    restart: function of `argv` that starts the process anew, or None: never.
  """
  config = None
  try:
    config = parse(argv)
    validate(config)
    logging.use_absl_handler()
    # One process trains several methods, each in functions of its own: no reason to warn.
    tf.get_logger().addFilter(lambda record: 'retracing' not in record.getMessage())
    progress = Progress()
    if unread_note():
      progress.say(unread_note())
    tasks.TASKS[config.task](config, progress)
  except UserError as error:
    return _tell(error, 2)
  except Failure as error:
    return _tell(error, 1)
  except PASSING as error:
    return _restart(config, argv, error, restart)
  except tf.errors.ResourceExhaustedError as error:
    return _tell(
      f'out of memory or disk ({one_line(error)}); try a smaller --train_batch_size, '
      f'--uda_data or --model_type; {CONTINUES}',
      1,
    )
  except OSError as error:
    # The files that saving does not wait for, such as table.json; others are a fault of ours.
    if not config or not str(error.filename).startswith(config.output_dir or '/'):
      raise
    return _tell(f'{error.filename}: {error.strerror}; the same command continues when that is fixed', 1)
  except Interrupted as stop:
    return 128 + stop.signal
  except KeyboardInterrupt:
    print('stopped at once; what was saved before is there', file=sys.stderr)
    return 130
  return 0


def _tell(error, status):
  """Prints an error in one line; returns the exit status."""
  print(f'error: {printable(error)}', file=sys.stderr)
  return status


def restart_process(argv):
  """Starts this process anew: after a worker was lost, TensorFlow's own state is of no more use."""
  # What has been trained is not to be removed, and the newest checkpoint is there to continue from.
  os.execv(
    sys.executable, [sys.executable, '-m', 'meta_pseudo_labels.main', *argv[1:], '--noreset_output_dir']
  )


def _restart(config, argv, error, restart):
  """Restarts after a failure that passes by itself; returns 1 if it has done so too often."""
  reason = f'{type(error).__name__}: {one_line(error)}'
  made = int(os.environ.get(RESTARTS, '0'))
  if restart is None or config.task not in ('train', 'finetune') or made >= config.max_restarts:
    return _tell(
      f'{reason}; restarted {made} times (--max_restarts={config.max_restarts}); {CONTINUES}', 1
    )
  seconds = RESTART_SECONDS * 2**made
  print(
    f'{reason}: restarting from the newest checkpoint in {seconds:g} s ({made + 1} of '
    f'{config.max_restarts})',
    file=sys.stderr,
    flush=True,
  )
  time.sleep(seconds)
  os.environ[RESTARTS] = str(made + 1)
  restart(argv)
  return 1


if __name__ == '__main__':
  sys.exit(run(sys.argv, restart_process))
