"""Runs from end to end: every method through `main`, going on, stopping, evaluating, refusing."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.data import semi_supervised
from meta_pseudo_labels.training import evaluate, interrupts, logs
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


def configure(argv):
  config = parse(argv)
  validate(config)
  return config


def metrics(folder):
  with open(os.path.join(folder, 'metrics.jsonl'), encoding='utf-8') as file:
    return [json.loads(line) for line in file]


@pytest.mark.parametrize(
  'method, logged',
  [
    ('supervised', 'loss/cross_entropy'),
    ('pseudo_labels', 'pseudo_labels/loss'),
    ('uda', 'uda/u_ratio'),
    ('mpl', 'mpl/dot_product'),
  ],
)
def test_main_trains_with_every_method(tmp_path, capsys, method, logged):
  assert main.run(tiny(tmp_path, f'--method={method}', '--mpl_feedback=soft')) == 0
  printed = capsys.readouterr().out
  assert '6 labeled' in printed and 'test accuracy' in printed
  names = os.listdir(tmp_path)
  for name in (
    'hparams.json',
    'ckpt_last',
    'ckpt_best',
    'logs',
    'metrics.jsonl',
    'results.json',
    'labeled_split.json',
    'table.json',
  ):
    assert name in names
  lines = metrics(tmp_path)
  trained = [line for line in lines if line['kind'] == 'train' and line['phase'] == 'train']
  assert [line['step'] for line in trained] == [2, 4, 6]
  assert logged in trained[0]
  assert trained[-1]['global_step'] == 6
  assert [line['step'] for line in lines if line['kind'] == 'eval' and line['phase'] == 'train'] == [3, 6]
  events = [name for _, _, names in os.walk(tmp_path / 'logs') for name in names]
  assert any('tfevents' in name for name in events)


def test_main_trains_images_with_augmentation_baselines_and_finetune(tmp_path, capsys):
  flags = [
    '--image_size=8',
    '--mpl_feedback=sampled',
    '--num_train_steps=2',
    '--finetune_steps=2',
    '--finetune_batch_size=8',
    '--finetune_lr=0.01',
    '--baselines=supervised,label_spreading',
  ]
  assert main.run(tiny(tmp_path, *flags, '--dataset_name=digits_40_mpl')) == 0
  printed = capsys.readouterr().out
  for row in (
    'supervised',
    'LabelSpreading',
    'MPL teacher',
    'MPL student before finetune',
    'MPL student ',
  ):
    assert f'\n{row}' in printed
  table = {row['name']: row for row in json.loads((tmp_path / 'table.json').read_text())}
  # Fixed data, a deterministic method of scikit-learn: about what it is known for.
  assert 0.8 < table['LabelSpreading']['accuracy'] < 0.99
  assert table['MPL student']['steps'] == 4
  assert table['MPL teacher']['steps'] == table['MPL student before finetune']['steps'] == 2
  # A second call finds everything done, and says the same.
  assert main.run(tiny(tmp_path, *flags, '--dataset_name=digits_40_mpl')) == 0
  again = {row['name']: row for row in json.loads((tmp_path / 'table.json').read_text())}
  assert again['MPL student'] == table['MPL student']


def test_several_seeds_and_a_picture(tmp_path, capsys):
  flags = ['--mpl_feedback=soft', '--num_seeds=2', '--baselines=mpl_without_uda']
  assert main.run(tiny(tmp_path, *flags)) == 0
  table = json.loads((tmp_path / 'table.json').read_text())
  assert [row['name'] for row in table] == [
    'MPL without UDA teacher',
    'MPL without UDA student',
    'MPL teacher',
    'MPL student',
  ]
  split = lambda folder: json.loads((folder / 'labeled_split.json').read_text())['labeled']
  assert split(tmp_path) != split(tmp_path / 'seed_1')
  for index, folder in enumerate((tmp_path, tmp_path / 'seed_1')):
    results = json.loads((folder / 'results.json').read_text())
    accuracy = results['phases']['train']['student']['top1']
    assert table[-1]['accuracies'][index] == accuracy
    hparams = json.loads((folder / 'baselines' / 'mpl_without_uda' / 'hparams.json').read_text())
    assert (hparams['uda_weight'], hparams['seed']) == (0, index)
  mean = np.mean(table[-1]['accuracies'])
  assert table[-1]['accuracy'] == mean
  printed = capsys.readouterr().out
  assert f'{100 * mean:.2f}% +- ' in printed and 'decision_regions.png' in printed
  picture = tf.io.decode_png((tmp_path / 'decision_regions.png').read_bytes()).numpy()
  # Two panels side by side, and both classes' colours in each.
  left, right = np.split(picture[100:250, :660, :3].astype(int), 2, axis=1)
  for panel in (left, right):
    assert (panel[..., 2] - panel[..., 0] > 30).any() and (panel[..., 0] - panel[..., 2] > 30).any()


def weights(run):
  return [v.numpy() for phase in run.phases for v in phase.method.variables]


def make_run(config, one_device):
  os.makedirs(config.output_dir, exist_ok=True)
  return Run(config, build.problem(config), one_device, logs.Progress())


@pytest.mark.parametrize(
  'flags, least',
  [
    (
      [
        '--mpl_feedback=sampled',
        '--finetune_steps=3',
        '--dense_dropout_rate=0.5',
        '--finetune_batch_size=4',
      ],
      3,
    ),
    pytest.param(['--method=pseudo_labels', '--save_every=2'], 2, marks=pytest.mark.long),
  ],
)
def test_a_run_that_goes_on_equals_one_that_was_not_stopped(tmp_path, one_device, flags, least):
  """Stopped in the middle of each phase, at a checkpoint and before one."""
  flags = [*flags, '--num_train_steps=4']
  whole = configure(tiny(tmp_path / 'whole', *flags))
  expected_run = make_run(whole, one_device)
  expected = expected_run.train()
  parts = configure(tiny(tmp_path / 'parts', *flags))
  stops = 0
  while True:
    run = make_run(parts, one_device)
    stopper = StopAfterEachLoop(run)
    try:
      found = run.train()
      break
    except interrupts.Interrupted:
      stops += 1
      assert stopper.used
  assert stops >= least
  for value, other in zip(weights(run), weights(expected_run)):
    np.testing.assert_array_equal(value, other)
  assert found['phases'] == expected['phases']
  assert metrics(tmp_path / 'parts') == metrics(tmp_path / 'whole')


class StopAfterEachLoop:
  """Sends the process SIGINT after the first loop of a run that ends within a phase."""

  def __init__(self, run):
    self.used = False
    self._log = run._log
    run._log = self.log

  def log(self, phase, steps, *args):
    self._log(phase, steps, *args)
    if not self.used and steps.step < phase.num_steps:
      self.used = True
      os.kill(os.getpid(), signal.SIGINT)


def test_a_folder_with_another_run_is_refused(tmp_path, capsys):
  supervised = tiny(tmp_path, '--method=supervised', '--num_train_steps=2')
  assert main.run(supervised) == 0
  assert main.run([*supervised, '--weight_decay=0.1', '--num_labeled=8']) == 2
  error = capsys.readouterr().err
  assert 'labeled_count 6 -> 8' in error and 'weight_decay 0.0001 -> 0.1' in error
  assert main.run([*supervised, '--weight_decay=0.1', '--reset_output_dir']) == 0


def test_a_folder_that_is_not_ours_is_not_emptied(tmp_path, capsys):
  (tmp_path / 'thesis.tex').write_text('years of work')
  assert main.run(tiny(tmp_path, '--reset_output_dir')) == 2
  assert 'this program did not make it' in capsys.readouterr().err
  assert (tmp_path / 'thesis.tex').exists()


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--no_such_flag=1'], 'no_such_flag'),
    (['--uda_temp=0'], '--uda_temp=0'),
    (['--dataset_name=cifra10_4000_mpl'], "did you mean 'cifar10'"),
    (['--dataset_name=digits_5000_mpl'], '5000'),
    (['--flagfile=/no/such/file'], '/no/such/file'),
    (['--output_dir=/proc/nothing/here'], '--output_dir=/proc/nothing/here'),
    (
      ['--strategy=mirrored', '--train_batch_size=6', '--eval_batch_size=8'],
      '--train_batch_size=6: cannot be divided among 4 replicas',
    ),
    (['--model_type=wrn-10-1'], 'needs images'),
    (['--task_mode=eval'], 'no checkpoint'),
    (['--task_mode=finetune'], '--finetune_steps=0'),
    (['--eval_split=validation'], '--num_validation=0'),
    (['--intra_op_threads=3'], '--intra_op_threads=3: TensorFlow already runs'),
  ],
)
def test_a_bad_request_is_one_line_and_status_2(tmp_path, capsys, flags, words):
  assert main.run(tiny(tmp_path, *flags)) == 2
  error = capsys.readouterr().err
  assert words in error
  assert len(error.strip().splitlines()) == 1
  assert 'Traceback' not in error


def test_eval_reports_the_checkpoint_as_the_run_did(tmp_path):
  assert main.run(tiny(tmp_path, '--mpl_feedback=soft')) == 0
  assert main.run(tiny(tmp_path, '--mpl_feedback=soft', '--task_mode=eval')) == 0
  found = json.loads((tmp_path / 'eval_test.json').read_text())
  expected = json.loads((tmp_path / 'results.json').read_text())
  assert found['models'] == expected['phases']['train']
  assert found['step'] == 6


@pytest.mark.slow
def test_a_finetune_can_be_added_to_a_run_that_had_none_planned(tmp_path):
  flags = ['--num_validation=200', '--select=validation']
  assert main.run(tiny(tmp_path, *flags)) == 0
  assert (
    main.run(
      tiny(
        tmp_path,
        *flags,
        '--task_mode=finetune',
        '--finetune_steps=2',
        '--finetune_batch_size=4',
        '--finetune_lr=0.1',
      )
    )
    == 0
  )
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['steps'] == {'train': 6, 'finetune': 8} and results['selected']['step'] <= 8
  assert [
    line['step'] for line in metrics(tmp_path) if line['kind'] == 'train' and line['phase'] == 'train'
  ] == [2, 4, 6]


@pytest.mark.slow
def test_several_replicas_train_what_one_trains(tmp_path):
  accuracy, loss = [], []
  for strategy in ('one_device', 'mirrored'):
    folder = tmp_path / strategy
    assert main.run(tiny(folder, f'--strategy={strategy}', '--mpl_feedback=soft')) == 0
    lines = metrics(folder)
    loss.append([line['cross_entropy/student_on_u'] for line in lines if line['kind'] == 'train'])
    accuracy.append(lines[-1]['student/top1'])
  np.testing.assert_allclose(loss[0], loss[1], rtol=1e-5)
  assert accuracy[0] == pytest.approx(accuracy[1], abs=1e-3)


def test_evaluation_counts_every_example_once(one_device):
  """Seven batches of 300, the last one filled up, against plain arithmetic."""
  config = configure(tiny('unused', '--eval_batch_size=300'))
  problem = build.problem(config)
  with one_device.scope():
    phase = build.phases(config, problem.input_shape, problem.num_classes)[0]
  model = phase.method.student
  found = evaluate.Evaluator(
    one_device, model, lambda context: problem.eval_batches('test', batch_size=300, context=context), 7
  )()
  test = problem.evaluated['test']
  logits = model(tf.constant(test.inputs)).numpy()
  assert found['examples'] == len(test) == 2000
  assert found['top1'] == pytest.approx(np.mean(logits.argmax(1) == test.labels))
  probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  expected = -np.log(probability[np.arange(2000), test.labels]).mean()
  assert found['loss'] == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_ctrl_c_on_the_command_line_saves_and_the_same_command_goes_on(tmp_path):
  command = [
    sys.executable,
    '-m',
    'meta_pseudo_labels.main',
    *tiny(tmp_path, '--num_train_steps=200000', '--save_every=100000')[1:],
  ]
  environment = {**os.environ, 'PYTHONPATH': str(CHECKOUT)}
  process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
  killer = threading.Timer(120, process.kill)
  killer.start()
  while not os.path.exists(tmp_path / 'metrics.jsonl'):
    time.sleep(0.2)
    assert process.poll() is None
  process.send_signal(signal.SIGINT)
  output = process.communicate()[0]
  killer.cancel()
  assert process.returncode == 130
  assert 'the same command continues from here' in output
  assert any(name.startswith('ckpt-') for name in os.listdir(tmp_path / 'ckpt_last'))
