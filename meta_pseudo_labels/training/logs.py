"""Writes the logs of a run: the progress line, metrics.jsonl, TensorBoard."""

import contextlib
import errno
import json
import os
import sys
import time

from meta_pseudo_labels.files import write_text

import numpy as np
import tensorflow as tf


def _duration(seconds):
  """Formats a duration: '45s', '3m10s', '2h05m'."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'


class Progress:
  """Progress of a run: a live line on a terminal, otherwise a plain line every few seconds."""

  seconds_between_lines = 10

  def __init__(self, stream=None):
    self.stream = stream or sys.stdout
    self.live = self.stream.isatty()
    self._last = 0.0
    self._width = 0

  def start(self, phase, step, num_steps, images_per_step):
    """Starts a phase at `step` of `num_steps`; `images_per_step`: all images of all replicas."""
    self.phase, self.num_steps, self.images = phase, num_steps, images_per_step
    self._first_step, self._first_time = step, time.time()

  def update(self, step, losses, accuracy=None):
    """Shows a step; `losses`: {short name: float}; `accuracy`: that of the last evaluation or None."""
    now = time.time()
    if not self.live and now - self._last < self.seconds_between_lines and step < self.num_steps:
      return
    self._last = now
    rate = (step - self._first_step) / max(now - self._first_time, 1e-9)
    parts = [
      f'{self.phase} {step}/{self.num_steps}',
      f'{rate:.3g} steps/s',
      f'{rate * self.images:.4g} images/s',
    ]
    parts += [f'{name} {value:.3f}' for name, value in losses.items()]
    if accuracy is not None:
      parts.append(f'accuracy {100 * accuracy:.2f}%')
    parts.append(f'ETA {_duration((self.num_steps - step) / rate) if rate else "?"}')
    line = ' | '.join(parts)
    if self.live:
      self.stream.write('\r' + line.ljust(self._width))
      self._width = len(line)
    else:
      self.stream.write(line + '\n')
    self.stream.flush()

  def say(self, message):
    """Writes a message as a line of its own, below the live line.

    Bytes of file names that are no text are shown as \\udcff.
    """
    if self.live and self._width:
      self.stream.write('\n')
      self._width = 0
    self.stream.write(message.encode('utf-8', 'backslashreplace').decode() + '\n')
    self.stream.flush()


class Records:
  """The files `metrics.jsonl` and TensorBoard's `logs/train` and `logs/eval_<split>`.

  A line of metrics.jsonl has `kind` (train or eval), `phase`, `step` and the values. Training values
  have the release's log names. Lines that cannot be written wait for `flush`, which raises the error.
  """

  def __init__(self, output_dir, eval_split):
    self._path = os.path.join(output_dir, 'metrics.jsonl')
    self._folders = {
      kind: os.path.join(output_dir, 'logs', folder)
      for kind, folder in (('train', 'train'), ('eval', f'eval_{eval_split}'))
    }
    self._writers = {}
    self._waiting = []

  def forget_after(self, phases, phase, step):
    """Drops the lines after this step of this phase, since the resumed run writes them again."""
    if not os.path.isfile(self._path):
      return
    order = {name: index for index, name in enumerate(phases)}
    with open(self._path, encoding='utf-8', errors='replace') as file:
      lines = file.readlines()

    def keeps(line):
      try:
        values = json.loads(line)
        return (order.get(values['phase'], -1), values['step']) <= (order[phase], step)
      except (ValueError, KeyError, TypeError):
        return False  # The last line of a run that was killed while it was writing.

    write_text(self._path, ''.join(line for line in lines if keeps(line)))

  def write(self, kind, phase, step, offset, values):
    """Writes a line, and one scalar per value to TensorBoard.

    Args:
      kind: train or eval.
      phase: str.
      step: int, counted from the start of the phase.
      offset: int, the steps of the phases before; TensorBoard's step is `offset + step`.
      values: {name: float}.
    """
    self._waiting.append(json.dumps({'kind': kind, 'phase': phase, 'step': step, **values}) + '\n')
    # The run continues. Saving, which must succeed, meets the same error and reports it.
    with contextlib.suppress(OSError):
      self._append()
    with contextlib.suppress(tf.errors.OpError):
      if kind not in self._writers:
        self._writers[kind] = tf.summary.create_file_writer(self._folders[kind])
      # All values in one operation, and the step not as a Python number: TensorFlow caches every Python
      # number that it gets and needs a kilobyte for each (2.15 and 2.21).
      summary = tf.compat.v1.Summary(
        value=[tf.compat.v1.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
      )
      with self._writers[kind].as_default():
        tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=np.int64(offset + step))

  def _append(self):
    """Appends the waiting lines, all or none. Raises OSError."""
    with open(self._path, 'ab', buffering=0) as file:
      end, text = file.tell(), ''.join(self._waiting).encode()
      try:
        if file.write(text) != len(text):
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
      except OSError:
        file.truncate(end)
        raise
    self._waiting = []

  def show(self, name, step, image, text):
    """Writes an image, uint8 `[H, W, C]`, and a line about it to TensorBoard only."""
    with self._writers['train'].as_default():
      tf.summary.image(name, image[None], step=step)
      tf.summary.text(name, text, step=step)

  def flush(self):
    """Writes all waiting lines to the file. Raises OSError.

    TensorBoard's events are a copy of these lines. They may lack values that could not be written.
    """
    self._append()
    for writer in self._writers.values():
      with contextlib.suppress(tf.errors.OpError):
        writer.flush()
