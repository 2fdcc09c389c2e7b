"""`python -m meta_pseudo_labels`, and the command `meta-pseudo-labels` that pip installs."""

import os
import sys

from meta_pseudo_labels import main


def command():
  """The process's command line, carried out; returns its exit status (`main.run`)."""
  # A process that starts itself anew does so by `python -m`, which would prefer a folder called
  # meta_pseudo_labels in the caller's folder (Python 3.11 and later know this).
  os.environ.setdefault('PYTHONSAFEPATH', '1')
  return main.run(sys.argv, main.restart_process)


if __name__ == '__main__':
  sys.exit(command())
