"""benchmarks/study.py: its settings that change a method, by hand."""

from meta_pseudo_labels import config
from meta_pseudo_labels.optim import optimizers

import pytest
import study
import tensorflow as tf


def test_settings_that_change_the_method():
  class Method:
    mpl_weight = 2.0
    student_optimizer, teacher_optimizer = None, optimizers.Momentum(0.5, nesterov=False)

    def set_optimizers(self, student_optimizer=None, teacher_optimizer=None):
      self.teacher_optimizer = teacher_optimizer

  settings = config.Config(num_train_steps=10, train_batch_size=4, uda_data=3)
  method = Method()
  study.scale_by_batch(method, settings)
  assert method.mpl_weight == 24
  study.delay_feedback(method, settings)
  assert [float(method.mpl_weight(tf.constant(step))) for step in (0, 4, 5)] == [0, 0, 24]
  study.accumulate_gradients(method, settings)
  optimizer, value = method.teacher_optimizer, tf.Variable([1.0], name='w')
  optimizer.build([value])
  seen = []
  for number, gradient in enumerate([4.0, 8.0, 0.0, 4.0, 40.0]):
    (new,), slots = optimizer.update(
      [tf.constant([gradient])], [value], optimizer.slot_values(), tf.constant(number)
    )
    value.assign(new)
    optimizer.assign_slots(slots)
    seen.append((float(new[0]), float(slots['momentum'][0][0]), float(slots['gathered'][0][0])))
  # Only the fourth moves it: by .5 times their mean, 4.
  assert seen == [(1, 0, 1), (1, 0, 3), (1, 0, 3), (-1, 4, 0), (-1, 4, 10)]


def test_gathered_steps_of_adamw_by_hand():
  """Four times the mean gradient 4: Adam's first step is the rate, and the weight decays by rate * decay.

  The rate is that of the training's step, 0.1 at step 3 and 0.3 at step 7. Biases do not decay. Before
  step 4 the scaled weight has no rate.
  """

  class Method:
    teacher_optimizer = optimizers.AdamW(lambda step: 0.1 if step < 4 else 0.3, weight_decay=0.5)

    def set_optimizers(self, teacher_optimizer):
      self.teacher_optimizer = teacher_optimizer

  method = Method()
  method.teacher_optimizer.scale_rates({'scaled:0': 0.5}, wait=4)
  study.accumulate_gradients(method, None)
  variables = [tf.Variable([2.0], name=name) for name in ('w', 'bias', 'scaled')]
  method.teacher_optimizer.build(variables)
  seen = []
  for number in range(8):
    values, slots = method.teacher_optimizer.update(
      [tf.constant([gradient]) for gradient in (4.0, -4.0, 4.0)],
      list(map(tf.convert_to_tensor, variables)),
      method.teacher_optimizer.slot_values(),
      tf.constant(number),
    )
    for variable, value in zip(variables, values):
      variable.assign(value)
    method.teacher_optimizer.assign_slots(slots)
    seen.append([float(value[0]) for value in values])
  assert seen[:3] == [[2, 2, 2]] * 3 and seen[4:7] == [seen[3]] * 3
  assert seen[3] == pytest.approx([2 - 0.1 - 0.1 * 0.5 * 2, 2.1, 2], rel=1e-5)
  w = seen[3][0]
  assert seen[7] == pytest.approx([w - 0.3 - 0.3 * 0.5 * w, 2.4, 2 - 0.15 - 0.15 * 0.5 * 2], rel=1e-5)
