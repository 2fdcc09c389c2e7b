"""Where the time of a call goes, by kind of operation: TensorFlow's profiler, added up."""

import collections
import pathlib
import re
import tempfile
import time

# Kind: the types of the operations of it. XLA's loops are known by the executor's wait for them.
KINDS = (
  ('convolutions', re.compile('Conv2D')),
  ('products', re.compile('MatMul')),
  ('batch norm', re.compile('FusedBatchNorm')),
  ('activations', re.compile('LeakyRelu|Sigmoid')),
  ('XLA', re.compile('^Start$')),
  ('sums', re.compile('^(AddV2|AddN)$')),
)
REST = 'the rest'


def by_kind(function, calls=3):
  """{kind: seconds a call}, the largest first; `REST` is the wall clock's difference to their sum.

  Args:
    function: makes the operations and waits for them. Operations that run at the same time are counted
      each with its whole time: with one inter-op thread they take turns.
    calls: int.
  """
  # Here, since setting the threads has to come before TensorFlow is started.
  import tensorflow as tf

  with tempfile.TemporaryDirectory() as folder:
    with tf.profiler.experimental.Profile(folder):
      began = time.perf_counter()
      for _ in range(calls):
        function()
      wall = (time.perf_counter() - began) / calls
    seconds = collections.Counter()
    for operation, total in _seconds(folder).items():
      kind = next((name for name, types in KINDS if types.search(operation)), None)
      if kind:
        seconds[kind] += total / calls
  seconds[REST] = wall - sum(seconds.values())
  return dict(seconds.most_common())


def _seconds(folder):
  """{operation's type: seconds} of the profile in a folder."""
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  space, (path,) = xplane_pb2.XSpace(), pathlib.Path(folder).glob('**/*.xplane.pb')
  space.ParseFromString(path.read_bytes())
  seconds = collections.Counter()
  for plane in space.planes:
    for event in (event for line in plane.lines for event in line.events):
      # `a/name:Type#details#`.
      name = plane.event_metadata[event.metadata_id].name.split('#')[0]
      if ':' in name:
        seconds[name.split(':')[-1]] += event.duration_ps / 1e12
  return seconds
