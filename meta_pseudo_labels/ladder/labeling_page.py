"""The page on which a person labels images: labeling.html, filled in. It loads nothing else."""

import base64
import hashlib
import io
import json
import os

from meta_pseudo_labels.report import page

from PIL import Image

SIDE = 256  # Pixels of the longer side of a picture, at most.
_QUALITY = 80  # Of JPEG: a picture takes about 10 KB.
_TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'labeling.html')


def encode_picture(pixels):
  """Returns an image, uint8 `[H, W, 3]`, as the JPEG of a picture in the page: a data URI (str)."""
  image = Image.fromarray(pixels)
  image.thumbnail((SIDE, SIDE))
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=_QUALITY)
  return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def fill_in(title, class_names, items, given=()):
  """Returns the page (str).

  The browser keeps a person's labels under a fingerprint of all that the page shows.

  Args:
    title: str.
    class_names: sequence of str.
    items: list of dicts of an image: its `path` (str); `image`, of `encode_picture`; `likely`, the most
      probable classes first: [[name, probability]]; `stands_for` (int).
    given: pairs (path, class) of other images, which the file that the page saves has too.
  """
  shown = {'classes': list(class_names), 'items': items, 'given': list(map(list, given))}
  key = 'labels-' + hashlib.sha256(json.dumps(shown).encode()).hexdigest()
  # In a script no text ends the element, or begins a comment, without this character.
  text = json.dumps({**shown, 'key': key}).replace('<', '\\u003c')
  with open(_TEMPLATE, encoding='utf-8') as file:
    start, end = file.read().split('@DATA@')
  head = start.replace('@STYLE@', page.STYLE).replace('@TITLE@', page.escape(title))
  return head + text + end
