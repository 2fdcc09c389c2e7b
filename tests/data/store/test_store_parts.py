"""The store's parts: listing, fingerprints and duplicates, mapped shards, a large index."""

import os
import time

from meta_pseudo_labels.data.store import hashes, layout, listing, reading
from meta_pseudo_labels.data.store import store as stores
from meta_pseudo_labels.errors import UserError

import files_for_store as files
import numpy as np
import pytest
import tensorflow as tf


def test_listing(tmp_path):
  for name, content in (
    ('b/2.JPG', 'abc'),
    ('a.png', ''),
    ('b/1.jpg', 'x'),
    ('b.txt', ''),
    ('.x.jpg', ''),
    ('.h/1.jpg', ''),
    ('b/c/d/3.jpg', 'xy'),
    ('b/c/.h/3.jpg', ''),
  ):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    os.utime(tmp_path / name, ns=(0, 123456789123 + len(content)))
  (tmp_path / 'b/loop').symlink_to('..')
  (tmp_path / 'link').symlink_to('b/c')
  found = listing.listing(str(tmp_path), ('.jpg', '.png'))
  assert found.names == ['a.png', 'b/1.jpg', 'b/2.JPG', 'b/c/d/3.jpg', 'link/d/3.jpg']
  assert found.sizes.tolist() == [0, 1, 3, 2, 2] and found.ignored == 1 and len(found) == 5
  assert found.mtimes_ns.tolist() == [123456789123 + size for size in (0, 1, 3, 2, 2)]


def test_remote_listing_agrees(tmp_path):
  files.write_images(tmp_path / 'images', 3)
  files.write_images(tmp_path / 'images' / 'more', 3)
  files.write_images(tmp_path / 'images' / '.hidden', 1)
  local = listing.listing(str(tmp_path / 'images'))
  remote = listing.listing(f'file://{tmp_path}/images')
  assert remote.names == local.names and remote.sizes.tolist() == local.sizes.tolist()


def test_folder_that_cannot_be_listed(tmp_path):
  with pytest.raises(UserError, match='cannot list'):
    listing.listing(str(tmp_path / 'nothing'))


def test_names_of_any_bytes(tmp_path):
  folder = tmp_path / 'images'
  expected = files.write_images(folder, 2)
  os.rename(folder / '0000.png', os.fsencode(str(folder)) + b'/0000\xff.png')
  outcome = files.prepared(folder, tmp_path / 'store')
  assert not outcome.unreadable
  found = files.pixels_of(outcome.images)
  np.testing.assert_array_equal(found['0000\udcff.png'], expected['0000.png'])


def test_fingerprints():
  names = ['a', b'a', 'ä', 'b']
  found = hashes.of_strings(names)
  assert found.dtype == np.uint64 and found[0] == found[1] and len(set(found.tolist())) == 3
  assert int(hashes.in_graph(tf.constant('b'))) & (2**64 - 1) == found[3]
  assert found[0] == 12917804110809363939  # It must be the same in all versions.


def test_fingerprints_of_pixels():
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  seen = {hashes.of_pixels(image)}
  for place in range(image.size):
    changed = image.copy()
    changed.flat[place] ^= 1
    seen.add(hashes.of_pixels(changed))
  assert len(seen) == 1 + image.size


def test_duplicates():
  values = np.array([5, 7, 5, 9, 7, 5, 1], np.uint64)
  groups = np.array([0, 0, 0, 1, 1, 2, 2])
  assert hashes.duplicates(values).tolist() == [[0, 2], [1, 4], [0, 5]]
  assert hashes.duplicates(values, groups).tolist() == [[1, 4], [0, 5]]
  assert hashes.duplicates(values[:2]).shape == hashes.duplicates([]).shape == (0, 2)


def test_duplicates_between_files(tmp_path):
  folder = tmp_path / 'images'
  files.write_images(folder, 1, suffixes=('png',))
  files.write_images(folder, 1, suffixes=('bmp',))  # The same picture in another file.
  (folder / 'z.png').write_bytes((folder / '0000.png').read_bytes())
  entries = files.prepared(folder, tmp_path / 'store').images.entries  # bmp, png, png.
  assert hashes.duplicates(entries['file_hash']).tolist() == [[1, 2]]
  assert hashes.duplicates(entries['pixel_hash']).tolist() == [[0, 1], [0, 2]]


def resident():
  """MB of memory that is not files."""
  with open('/proc/self/status', encoding='ascii') as file:
    return next(int(line.split()[1]) for line in file if line.startswith('RssAnon')) / 1000


def test_large_shard_is_not_copied(tmp_path):
  place = 5 << 30  # Beyond 32 bits.
  path = layout.shard_path(str(tmp_path), 0)
  with open(path, 'wb') as file:
    file.seek(layout.HEADER + place)
    file.write(bytes(range(192)))
  entries = np.zeros(40, layout.ENTRY)
  entries['height'], entries['width'] = 8, 8
  entries['offset'][3] = place
  next(iter(tf.data.Dataset.range(2).map(lambda i: i + 1, num_parallel_calls=2)))
  before = resident()
  images = reading.opened(str(tmp_path), entries, ['x'] * 40)
  read = images.reader()
  found = list(tf.data.Dataset.range(40).map(read, num_parallel_calls=2).prefetch(2))
  assert found[3].numpy().reshape(-1).tolist() == list(range(192)) and not found[2].numpy().any()
  graph = tf.function(read).get_concrete_function(tf.TensorSpec([], tf.int64)).graph
  assert graph.as_graph_def().ByteSize() < 10000
  assert resident() - before < 100


def test_joined_and_chosen(tmp_path):
  expected = files.write_images(tmp_path / 'one', 4)
  one = files.prepared(tmp_path / 'one', tmp_path / 'store1').images
  more = files.write_images(tmp_path / 'two', 3, first=10)
  two = files.prepared(tmp_path / 'two', tmp_path / 'store2').images
  both = one[np.array([2, 0])].joined(two).joined(one[1:2])
  assert len(both) == 6 and both.name(5) == '0001.jpg'
  names = ['0002.bmp', '0000.png', *more, '0001.jpg']
  assert files.same(files.pixels_of(both), {name: {**expected, **more}[name] for name in names})


def test_index_reads_back_reasons(tmp_path):
  entries = np.zeros(2, layout.ENTRY)
  entries['key'] = [2**64 - 1, 3]
  layout.write_index(str(tmp_path / 'index'), entries, ['one', 'tw\udcffo'])
  found, reasons = layout.read_index(str(tmp_path / 'index'))
  np.testing.assert_array_equal(found, entries)
  assert reasons == ['one', 'tw\udcffo']


@pytest.mark.slow
def test_a_million_names(tmp_path):
  count = 1_000_000
  names = [f'unlabeled/{number // 1000:04d}/{number:07d}.jpg' for number in range(count)]
  start = time.monotonic()
  keys = hashes.of_strings(names)
  assert len(np.unique(keys)) == count
  entries = np.zeros(count, layout.ENTRY)
  entries['key'], entries['shard'], entries['size'] = keys, -1, np.arange(count)
  layout.write_index(layout.index_path(str(tmp_path), 0), entries[::-1], ['no image'])
  store = stores.Store(str(tmp_path), {}, pytest.fail)
  found = store.find(keys, np.arange(count), np.zeros(count, np.int64))
  np.testing.assert_array_equal(store.entries['key'][found], keys)
  sizes = np.arange(count)
  sizes[7] += 1
  assert np.flatnonzero(store.find(keys, sizes, np.zeros(count, np.int64)) < 0).tolist() == [7]
  assert time.monotonic() - start < 30
