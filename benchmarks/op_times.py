"""Measures the time of a call by kind of operation, with TensorFlow's profiler."""

import collections
import pathlib
import re
import tempfile
import time

# (kind, pattern of the operations' types). XLA's loops appear as the executor's wait for them.
KINDS = (
  ('convolutions', re.compile('Conv2D')),
  ('products', re.compile('MatMul')),
  ('batch norm', re.compile('FusedBatchNorm')),
  ('activations', re.compile('LeakyRelu|Sigmoid')),
  ('XLA', re.compile('^Start$')),
  ('sums', re.compile('^(AddV2|AddN)$')),
)
REST = 'the rest'


def measure_by_kind(function, calls=3):
  """Measures {kind: seconds per call}, the largest first.

  `REST` is the wall clock's difference to the sum of the others.

  Args:
    function: runs the operations and waits for them. If operations run in parallel, each counts with its
      full time. With one inter-op thread they take turns.
    calls: int.
  """
  # Imported here, since the threads must be set before TensorFlow starts.
  import tensorflow as tf

  with tempfile.TemporaryDirectory() as folder:
    with tf.profiler.experimental.Profile(folder):
      began = time.perf_counter()
      for _ in range(calls):
        function()
      wall = (time.perf_counter() - began) / calls
    seconds = collections.Counter()
    for operation, total in _read_seconds(folder).items():
      kind = next((name for name, types in KINDS if types.search(operation)), None)
      if kind:
        seconds[kind] += total / calls
  seconds[REST] = wall - sum(seconds.values())
  return dict(seconds.most_common())


def _read_seconds(folder):
  """Reads {operation's type: seconds} from the profile in a folder."""
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  space, (path,) = xplane_pb2.XSpace(), pathlib.Path(folder).glob('**/*.xplane.pb')
  space.ParseFromString(path.read_bytes())
  seconds = collections.Counter()
  for plane in space.planes:
    for event in (event for line in plane.lines for event in line.events):
      # The format is `a/name:Type#details#`.
      name = plane.event_metadata[event.metadata_id].name.split('#')[0]
      if ':' in name:
        seconds[name.split(':')[-1]] += event.duration_ps / 1e12
  return seconds
