"""What is said and done about NVIDIA's cards, with machines and drivers that are not there."""

import dataclasses
import os
import stat

from meta_pseudo_labels import main
from meta_pseudo_labels.config import Config, validate
from meta_pseudo_labels.distribution import gpus
from meta_pseudo_labels.errors import UserError

import pytest
import tensorflow as tf
from gpu_machines import A100, H100, MACHINES, NEWER, OLDER, T4, machine

LINES = """\
0, NVIDIA A100-SXM4-80GB, 8.0, 81920, 1024, 535.129.03
1, NVIDIA A100-SXM4-80GB, 8.0, 81920, 0, 535.129.03
2, Tesla T4, 7.5, 15360, [N/A], 535.129.03
"""


def test_cards_as_the_driver_lists_them():
  driver, cards = gpus.parse_cards(LINES)
  assert driver == '535.129.03' and [card.capability for card in cards] == [(8, 0), (8, 0), (7, 5)]
  assert cards[0] == gpus.Card('NVIDIA A100-SXM4-80GB', (8, 0), 81920 * 2**20, 1024 * 2**20)
  assert cards[2].used == 0
  assert gpus.parse_cards('NVIDIA-SMI has failed\nNo devices were found\n') == ('', ())


@pytest.mark.parametrize(
  'visible, names',
  [
    ('2,0', ['Tesla T4', 'NVIDIA A100-SXM4-80GB']),
    ('', []),
    ('-1', []),
    ('GPU-6fd5', ['NVIDIA A100-SXM4-80GB'] * 2 + ['Tesla T4']),  # A name that is not resolved here.
  ],
)
def test_cards_that_this_process_may_use(visible, names):
  assert [card.name for card in gpus.parse_cards(LINES, visible)[1]] == names


@pytest.mark.parametrize(
  'capability, built_for, how',
  [
    ((8, 6), OLDER, 'built'),  # Kernels of 8.0 run on 8.6.
    ((7, 5), NEWER, 'built'),
    ((9, 0), OLDER, 'compiled'),  # No kernels of 9.x, but a text of 8.0.
    ((9, 0), NEWER, 'built'),
    ((12, 0), NEWER, 'compiled'),
    ((3, 7), OLDER, ''),
    ((7, 0), ('sm_75', 'compute_80'), ''),  # Kernels of 7.5 do not run on 7.0, nor is 8.0's text for it.
  ],
)
def test_how_kernels_come_to_a_card(capability, built_for, how):
  assert gpus.kernels_for(capability, built_for) == how


@pytest.mark.parametrize('what, found, more', MACHINES, ids=[entry[0] for entry in MACHINES])
def test_each_diagnosis_is_its_own(what, found, more):
  """One line more than the first where something is the matter, and each of them another one."""
  said = gpus.diagnose(found, **more)
  assert found.cards[0].name in said[0] and found.driver in said[0] and found.tensorflow in said[0]
  assert len(said) == (1 if what.startswith('nothing') else 2)
  others = [
    line for other, kind, args in MACHINES if other != what for line in gpus.diagnose(kind, **args)[1:]
  ]
  assert not set(said[1:]) & set(others)


def test_what_cannot_work_is_hidden(monkeypatch):
  hidden = []
  monkeypatch.setattr(
    tf.config, 'set_visible_devices', lambda devices, kind: hidden.append((devices, kind))
  )
  gpus.prepare(machine('NVIDIA B200', (10, 0), 192, older=True))
  assert hidden == [([], 'GPU')]
  gpus.prepare(machine(*H100, older=True))  # Slow, but it works.
  gpus.prepare(None)
  assert len(hidden) == 1


def test_memory_is_taken_as_it_is_needed(monkeypatch):
  grown = []
  monkeypatch.setattr(tf.config, 'get_visible_devices', lambda kind: ['a', 'b'])
  monkeypatch.setattr(tf.config.experimental, 'set_memory_growth', lambda *args: grown.append(args))
  gpus.prepare(machine(*A100))
  assert grown == [('a', True), ('b', True)]


def test_precision_by_the_card():
  choose = lambda found, is_images=True, before=None, **flags: (
    gpus.choose_precision(Config(**flags), found, is_images, before).computes_in
  )
  assert choose(machine(*A100)) == choose(machine(*H100)) == 'bfloat16'
  assert choose(machine(*T4)) == choose(None) == 'float32'
  assert choose(machine(*A100, seen=0)) == 'float32'  # It trains on the CPU.
  assert (
    choose(dataclasses.replace(machine(*A100), cards=machine(*A100).cards + machine(*T4).cards))
    == 'float32'
  )
  assert choose(machine(*A100), is_images=False) == choose(machine(*A100), features=True) == 'float32'
  assert choose(machine(*A100), use_bfloat16=False) == 'float32'
  assert choose(machine(*A100), use_float16=True) == choose(None, precision='float16') == 'float16'
  assert (
    choose(None, use_bfloat16=True) == choose(None, precision='bfloat16', use_bfloat16=True) == 'bfloat16'
  )
  # A run goes on as it began.
  assert choose(machine(*A100), before=Config(use_bfloat16=False)) == 'float32'
  assert choose(None, before=Config(use_bfloat16=True)) == 'bfloat16'
  with pytest.raises(UserError, match='--precision=float32: not together with --use_bfloat16'):
    validate(Config(precision='float32', use_bfloat16=True, dataset_name='digits', output_dir='x'))


def test_what_follows_from_the_devices_of_a_strategy():
  class Strategy:
    def __init__(self, *names):
      self.extended = self
      self.worker_devices = names

  two = Strategy('/device:GPU:0', '/device:GPU:1')
  assert gpus.is_known_for_nan(two, '2.16.1') and gpus.is_known_for_nan(two, '2.21.0')
  assert not gpus.is_known_for_nan(two, '2.15.1')
  assert not gpus.is_known_for_nan(Strategy('/device:GPU:0'), '2.21.0')
  assert not gpus.is_known_for_nan(Strategy('/device:CPU:0', '/device:CPU:1'), '2.21.0')
  one, cpu = Strategy('/device:GPU:0'), Strategy('/device:CPU:0')
  assert gpus.choose_xla(None, one, 1000) and not gpus.choose_xla(None, one, 999)
  assert not gpus.choose_xla(None, two, 10**6) and not gpus.choose_xla(None, cpu, 10**6)
  assert gpus.choose_xla(True, cpu, 1) and not gpus.choose_xla(False, one, 10**6)


def test_a_run_says_what_the_card_is(tmp_path, monkeypatch, capsys):
  """A driver that is a script; TensorFlow sees no GPU on this machine, or has another one."""
  smi = tmp_path / 'bin' / 'nvidia-smi'
  smi.parent.mkdir()
  smi.write_text('#!/bin/sh\necho "0, Tesla K80, 3.7, 12288, 0, 470.256.02"\n')
  smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('PATH', f'{smi.parent}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  flags = [
    'main',
    '--dataset_name=two_moons_6_supervised',
    '--model_type=mlp-8x1',
    '--train_batch_size=2',
    '--num_train_steps=1',
    '--strategy=one_device',
    f'--output_dir={tmp_path}/run',
  ]
  assert main.run(flags) == 0
  said = [line for line in capsys.readouterr().out.splitlines() if line.startswith('GPU: ')]
  assert said[0].startswith('GPU: Tesla K80, 13 GB, compute capability 3.7, driver 470.256.02')
  assert len(said) == 2 and 'trains on the CPU' in said[1]
