"""The tour: its cells run in order in a fresh process, and its stored outputs are theirs."""

import base64
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import run_notebook
from PIL import Image
from tiny import quick_path

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOUR = ROOT / 'docs' / 'tour.ipynb'
NUMBER = re.compile(r'[-+]?\b\d[\d.]*(e[-+]?\d+)?\b')


def cells(path=TOUR):
  """The code cells of a notebook."""
  found = json.loads(path.read_text(encoding='utf-8'))
  assert (found['nbformat'], found['nbformat_minor']) == (4, 5)
  assert len({cell['id'] for cell in found['cells']}) == len(found['cells'])
  return [cell for cell in found['cells'] if cell['cell_type'] == 'code']


def printed(cell):
  """What a cell printed, the numbers left out: they differ between machines."""
  text = ''.join(
    ''.join(output['text']) for output in cell['outputs'] if output['output_type'] == 'stream'
  )
  return NUMBER.sub('#', text)


def pictures(cell):
  """The pictures in a cell's outputs, as opened."""
  return [
    Image.open(io.BytesIO(base64.b64decode(output['data']['image/png'])))
    for output in cell['outputs']
    if 'image/png' in output.get('data', {})
  ]


def test_the_stored_outputs_are_there_and_small():
  assert TOUR.stat().st_size < 300_000
  found = cells()
  assert [cell['execution_count'] for cell in found] == list(range(1, len(found) + 1))
  for cell in found:
    source = ''.join(cell['source'])
    assert all(output['output_type'] in ('stream', 'display_data') for output in cell['outputs'])
    assert bool(printed(cell)) or 'print(' not in source or 'def ' in source
    assert bool(pictures(cell)) == ('plt.show()' in source or bool(re.search(r'^ *show\(', source, re.M)))
    for picture in pictures(cell):
      assert min(picture.size) > 80 and picture.convert('L').getextrema()[0] < 128


@pytest.mark.long
def test_its_cells_run_as_they_stand(tmp_path):
  """Within three minutes; what they print is what is stored, except for numbers."""
  result = subprocess.run(
    [sys.executable, str(ROOT / 'tools/run_notebook.py'), str(TOUR), f'--output={tmp_path / "run.ipynb"}'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=180,
    env={**os.environ, 'PYTHONPATH': quick_path(ROOT)},
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  for stored, run in zip(cells(), cells(tmp_path / 'run.ipynb'), strict=True):
    assert printed(stored) == printed(run)
    assert len(pictures(stored)) == len(pictures(run))
    if 'largest difference' in printed(run):
      assert float(re.search(r'largest difference: (\S+)', ''.join(run['outputs'][-1]['text']))[1]) < 1e-5


def test_outputs_come_in_their_order_and_an_error_ends_it(capsys):
  cell = lambda source: {'cell_type': 'code', 'source': source.splitlines(keepends=True)}
  drawing = 'import matplotlib.pyplot as plt\nx = 3\nprint(x)\nplt.plot([1, 2])\nplt.show()\n'
  more = cell(drawing + "print('after')\nplt.plot([1, 2])\n")
  found = {'cells': [more, {'cell_type': 'markdown', 'source': ['1 / 0']}, cell('print(x + 1)')]}
  run_notebook.execute(found)
  first, _, second = found['cells']
  kinds = [output['output_type'] for output in first['outputs']]
  assert kinds == ['stream', 'display_data', 'stream', 'display_data'] and len(pictures(first)) == 2
  assert printed(first) == '#\nafter\n' and second['outputs'][0]['text'] == ['4\n']
  with pytest.raises(ZeroDivisionError):
    run_notebook.execute({'cells': [cell('x = 1\nx / 0')]})
  assert capsys.readouterr().err == 'cell 1: x = 1\n'
