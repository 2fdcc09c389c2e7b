"""N replicas equal one: losses and weights of every method, on devices and on worker processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

from meta_pseudo_labels.distribution import devices

import numpy as np
import pytest
import replicas
import tensorflow as tf

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(name='alone', scope='module')
def fixture_alone():
  """{kind: what one replica makes}."""
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  return {kind: replicas.train(strategy, kind) for kind in replicas.KINDS}


def assert_same(found, expected):
  logs, values = found
  expected_logs, expected_values = expected
  assert set(logs) == set(expected_logs)
  for name, value in logs.items():
    np.testing.assert_allclose(value, expected_logs[name], rtol=1e-4, atol=1e-6, err_msg=name)
  assert len(values) == len(expected_values)
  for value, other in zip(values, expected_values):
    np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6)


# Four replicas sum as two do (test_parts_on_replicas.py has 'soft' on four). A step is compiled, and a
# loss scaled, in the same place for all methods. Processes have another way to sum than devices, whatever
# it is that they sum. The others are slow tests.
AT_FOUR = ('uda',)
COMPILED = ('sampled',)
IN_FLOAT16 = ('uda', 'soft')
IN_PROCESSES = ('soft',)
QUICK = ('uda', 'soft')


def slow_but(kinds):
  """Parameters: all of KINDS, those that are not among these in slow tests."""
  return [pytest.param(kind, marks=() if kind in kinds else pytest.mark.slow) for kind in replicas.KINDS]


@pytest.mark.parametrize(
  'kind, count',
  [pytest.param(kind, 2, marks=() if kind in QUICK else pytest.mark.long) for kind in replicas.KINDS]
  + [pytest.param(kind, 4, marks=() if kind in AT_FOUR else pytest.mark.slow) for kind in replicas.KINDS],
)
def test_devices_train_what_one_trains(alone, kind, count):
  strategy = devices.create_mirrored([f'CPU:{index}' for index in range(count)])
  assert_same(replicas.train(strategy, kind), alone[kind])


@pytest.mark.long
@pytest.mark.parametrize('kind', slow_but(COMPILED))
def test_a_compiled_step_trains_what_a_plain_one_trains(alone, kind, one_device):
  assert_same(replicas.train(one_device, kind, jit_compile=True), alone[kind])


@pytest.mark.parametrize('kind', slow_but(IN_FLOAT16))
def test_float16_trains_about_what_float32_trains(alone, kind, one_device):
  """With loss scaling, whose first factor is none too large here."""
  tf.keras.mixed_precision.set_global_policy('mixed_float16')
  try:
    logs, values = replicas.train(one_device, kind, use_float16=True)
  finally:
    tf.keras.mixed_precision.set_global_policy('float32')
  assert logs['skipped_steps'].max() == 0
  expected, expected_values = alone[kind]
  for name in logs:
    if 'cross_entropy' in name or 'grad_norm' in name:
      np.testing.assert_allclose(logs[name], expected[name], rtol=0.03, atol=1e-3, err_msg=name)
  assert all(value.dtype == np.float32 for value in values)
  start = [v.numpy() for v in replicas.model(1).variables]  # The student's, which come first.
  distance = lambda one, other: np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(one, other)))
  assert distance(values, expected_values) < 0.1 * distance(start, expected_values)


def test_the_comparison_is_about_something(alone):
  """The gradient is clipped, the student moves, and the feedbacks differ."""
  for kind, (logs, _) in alone.items():
    norm = logs['grad_norm/student' if kind in replicas.FEEDBACKS else 'loss/grad_norm']
    assert (norm > 0.1).any(), kind
    assert all(np.isfinite(value).all() for value in logs.values()), kind
  weights = {kind: values[0] for kind, (_, values) in alone.items()}
  for kind, other in (('soft', 'release'), ('sampled', 'sampled_dot'), ('soft', 'argmax')):
    assert np.abs(weights[kind] - weights[other]).max() > 1e-4


def free_ports(count):
  """Ports of localhost that nobody listens at."""
  sockets = [socket.socket() for _ in range(count)]
  for one in sockets:
    one.bind(('localhost', 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports


def start_workers(command, count=2):
  """Processes that run a command as workers of one cluster on this machine, the chief first."""
  cluster = {'worker': [f'localhost:{port}' for port in free_ports(count)]}
  return [
    start(command, json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': index}}))
    for index in range(count)
  ]


def start(command, cluster):
  """A process that runs a command with this TF_CONFIG."""
  process = subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=CHECKOUT,
    env={**os.environ, 'TF_CONFIG': cluster},
  )
  process.cluster = cluster
  return process


def start_again(process):
  """One of `start_workers`' processes, from its beginning."""
  return start(process.args, process.cluster)


@pytest.mark.long
@pytest.mark.parametrize(
  'kinds', [IN_PROCESSES, pytest.param(replicas.KINDS, marks=pytest.mark.slow)], ids=['some', 'all']
)
def test_worker_processes_train_what_one_trains(alone, tmp_path, kinds):
  path = tmp_path / 'workers.npz'
  processes = start_workers([sys.executable, 'tests/distribution/replicas.py', str(path), *kinds])
  outputs = [process.communicate(timeout=900)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  with np.load(path) as arrays:
    for kind in kinds:
      logs, values = alone[kind]
      found = (
        {name: arrays[f'{kind} log {name}'] for name in logs},
        [arrays[f'{kind} variable {number}'] for number in range(len(values))],
      )
      assert_same(found, (logs, values))
