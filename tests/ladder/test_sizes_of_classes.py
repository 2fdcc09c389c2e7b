"""The ladder on classes of different size, and on as few images as there can be."""

import colorsys
import json
import shutil

from meta_pseudo_labels import main
from meta_pseudo_labels.data import input_pipeline
from meta_pseudo_labels.ladder import rungs

import numpy as np
import pytest
from test_ladder import QUICK, command, fixture_quick  # noqa: F401 A fixture.
from test_own_images import picture

CLASSES = 200


def keep(folder, **counts):
  """Removes all but so many images of each class below a folder."""
  for name, count in counts.items():
    for path in sorted((folder / name).iterdir())[count:]:
      path.unlink()


@pytest.fixture(name='images')
def fixture_images(place, tmp_path):
  """The folder with images of three colors, which a test may change."""
  shutil.copytree(place / 'images', tmp_path / 'images')
  return tmp_path / 'images'


@pytest.mark.parametrize('last', ['finetuning', pytest.param('UDA', marks=pytest.mark.long)])
def test_every_class_counts_as_much_by_one_flag(place, images, tmp_path, monkeypatch, capsys, last):
  chosen = [rung for rung in rungs.RUNGS if rung.name in ('logistic regression', 'label spreading', last)]
  monkeypatch.setattr(rungs, 'RUNGS', chosen)
  keep(images / 'labeled', red=4, green=2)
  keep(images / 'test', red=1, green=3)
  drawn, train_batches = [], input_pipeline.train_batches
  weights, fit = [], rungs.linear.logistic_regression

  def draws(inputs, labels, *args, **settings):
    drawn.append(settings['balanced'])
    return train_batches(inputs, labels, *args, **settings)

  def fits(features, labels, *args, **settings):
    weights.append(np.bincount(labels, settings['weights'], 3) / np.sum(settings['weights']))
    return fit(features, labels, *args, **settings)

  monkeypatch.setattr(input_pipeline, 'train_batches', draws)
  monkeypatch.setattr(rungs.linear, 'logistic_regression', fits)
  flags = ('--balanced_sampling', f'--data_dir={images}')
  assert main.run(command(place, tmp_path / 'run', *flags)) == 0
  lines = capsys.readouterr().out
  assert len(drawn) >= 2 and all(drawn)
  np.testing.assert_allclose(weights, 1 / 3)
  facts = json.loads((tmp_path / 'run' / 'ladder.json').read_text())
  assert facts['compared_by'] == 'balanced_accuracy'
  values = {found['name']: found['balanced_accuracy']['value'] for found in facts['rungs']}
  assert values[facts['best']] == max(values.values())
  assert 'balanced accuracy in 2-fold cross-validation of 18 labeled images' in lines
  assert f'balanced accuracy on {20 + 3 + 1} test images' in lines
  assert '] of balanced accuracy over labels alone' in facts['sentence']
  report = (tmp_path / 'run' / 'report.html').read_text()
  assert '<th>balanced accuracy</th>' in report and 'balanced accuracy on 24 test images' in report
  assert '<th>accuracy</th><th>95' not in report


@pytest.mark.parametrize(
  'case, balanced',
  [
    ('one of every class', True),
    ('two classes, fewer than a batch', False),
    pytest.param('two classes, fewer than a batch', True, marks=pytest.mark.long),
  ],
)
def test_few_images(place, images, tmp_path, monkeypatch, capsys, case, balanced):
  flags = [f'--data_dir={images}', *(['--balanced_sampling'] if balanced else [])]
  if case == 'one of every class':
    monkeypatch.setattr(rungs, 'RUNGS', rungs.RUNGS[:2])
    keep(images / 'labeled', red=1, green=1, blue=1)
  else:
    for split in ('labeled', 'test'):
      shutil.rmtree(images / split / 'red')
    monkeypatch.setattr(rungs, 'HEAD_FLAGS', {**rungs.HEAD_FLAGS, 'train_batch_size': 16})
    names = ('logistic regression', 'finetuning', *(['MPL'] if balanced else []))
    monkeypatch.setattr(rungs, 'RUNGS', [rung for rung in rungs.RUNGS if rung.name in names])
    keep(images / 'labeled', green=3, blue=2)
    flags.append('--train_batch_size=16')
  assert main.run(command(place, tmp_path / 'run', *flags)) == 0, capsys.readouterr().err
  facts = json.loads((tmp_path / 'run' / 'ladder.json').read_text())
  measured = [found['name'] for found in facts['rungs']]
  assert measured == ([] if case == 'one of every class' else [rung.name for rung in rungs.RUNGS])
  assert facts['labeled'] == (3 if case == 'one of every class' else 5)
  assert (tmp_path / 'run' / 'saved_model' / 'saved_model.pb').exists()
  assert (tmp_path / 'run' / 'report.html').exists()


@pytest.mark.parametrize('balanced', [False, pytest.param(True, marks=pytest.mark.long)])
def test_200_classes_of_two_or_three_images(place, tmp_path, monkeypatch, capsys, balanced):
  random = np.random.RandomState(0)
  (tmp_path / 'images' / 'unlabeled').mkdir(parents=True)
  for number in range(CLASSES):
    color = 255 * np.array(colorsys.hsv_to_rgb(number / CLASSES, 0.5 + number % 2 / 2, 0.8))
    folder = tmp_path / 'images' / 'labeled' / f'class {number:03d}'
    folder.mkdir(parents=True)
    for image in range(2 + number % 2):
      picture(color, random).save(folder / f'{image}.png')
    picture(color, random).save(tmp_path / 'images' / 'unlabeled' / f'{number}.png')
  monkeypatch.setattr(rungs, 'RUNGS', (*rungs.RUNGS[:2], *rungs.RUNGS[3 : 3 + balanced]))
  flags = [f'--data_dir={tmp_path}/images', *(['--balanced_sampling'] if balanced else [])]
  assert main.run(command(place, tmp_path / 'run', *flags)) == 0, capsys.readouterr().err
  facts = json.loads((tmp_path / 'run' / 'ladder.json').read_text())
  assert facts['labeled'] == 500 and facts['folds'] == 2
  assert [found['name'] for found in facts['rungs']] == [rung.name for rung in rungs.RUNGS]
  assert facts['rungs'][0]['accuracy']['value'] > 5 / CLASSES  # Colors can be told apart a little.
