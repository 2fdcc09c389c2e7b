"""One's own images through the command line: folders and .npz files, from training to resuming."""

import csv
import json
import os
import pathlib

from meta_pseudo_labels import build, main
from meta_pseudo_labels.config import parse
from meta_pseudo_labels.data import semi_supervised

import numpy as np
import pytest
from PIL import Image
from tiny import stop_after_saving

COLORS = {'blue': (40, 60, 200), 'green': (30, 190, 60), 'red': (210, 50, 40)}
SMALL = [
  '--train_batch_size=6',
  '--uda_data=1',
  '--num_train_steps=4',
  '--save_every=2',
  '--log_every=2',
  '--mpl_feedback=soft',
  '--uda_steps=2',
  '--strategy=one_device',
  '--eval_batch_size=16',
  '--model_type=mlp-8x1',
  '--mpl_student_lr_wait_steps=0',
]


def picture(color, random):
  """A noisy picture of one colour, of any shape."""
  height, width = random.randint(10, 40, 2)
  noise = random.randint(-30, 30, [height, width, 3])
  return Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8))


def make_folder(root, test=True):
  """Some two hundred images: 12 a class labeled, 100 unlabeled, 20 a class to test."""
  random = np.random.RandomState(0)
  for name, color in COLORS.items():
    for split, count in (('labeled', 12), *([('test', 20)] if test else [])):
      (root / split / name).mkdir(parents=True)
      for number in range(count):
        kind = ('jpg', 'png', 'bmp')[number % 3]
        picture(color, random).save(root / split / name / f'{number:02d}.{kind}')
  (root / 'unlabeled' / 'more').mkdir(parents=True)
  for number in range(100):
    color = list(COLORS.values())[number % 3]
    picture(color, random).save(root / 'unlabeled' / 'more' / f'{number:03d}.jpg')


@pytest.mark.long
@pytest.mark.parametrize(
  'flags',
  [
    pytest.param(['--image_size=8', '--model_type=wrn-10-1'], marks=pytest.mark.slow),
    ['--image_size=12', '--views=resized_crop', '--cache'],
  ],
)
def test_a_folder_trains_goes_on_is_evaluated_and_predicts(tmp_path, capsys, monkeypatch, flags):
  make_folder(tmp_path / 'images')
  argv = [
    'main',
    '--dataset_name=folder_mpl',
    f'--data_dir={tmp_path}/images',
    f'--output_dir={tmp_path}/run',
    *SMALL,
    *flags,
  ]
  # Stopped at the checkpoint of step 2, and gone on with.
  with monkeypatch.context() as patch:
    stop_after_saving(patch)
    assert main.run(argv) == 130
  assert main.run(argv) == 0
  printed = capsys.readouterr().out
  assert 'Resuming at step 2 of train (' in printed
  assert '36 labeled images in 3 classes (12 to 12 each), 100 unlabeled, 0 validation, 60 test' in (
    printed
  )
  # A fifth of the labeled images is held out, and selects.
  assert '29 labeled, 129 unlabeled, 60 test examples of folder' in printed
  assert 'best on the validation split at step' in printed
  split = json.loads((tmp_path / 'run' / 'labeled_split.json').read_text())
  assert split['labeled_per_class'] == [10, 10, 9] or sum(split['labeled_per_class']) == 29
  assert split['labeled_files'][0].startswith('labeled/blue/')
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['selected']['models']['student']['examples'] == 60
  assert main.run([*argv, '--task_mode=eval']) == 0
  found = json.loads((tmp_path / 'run' / 'eval_test.json').read_text())
  assert found['step'] == 4 and found['models']['student']['examples'] == 60
  photos = tmp_path / 'images' / 'test'
  assert main.run([*argv, '--task_mode=predict', f'--input={photos}']) == 0
  with open(tmp_path / 'run' / 'predictions.csv', encoding='utf-8', newline='') as file:
    rows = list(csv.DictReader(file))
  assert sorted(row['path'] for row in rows) == sorted(map(str, photos.glob('*/*')))
  right = np.mean([row['class'] == pathlib.Path(row['path']).parent.name for row in rows])
  assert right == found['models']['student']['top1']
  # A file more or less among the labeled ones, and it is not the same run.
  (tmp_path / 'images' / 'labeled' / 'red' / '00.jpg').rename(
    tmp_path / 'images' / 'labeled' / 'red' / '99.jpg'
  )
  capsys.readouterr()
  assert main.run(argv) == 2
  assert 'was trained with other data (' in capsys.readouterr().err


