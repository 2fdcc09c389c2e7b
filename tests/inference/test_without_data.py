"""Tasks export and predict once the data are gone, and on checkpoints that do not know them."""

import shutil

from meta_pseudo_labels import main
from meta_pseudo_labels.checkpoints import convert, saver

import numpy as np
import pytest
from PIL import Image

SHORT = [
  '--model_type=mlp-8x1',
  '--image_size=8',
  '--num_train_steps=1',
  '--train_batch_size=4',
  '--lr=3',
  '--strategy=one_device',
  '--eval_batch_size=8',
]


def write_images(folder, count):
  """Writes images of some kinds, sizes and colors."""
  folder.mkdir(parents=True)
  random = np.random.RandomState(count)
  for number in range(count):
    height, width = random.randint(6, 20, 2)
    image = Image.fromarray(random.randint(0, 256, [height, width, 3]).astype(np.uint8))
    image.save(folder / f'{number}.{("png", "jpg", "webp", "bmp")[number % 4]}')


def make_data(root, kind):
  """Makes a dataset: a folder of images or a .npz file. Returns the flags that name it."""
  if kind == 'npz':
    random = np.random.RandomState(0)
    draw = lambda count: random.randint(0, 256, [count, 8, 8, 3]).astype(np.uint8)
    arrays = {'train_images': draw(8), 'train_labels': np.arange(8) % 2, 'test_images': draw(4)}
    np.savez(root / 'data.npz', test_labels=np.arange(4) % 2, class_names=['cat', 'dog'], **arrays)
    return ['--dataset_name=npz', f'--data_dir={root}/data.npz']
  for name in ('labeled/cat', 'labeled/dog', 'test/cat'):
    write_images(root / 'data' / name, 4 + len(name) % 3)
  crops = ['--views=resized_crop'] if kind == 'crops' else []
  return ['--dataset_name=folder', f'--data_dir={root}/data', '--image_background=#102030', *crops]


def remove_data(root):
  """Removes what `make_data` made."""
  shutil.rmtree(root / 'data', ignore_errors=True)
  (root / 'data.npz').unlink(missing_ok=True)


def predicted(root, name, *flags):
  """The text of what predict writes of the images in `root`/new."""
  argv = ['main', '--task_mode=predict', f'--input={root}/new', f'--output={root}/{name}.csv', *flags]
  assert main.run(argv) == 0
  return (root / f'{name}.csv').read_text()


@pytest.mark.parametrize('kind', [pytest.param('squares', marks=pytest.mark.long), 'crops', 'npz'])
def test_predictions_are_the_same_once_the_data_are_gone(tmp_path, capsys, kind):
  run = [f'--output_dir={tmp_path}/run']
  assert main.run(['main', *make_data(tmp_path, kind), *run, *SHORT]) == 0
  write_images(tmp_path / 'new', 9)
  expected = predicted(tmp_path, 'before', *run)
  assert len(expected.splitlines()) == 10 and 'cat' in expected
  remove_data(tmp_path)
  shutil.rmtree(tmp_path / 'cache', ignore_errors=True)
  assert predicted(tmp_path, 'after', *run) == expected
  assert main.run(['main', '--task_mode=export', *run]) == 0
  shutil.rmtree(tmp_path / 'run' / 'ckpt_last')
  served = predicted(tmp_path, 'served', f'--saved_model={tmp_path}/run/saved_model')
  assert served == expected


def test_a_checkpoint_of_an_earlier_version_needs_the_data(tmp_path, capsys, monkeypatch):
  run = [f'--output_dir={tmp_path}/run']
  argv = ['main', *make_data(tmp_path, 'squares'), *run, *SHORT]
  init = saver.Checkpoints.__init__

  def without_serving(self, *args, serving=None, **objects):
    init(self, *args, **objects)

  with monkeypatch.context() as patch:
    patch.setattr(saver.Checkpoints, '__init__', without_serving)
    assert main.run(argv) == 0
  newest = convert.find_newest(f'{tmp_path}/run', print)
  assert convert.read_serving(newest) is None
  write_images(tmp_path / 'new', 9)
  expected = predicted(tmp_path, 'before', *run)
  assert main.run(['main', '--task_mode=export', *run]) == 0
  served = f'--saved_model={tmp_path}/run/saved_model'
  assert predicted(tmp_path, 'served', served) == expected
  # Going on with it works, too.
  assert main.run([*argv, '--task_mode=eval']) == 0
  remove_data(tmp_path)
  capsys.readouterr()
  assert main.run(['main', '--task_mode=export', *run]) == 2
  error = capsys.readouterr().err
  assert f'--data_dir={tmp_path}/data: not a folder' in error and len(error.strip().splitlines()) == 1
