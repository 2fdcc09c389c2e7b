"""The page on which a person labels images, in a browser: keys, clicks, undo, reload, the CSV."""

import csv
import json
import os
import re

from meta_pseudo_labels.data.formats import label_file
from meta_pseudo_labels.ladder import labeling_page

import browser
import numpy as np
import pytest

CLASSES = ('cat', 'dog', '<b>bold</b>', 'a, "quoted"', '</script><script>alert(1)</script>', "it's", 'Ü')
CLASSES += tuple(f'class {number:03d}' for number in range(len(CLASSES), 200))
COUNT = 500
GIVEN = {'unlabeled/"1".jpg': 'Owl, or not'}.items()
WIDTHS = (1280, 400)


def path_of(number):
  """Paths as files may have them: long ones, a comma, a quote, a tag, a byte that is no UTF-8."""
  odd = ('a,b', 'say "x"', '<img src=x>', 'x' * 120, '\udcff', ' ends in a space ')
  return f'unlabeled/{odd[number] if number < len(odd) else "more"}/{number:03d}.jpg'


def make_page(path, count=COUNT):
  """Writes a page of so many noisy pictures."""
  random = np.random.RandomState(0)
  items = [
    {
      'path': path_of(number),
      'image': labeling_page.encode_picture(random.randint(0, 256, [40, 60, 3]).astype(np.uint8)),
      'likely': [[CLASSES[(number + more) % 200], 0.6 - 0.2 * more] for more in range(3)],
      'stands_for': 1 + number % 4,
    }
    for number in range(count)
  ]
  path.write_text(labeling_page.fill_in('<i>mine</i>', CLASSES, items, GIVEN), encoding='utf-8')
  return f'file://{path}'


@pytest.fixture(name='address', scope='module')
def fixture_address(tmp_path_factory):
  return make_page(tmp_path_factory.mktemp('page') / 'suggest.html')


@pytest.fixture(name='chromium')
def fixture_chromium(tmp_path):
  if not browser.PATH:
    pytest.skip(browser.WHY_NOT)
  found = browser.Browser(str(tmp_path))
  yield found
  found.close()


def labels(chromium):
  """What the page says of each picture that has a value: {number: class, 'skipped'}."""
  texts = chromium.run('[...document.querySelectorAll("#strip button")].map(e => e.lastChild.textContent)')
  return {number: text for number, text in enumerate(texts) if text != '\xa0'}


def place(chromium):
  """The number of the picture that is shown."""
  return int(re.match(r'Picture (\d+) of', chromium.run("element('about').textContent"))[1]) - 1


def overflow(chromium):
  return chromium.run('document.documentElement.scrollWidth - innerWidth')


def class_button(name):
  return (
    f'[...document.querySelectorAll("#classes button")].find(e => e.lastChild.textContent === '
    f'{json.dumps(name)})'
  )


def saved(chromium):
  """Clicks on "Save CSV": the path of the file."""
  path = os.path.join(chromium.downloads, 'labels.csv')
  chromium.click("element('save')")
  chromium.wait(lambda: os.path.exists(path))
  return path


