"""Runs that start from checkpoints, and the command that writes one in the release's format."""

import json
import os
import shutil

from meta_pseudo_labels import main
from meta_pseudo_labels.checkpoints import convert, release_format

import numpy as np
import pytest
from test_release_format import KERNEL, build, stored
from tiny import tiny


@pytest.fixture(name='finished', scope='module')
def fixture_finished(tmp_path_factory):
  """The folder of a finished run of six steps, with the checkpoints of steps 3 and 6."""
  folder = tmp_path_factory.mktemp('finished')
  assert main.run(tiny(folder, '--ema_decay=.9')) == 0
  return folder


def newest(folder):
  """All that the newest checkpoint of a run stores, but the time it took."""
  values = stored(str(folder / 'ckpt_last'))
  return {
    name: value for name, value in values.items() if not name.startswith(('seconds', 'save_counter', '_'))
  }


def test_a_run_goes_on_from_a_checkpoint_of_another_run_exactly(tmp_path, finished, capsys):
  path = finished / 'ckpt_last' / 'ckpt-3'
  assert main.run(tiny(tmp_path, '--ema_decay=.9', f'--load_checkpoint={path}')) == 0
  printed = capsys.readouterr().out
  assert f'{path}: loaded 4 student, 8 optimizer slots, 4 teacher, 4 average' in printed
  expected, found = newest(finished), newest(tmp_path)
  assert expected.keys() == found.keys() and len(found) > 20
  # The square is for the logs alone, and the release has no name for it.
  for name in set(found) - {
    f'{left_out}/.ATTRIBUTES/VARIABLE_VALUE' for left_out in ('best', 'train/moving_dot_product_square')
  }:
    np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_the_command_writes_a_run_in_the_release_s_format_and_it_loads(tmp_path, finished, capsys):
  path = str(tmp_path / 'ckpt-6')
  assert main.run(['main', '--task_mode=convert', f'--output_dir={finished}', f'--output={path}']) == 0
  assert 'step 6' in capsys.readouterr().out
  written = stored(path)
  own = newest(finished)
  np.testing.assert_array_equal(
    written['teacher/' + KERNEL],
    own['train/teacher/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE'],
  )
  # It is at the last step: nothing is trained, and what is evaluated is what was.
  assert main.run(tiny(tmp_path / 'all', '--ema_decay=.9', f'--load_checkpoint={path}')) == 0
  results = [
    json.loads((folder / 'results.json').read_text())['phases'] for folder in (finished, tmp_path / 'all')
  ]
  assert results[0] == results[1]


def test_restarting_the_step_loads_the_rest(tmp_path, finished, capsys):
  path = str(tmp_path / 'ckpt-6')
  assert main.run(['main', '--task_mode=convert', f'--output_dir={finished}', f'--output={path}']) == 0
  assert (
    main.run(
      tiny(
        tmp_path / 'run',
        '--ema_decay=.9',
        f'--load_checkpoint={path}',
        '--load_checkpoint_and_restart_global_step',
      )
    )
    == 0
  )
  assert 'in it and not used: global_step, cross_entropy_old' in capsys.readouterr().out
  with open(tmp_path / 'run/metrics.jsonl', encoding='utf-8') as file:
    steps = [json.loads(line)['step'] for line in file]
  assert steps[0] == 2 and steps[-1] == 6


def test_teacher_and_student_start_from_checkpoints_of_their_own(tmp_path, finished, capsys):
  release_format.write(str(tmp_path / 'uda'), build(method='uda', seed=3))
  assert (
    main.run(
      tiny(
        tmp_path / 'run',
        '--ema_decay=.9',
        f'--mpl_teacher_checkpoint={tmp_path}/uda',
        f'--mpl_student_checkpoint={finished}/ckpt_last',
      )
    )
    == 0
  )
  printed = capsys.readouterr().out
  assert '--mpl_teacher_checkpoint: the teacher from ema/model/...' in printed
  assert '--mpl_student_checkpoint: the student from ema/model/...' in printed


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--load_checkpoint=/no/such'], '--load_checkpoint=/no/such: no checkpoint there'),
    (['--mpl_student_checkpoint=/no/such'], '--mpl_student_checkpoint=/no/such: no checkpoint'),
    (['--load_checkpoint=/a', '--method=pseudo_labels'], 'pseudo_labels trains its teacher from scratch'),
    (['--mpl_teacher_checkpoint=/a', '--method=uda'], 'only for the method mpl, not uda'),
  ],
)
def test_bad_requests_are_one_line_and_status_2(tmp_path, capsys, flags, words):
  assert main.run(tiny(tmp_path, '--ema_decay=.9', *flags)) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().splitlines()) == 1


def test_the_command_refuses_in_one_line(tmp_path, finished, capsys):
  for flags, words in (
    ([f'--output_dir={tmp_path}', '--output=x'], 'no run there (hparams.json'),
    ([f'--output_dir={finished}', f'--output={finished}/results.json/ckpt'], 'cannot be written'),
  ):
    assert main.run(['main', '--task_mode=convert', *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
  shutil.copy(finished / 'hparams.json', tmp_path)
  assert main.run(['main', '--task_mode=convert', f'--output_dir={tmp_path}', '--output=x']) == 2
  assert 'no checkpoint there, which --task_mode=convert needs' in capsys.readouterr().err
  assert not os.path.exists('x.index')
