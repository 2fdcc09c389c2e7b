"""Files to pixels on all cores: inside tf.data where it can, else in Python; what is huge one by one.

`work` is prepare's: paths, decoders, side and cores.
"""

import concurrent.futures
import dataclasses
import itertools
from typing import Optional

from meta_pseudo_labels.data.store import hashes
from meta_pseudo_labels.errors import one_line

import numpy as np
import tensorflow as tf

HUGE_PIXELS = 20_000_000
_HEAD, _MORE = 4096, 65536  # Bytes; most files say in the first ones how large the image is.
_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG'
_ALL_BITS = 2**64 - 1
_AT_ONCE = 64  # Files that Python looks at between two hand-overs to tf.data.
_AHEAD = 512  # Files that are known to be for tf.data before they are decoded.
_BATCH_BYTES = (
  1 << 22
)  # Of pixels that tf.data hands over at once: hand-overs cost more than small images.


@dataclasses.dataclass
class Decoded:
  """What became of a file.

  Attributes:
    position: int.
    pixels: uint8 [h, w, 3], an array or its buffer, or None.
    facts: ints [4] as layout.FACTS, or None.
    file_hash: int in [0, 2**64), the fingerprint of the file's bytes, or None if it cannot be read.
    pixel_hash: int in [0, 2**64), that of the pixels; None: not known yet.
    reason: str, why it cannot be decoded or read; '' if it can.
  """

  position: int
  pixels: Optional[object] = None
  facts: Optional[tuple] = None
  file_hash: Optional[int] = None
  pixel_hash: Optional[int] = None
  reason: str = ''


def head(path, count=_MORE):
  """Returns a file's first bytes; b'' if it cannot be read."""
  try:
    with _open(path) as file:
      return file.read(count)
  except (OSError, tf.errors.OpError):
    return b''


def _open(path):
  return tf.io.gfile.GFile(path, 'rb') if '://' in path else open(path, 'rb', buffering=0)


def _content(path):
  with _open(path) as file:
    return file.read()


def is_jpeg_or_png(start):
  """Returns whether a file that starts with these bytes is a JPEG or PNG."""
  return start.startswith((_JPEG, _PNG))


def in_graph(work, positions, stage, rest, huge):
  """Yields a `Decoded` of each file that tf.data decodes, in any order.

  Args:
    work: see above.
    positions: int64 [n], the files.
    stage: (function of a file's first bytes -> whether it is decoded here, function that decodes it, as
      `prepare.Decoders.in_graph`).
    rest: a list; the positions that are left to others are added to it, the last of them at the end.
    huge: a list; the positions of images of more than HUGE_PIXELS are added to it.
  """
  if not len(positions):
    return  # Building the graph takes as long as decoding a thousand small images.
  left = set()
  takes, decode = stage

  def sort():
    """Yields batches of positions and paths for tf.data, and puts the others where they belong."""
    for first in range(0, len(positions), _AT_ONCE):
      chosen = []
      for position in positions[first : first + _AT_ONCE].tolist():
        path = work.paths[position]
        start = head(path, _HEAD)
        if _pixels(work, path, start) > HUGE_PIXELS:
          huge.append(position)
        elif takes(start):
          chosen.append(position)
        else:
          rest.append(position)
      left.update(chosen)
      yield np.array(chosen, np.int64), np.array([_bytes(work.paths[p]) for p in chosen], object)

  signature = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)
  options = tf.data.Options()
  options.autotune.enabled = False
  options.deterministic = False
  sorted_out = tf.data.Dataset.from_generator(sort, output_signature=signature).unbatch()
  # What fails is left out here, and is among those left at the end. So is what has no pixels.
  elements = (
    sorted_out.prefetch(_AHEAD)
    .map(_element(work, decode), num_parallel_calls=work.cores)
    .ignore_errors()
    .padded_batch(_images_at_once(work.side_at_most))
    .prefetch(2)
    .with_options(options)
  )
  for pixels, numbers in elements:
    if not pixels.shape[1]:
      continue  # Without any pixels there is no buffer to look into.
    values, length = memoryview(pixels).cast('B'), pixels.shape[1]  # Not a copy.
    for row, of_image in enumerate(numbers.numpy().tolist()):
      position, file_hash, pixel_hash, height, width, *facts = of_image
      if height * width:
        left.discard(position)
        first = row * length
        image = values[first : first + height * width * 3].cast('B', (height, width, 3))
        yield Decoded(position, image, facts, file_hash & _ALL_BITS, pixel_hash & _ALL_BITS)
  rest.extend(sorted(left))


