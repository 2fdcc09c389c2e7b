"""A short version of tools/chaos.py: two moons, killed twice."""

import chaos
import pytest
from tiny import quick_path

TINY = [
  '--dataset_name=two_moons_6_mpl',
  '--model_type=mlp-8x1',
  '--label_seed=1',
  '--train_batch_size=4',
  '--uda_data=2',
  '--num_train_steps=200',
  '--save_every=20',
  '--log_every=10',
  '--mpl_feedback=sampled',
  '--mpl_student_lr_wait_steps=0',
  '--finetune_steps=40',
  '--finetune_batch_size=4',
  '--num_validation=200',
  '--strategy=one_device',
  '--intra_op_threads=1',
  '--ema_decay=0.9',
]


@pytest.mark.long
def test_a_killed_run_ends_as_one_left_alone(tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', quick_path(chaos.CHECKOUT))
  said = []
  assert chaos.run(2, 1, TINY, tmp_path, said.append) == []
  assert said[-1].endswith('values compared, 0 differ'), said
  assert len([line for line in said if line.startswith('kill ')]) >= 2, said
