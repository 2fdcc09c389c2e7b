"""Preparing images: what is decoded again and what is not, kills, damage, full disks, two at once."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from meta_pseudo_labels.data.store import decoding, hashes, layout, prepare, progress, reading
from meta_pseudo_labels.data.store import store as stores
from meta_pseudo_labels.errors import UserError

import files_for_store as files
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(name='folder')
def _folder(tmp_path):
  return tmp_path / 'images'


@pytest.fixture(name='store')
def _store(tmp_path):
  return tmp_path / 'store'


def counting(decoders=files.DECODERS):
  """(decoders that note in a list what goes to Python, the list)."""
  seen = []

  def in_python(content):
    seen.append(content)
    return decoders.in_python(content)

  return prepare.Decoders(decoders.in_graph, in_python, decoders.claimed_pixels, decoders.takes), seen


def test_first_and_next_start(folder, store):
  expected = files.write_images(folder, 31)
  decoders, in_python = counting()
  outcome = files.prepared(folder, store, decoders)
  assert outcome.decoded == 31 and not outcome.unreadable and outcome.report is None
  assert len(in_python) == 10  # The BMP files.
  assert files.same(files.pixels_of(outcome.images), expected)
  again = files.prepared(folder, store, decoders)
  assert again.decoded == 0 and len(in_python) == 10
  assert files.same(files.pixels_of(again.images), expected)
  assert sorted(os.listdir(store)) == ['index', 'lock', 'parameters.json', 'pixels-000000.bin']


def test_facts_and_fingerprints(folder, store):
  expected = files.write_images(folder, 3)
  images = files.prepared(folder, store).images
  assert (
    images.full_sizes.tolist()
    == images.sizes.tolist()
    == [list(expected[name].shape[:2]) for name in sorted(expected)]
  )
  assert images.entries['flags'].tolist() == [0, 0, layout.TURNED]  # As `in_python` says.
  assert images.entries['largest'].tolist() == [0, 0, 300]
  contents = [(folder / name).read_bytes() for name in sorted(expected)]
  assert images.entries['file_hash'].tolist() == hashes.of_strings(contents).tolist()
  found = files.pixels_of(images)
  assert images.entries['pixel_hash'].tolist() == [hashes.of_pixels(found[name]) for name in sorted(found)]


def test_facts_from_the_graph(folder, store):
  files.write_images(folder, 2, suffixes=('png',))
  facts = tf.constant([7, 8, layout.ALPHA | layout.DEEP, 4095], tf.int64)
  decoders = prepare.Decoders(lambda content: (files.in_graph(content), facts), None, files.claimed_pixels)
  images = files.prepared(folder, store, decoders).images
  assert images.entries[list(layout.FACTS)].tolist() == [(7, 8, 6, 4095)] * 2


def test_changed_added_and_removed(folder, store):
  expected = files.write_images(folder, 9)
  files.prepared(folder, store)
  changed, removed = '0003.png', '0004.jpg'
  content = (folder / '0000.png').read_bytes()
  (folder / changed).write_bytes(content)
  expected[changed] = expected['0000.png']
  (folder / removed).unlink()
  del expected[removed]
  expected.update(files.write_images(folder, 2, first=20))
  outcome = files.prepared(folder, store)
  assert outcome.decoded == 3
  assert files.same(files.pixels_of(outcome.images), expected)


def test_a_change_of_the_time_alone_counts(folder, store):
  files.write_images(folder, 3)
  files.prepared(folder, store)
  os.utime(folder / '0001.jpg', ns=(1, 1))
  assert files.prepared(folder, store).decoded == 1


def test_other_parameters_use_another_store(tmp_path):
  one, other = (layout.folder_for(str(tmp_path), {'side': side, 'depth': [0, 9]}) for side in (64, 65))
  assert one != other == layout.folder_for(str(tmp_path), {'depth': [0, 9], 'side': 65})


def test_unreadable_files_are_remembered(folder, store):
  files.write_images(folder, 4)
  (folder / '0010.jpg').write_bytes(b'\xff\xd8\xff and no more')
  (folder / '0011.txt').write_bytes(b'')
  (folder / '0012.png').symlink_to('nothing')
  decoders, in_python = counting()
  for turn in range(2):
    outcome = files.prepared(folder, store, decoders)
    assert [(os.path.basename(path), reason) for path, reason in outcome.unreadable] == [
      ('0010.jpg', 'Pillow cannot read it'),
      ('0011.txt', 'Pillow cannot read it'),
      ('0012.png', 'No such file or directory'),
    ]
    assert len(in_python) == 3  # A BMP file and the two.
    assert outcome.decoded == (7 if not turn else 1)  # What is not there is looked for each time.
    assert pathlib.Path(outcome.report).read_text(encoding='utf-8').splitlines() == [
      f'{path}\t{reason}' for path, reason in outcome.unreadable
    ]
    assert outcome.images.readable.tolist() == [True] * 4 + [False] * 3
  files.write_images(folder, 1, first=10, suffixes=('jpg',))
  for name in ('0011.txt', '0012.png'):
    (folder / name).unlink()
  outcome = files.prepared(folder, store)
  assert outcome.decoded == 1 and not outcome.unreadable and not (store / 'unreadable.txt').exists()


def test_huge_images_are_decoded_one_at_a_time(folder, store, monkeypatch):
  monkeypatch.setattr(decoding, 'HUGE_PIXELS', 1000)
  expected = files.write_images(folder, 12, sides=(20, 50), suffixes=('png',))
  huge = sum(image.size > 3000 for image in expected.values())
  at_once, most, lock = [0], [0], threading.Lock()

  def in_python(content):
    with lock:
      at_once[0] += 1
      most[0] = max(most[0], at_once[0])
    time.sleep(0.01)
    with lock:
      at_once[0] -= 1
    return files.in_python(content)

  decoders, seen = counting(prepare.Decoders(files.in_graph, in_python, files.claimed_pixels))
  outcome = files.prepared(folder, store, decoders, cores=4)
  assert len(seen) == huge > 3 and most == [1]
  assert files.same(files.pixels_of(outcome.images), expected)


@pytest.mark.parametrize('damage', ['cut', 'header', 'removed'])
def test_damaged_shard(folder, store, damage):
  expected = files.write_images(folder, 9)
  files.prepared(folder, store)
  shard = store / 'pixels-000000.bin'
  if damage == 'cut':
    os.truncate(shard, shard.stat().st_size - 100)
  elif damage == 'header':
    shard.write_bytes(b'x' + shard.read_bytes()[1:])
  else:
    shard.unlink()
  said = []
  outcome = files.prepared(folder, store, say=said.append)
  assert outcome.decoded == (1 if damage == 'cut' else 9)
  assert f'{outcome.decoded} images are prepared again' in said[0] and str(shard) in said[0]
  assert files.same(files.pixels_of(outcome.images), expected)
  assert files.prepared(folder, store).decoded == 0


@pytest.mark.parametrize('content', [b'', b'garbage' * 100, None])
def test_damaged_index(folder, store, content):
  expected = files.write_images(folder, 6)
  before = files.prepared(folder, store)
  index = store / 'index'
  whole = bytearray(index.read_bytes())
  whole[100] ^= 1
  index.write_bytes(bytes(whole) if content is None else content)
  said = []
  outcome = files.prepared(folder, store, say=said.append)
  assert outcome.decoded == 6 and f'{index} is damaged' in said[0]
  assert files.same(files.pixels_of(outcome.images), expected)
  assert files.same(files.pixels_of(before.images), expected)  # Who has it open is not disturbed.


def test_flipped_pixels_are_found_by_a_check(folder, store):
  expected = files.write_images(folder, 6)
  images = files.prepared(folder, store).images
  assert not reading.verify(images).size
  with open(store / 'pixels-000000.bin', 'r+b') as file:
    file.seek(layout.HEADER + int(images.entries['offset'][4]) + 5)
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))
  assert reading.verify(images).tolist() == [4]
  assert files.prepared(folder, store).decoded == 0
  outcome = files.prepared(folder, store, check=True)
  assert outcome.decoded == 1 and not reading.verify(outcome.images).size
  assert files.same(files.pixels_of(outcome.images), expected)


def test_space_is_given_back(folder, store, monkeypatch):
  expected = files.write_images(folder, 40, sides=(60, 64))
  first = files.prepared(folder, store)
  size = (store / 'pixels-000000.bin').stat().st_size
  for name in sorted(expected)[:10]:
    (folder / name).unlink()
  files.prepared(folder, store)
  assert (store / 'pixels-000000.bin').stat().st_size == size  # Not worth it yet.
  for name in sorted(expected)[10:36]:
    (folder / name).unlink()
  said = []
  outcome = files.prepared(folder, store, say=said.append)
  kept = dict(sorted(expected.items())[36:])
  assert 'gave back' in said[-1] and outcome.decoded == 0
  assert [path.name for path in store.glob('pixels*')] == ['pixels-000001.bin']
  assert (store / 'pixels-000001.bin').stat().st_size < size / 2
  assert files.same(files.pixels_of(outcome.images), kept)
  assert files.same(files.pixels_of(first.images), expected)
  assert not reading.verify(outcome.images).size and files.prepared(folder, store).decoded == 0


def test_several_shards(folder, store, monkeypatch):
  monkeypatch.setattr(layout, 'SHARD_BYTES', 20000)
  expected = files.write_images(folder, 12)
  outcome = files.prepared(folder, store)
  assert len(list(store.glob('pixels*'))) > 3
  assert files.same(files.pixels_of(outcome.images), expected)
  outcome = files.prepared(folder, store)
  assert outcome.decoded == 0 and files.same(files.pixels_of(outcome.images), expected)


def test_disk_without_room_is_told_before(folder, store, monkeypatch):
  files.write_images(folder, 3)
  usage = prepare.shutil.disk_usage('/')._replace(free=100)
  monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(UserError, match='3 images take about .* GB .*: free .* GB more, or give --cache_'):
    files.prepared(folder, store)


def test_disk_that_fills_half_way(folder, store, monkeypatch):
  resource = pytest.importorskip('resource')
  monkeypatch.setattr(stores, 'COMMIT_SECONDS', 0)
  expected = files.write_images(folder, 40, sides=(40, 64))
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (layout.HEADER + 120_000, limits[1]))
  try:
    with pytest.raises(UserError, match='no room for .*: free about 0.1 GB, or give --cache_') as caught:
      files.prepared(folder, store)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert '\n' not in str(caught.value)
  outcome = files.prepared(folder, store)
  assert 0 < outcome.decoded < 30
  assert files.same(files.pixels_of(outcome.images), expected)


def start(folder, store, seconds):
  """Another process that prepares."""
  return subprocess.Popen(
    [sys.executable, files.__file__, str(folder), str(store), str(seconds)],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )


def wait_for(condition):
  """Waits for what another process does."""
  for _ in range(3000):
    if condition():
      return
    time.sleep(0.02)
  raise AssertionError('it does not come')


@pytest.mark.long
def test_kill_and_two_at_once(folder, store):
  expected = files.write_images(folder, 40)
  with start(folder, store, 0.05) as killed:
    wait_for((store / 'index-000005').exists)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
  with start(folder, store, 0.1) as other:
    wait_for(lambda: (store / 'lock').read_text(encoding='utf-8') == f'{other.pid}\n')
    said = []
    outcome = files.prepared(folder, store, say=said.append)
    assert said[0] == f'process {other.pid} is preparing images in {store}: waiting for its end'
    decoded = int(other.communicate()[0].split()[-1])
  assert 0 < decoded <= 36 and outcome.decoded == 0  # What was saved before the kill is kept.
  assert files.same(files.pixels_of(outcome.images), expected)
  assert not reading.verify(outcome.images).size


@pytest.mark.parametrize('allowed, decoded', [(0, 4), (1, 4), (2, 0), (3, 0)])
def test_ended_between_two_writes(folder, store, monkeypatch, allowed, decoded):
  """The parameters, the first index file, the index: whatever is there, the next start adds the rest."""
  expected = files.write_images(folder, 4)
  whole, done = os.replace, []

  def replace(source, target):
    if len(done) == allowed:
      raise KeyboardInterrupt
    done.append(target)
    whole(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', replace)
    try:
      files.prepared(folder, store)
    except KeyboardInterrupt:
      pass
  assert len(done) == allowed
  outcome = files.prepared(folder, store)
  assert outcome.decoded == decoded and files.same(files.pixels_of(outcome.images), expected)
  assert sorted(path.suffix for path in store.iterdir()) == ['', '', '.bin', '.json']


def test_what_nothing_refers_to_is_removed_at_the_start(folder, store):
  files.write_images(folder, 3)
  files.prepared(folder, store)
  (store / 'index').unlink()
  for path in folder.iterdir():
    path.unlink()
  files.prepared(folder, store)
  assert not list(store.glob('pixels*'))


def test_nothing_to_prepare(folder, store):
  folder.mkdir()
  outcome = files.prepared(folder, store)
  assert len(outcome.images) == 0 and outcome.decoded == 0 and not outcome.unreadable


def test_progress():
  lines, seconds = [], [0.0]
  counted = progress.Progress(2000, lines.append, interval=10, now=lambda: seconds[0])
  for _ in range(1500):
    seconds[0] += 1 / 32
    counted.step()
  counted.end()
  assert lines[0] == 'prepared 320 of 2,000 images, 32 a second, about 52 s left'
  assert len(lines) == 5 and lines[-1] == 'prepared 1,500 images in 47 s, 32 a second'


def test_progress_of_slow_images_that_come_last():
  lines, seconds = [], [0.0]
  counted = progress.Progress(338, lines.append, interval=10, now=lambda: seconds[0])
  for duration in [1 / 32] * 160:
    seconds[0] += duration
    counted.step()
  counted.slower('178 images are slow')
  for duration in [4] * 3 + [6] * 2:
    seconds[0] += duration
    counted.step()
  # Three in 12 seconds, where the fast ones do not count, and then two in 12 seconds.
  assert lines == [
    '178 images are slow',
    'prepared 163 of 338 images, 10 a second, about 12 min left',
    'prepared 165 of 338 images, 6 a second, about 17 min left',
  ]


def test_one_size(folder, store, monkeypatch):
  files.write_images(folder, 9)

  def fitted(content):
    return tf.cast(tf.image.resize(files.in_graph(content), [5, 5]), tf.uint8)

  def slowly(content):
    return fitted(content).numpy(), (1, 1, 0, 0)

  decoders = prepare.Decoders(fitted, slowly, files.claimed_pixels)
  contents = [(folder / name).read_bytes() for name in sorted(os.listdir(folder))]
  expected = np.stack([fitted(content).numpy() for content in contents])
  chosen = np.array([3, 8, 8, 0])
  for limit, gathered in ((1 << 20, 32), (200, 32), (200, 1)):  # One shard; several, in two ways.
    monkeypatch.setattr(layout, 'SHARD_BYTES', limit)
    monkeypatch.setattr(reading, '_MOST_GATHERED', gathered)
    images = files.prepared(folder, f'{store}{limit}', decoders, side=5).images
    read = tf.data.Dataset.from_tensors(chosen).map(images.reader())
    np.testing.assert_array_equal(next(iter(read)), expected[chosen])
    np.testing.assert_array_equal(images[chosen].reader()(tf.constant([1, 3], tf.int64)), expected[[8, 0]])
