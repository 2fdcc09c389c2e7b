"""What stops a run early: signals, and a disk that takes nothing any more."""

import signal
import time

from meta_pseudo_labels import errors
from meta_pseudo_labels.errors import Failure, one_line

import tensorflow as tf

SECONDS_BETWEEN_TRIES = 5.0


class Interrupted(Exception):
  """A signal asked the run to stop; it has saved. `signal`: its number."""

  def __init__(self, number):
    super().__init__(f'stopped by {signal.Signals(number).name}')
    self.signal = number


class StopSignals:
  """Within it SIGINT and SIGTERM are noted in `received`; a second one acts at once."""

  def __init__(self):
    self.received = None

  def __enter__(self):
    try:
      self._before = {
        number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
      }
    except ValueError:
      self._before = {}  # Not in the main thread: the caller handles signals.
    return self

  def _note(self, number, frame):
    del frame
    self.received = number
    signal.signal(number, self._before[number])

  def __exit__(self, *error):
    for number, handler in self._before.items():
      signal.signal(number, handler)


def keep_trying(write, *, seconds, signals, say, newest):
  """Calls `write` until it succeeds: a full disk may be emptied, a lost folder may come back.

  Args:
    write: function without arguments.
    seconds: how long to try again (`--save_retry_seconds`).
    signals: StopSignals; once one has come, a failed try is the last.
    say: function of a line.
    newest: function without arguments: path of the last good checkpoint, or None.

  Raises:
    Failure: it never did.
  """
  end, told = time.time() + seconds, False
  while True:
    try:
      write()
      if told:
        say('saved after all')
      return
    except (OSError, tf.errors.OpError) as error:
      why = one_line(error)
    left = end - time.time()
    if left <= 0 or signals.received:
      try:
        last = newest()
      except (OSError, tf.errors.OpError):
        last = None
      after = 'a signal came' if signals.received else f'--save_retry_seconds={seconds} are over'
      raise Failure(
        f'cannot save: {why}; {after}; the last good checkpoint is {last or "not there any more"}'
      )
    if not told:
      say(f'cannot save: {why}; trying again for {seconds} s')
      told = True
    time.sleep(min(SECONDS_BETWEEN_TRIES, left))
