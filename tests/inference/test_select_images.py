"""Choosing unlabeled images, by hand, and through the command line."""

import json

from meta_pseudo_labels import main
from meta_pseudo_labels.inference import select_images

import numpy as np


def test_the_most_probable_of_each_class_by_hand():
  probabilities = np.array(
    [
      [0.9, 0.1, 0.0],  # 0: first of class 0.
      [0.8, 0.1, 0.1],  # 1: second of class 0.
      [0.3, 0.3, 0.4],  # 2: second of class 1, first of class 2.
      [0.1, 0.7, 0.2],  # 3: first of class 1, second of class 2.
      [0.7, 0.2, 0.1],
    ]
  )  # 4: of none.
  assert select_images.most_probable(probabilities, 1).tolist() == [0, 2, 3]
  assert select_images.most_probable(probabilities, 2).tolist() == [0, 1, 2, 3]
  assert select_images.most_probable(probabilities, 99).tolist() == [0, 1, 2, 3, 4]


def test_of_equals_the_first_are_chosen():
  assert select_images.most_probable(np.full([5, 2], 0.5), 2).tolist() == [0, 1]


def test_a_run_selects_and_another_trains_on_what_it_selected(tmp_path, capsys):
  random = np.random.RandomState(0)
  labels = np.arange(60) % 3
  points = (random.standard_normal([60, 2]) * 0.3 + labels[:, None]).astype(np.float32)
  np.savez(
    tmp_path / 'data.npz',
    train_points=points[:30],
    train_labels=labels[:30],
    unlabeled_points=points[30:],
    test_points=points,
    test_labels=labels,
  )
  data = f'--data_dir={tmp_path}/data.npz'
  common = ['--model_type=mlp-8x1', '--train_batch_size=6', '--strategy=one_device']
  assert (
    main.run(
      [
        'main',
        '--dataset_name=npz',
        f'--output_dir={tmp_path}/first',
        data,
        *common,
        '--num_train_steps=40',
        '--lr=4',
        '--num_validation=0',
      ]
    )
    == 0
  )
  assert (
    main.run(['main', '--task_mode=select', f'--output_dir={tmp_path}/first', '--select_per_class=4']) == 0
  )
  path = tmp_path / 'first' / 'selected.json'
  assert f'--unlabeled_manifest={path}' in capsys.readouterr().out
  chosen = json.loads(path.read_text())['positions']
  assert 4 <= len(chosen) <= 12
  # Each class gives its own: the clusters lie around 0, 1 and 2.
  assert np.bincount(labels[chosen], minlength=3).min() >= 2
  second = [
    'main',
    '--dataset_name=npz_uda',
    f'--output_dir={tmp_path}/second',
    data,
    *common,
    '--num_train_steps=2',
    '--uda_data=1',
    '--num_validation=0',
  ]
  assert main.run([*second, f'--unlabeled_manifest={path}']) == 0
  assert f'30 labeled, {len(chosen)} unlabeled, 60 test' in capsys.readouterr().out
  assert main.run(second) == 2  # All of them are other data.
  assert main.run([*second, '--unlabeled_manifest=/no/such']) == 2
  assert '--unlabeled_manifest' in capsys.readouterr().err
