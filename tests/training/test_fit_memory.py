"""Memory that is short: what is chosen for a run and stays with it, and a step that ran out of it."""

import json
import types

from meta_pseudo_labels import build, main
from meta_pseudo_labels.build import memory
from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training import device_loop, fit_memory

import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny


def run(folder, *flags):
  """The exit status of six steps, of which each third is saved; eight unlabeled examples a step."""
  return main.run(tiny(folder, '--mpl_feedback=soft', '--log_every=1', *flags))


def settings(folder):
  found = json.loads((folder / 'hparams.json').read_text())
  return found['micro_batches'], found['remat']


def weights(folder):
  """{name: array} of the newest checkpoint, without the clock and what knows of its folder."""
  reader = tf.train.load_checkpoint(str(folder / 'ckpt_last' / 'ckpt-6'))
  names = [name for name in reader.get_variable_to_shape_map() if name.startswith('train/')]
  return {name: reader.get_tensor(name) for name in names}


def metrics(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(name='short_of_memory')
def fixture_short_of_memory(monkeypatch):
  """A list of steps (of one loop each): after each of them the next time, memory has run out."""
  at, real = [], device_loop.compiled

  def compiled(strategy, method, jit_compile):
    loop = real(strategy, method, jit_compile)

    def step(iterator, count, most_skipped):
      logs = loop(iterator, tf.ones_like(count), most_skipped)
      if at and method.steps_made == at[0]:
        del at[0]
        raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor with shape[8]')
      return logs

    return step

  monkeypatch.setattr(device_loop, 'compiled', compiled)
  return at


def test_out_of_memory_goes_on_from_the_checkpoint_in_parts(tmp_path, capsys, short_of_memory):
  """Nothing mixes the examples here, so parts compute what the whole batch computes."""
  assert run(tmp_path / 'whole') == 0
  short_of_memory[:] = [5]  # The step has been made when the error comes: it does not count.
  capsys.readouterr()
  assert run(tmp_path / 'short') == 0
  lines = [line for line in capsys.readouterr().out.splitlines() if 'out of memory' in line]
  assert lines == [
    'out of memory (OOM when allocating tensor with shape[8]): going on from '
    f'{tmp_path}/short/ckpt_last/ckpt-3 with --micro_batches=2'
  ]
  assert settings(tmp_path / 'whole') == (1, False) and settings(tmp_path / 'short') == (2, False)
  expected, found = weights(tmp_path / 'whole'), weights(tmp_path / 'short')
  assert expected.keys() == found.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
  steps = [(line['kind'], line['step']) for line in metrics(tmp_path / 'short')]
  assert steps == [(line['kind'], line['step']) for line in metrics(tmp_path / 'whole')]


def test_without_a_checkpoint_it_starts_again(tmp_path, capsys, short_of_memory):
  assert run(tmp_path / 'parts', '--micro_batches=2') == 0
  short_of_memory[:] = [2]
  assert run(tmp_path / 'short') == 0
  assert 'going on from the start with --micro_batches=2' in capsys.readouterr().out
  expected, found = weights(tmp_path / 'parts'), weights(tmp_path / 'short')
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  assert metrics(tmp_path / 'parts') == metrics(tmp_path / 'short')


def test_the_second_time_is_one_line_and_the_same_command_tries_half_again(
  tmp_path, capsys, short_of_memory
):
  short_of_memory[:] = [4, 5]
  assert run(tmp_path) == 2
  error = capsys.readouterr().err
  assert error == (
    'error: --micro_batches=2: out of memory (OOM when allocating tensor with shape[8]); give '
    '--micro_batches=4 with another --output_dir, or a smaller --train_batch_size, --uda_data or '
    '--model_type\n'
  )
  assert settings(tmp_path) == (2, False)
  short_of_memory[:] = [4]
  assert run(tmp_path) == 0
  said = capsys.readouterr().out
  assert 'goes on as it began: --micro_batches=2' in said and 'with --micro_batches=4' in said


def test_flags_that_are_given_stand(tmp_path, capsys, short_of_memory):
  short_of_memory[:] = [4]
  assert run(tmp_path, '--micro_batches=1', '--noremat') == 2
  assert 'give --micro_batches=2 with another --output_dir' in capsys.readouterr().err
  assert settings(tmp_path) == (1, False)


@pytest.fixture(name='settled')
def fixture_settled(tmp_path, one_device):
  """A function of a Config's changes to ((micro_batches, remat), the lines said) of a run that starts."""
  base = Config(dataset_name='digits_40_uda', model_type='wrn-10-1', image_size=8, train_batch_size=4)
  problem, student = build.problem(base), build.model(base, 0, (8, 8, 1), 10)

  def settle(**changes):
    said, config = [], base.replace(output_dir=str(tmp_path), **changes)
    run_folder.prepare_folder(config)
    found = fit_memory.Settle(problem, one_device, said.append)(config, None, student)
    assert settings(tmp_path) == (found.micro_batches, found.remat)
    return (found.micro_batches, found.remat), said

  size = memory.measure(student)
  settle.needed = lambda **changes: memory.needed_bytes(base.replace(**changes), None, size)
  return settle


def test_what_was_chosen_stays_with_the_run(settled, tmp_path):
  just = settled.needed(remat=True) / 1e9 + 1e-9
  chosen, (line,) = settled(memory=just)
  assert chosen == (1, True) and line.startswith('by estimate a run takes ') and ', so --remat: ' in line
  # There is more now, or less, and the run goes on as it began.
  for memory_now in (9.0, 1e-9):
    assert settled(memory=memory_now) == ((1, True), ['goes on as it began: --remat'])
  # What changes nothing may be given anew.
  assert settled(remat=False) == ((1, False), [])
  with pytest.raises(UserError, match='micro_batch_count 1 -> 2'):
    settled(micro_batches=2)


def test_the_free_memory_of_the_device_counts_where_none_is_given(settled, monkeypatch):
  monkeypatch.setattr(devices, 'find_usable_memory', lambda strategy: settled.needed(remat=True) + 1)
  assert settled()[0] == (1, True)


def test_nothing_is_said_where_all_fits(settled):
  assert settled() == ((1, False), []) and settled() == ((1, False), [])


def test_a_run_of_an_earlier_version_goes_on_whole(tmp_path, monkeypatch):
  assert run(tmp_path) == 0
  expected, path = weights(tmp_path), tmp_path / 'hparams.json'
  values = json.loads(path.read_text())
  for name in ('memory', 'micro_batches', 'remat'):
    del values[name]
  path.write_text(json.dumps(values))
  for file in (tmp_path / 'ckpt_last').glob('ckpt-6*'):
    file.unlink()
  (tmp_path / 'ckpt_last' / 'checkpoint').write_text('all_model_checkpoint_paths: "ckpt-3"\n')
  monkeypatch.setattr(devices, 'find_usable_memory', lambda strategy: 1.0)
  assert run(tmp_path) == 0
  assert settings(tmp_path) == (1, False)
  found = weights(tmp_path)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_too_little_memory_is_refused_and_can_be_corrected(settled):
  with pytest.raises(UserError, match='^--memory=1e-08: a run takes at least 0.00'):
    settled(memory=1e-8)
  # Nothing has been trained, so this is no other run.
  assert settled(micro_batches=4) == ((4, False), [])


def test_the_memory_of_a_machine_and_of_gpus(monkeypatch, one_device):
  class Strategy:
    def __init__(self, *names):
      self.extended = types.SimpleNamespace(worker_devices=names)

  free = devices.find_usable_memory(one_device)
  assert free is None or 1e6 < free < 1e15
  two = devices.find_usable_memory(Strategy('/device:CPU:0', '/device:CPU:1'))
  assert two is None or two == pytest.approx(free / 2, rel=0.5)
  listed = [
    types.SimpleNamespace(device_type=kind, memory_limit=limit)
    for kind, limit in (('CPU', 1), ('GPU', 40e9), ('GPU', 20e9))
  ]
  monkeypatch.setattr(devices.device_lib, 'list_local_devices', lambda: listed)
  assert devices.find_usable_memory(Strategy('/device:GPU:0', '/device:GPU:1')) == 18e9
  assert devices.find_usable_memory(Strategy('/device:TPU:0')) is None
