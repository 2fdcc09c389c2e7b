"""A run's folder: which commands go on with what is in it."""

import json

from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.config import Config
from meta_pseudo_labels.distribution import gpus
from meta_pseudo_labels.errors import UserError

import pytest
from gpu_machines import A100, machine


def write_earlier(folder, **values):
  """Writes the settings as versions before --precision stored them."""
  run_folder.prepare_folder(Config(dataset_name='digits_40_mpl', output_dir=str(folder)))
  path = folder / 'hparams.json'
  stored = json.loads(path.read_text())
  del stored['precision']
  stored.update({'use_bfloat16': False, 'use_float16': False, 'jit_compile': False, **values})
  path.write_text(json.dumps(stored))


@pytest.mark.parametrize('bfloat16', [False, True])
@pytest.mark.parametrize('found', [None, machine(*A100)])
def test_a_run_of_an_earlier_version_goes_on_in_its_precision(tmp_path, bfloat16, found):
  write_earlier(tmp_path, use_bfloat16=bfloat16)
  config = Config(dataset_name='digits_40_mpl', output_dir=str(tmp_path))
  now = gpus.choose_precision(config, found, True, run_folder.find_settings(config))
  assert now.computes_in == ('bfloat16' if bfloat16 else 'float32')
  run_folder.prepare_folder(now)
  assert run_folder.read_settings(str(tmp_path)) == now


def test_balanced_sampling_is_another_run_and_one_of_before_it_goes_on(tmp_path):
  config = Config(dataset_name='digits_40_mpl', output_dir=str(tmp_path))
  run_folder.prepare_folder(config)
  with pytest.raises(UserError, match='other settings .balanced_sampling False -> True.'):
    run_folder.prepare_folder(config.replace(balanced_sampling=True))
  path = tmp_path / 'hparams.json'
  stored = json.loads(path.read_text())
  del stored['balanced_sampling']
  path.write_text(json.dumps(stored))
  run_folder.prepare_folder(config)
  assert json.loads(path.read_text())['balanced_sampling'] is False


def test_another_precision_is_another_run(tmp_path):
  write_earlier(tmp_path)
  config = Config(dataset_name='digits_40_mpl', output_dir=str(tmp_path), precision='bfloat16')
  now = gpus.choose_precision(config, None, True, run_folder.find_settings(config))
  with pytest.raises(UserError, match='computes_in float32 -> bfloat16'):
    run_folder.prepare_folder(now)
  assert run_folder.find_settings(config.replace(reset_output_dir=True)) is None
