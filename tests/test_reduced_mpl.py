"""reduced_mpl from end to end: a teacher trains, labels, and a student trains on what it said."""

import dataclasses
import json
import os

from meta_pseudo_labels import build, main, methods
from meta_pseudo_labels.config import choices
from meta_pseudo_labels.data import semi_supervised, teacher_predictions
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training import interrupts
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
import tensorflow as tf
import test_train
from tiny import tiny

DIGITS = [
  '--label_seed=1',
  '--image_size=8',
  '--train_batch_size=8',
  '--uda_data=2',
  '--uda_steps=2',
  '--num_train_steps=4',
  '--save_every=2',
  '--log_every=2',
  '--strategy=one_device',
  '--eval_batch_size=500',
  '--mpl_feedback=soft',
  '--mpl_student_lr_wait_steps=0',
  '--mpl_student_lr_warmup_steps=0',
  '--mpl_teacher_lr_warmup_steps=0',
]


@pytest.fixture(name='stored', scope='module')
def fixture_stored(tmp_path_factory):
  """Predictions for six labeled points of two moons: a path; and the folder of the teacher's run."""
  folder = tmp_path_factory.mktemp('teacher')
  teacher = tiny(folder, '--dataset_name=two_moons_6_uda')
  assert main.run(teacher) == 0
  assert main.run(['main', '--task_mode=label', f'--output_dir={folder}']) == 0
  return folder / 'teacher_predictions.npz'


def reduced(folder, stored, *flags):
  return tiny(folder, f'--teacher_predictions={stored}', *flags, '--dataset_name=two_moons_6_reduced_mpl')


@pytest.mark.slow
def test_from_a_teacher_of_digits_to_an_exported_student(tmp_path, capsys):
  teacher, student = tmp_path / 'teacher', tmp_path / 'student'
  assert (
    main.run(
      [
        'main',
        '--dataset_name=digits_40_uda',
        f'--output_dir={teacher}',
        '--model_type=mlp-32x1',
        '--lr=4',
        *DIGITS,
      ]
    )
    == 0
  )
  capsys.readouterr()
  assert main.run(['main', '--task_mode=label', f'--output_dir={teacher}']) == 0
  path = teacher / 'teacher_predictions.npz'
  assert '40 labeled and 1297 unlabeled examples' in capsys.readouterr().out
  flags = [
    'main',
    '--dataset_name=digits_40_reduced_mpl',
    f'--teacher_predictions={path}',
    f'--output_dir={student}',
    '--model_type=wrn-10-1',
    *DIGITS,
    '--finetune_steps=2',
    '--finetune_batch_size=8',
  ]
  assert main.run(flags) == 0
  assert '\nReduced MPL student before finetune' in capsys.readouterr().out
  table = json.loads((student / 'table.json').read_text())
  assert [(row['name'], row['steps']) for row in table] == [
    ('Reduced MPL student before finetune', 4),
    ('Reduced MPL student', 6),
  ]
  trained = [line for line in test_train.metrics(student) if line['kind'] == 'train']
  assert trained[0]['pseudo_labels/confidence'] > 0 and trained[0]['cross_entropy/teacher_on_u'] == 0
  assert 'its stored predictions' in (student / 'report.html').read_text()
  assert main.run([*flags, '--task_mode=eval']) == 0
  found = json.loads((student / 'eval_test.json').read_text())
  assert found['models'] == json.loads((student / 'results.json').read_text())['phases']['finetune']
  assert main.run(['main', '--task_mode=export', f'--output_dir={student}']) == 0
  assert (student / 'saved_model' / 'saved_model.pb').exists()
  (tmp_path / 'digit.png').write_bytes(tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy())
  assert (
    main.run(['main', '--task_mode=predict', f'--output_dir={student}', f'--input={tmp_path}/digit.png'])
    == 0
  )
  assert 'digit.png' in (student / 'predictions.csv').read_text()
  # The teacher's run, emptied, would take with it what the student still needs.
  assert main.run([*flags, f'--output_dir={teacher}', '--reset_output_dir']) == 2
  assert f'holds --teacher_predictions={path}' in capsys.readouterr().err and path.exists()


def test_what_is_stored_is_what_the_network_says_of_the_plain_inputs(stored, one_device):
  config = test_train.configure(tiny(stored.parent, '--dataset_name=two_moons_6_uda'))
  problem = build.problem(config)
  run = Run(config, problem, one_device)
  with run.phases[0].method.average.applied():
    logits = [
      run.phases[0].method.student(tf.constant(inputs)).numpy()
      for inputs in (problem.labeled[0], problem.unlabeled)
    ]
  found = teacher_predictions.read(str(stored), problem.described)
  for log_probs, expected in zip((found.labeled, found.unlabeled), logits):
    expected = expected.astype(np.float64)
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-6)
  assert len(found.unlabeled) == len(problem.unlabeled)


def test_a_batch_has_its_own_examples_predictions(stored):
  """Told by the points themselves, of which the predictions here are a copy."""
  config = test_train.configure(reduced('unused', stored))
  problem = build.problem(config)
  problem = dataclasses.replace(
    problem, predictions=teacher_predictions.Predictions(problem.labeled[0], problem.unlabeled)
  )
  for replicas in (1, 2):
    batches = problem.train_batches(batch_size=4, uda_data=3, seed=0, replicas=replicas)
    for data in batches.take(4):
      found = methods.Batch.of(data)
      np.testing.assert_array_equal(found.labeled, found.predictions[0])
      np.testing.assert_array_equal(found.original, found.predictions[1])
      assert len(found.predictions[1]) == 12 // replicas
  assert len(next(iter(problem.train_batches(batch_size=4, seed=0)))) == 2


