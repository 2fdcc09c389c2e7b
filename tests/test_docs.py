"""The documentation's own words: its Python runs, and its commands lead to what it promises."""
import csv
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(name, language='', heading=None):
  """The fenced code blocks of a language in a Markdown file, or in one section of it."""
  text = (ROOT / name).read_text(encoding='utf-8')
  if heading:
    text = re.search(rf'^## {heading}\n(.*?)(?=^## |\Z)', text, re.DOTALL | re.MULTILINE).group(1)
  return re.findall(rf'^```{language}\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize('name, heading', [('README.md', 'From Python'), ('docs/python.md', None)])
def test_the_python_blocks_run(tmp_path, name, heading):
  found = blocks(name, 'python', heading)
  assert len(found) == (1 if heading else 6)
  (tmp_path / 'example.py').write_text('\n'.join(found))
  result = subprocess.run(
      [sys.executable, 'example.py'], cwd=tmp_path, capture_output=True, text=True, timeout=300,
      env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=False)
  assert result.returncode == 0, result.stderr[-3000:]
  if not heading:
    assert (tmp_path / 'student.weights.h5').exists() and "'mpl/dot_product'" in result.stdout
