"""Writes a reference of what is public, as HTML, from docstrings and type hints.

  python tools/reference.py [--output=build/reference]

Open index.html in that folder. It needs the package pdoc (requirements-test.txt).
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import meta_pseudo_labels as mpl

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write(folder):
  """Writes index.html and a page per module with public names into `folder`, a pathlib.Path.

  `mpl.optimizers` stands on the page of the module that it is.
  """
  import pdoc

  for name in mpl.__all__:  # pdoc looks at a module's own names; some are imported when first used.
    setattr(mpl, name, getattr(mpl, name))
  pdoc.render.configure(docformat='google', show_source=False, search=True)
  pdoc.pdoc(mpl.__name__, mpl.optimizers.__name__, output_directory=folder)


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--output', type=pathlib.Path, default=ROOT / 'build' / 'reference')
  folder = parser.parse_args(argv).output
  write(folder)
  print(folder / 'index.html')


if __name__ == '__main__':
  main(sys.argv[1:])
