"""Runs a notebook's code in order, in this process, and writes its outputs into it.

  python tools/run_notebook.py docs/tour.ipynb [--output=other.ipynb]

Jupyter is not needed, and the notebook needs nothing of this program. What the cells print becomes a text.
Each figure that is open at `plt.show()`, or at the end of a cell, becomes a PNG. The cells run in the
current folder. An exception ends it; then nothing is written.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import pathlib
import sys

os.environ['MPLBACKEND'] = 'agg'

import matplotlib.pyplot as plt

DOTS_PER_INCH = 60  # The pictures are stored in the repository.


def execute(notebook):
  """Runs the code cells of a notebook (dict, nbformat 4) and puts their outputs into it.

  Raises:
    Whatever a cell raises; its number and first line are written to stderr before.
  """
  names = {'__name__': '__main__'}
  count = 0
  for cell in notebook['cells']:
    if cell['cell_type'] != 'code':
      continue
    count += 1
    source, outputs = ''.join(cell['source']), []
    try:
      with _captured(outputs):
        exec(compile(source, f'cell {count}', 'exec'), names)  # noqa: S102
    except BaseException:
      sys.stderr.write(f'cell {count}: {source.splitlines()[0]}\n')
      raise
    cell['outputs'], cell['execution_count'] = outputs, count


@contextlib.contextmanager
def _captured(outputs):
  """Within it what is printed and shown becomes entries of the list `outputs`, in its order."""
  printed = io.StringIO()

  def take_text():
    if printed.getvalue():
      text = printed.getvalue().splitlines(keepends=True)
      outputs.append({'output_type': 'stream', 'name': 'stdout', 'text': text})
      printed.seek(0)
      printed.truncate()

  def take_figures(*args, **kwargs):
    take_text()
    for number in plt.get_fignums():
      figure, file = plt.figure(number), io.BytesIO()
      figure.savefig(file, format='png', dpi=DOTS_PER_INCH, bbox_inches='tight')
      picture = base64.b64encode(file.getvalue()).decode()
      data = {'image/png': picture, 'text/plain': ['<Figure>']}
      outputs.append({'output_type': 'display_data', 'data': data, 'metadata': {}})
    plt.close('all')

  show, plt.show = plt.show, take_figures
  try:
    with contextlib.redirect_stdout(printed):
      yield
    take_figures()
  finally:
    plt.show = show


def main(argv):
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('notebook', type=pathlib.Path)
  parser.add_argument('--output', type=pathlib.Path, help='default: the notebook itself')
  args = parser.parse_args(argv)
  notebook = json.loads(args.notebook.read_text(encoding='utf-8'))
  output = (args.output or args.notebook).resolve()
  execute(notebook)
  output.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main(sys.argv[1:])