def test_a_folder_without_test_images_reports_on_validation(tmp_path, capsys):
  make_folder(tmp_path / 'images', test=False)
  assert (
    main.run(
      [
        'main',
        '--dataset_name=folder_uda',
        f'--data_dir={tmp_path}/images',
        f'--output_dir={tmp_path}/run',
        *SMALL,
        '--image_size=8',
      ]
    )
    == 0
  )
  assert '7 validation examples of folder' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flags, line',
  [
    (['--dataset_name=folder'], '--dataset_name=folder: needs --data_dir; say where the data are'),
    (['--dataset_name=folder', '--data_dir=/no/such'], '--data_dir=/no/such: not a folder'),
    (
      ['--dataset_name=npz', '--data_dir=/no/such.npz'],
      '/no/such.npz: the file cannot be read (No such file',
    ),
    (['--dataset_name=imagenet_10_percent_mpl', '--data_dir=/no/such'], 'there is no folder'),
    (
      ['--dataset_name=digits_40', '--views=resized_crop'],
      '--views=resized_crop: not for digits; leave it out, or --views=pad_crop',
    ),
  ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, capsys, flags, line):
  assert main.run(['main', f'--output_dir={tmp_path}/run', *SMALL, *flags]) == 2
  error = capsys.readouterr().err
  assert line in error and len(error.strip().splitlines()) == 1


def test_a_bad_image_is_named_and_can_be_skipped(tmp_path, capsys):
  make_folder(tmp_path / 'images')
  (tmp_path / 'images' / 'unlabeled' / 'bad.jpg').write_bytes(b'no image')
  argv = [
    'main',
    '--dataset_name=folder',
    f'--data_dir={tmp_path}/images',
    f'--output_dir={tmp_path}/run',
    *SMALL,
    '--image_size=8',
    '--num_train_steps=1',
  ]
  assert main.run(argv) == 2
  error = capsys.readouterr().err
  assert 'unlabeled/bad.jpg' in error and len(error.strip().splitlines()) == 1
  assert main.run([*argv, '--skip_bad_images']) == 0
  assert 'left out an image that cannot be read: ' in capsys.readouterr().out


