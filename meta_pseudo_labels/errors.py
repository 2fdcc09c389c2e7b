"""What may end a program in one line: a wrong request, or a failure that was foreseen."""

import difflib
import re

MOST_CHARACTERS = 300


class UserError(ValueError):
  """A request that cannot be carried out as asked.

  The message is one line, `--flag=value: what is wrong; what to do`. `main` prints it without a
  traceback and exits with status 2.

  Example:
    >>> try:
    ...   mpl.data.batches((np.zeros([0, 2]), np.zeros([0], int)), batch_size=2)
    ... except mpl.UserError as error:
    ...   print(error)
    labeled: the array is empty
  """


class Failure(RuntimeError):
  """A run that cannot continue although the request was right: one line, exit status 1.

  Example:
    >>> try:
    ...   raise mpl.Failure('step 3: the loss is not finite; lower --lr')
    ... except mpl.Failure as error:
    ...   print(error)
    step 3: the loss is not finite; lower --lr
  """


def one_line(error):
  """Returns the reason of an exception, or a text, in one line of at most 300 characters.

  An OSError is told by the operating system's words alone. From TensorFlow's messages the marks of
  graph and operation are removed; of a failed file operation only the reason at the end is kept.
  """
  text = getattr(error, 'strerror', None) or str(error)
  if hasattr(error, 'node_def'):  # A tf.errors.OpError; TensorFlow is not imported here.
    text = (error.message or '').replace('Graph execution error:', '')
    text = re.sub(r'\{\{.*?\}\}|\[Op:.*', '', text).strip().split('\n')[0]
    if '; ' in text and '/' in text.rsplit('; ', 1)[0]:
      text = text.rsplit('; ', 1)[1]
  return ' '.join(text.split())[:MOST_CHARACTERS] or type(error).__name__


def printable(text):
  """Returns a message as any terminal can show it: control characters as Python writes them."""
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def did_you_mean(name, known):
  """Returns " (did you mean 'x'?)" with the nearest of the known names, or '' if none is near."""
  near = difflib.get_close_matches(str(name), [str(other) for other in known], n=1)
  return f' (did you mean {near[0]!r}?)' if near else ''
