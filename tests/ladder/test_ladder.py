"""The ladder from a folder to predictions, with a network and steps that take seconds."""

import contextlib
import csv
import io
import json
import shutil

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.ladder import climb, rungs

import numpy as np
import pytest

# Less to trace than 'soft', which tests/features/test_feature_runs.py has on features.
QUICK = dict(num_train_steps=6, uda_steps=2, train_batch_size=6, uda_data=2, mpl_feedback='release')


@pytest.fixture(name='quick', autouse=True, scope='module')
def fixture_quick():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rungs, 'HEAD_FLAGS', {**rungs.HEAD_FLAGS, **QUICK})
    patch.setattr(climb.folds, 'MOST', 2)
    yield


@pytest.fixture(scope='module', name='climbed')
def fixture_climbed(place, tmp_path_factory):
  """(the folder of a ladder of all rungs, what it said)."""
  folder, said = tmp_path_factory.mktemp('climbed') / 'run', io.StringIO()
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    status = main.run(command(place, folder))
  assert status == 0, said.getvalue()
  return folder, said.getvalue()


def command(place, output_dir, *flags):
  return [
    *('main', '--task_mode=ladder', '--dataset_name=folder', f'--data_dir={place}/images'),
    *(f'--model_type={place}/network.h5', '--image_size=16', '--views=resized_crop', '--whole_image'),
    *('--feature_views=1', f'--cache_dir={place}/cache', f'--output_dir={output_dir}'),
    *(
      '--train_batch_size=6',
      '--uda_data=1',
      '--num_train_steps=2',
      '--log_every=2',
      '--optim_type=adamw',
    ),
    *('--strategy=one_device', '--eval_batch_size=20', '--mpl_student_lr_wait_steps=0', *flags),
  ]


def test_from_a_folder_to_predictions(place, climbed, tmp_path):
  run, lines = climbed
  for rung in rungs.RUNGS:
    assert f'\n{rung.name} ' in lines
  assert 'your unlabeled images ' in lines
  facts = json.loads((run / 'ladder.json').read_text())
  assert [found['name'] for found in facts['rungs']] == [rung.name for rung in rungs.RUNGS]
  assert facts['labeled'] == 36 and facts['folds'] == 2 and facts['sentence'] in lines
  values = {found['name']: found['accuracy']['value'] for found in facts['rungs']}
  assert values[facts['best']] == max(values.values())
  assert facts['rungs'][0]['accuracy']['value'] > 0.9  # Colors are easy.
  # The exported network predicts what the ladder measured.
  predicted = tmp_path / 'predictions.csv'
  arguments = ['main', '--task_mode=predict', f'--saved_model={run}/saved_model']
  assert main.run([*arguments, f'--input={place}/images/test', f'--output={predicted}']) == 0
  rows = list(csv.DictReader(predicted.open()))
  right = np.mean([row['class'] == row[next(iter(row))].split('/')[-2] for row in rows])
  assert right == pytest.approx(facts['test'][facts['best']]['value'])
  # The same command measures nothing again.
  before = (run / 'ladder.npz').read_bytes()
  assert main.run(command(place, run)) == 0
  assert (run / 'ladder.npz').read_bytes() == before


def test_random_views_come_when_a_rung_draws_among_them(place, climbed, tmp_path, monkeypatch, capsys):
  seen, fit, take = [], climb.Climb.fit, build.take_features
  monkeypatch.setattr(rungs, 'RUNGS', (*rungs.RUNGS[:2], rungs.RUNGS[3]))
  taken = lambda *args: seen.append('views') or take(*args)
  monkeypatch.setattr(build, 'take_features', taken)
  spread = rungs.spreading.spread
  spreads = lambda *args: seen.append('spread') or spread(*args)
  monkeypatch.setattr(rungs.spreading, 'spread', spreads)

  def recorded(self, rung, problem, where):
    seen.append((rung.name, problem.views.num_views))
    return fit(self, rung, problem, where)

  monkeypatch.setattr(climb.Climb, 'fit', recorded)
  assert main.run(command(place, tmp_path / 'run')) == 0
  of_folds = seen[: seen.index(('UDA', 1)) + 2]  # Two folds a rung.
  plain = [('logistic regression', 0)] * 2 + [('label spreading', 0), 'spread'] * 2
  assert of_folds == [*plain, 'views', ('UDA', 1), ('UDA', 1)] and seen.count('views') == 1


@pytest.mark.usefixtures('climbed')
def test_only_random_views_that_are_missing_are_forecast(place, tmp_path):
  config = parse(command(place, tmp_path))
  images = build.problem(config)
  problem = build.take_features(config, images, print, num_views=0)
  count = lambda config: build.count_without_views(config, images, problem.backbone, print)
  assert count(config) == 0
  assert count(config.replace(seed=7)) == len(images.inputs)  # All that are learned from, once.


def test_what_takes_too_long_is_left_out(place, tmp_path, capsys):
  assert main.run(command(place, tmp_path / 'run', '--time_limit=1s', '--num_train_steps=100000')) == 0
  lines = capsys.readouterr().out
  assert 'finetuning            left out: needs about' in lines
  assert 'UDA                   left out: ' in lines  # Its random views would take longer, too.
  facts = json.loads((tmp_path / 'run' / 'ladder.json').read_text())
  assert 'finetuning' in facts['left_out'] and facts['rungs'][0]['name'] == 'logistic regression'


@pytest.mark.parametrize('case', ['no unlabeled', 'one of a class', 'no test'])
def test_small_cases(place, tmp_path, capsys, case, monkeypatch):
  monkeypatch.setattr(rungs, 'RUNGS', rungs.RUNGS[:2])
  shutil.copytree(place / 'images', tmp_path / 'images')
  said = {
    'no unlabeled': 'there was nothing unlabeled to learn from',
    'one of a class': 'nothing could be measured: label a second image of every class',
    'no test': 'your unlabeled images',
  }
  if case == 'no unlabeled':
    shutil.rmtree(tmp_path / 'images' / 'unlabeled')
  if case == 'no test':
    shutil.rmtree(tmp_path / 'images' / 'test')
  if case == 'one of a class':
    for _ in range(11):
      next((tmp_path / 'images' / 'labeled' / 'red').iterdir()).unlink()
  flags = [f'--data_dir={tmp_path}/images']
  assert main.run(command(place, tmp_path / 'run', *flags)) == 0, capsys.readouterr().err
  assert said[case] in capsys.readouterr().out
  assert (tmp_path / 'run' / 'saved_model' / 'saved_model.pb').exists()


def test_a_ladder_of_other_data_is_refused(place, climbed, tmp_path, capsys):
  shutil.copytree(climbed[0], tmp_path / 'run')
  assert (tmp_path / 'run' / 'ladder.npz').exists()
  shutil.copytree(place / 'images', tmp_path / 'images')
  next((tmp_path / 'images' / 'labeled' / 'red').iterdir()).unlink()
  assert main.run(command(place, tmp_path / 'run', f'--data_dir={tmp_path}/images')) == 2
  error = capsys.readouterr().err
  assert 'was measured on other data' in error and len(error.splitlines()) == 1


@pytest.mark.parametrize('limit', ['soon', '0m', '-5m', '5'])
def test_time_limits_are_checked(place, tmp_path, capsys, limit):
  assert main.run(command(place, tmp_path / 'run', f'--time_limit={limit}')) == 2
  assert f'--time_limit={limit}: must be a number above 0' in capsys.readouterr().err
