"""Runs with pseudo-labeling strategies: their state in checkpoints, and rounds of a fixed teacher."""

import json
import os

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.training import logs
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
import tensorflow as tf
from tiny import stop_after_saving, tiny

NEW = ('pseudo_label', 'distribution_alignment', 'student_targets')  # Words in names of flags.


def make_run(folder, *flags):
  config = parse(tiny(folder, *flags))
  validate(config)
  os.makedirs(folder, exist_ok=True)
  return Run(config, build.problem(config), tf.distribute.OneDeviceStrategy('CPU:0'), logs.Progress())


def values(run):
  return [v.numpy() for phase in run.phases for v in phase.method.variables]


def stored(folder):
  """The names of what the newest checkpoint has."""
  path = tf.train.latest_checkpoint(str(folder / 'ckpt_last'))
  return list(tf.train.load_checkpoint(path).get_variable_to_shape_map())


@pytest.mark.parametrize(
  'flags',
  [
    ['--method=uda', '--pseudo_labels=flexmatch', '--pseudo_labels_threshold=0.5'],
    [
      '--method=mpl',
      '--mpl_feedback=soft',
      '--pseudo_labels=freematch',
      '--distribution_alignment=labeled',
    ],
    pytest.param(['--method=uda', '--pseudo_labels=softmatch'], marks=pytest.mark.long),
    pytest.param(['--method=pseudo_labels', '--pseudo_label_rounds=2'], marks=pytest.mark.long),
  ],
)
def test_a_run_that_goes_on_has_the_state_of_one_that_was_not_stopped(tmp_path, monkeypatch, flags):
  flags = [*flags, '--pseudo_labels_momentum=0.5']
  whole = make_run(tmp_path / 'whole', *flags)
  whole.train()
  with monkeypatch.context() as patch:
    stop_after_saving(patch)
    assert main.run(tiny(tmp_path / 'parts', *flags)) == 130
  parts = make_run(tmp_path / 'parts', *flags)
  assert 0 < parts.current.method.steps_made < 6
  parts.train()
  for value, other in zip(values(parts), values(whole), strict=True):
    np.testing.assert_array_equal(value, other)
  for phase, other in zip(parts.phases, whole.phases):
    state = getattr(phase.method, 'pseudo_labeling_state', {})
    for name, variable in state.items():
      np.testing.assert_array_equal(variable, other.method.pseudo_labeling_state[name])
      assert f'train/pseudo_labeling_state/{name}/.ATTRIBUTES/VARIABLE_VALUE' in stored(tmp_path / 'whole')
      assert np.ptp(np.append(variable.numpy(), 0.5)) > 0


def test_uda_has_no_state_and_goes_on_from_an_earlier_versions_checkpoint(tmp_path, monkeypatch):
  """Such a one has the same names, and its settings none of the new flags."""
  with monkeypatch.context() as patch:
    stop_after_saving(patch)
    assert main.run(tiny(tmp_path, '--method=uda')) == 130
  assert not any('pseudo_label' in name for name in stored(tmp_path))
  path = tmp_path / 'hparams.json'
  settings = json.loads(path.read_text())
  old = {name: value for name, value in settings.items() if not any(word in name for word in NEW)}
  assert len(old) == len(settings) - 9
  path.write_text(json.dumps(old))
  assert main.run(tiny(tmp_path, '--method=uda')) == 0


def test_what_is_known_without_data_needs_no_state(tmp_path):
  """The number of unlabeled examples is not: predict, export and convert restore a network without it."""
  flags = ('--method=uda', '--pseudo_labels=flexmatch')
  assert main.run(tiny(tmp_path / 'run', *flags)) == 0
  convert = ('--task_mode=convert', f'--output={tmp_path}/release')
  assert main.run(['main', f'--output_dir={tmp_path}/run', *convert]) == 0


def test_rounds_of_students(tmp_path):
  """The student of each round is the teacher of the next, with the weights of its average."""
  run = make_run(
    tmp_path, '--method=pseudo_labels', '--pseudo_label_rounds=3', '--ema_decay=0.9', '--num_train_steps=3'
  )
  assert run.names == ['teacher', 'round_1', 'round_2', 'train']
  assert len({id(phase.method.student) for phase in run.phases}) == 4
  for phase, before in zip(run.phases[1:], run.phases):
    assert phase.method.teacher is before.method.student
  results = run.train()
  assert results['steps'] == {'teacher': 3, 'round_1': 6, 'round_2': 9, 'train': 12}
  for phase, before in zip(run.phases[1:], run.phases):
    for variable, average in zip(phase.method.teacher.variables, before.method.average.averages):
      np.testing.assert_array_equal(variable, average)
  first = [phase.method.student.trainable_variables[0].numpy() for phase in run.phases]
  assert all(np.abs(one - other).max() > 0.1 for one, other in zip(first, first[1:]))
