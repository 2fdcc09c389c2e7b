"""A headless Chromium for tests of pages, driven through a pipe by the DevTools protocol."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
PATH = next(filter(None, map(shutil.which, NAMES)), None)
WHY_NOT = 'no Chromium is installed (Debian: apt-get install chromium)'
FLAGS = (
  *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'),
  *('--disable-background-networking', '--disable-component-update', '--disable-sync'),
  *('--disable-dev-shm-usage', '--remote-debugging-pipe'),
)
SECONDS = 60  # For any answer; the machine may be busy.
CODES = {'Enter': 13, 'Backspace': 8, 'Escape': 27, 'ArrowLeft': 37, 'ArrowRight': 39}


class Browser:
  """A browser with one page.

  Attributes:
    events: list of (method, parameters), what the page has said so far.
    downloads: str, the folder that files are saved in.
  """

  def __init__(self, folder):
    """Starts it with an empty profile in a folder (str)."""
    self.events, self._count, self._read = [], 0, b''
    self.downloads = os.path.join(folder, 'downloads')
    theirs_in, self._to = os.pipe()
    self._from, theirs_out = os.pipe()
    # The browser reads from its descriptor 3 and writes to 4.
    command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    arguments = [PATH, *FLAGS, f'--user-data-dir={folder}/profile', 'about:blank']
    self._process = subprocess.Popen(
      ['bash', '-c', command, *arguments],
      pass_fds=(theirs_in, theirs_out),
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    self._session = None
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self.call('Browser.setDownloadBehavior', behavior='allow', downloadPath=self.downloads)
    self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
    for domain in ('Page', 'Network', 'Runtime', 'Log'):
      self.call(f'{domain}.enable')

  def close(self):
    """Ends the browser with all its processes."""
    with contextlib.suppress(OSError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    os.close(self._to)
    os.close(self._from)

  def _message(self):
    """Returns the next message of the browser."""
    while b'\0' not in self._read:
      assert select.select([self._from], [], [], SECONDS)[0], 'the browser does not answer'
      more = os.read(self._from, 1 << 16)
      assert more, 'the browser has ended'
      self._read += more
    one, self._read = self._read.split(b'\0', 1)
    return json.loads(one)

  def call(self, method, **parameters):
    """Returns the result of one of the protocol's methods."""
    self._count += 1
    request = {'id': self._count, 'method': method, 'params': parameters}
    if self._session:
      request['sessionId'] = self._session
    text = json.dumps(request).encode() + b'\0'
    while text:
      text = text[os.write(self._to, text) :]
    while True:
      found = self._message()
      if found.get('id') == self._count:
        assert 'error' not in found, f'{method}: {found}'
        return found['result']
      if 'method' in found:
        self.events.append((found['method'], found['params']))

  def open(self, url, width, height=800):
    """Opens an address in a window of some pixels, and waits for it."""
    self.call(
      'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False
    )
    self._wait_for_load(lambda: self.call('Page.navigate', url=url))

  def reload(self):
    """Loads the page anew."""
    self._wait_for_load(lambda: self.call('Page.reload'))

  def _wait_for_load(self, start):
    before = len(self.events)
    start()
    self.wait(lambda: 'Page.loadEventFired' in [name for name, _ in self.events[before:]])

  def wait(self, holds):
    """Waits until a function returns true: what it returns then."""
    until = time.monotonic() + SECONDS
    while not (found := holds()):
      assert time.monotonic() < until, 'it did not come true'
      self.run('0')
      time.sleep(0.02)
    return found

  def run(self, script):
    """Returns the value of an expression in the page."""
    found = self.call('Runtime.evaluate', expression=script, returnByValue=True)
    assert 'exceptionDetails' not in found, found
    return found['result'].get('value')

  def press(self, key, modifiers=0):
    """Presses a key as a person would; modifiers: 2 for Ctrl."""
    code = CODES.get(key, ord(key[0].upper()))
    text = {'Enter': '\r'}.get(key, key if len(key) == 1 and not modifiers else '')
    known = dict(key=key, windowsVirtualKeyCode=code, modifiers=modifiers)
    self.call('Input.dispatchKeyEvent', type='keyDown', text=text, **known)
    self.call('Input.dispatchKeyEvent', type='keyUp', **known)

  def type(self, text):
    """Presses the keys of a text."""
    for character in text:
      self.press(character)

  def click(self, element):
    """Clicks in the middle of an element, given as an expression in the page."""
    box = self.run(
      "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
      ' return [r.x + r.width / 2, r.y + r.height / 2, r.width]; })(' + element + ')'
    )
    assert box[2] > 0, f'{element} is not seen'
    for kind in ('mousePressed', 'mouseReleased'):
      self.call('Input.dispatchMouseEvent', type=kind, x=box[0], y=box[1], button='left', clickCount=1)

  def picture(self, path):
    """Writes what is seen as a PNG file."""
    with open(path, 'wb') as file:
      file.write(base64.b64decode(self.call('Page.captureScreenshot')['data']))
