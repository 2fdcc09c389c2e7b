"""What may end a program in one line: a wrong request, or a failure that was foreseen."""


class UserError(ValueError):
  """A request that cannot be carried out as asked.

  The message is one line that names what was wrong, the value and what to do. `main` prints
  it without a traceback and exits with status 2 (design rule 7).
  """


class Failure(RuntimeError):
  """A run that cannot go on, although the request was right: one line, exit status 1."""
