"""The one exception type that means: the request is wrong, not the program."""


class UserError(ValueError):
  """A request that cannot be carried out as asked.

  The message is one line that names what was wrong, the value and what to do. `main` prints
  it without a traceback and exits with status 2 (design rule 7).
  """
