"""Handles events that stop a run early: signals, and a disk that cannot be written."""

import signal
import time

from meta_pseudo_labels import errors
from meta_pseudo_labels.errors import Failure, one_line

import tensorflow as tf

SECONDS_BETWEEN_TRIES = 5.0


class Interrupted(Exception):
  """A signal stopped the run, after it saved a checkpoint. `signal`: the signal's number."""

  def __init__(self, number):
    super().__init__(f'stopped by {signal.Signals(number).name}')
    self.signal = number


class StopSignals:
  """Records SIGINT and SIGTERM in `received` in this context; a second signal acts immediately."""

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
    """Records a signal, and restores the handler that was there before for the next one."""
    del frame
    self.received = number
    signal.signal(number, self._before[number])

  def __exit__(self, *error):
    for number, handler in self._before.items():
      signal.signal(number, handler)


def keep_trying(write, *, seconds, signals, say, newest):
  """Calls `write` until it succeeds, since a user may free a full disk or mount a missing folder.

  Args:
    write: function without arguments.
    seconds: float, how long to retry (`--save_retry_seconds`).
    signals: StopSignals; after a signal there is no further try.
    say: function of a line.
    newest: function without arguments that returns the path of the last intact checkpoint, or None.

  Raises:
    Failure: it did not succeed in this time.
  """
  end, reported = time.time() + seconds, False
  while True:
    try:
      write()
      if reported:
        say('saved at the repeated try')
      return
    except (OSError, tf.errors.OpError) as error:
      why = one_line(error)
    left = end - time.time()
    if left <= 0 or signals.received:
      try:
        last = newest()
      except (OSError, tf.errors.OpError):
        last = None
      after = 'a signal came' if signals.received else f'--save_retry_seconds={seconds} have passed'
      raise Failure(f'cannot save: {why}; {after}; the last intact checkpoint is {last or "missing"}')
    if not reported:
      say(f'cannot save: {why}; retrying for {seconds} s')
      reported = True
    time.sleep(min(SECONDS_BETWEEN_TRIES, left))