def _images_at_once(side):
  """Returns how many images tf.data hands over together: int; `side`: their shorter side, or None."""
  return 1 if side is None else max(1, min(64, _BATCH_BYTES // (4 * side * side)))


def _bytes(path):
  return path.encode('utf-8', 'surrogateescape')


def _pixels(work, path, start):
  """How many pixels a file claims; a JPEG can say so behind more than the first bytes."""
  count = work.decoders.claimed_pixels(start)
  if not count and len(start) == _HEAD:
    count = work.decoders.claimed_pixels(head(path))
  if not count and len(start) == _HEAD and start.startswith(_JPEG):
    try:
      return work.decoders.claimed_pixels(_content(path))
    except (OSError, tf.errors.OpError):
      return 0
  return count


def _element(work, decode):
  """A function (position, path) -> (flat pixels, int64 [9]).

  The numbers are the position, the fingerprints of file and pixels, height, width, the facts.
  """

  @tf.autograph.experimental.do_not_convert
  def element(position, path):
    content = tf.io.read_file(path)
    decoded = decode(content)
    pixels, facts = decoded if isinstance(decoded, tuple) else (decoded, _sizes_in_graph(content))
    pixels = tf.ensure_shape(pixels, [work.side, work.side, 3])
    flat = tf.reshape(pixels, [-1])
    found = [position, hashes.in_graph(content), hashes.in_graph(flat)]
    return flat, tf.concat([found, tf.shape(pixels, tf.int64)[:2], facts], 0)

  return element


def _sizes_in_graph(content):
  """Height and width of a JPEG or PNG, and two zeros: int64 [4]."""

  def of_png():
    sides = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 16, 8), tf.uint8), tf.int64)
    return tf.reverse(tf.reduce_sum(tf.reshape(sides, [2, 4]) * [1 << 24, 1 << 16, 1 << 8, 1], 1), [0])

  sides = tf.cond(
    tf.io.is_jpeg(content), lambda: tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.int64), of_png
  )
  return tf.pad(sides, [[0, 2]])


def in_python(work, positions, threads):
  """Yields a `Decoded` of each file, in order; no more than `2 * threads` images are held.

  Args:
    work: see above.
    positions: the files.
    threads: int, files decoded at once.
  """
  waiting, positions = [], iter(list(positions))
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    ahead = 2 * threads if threads > 1 else 1
    waiting = [pool.submit(_one, work, position) for position in itertools.islice(positions, ahead)]
    while waiting:
      yield waiting.pop(0).result()
      waiting += [pool.submit(_one, work, position) for position in itertools.islice(positions, 1)]


def _one(work, position):
  try:
    content = _content(work.paths[position])
  except (OSError, tf.errors.OpError) as error:
    return Decoded(position, reason=one_line(error))
  file_hash = int(hashes.of_strings([content])[0])
  try:
    pixels, facts = work.decoders.in_python(content)
    pixels = np.ascontiguousarray(pixels)
    wanted = (work.side or pixels.shape[0], work.side or pixels.shape[1], 3)
    if not pixels.size:
      raise ValueError('it has no pixels')
    if pixels.dtype != np.uint8 or pixels.shape != wanted:
      raise ValueError(f'it became {pixels.dtype} {list(pixels.shape)} instead of uint8 {list(wanted)}')
  except MemoryError:  # There may be more another time.
    return Decoded(position, reason='it does not fit into memory')
  except (ValueError, OSError, tf.errors.OpError) as error:
    return Decoded(position, file_hash=file_hash, reason=one_line(error))
  return Decoded(position, pixels, tuple(facts), file_hash)