class Person:
  """Who uses the page, and knows what it should say.

  Attributes:
    chromium: browser.Browser.
    expected: {number of a picture: its class, or 'skipped'}.
  """

  def __init__(self, chromium):
    self.chromium, self.expected = chromium, {}

  def expects(self, number, value, then):
    """Checks all labels after a picture got a value, None to lose it, and which picture is seen then."""
    self.expected.pop(number, None)
    if value:
      self.expected[number] = value
    assert labels(self.chromium) == self.expected and place(self.chromium) == then

  def uses_keys(self):
    self.chromium.press('Enter')
    self.expects(0, 'cat', 1)
    self.chromium.press('4')
    self.expects(1, 'a, "quoted"', 2)
    self.chromium.press('a')  # The eleventh.
    self.expects(2, 'class 010', 3)
    self.chromium.press('s')
    self.expects(3, 'skipped', 4)
    self.chromium.press('/')
    self.chromium.type('class 19s')
    buttons = 'document.querySelectorAll("#classes button").length'
    assert self.chromium.run(buttons) == 1  # A new class alone.
    self.chromium.press('Backspace')
    assert self.chromium.run(buttons) == 10 + 1 and overflow(self.chromium) <= 0
    self.chromium.press('Enter')
    self.expects(4, 'class 190', 5)

  def clicks(self):
    self.chromium.click(class_button('<b>bold</b>'))
    self.expects(5, '<b>bold</b>', 6)
    self.chromium.press('Enter')  # Of the picture, and not of the button that was clicked.
    self.expects(6, CLASSES[6], 7)
    self.chromium.click("element('likely').children[1]")
    self.expects(7, CLASSES[8], 8)
    self.chromium.click("element('filter')")
    self.chromium.type('Owl')
    self.chromium.click("element('new')")
    self.expects(8, 'Owl', 9)
    self.chromium.click("element('strip').children[499]")
    self.chromium.press('Enter')  # Of the picture, although the focus was on a button that stays.
    self.expects(499, CLASSES[99], 9)  # Behind the last one the first without a label.

  def undoes(self):
    self.chromium.press('u')
    self.expects(499, None, 499)
    self.chromium.press('Backspace')
    self.expects(8, None, 8)
    self.chromium.click("element('undo')")
    self.expects(7, None, 7)
    self.chromium.press('ArrowLeft')  # To a picture that has a label, for another one.
    self.chromium.press('1')
    self.expects(6, 'cat', 7)
    self.chromium.press('z', modifiers=2)
    self.expects(6, CLASSES[6], 6)


@pytest.mark.parametrize('width', WIDTHS)
def test_a_person_labels_500_pictures(address, chromium, width):
  chromium.open(address, width)
  person = Person(chromium)
  assert chromium.run('document.querySelectorAll("#strip button").length') == COUNT
  assert chromium.run('document.querySelector("h1").textContent') == '<i>mine</i>'
  assert overflow(chromium) <= 0 and chromium.run("element('save').disabled")
  person.uses_keys()
  person.clicks()
  person.undoes()
  assert chromium.run("element('progress').textContent") == '6 of 500 labeled, 1 skipped'
  chromium.reload()
  assert labels(chromium) == person.expected and place(chromium) == 7
  chromium.press('u')  # What was done before can be undone.
  person.expects(6, None, 6)
  chromium.run("document.querySelector('details').open = true")
  assert overflow(chromium) <= 0
  given = dict(GIVEN)  # Those of an earlier file come first.
  given.update({path_of(n): label for n, label in person.expected.items() if label != 'skipped'})
  path = saved(chromium)
  with open(path, newline='', encoding='utf-8', errors='surrogateescape') as file:
    assert list(csv.reader(file)) == [['path', 'class'], *map(list, given.items())]
  assert label_file.read(path, '/images') == given
  asked = [p['request']['url'] for name, p in chromium.events if name == 'Network.requestWillBeSent']
  assert {url.split(':')[0] for url in asked} <= {'file', 'data', 'blob'}
  wrong = ('Runtime.exceptionThrown', 'Page.javascriptDialogOpening', 'Log.entryAdded')
  assert [event for event in chromium.events if event[0] in wrong] == []


def test_another_page_has_labels_of_its_own(address, chromium, tmp_path):
  chromium.open(address, 400)
  chromium.press('Enter')
  chromium.open(make_page(tmp_path / 'suggest.html', 3), 400)
  assert labels(chromium) == {}
  for _ in range(3):
    chromium.press('Enter')
  assert chromium.run("element('progress').textContent") == '3 of 3 labeled. Save the CSV.'
  chromium.open(address, 400)
  assert labels(chromium) == {0: 'cat'}


def test_what_the_page_holds_cannot_end_its_script(tmp_path):
  make_page(tmp_path / 'page.html', 6)
  text = (tmp_path / 'page.html').read_text(encoding='utf-8')
  assert text.count('</script>') == 2 and '<b>bold' not in text and '<i>' not in text
  found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
  found = json.loads(found)
  assert found['classes'] == list(CLASSES)
  assert [item['path'] for item in found['items']] == [path_of(number) for number in range(6)]
  assert not re.search(r'(src|href)=["\']?http|url\(|@import', text)
