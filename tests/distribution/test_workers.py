"""Two worker processes on this machine: one folder, one killed, one signalled, bad requests."""

import json
import os
import signal
import sys
import time

from meta_pseudo_labels import main
from meta_pseudo_labels.distribution import workers
from meta_pseudo_labels.errors import UserError

import numpy as np
import pytest
import tensorflow as tf
from test_replicas import start_again, start_workers
from tiny import quick_path

STEPS, SAVE_EVERY = 240, 40
FLAGS = [
  '--dataset_name=two_moons_6_mpl',
  '--label_seed=1',
  '--model_type=mlp-8x1',
  '--mpl_feedback=soft',
  '--train_batch_size=4',
  '--uda_data=2',
  f'--num_train_steps={STEPS}',
  f'--save_every={SAVE_EVERY}',
  f'--log_every={SAVE_EVERY // 2}',
  '--eval_batch_size=1000',
  '--mpl_student_lr=1',
  '--mpl_teacher_lr=1',
  '--mpl_student_lr_wait_steps=0',
  '--mpl_student_lr_warmup_steps=0',
  '--mpl_teacher_lr_warmup_steps=0',
  f'--uda_steps={SAVE_EVERY}',
]


@pytest.fixture(autouse=True)
def fixture_quick_processes(monkeypatch):
  monkeypatch.setenv('PYTHONPATH', quick_path())


def command(folder, *flags):
  return [sys.executable, '-m', 'meta_pseudo_labels.main', f'--output_dir={folder}', *FLAGS, *flags]


def wait_for_a_checkpoint(folder, processes):
  while not os.path.exists(folder / 'ckpt_last' / 'checkpoint'):
    assert all(process.poll() is None for process in processes)
    time.sleep(0.1)


def finish(processes):
  """(their exit statuses, what they printed)."""
  outputs = [process.communicate(timeout=600)[0] for process in processes]
  return [process.returncode for process in processes], outputs


def weights(folder):
  """{name in the newest checkpoint: value} of what was trained."""
  reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(folder / 'ckpt_last')))
  return {
    name: reader.get_tensor(name)
    for name, dtype in (reader.get_variable_to_dtype_map().items())
    if dtype == tf.float32 and not name.startswith('seconds')
  }


@pytest.mark.long
def test_two_workers_stopped_and_killed_train_what_two_devices_train(tmp_path):
  """A signal to one stops both; one is killed and started again; the other one starts itself."""
  folder = tmp_path / 'run'
  processes = start_workers(command(folder))
  wait_for_a_checkpoint(folder, processes)
  processes[1].send_signal(signal.SIGTERM)
  statuses, outputs = finish(processes)
  assert statuses == [143, 143], outputs
  assert 'the same command continues from here' in outputs[0]
  assert 'worker 1 of 2' in outputs[1] and 'train step' not in outputs[1]

  before = tf.train.latest_checkpoint(str(folder / 'ckpt_last'))
  processes = start_workers(command(folder))
  while tf.train.latest_checkpoint(str(folder / 'ckpt_last')) == before:
    assert all(process.poll() is None for process in processes)
    time.sleep(0.1)
  processes[1].kill()
  processes[1].communicate()
  processes[1] = start_again(processes[1])
  statuses, outputs = finish(processes)
  assert statuses == [0, 0], outputs
  assert 'restarting from the newest checkpoint' in outputs[0]

  steps = [
    json.loads(line)['step']
    for line in (folder / 'metrics.jsonl').read_text().splitlines()
    if json.loads(line)['kind'] == 'train'
  ]
  assert steps == list(range(SAVE_EVERY // 2, STEPS + 1, SAVE_EVERY // 2))
  assert json.loads((folder / 'table.json').read_text())[-1]['steps'] == STEPS

  alone = tmp_path / 'devices'
  assert main.run(['main', f'--output_dir={alone}', *FLAGS, '--strategy=mirrored']) == 0
  expected = weights(alone)
  for name, value in weights(folder).items():
    np.testing.assert_allclose(value, expected[name], rtol=2e-2, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_two_workers_select_finetune_go_on_and_report(tmp_path):
  """Images, batch norm, a baseline, a selection, a finetune; then the finished run again."""
  flags = [
    '--dataset_name=digits_40_mpl',
    '--model_type=wrn-10-1',
    '--image_size=8',
    '--num_validation=100',
    '--select=validation',
    '--finetune_steps=2',
    '--finetune_batch_size=4',
    '--baselines=supervised',
    '--num_train_steps=2',
    '--save_every=2',
    '--eval_batch_size=250',
  ]
  printed = []
  for more in ([], [], ['--task_mode=eval']):
    statuses, outputs = finish(start_workers(command(tmp_path, *flags, *more)))
    assert statuses == [0, 0], outputs
    printed.append(outputs[0])
  rows = [
    [line for line in text.splitlines() if line.startswith(('MPL', 'supervised'))] for text in printed
  ]
  assert rows[0] == rows[1] and len(rows[0]) >= 2, printed
  for name in ('report.html', 'eval_test.json', 'results.json', 'baselines/supervised/ckpt_last'):
    assert (tmp_path / name).exists()


def test_a_bad_request_is_one_line_of_the_chief_and_ends_both(tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  statuses, outputs = finish(start_workers(command(tmp_path, '--reset_output_dir')))
  assert statuses == [2, 2], outputs
  assert 'this program did not make it' in outputs[0]
  assert 'error: another worker failed' in outputs[1]
  assert sorted(os.listdir(tmp_path)) == ['.lock', 'thesis.tex']


@pytest.mark.parametrize(
  'value, words',
  [
    ('{"cluster": ', 'give JSON'),
    ('[]', 'give JSON'),
    ('', 'names no workers'),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 7}}', 'rejects'),
  ],
)
def test_a_bad_cluster_is_one_line(tmp_path, capsys, monkeypatch, value, words):
  monkeypatch.setenv('TF_CONFIG', value)
  assert main.run(command(tmp_path, '--strategy=multi_worker')[2:]) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().splitlines()) == 1


def test_parts_of_a_cpu_are_refused_to_several_workers(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv(
    'TF_CONFIG',
    json.dumps({'cluster': {'worker': ['a:1', 'b:1']}, 'task': {'type': 'worker', 'index': 0}}),
  )
  assert main.run(command(tmp_path, '--num_virtual_devices=4')[2:]) == 2
  assert capsys.readouterr().err.startswith(
    'error: --num_virtual_devices=4: not possible with several workers'
  )


def test_one_process_is_the_chief_and_writes_where_it_is_told(one_device, tmp_path):
  assert workers.index_and_count(one_device) == (0, 1)
  assert workers.is_chief(None) and workers.from_chief(one_device, 7) == 7
  with workers.folder(one_device, str(tmp_path)) as place:
    assert place == str(tmp_path) == workers.path_in_run_folder(place)
  with pytest.raises(UserError, match='no'):
    workers.run_on_chief(one_device, lambda: (_ for _ in ()).throw(UserError('no')))


def test_a_worker_s_own_folder_stands_for_the_run_s(monkeypatch, tmp_path):
  monkeypatch.setattr(workers, 'index_and_count', lambda strategy: (1, 2))
  with workers.folder(None, str(tmp_path)) as own:
    assert own != str(tmp_path)
    assert workers.path_in_run_folder(own) == str(tmp_path)
    assert workers.path_in_run_folder(os.path.join(own, 'baselines', 'uda')) == str(
      tmp_path / 'baselines' / 'uda'
    )
  assert not os.path.exists(own)
