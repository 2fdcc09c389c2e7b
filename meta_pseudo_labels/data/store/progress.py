"""How far a long piece of work is, told now and then."""

import sys
import time


class Progress:
  """Counts images and says so: at most once a second on a terminal, every ten seconds elsewhere."""

  def __init__(self, total, say, interval=None, now=time.monotonic):
    """Starts counting.

    Args:
      total: int, images.
      say: function of a line (str).
      interval: seconds between two lines; None to go by whether stderr is a terminal.
      now: function -> seconds.
    """
    self._total, self._say, self._now = total, say, now
    self._interval = (1.0 if sys.stderr.isatty() else 10.0) if interval is None else interval
    self._started = self._said = now()
    self._done = self._done_when_said = 0

  def step(self):
    """Counts one more image."""
    self._done += 1
    if self._now() - self._said >= self._interval:
      self._line()

  def slower(self, line):
    """Says why the images from here on take longer; what is left is judged by these alone."""
    self._say(line)
    self._said, self._done_when_said = self._now(), self._done

  def end(self):
    """Says how it went, if it took long enough for a line before."""
    if self._said != self._started:
      took = self._now() - self._started
      self._say(f'prepared {self._done:,} images in {took:.0f} s, {self._done / took:.0f} a second')

  def _line(self):
    now = self._now()
    speed = self._done / max(now - self._started, 1e-9)
    # By what was done since the last line: huge images come last, and are hundreds of times as slow.
    recent = (self._done - self._done_when_said) / max(now - self._said, 1e-9)
    left = (self._total - self._done) / max(recent, 1e-9)
    self._said, self._done_when_said = now, self._done
    rest = f'about {left:.0f} s left' if left < 120 else f'about {left / 60:.0f} min left'
    self._say(f'prepared {self._done:,} of {self._total:,} images, {speed:.0f} a second, {rest}')
