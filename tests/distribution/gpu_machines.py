"""Machines with NVIDIA's cards as the driver and TensorFlow describe them, one for each diagnosis."""

import dataclasses

from meta_pseudo_labels.distribution.gpus import Card, Machine

OLDER = ('sm_50', 'sm_60', 'sm_70', 'sm_75', 'compute_80')  # TensorFlow 2.15's wheels.
NEWER = ('sm_60', 'sm_70', 'sm_80', 'sm_89', 'compute_90')  # 2.21's.


def machine(name, capability, gigabytes, *, used=0.5, count=1, driver='580.65.06', older=False, **changes):
  """A machine of `count` such cards."""
  return dataclasses.replace(
    Machine(
      driver=driver,
      cards=(Card(name, capability, gigabytes * 1e9, used * 1e9),) * count,
      tensorflow='2.15.1' if older else '2.21.0',
      built_for=OLDER if older else NEWER,
      seen=count,
    ),
    **changes,
  )


A100 = ('NVIDIA A100-SXM4-80GB', (8, 0), 85)
H100 = ('NVIDIA H100 80GB HBM3', (9, 0), 85)
T4 = ('Tesla T4', (7, 5), 16)
# [what is the matter, Machine, further arguments of `diagnose`].
MACHINES = [
  ('nothing', machine(*A100), {}),
  ('nothing, two cards', machine(*A100, count=2, older=True), {}),
  ('Hopper under TensorFlow 2.15', machine(*H100, older=True), {}),
  ('Blackwell under TensorFlow 2.15', machine('NVIDIA B200', (10, 0), 192, older=True), {}),
  ('Blackwell under TensorFlow 2.21', machine('NVIDIA GeForce RTX 5090', (12, 0), 34), {}),
  ('a card that is too old', machine('Tesla K80', (3, 7), 12, older=True, seen=0), {}),
  ('a driver below 525', machine(*T4, driver='470.256.02', older=True, seen=0), {}),
  ('no build for GPUs', machine(*T4, built_for=(), seen=0), {}),
  ('libraries of CUDA missing', machine(*A100, seen=0), {}),
  ('memory in use by others', machine(*A100, used=30), {}),
  ('several GPUs, TensorFlow 2.16 or later', machine(*A100, count=2), dict(nan=True)),
  ('bfloat16 before Ampere', machine(*T4), dict(precision='bfloat16')),
  ('float16 from Ampere on', machine(*A100), dict(precision='float16')),
]