@pytest.mark.parametrize('size', [16, 96])
@pytest.mark.parametrize(
  'flags, mirrored, colored',
  [
    ([], True, True),
    (['--noflip'], False, True),
    (['--augment_ops=Identity,ShearX', '--flip'], True, False),
    (['--noflip', '--augment_ops=Identity'], False, False),
  ],
)
def test_views_as_asked_for(tmp_path, size, flags, mirrored, colored):
  """Images that are black on the left and orange on the right, in both recipes (pad_crop, and
  resized_crop from 96 pixels on): what is mirrored has it the other way, and without operations on
  colors there is only orange of some brightness, and grey that fills."""
  image = np.zeros([size, size, 3], np.uint8)
  image[:, size // 2 :] = (200, 100, 0)
  for split, count in (('labeled', 12), ('test', 2)):
    for number in range(count):
      (tmp_path / split / str(number % 2)).mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(tmp_path / split / str(number % 2) / f'{number}.png')
  problem = build.problem(
    parse(
      [
        'main',
        '--dataset_name=folder_mpl',
        f'--data_dir={tmp_path}',
        f'--image_size={size}',
        f'--output_dir={tmp_path}/run',
        '--num_validation=2',
        *flags,
      ]
    )
  )
  batches = iter(problem.train_batches(batch_size=4, uda_data=8, seed=0))
  original, augmented = (
    np.concatenate(views) * problem.views.std + problem.views.mean
    for views in zip(*(next(batches)[2:4] for _ in range(4)))
  )
  red = original[..., 0].mean(1)
  rise = red[:, -size // 4 :].mean(1) - red[:, : size // 4].mean(1)
  assert (rise > 20).any() and (rise < -20).any() == mirrored
  red, green, blue = np.moveaxis(augmented, 3, 0)
  grey = np.maximum(abs(red - green), abs(green - blue)) < 3
  orange = np.maximum(abs(red - 2 * green), abs(blue)) < 8
  assert (~grey & ~orange).any() == colored


@pytest.mark.parametrize('kind', ['images', 'points'])
def test_an_npz_file_trains(tmp_path, capsys, kind):
  random = np.random.RandomState(0)
  shape, dtype = ([9, 9], np.uint8) if kind == 'images' else ([5], np.float32)
  draw = lambda count: random.randint(0, 256, [count, *shape]).astype(dtype)
  np.savez(
    tmp_path / 'data.npz',
    **{
      f'train_{kind}': draw(40),
      'train_labels': np.arange(40) % 4,
      f'unlabeled_{kind}': draw(30),
      f'test_{kind}': draw(16),
      'test_labels': np.arange(16) % 4,
    },
  )
  assert (
    main.run(
      [
        'main',
        '--dataset_name=npz_20_mpl',
        f'--data_dir={tmp_path}/data.npz',
        f'--output_dir={tmp_path}/run',
        *SMALL,
        '--label_seed=0',
        '--image_size=9',
      ]
    )
    == 0
  )
  assert '20 labeled, 62 unlabeled, 16 test examples of npz' in capsys.readouterr().out


def test_task_prepare_decodes_and_says_what_there_is(tmp_path, capsys):
  make_folder(tmp_path / 'images')
  argv = ['main', '--task_mode=prepare', '--dataset_name=folder', f'--data_dir={tmp_path}/images']
  argv += ['--image_size=8', f'--cache_dir={tmp_path}/cache', f'--output_dir={tmp_path}/run']
  assert main.run(argv) == 0
  assert capsys.readouterr().out.splitlines()[-1] == (
    'folder: 29 labeled, 129 unlabeled, 60 test, 7 validation examples are ready'
  )
  (store,) = (tmp_path / 'cache').iterdir()
  shards = {path.name: path.stat().st_mtime_ns for path in store.glob('pixels-*')}
  assert shards and main.run(argv) == 0
  assert {path.name: path.stat().st_mtime_ns for path in store.glob('pixels-*')} == shards
  assert not (tmp_path / 'run').exists()


def test_unreadable_images_are_all_listed_before_training_starts(tmp_path, capsys):
  make_folder(tmp_path / 'images')
  odd = os.fsencode(tmp_path / 'images' / 'unlabeled') + b'/\xff.png'  # No text can hold its name.
  for number in range(4):
    (tmp_path / 'images' / 'unlabeled' / f'{number}.jpg').write_bytes(b'<html>')
  with open(odd, 'wb') as file:
    file.write(b'<html>')
  argv = ['main', '--dataset_name=folder_uda', f'--data_dir={tmp_path}/images', *SMALL, '--image_size=8']
  argv += [f'--output_dir={tmp_path}/run', f'--cache_dir={tmp_path}/cache', '--num_train_steps=1']
  assert main.run(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith(
    f'error: 5 images cannot be read: {tmp_path}/images/unlabeled/0.jpg (it is a text'
  )
  assert error.count('(it is a text') == 3 and len(error.splitlines()) == 1
  (report,) = (tmp_path / 'cache').glob('*/unreadable.txt')
  assert f'all are in {report};' in error and not (tmp_path / 'run').exists()
  assert len(report.read_bytes().splitlines()) == 5 and os.fsencode(odd) in report.read_bytes()
  for number in range(1, 4):
    (tmp_path / 'images' / 'unlabeled' / f'{number}.jpg').unlink()
  picture(COLORS['red'], np.random.RandomState(0)).save(tmp_path / 'good.png')
  os.rename(tmp_path / 'good.png', os.fsencode(tmp_path / 'images' / 'labeled' / 'red') + b'/\xff.png')
  assert main.run([*argv, '--skip_bad_images']) == 0
  printed = capsys.readouterr().out
  assert 'left out 2 images that cannot be read: ' in printed and 'unlabeled/\\udcff.png (it is' in printed
  assert '37 labeled images in 3 classes (12 to 13 each), 100 unlabeled, 0 validation' in printed
