"""Which student is reported: --select, the validation split, and what may be gone on with."""

import dataclasses
import json

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data import semi_supervised
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.training import logs, run, selection
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
from tiny import tiny

STEPS = ['--num_train_steps=12', '--save_every=2', '--mpl_feedback=soft', '--mpl_student_lr=40']


def evaluations(folder):
  """[(step, student's accuracy)] of the evaluations while training."""
  with open(folder / 'metrics.jsonl', encoding='utf-8') as file:
    lines = [json.loads(line) for line in file]
  return [(line['step'], line['student/top1']) for line in lines if line['kind'] == 'eval']


def results_of(folder):
  return json.loads((folder / 'results.json').read_text())


def test_validation_selects_and_the_test_split_is_measured_once(tmp_path, capsys, monkeypatch):
  counted = []
  evaluate = Run.evaluate
  monkeypatch.setattr(
    Run,
    'evaluate',
    lambda self, phase, split=None: counted.append(split or self.reported) or evaluate(self, phase, split),
  )
  argv = tiny(tmp_path, *STEPS, '--num_validation=100')
  assert main.run(argv) == 0
  assert counted == ['validation'] * 6 + ['test']
  printed = capsys.readouterr().out
  results, table = results_of(tmp_path), json.loads((tmp_path / 'table.json').read_text())
  found = evaluations(tmp_path)
  best = max(accuracy for _, accuracy in found)
  step = next(step for step, accuracy in found if accuracy == best)
  selected = results['selected']
  assert (selected['phase'], selected['step'], selected['by']) == ('train', step, 'validation')
  assert selected['models']['student']['examples'] == 2000
  assert results['phases']['train']['student']['examples'] == 100
  assert f'best on the validation split at step {step}: test accuracy' in printed
  assert [row['name'] for row in table] == ['MPL teacher', 'MPL student']
  assert table[1]['accuracy'] == selected['models']['student']['top1']
  assert table[1]['steps'] == step
  # The same again changes nothing, and evaluates nothing.
  del counted[:]
  assert main.run(argv) == 0
  assert results_of(tmp_path) == results and 'test' not in counted


def test_the_last_step_is_reported_as_in_the_paper(tmp_path):
  assert main.run(tiny(tmp_path, *STEPS, '--num_validation=100', '--select=last')) == 0
  results = results_of(tmp_path)
  assert 'selected' not in results
  assert results['phases']['train']['student']['examples'] == 2000  # On test, once.
  assert len(evaluations(tmp_path)) == 6


def test_the_best_on_test_is_reported_as_in_the_release(tmp_path):
  assert main.run(tiny(tmp_path, *STEPS, '--select=best_on_test')) == 0
  selected = results_of(tmp_path)['selected']
  assert selected['by'] == 'test'
  assert selected['models']['student']['top1'] == max(a for _, a in evaluations(tmp_path))


def test_who_tunes_on_validation_gets_the_last_step():
  config = parse(tiny('unused', '--num_validation=100', '--eval_split=validation'))
  assert selection.choose('', 'validation', build.problem(config)) == ('last', 'validation', 'validation')


@pytest.mark.parametrize(
  'flag, line',
  [
    (
      '--select=validation',
      '--select=validation: there is no validation split; give --num_validation=300 or --select=last',
    ),
    ('--select=best', '--select=best: unknown value'),
  ],
)
def test_a_selection_that_cannot_be_made(tmp_path, capsys, flag, line):
  assert main.run(tiny(tmp_path, flag)) == 2
  assert line in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_data(tmp_path, one_device):
  config = parse(tiny(tmp_path, '--num_train_steps=2'))
  problem = build.problem(config)
  quiet = logs.Progress(open('/dev/null', 'w', encoding='utf-8'))
  Run(config, problem, one_device, quiet).train()
  Run(config, problem, one_device, quiet)  # The same data.
  swapped = dataclasses.replace(problem, labels=(1 - problem.labels).astype(np.int32))
  with pytest.raises(UserError) as caught:
    Run(config, swapped, one_device, quiet)
  assert str(caught.value) == (
    f'--output_dir={tmp_path}: its checkpoint was trained with other data (labels differ); give '
    'another folder, the same data, or --reset_output_dir'
  )