@pytest.mark.parametrize('feedback', choices.FEEDBACKS)
def test_every_feedback_trains(tmp_path, stored, feedback):
  assert main.run(reduced(tmp_path, stored, f'--mpl_feedback={feedback}')) == 0
  last = [line for line in test_train.metrics(tmp_path) if line['kind'] == 'train'][-1]
  assert np.isfinite([value for value in last.values() if not isinstance(value, str)]).all()
  assert (last['teacher_grad/feedback'] > 1e-6) == (feedback != 'release')


def test_a_run_that_goes_on_equals_one_that_was_not_stopped(tmp_path, stored, one_device):
  flags = ['--mpl_feedback=sampled_dot', '--dense_dropout_rate=0.5', '--ema_decay=0.5']
  flags.append('--num_train_steps=4')
  whole = test_train.make_run(
    test_train.configure(reduced(tmp_path / 'whole', stored, *flags)), one_device
  )
  expected, stops = whole.train(), 0
  parts = test_train.configure(reduced(tmp_path / 'parts', stored, *flags))
  while True:
    run = test_train.make_run(parts, one_device)
    stopper = test_train.StopAfterEachLoop(run)
    try:
      found = run.train()
      break
    except interrupts.Interrupted:
      stops += stopper.used
  assert stops >= 2
  for value, other in zip(test_train.weights(run), test_train.weights(whole)):
    np.testing.assert_array_equal(value, other)
  assert found['phases'] == expected['phases']
  assert test_train.metrics(tmp_path / 'parts') == test_train.metrics(tmp_path / 'whole')


def test_a_run_does_not_go_on_with_other_predictions(tmp_path, stored, capsys):
  assert main.run(reduced(tmp_path / 'run', stored)) == 0
  moved = tmp_path / 'moved.npz'
  moved.write_bytes(stored.read_bytes())
  assert main.run(reduced(tmp_path / 'run', moved)) == 0  # The same, elsewhere.
  with np.load(stored) as archive:
    arrays = dict(archive)
  np.savez(moved, **{**arrays, 'unlabeled': arrays['unlabeled'][::-1]})
  capsys.readouterr()
  assert main.run(reduced(tmp_path / 'run', moved)) == 2
  error = capsys.readouterr().err
  assert '(teacher predictions differ)' in error and len(error.splitlines()) == 1


@pytest.mark.slow
def test_in_one_table_with_another_method(tmp_path, stored):
  """As a baseline, and with one; whose batches have the predictions too, and do not look at them."""
  path = f'--teacher_predictions={stored}'
  assert main.run(reduced(tmp_path / 'a', stored, '--baselines=uda,mpl', '--mpl_feedback=soft')) == 0
  assert main.run(tiny(tmp_path / 'b', path, '--mpl_feedback=soft', '--baselines=reduced_mpl')) == 0
  accuracies = [
    {row['name']: row['accuracies'] for row in json.loads((tmp_path / name / 'table.json').read_text())}
    for name in 'ab'
  ]
  assert accuracies[0]['MPL student'] == accuracies[1]['MPL student']
  assert accuracies[0]['Reduced MPL student'] == accuracies[1]['Reduced MPL student']


@pytest.mark.parametrize('names', [True, False])
def test_what_predictions_are_of_is_told_apart(names):
  """The same counts of other examples, by their names or, in memory, by themselves."""
  rng = np.random.RandomState(0)
  common = dict(
    identity='{"unlabeled": 4, "class_names": ["a", "b"]}',
    dataset='npz',
    labeled=np.zeros([2, 3], np.float32),
    truth=np.full(4, -1, np.int32),
  )
  inputs = rng.standard_normal([4, 3]).astype(np.float32)
  called = np.array(['1.png', '2.png', '3.png', '4.png'])
  made = lambda order: teacher_predictions.describe(
    unlabeled=inputs[order], names=called[order] if names else None, **common
  )
  assert made([0, 1, 2, 3]) == made([0, 1, 2, 3]) != made([0, 1, 3, 2])


def test_a_disk_that_cannot_be_written(tmp_path):
  found = teacher_predictions.Predictions(np.zeros([1, 1], np.float32), np.zeros([1, 1], np.float32))
  with pytest.raises(UserError, match='no/such.npz: cannot be written .No such file'):
    teacher_predictions.write(os.path.join(tmp_path, 'no', 'such.npz'), found, {})


@pytest.mark.slow
def test_a_reduced_baseline_may_come_and_go(stored, tmp_path):
  """Its predictions are no part of what the main method learns from."""
  flags = ['--label_seed=1', '--mpl_feedback=soft']
  baseline = ['--baselines=reduced_mpl', f'--teacher_predictions={stored}']
  for more in ([], baseline, []):
    assert main.run(tiny(tmp_path, *flags, *more)) == 0
  assert len(json.loads((tmp_path / 'table.json').read_text())) == 2
