"""benchmarks/estimate.py: its counts against published ones, against every product in a traced step's
graph, and by hand."""

import dataclasses
import math
import pathlib

from meta_pseudo_labels import build, methods
from meta_pseudo_labels.build import memory
from meta_pseudo_labels.config import Config

import estimate
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
  'name, size, classes, parameters, multiply_adds',
  [
    ('wrn-28-2', 32, 10, 1.47e6, None),
    ('resnet-50', 224, 1000, 25.6e6, 4.1e9),  # He et al. 2016; torchvision's table: 4.09e9.
    ('efficientnet-b0', 224, 1000, 5.3e6, 0.39e9),  # Tan and Le 2019; b1 too.
    ('efficientnet-b1', 240, 1000, 7.8e6, 0.70e9),
  ],
)
def test_networks_are_of_the_published_sizes(name, size, classes, parameters, multiply_adds):
  flops, found = estimate.measure_network(name, (size, size, 3), classes)
  assert found.parameters == pytest.approx(parameters, rel=0.01)
  if multiply_adds:
    assert flops / 2 == pytest.approx(multiply_adds, rel=0.03)


def test_a_step_of_wrn_28_2_is_490_gflop():
  """Issue 6's number, for batch 16, U 7 and the release's feedback."""
  config = estimate.read(ROOT / 'flags/paper/cifar10_4000_mpl.flags', ['--train_batch_size=16'])
  assert estimate.estimate(config).step_flops == pytest.approx(490e9, rel=0.01)


def test_a_small_network_by_hand():
  """Two dense layers: 4 x 4 pixels to 8, 8 to 10."""
  flops, found = estimate.measure_network('mlp-8x1', (4, 4, 1), 10)
  assert flops == 2 * (16 * 8 + 8 * 10)
  assert found.parameters == found.variables == 16 * 8 + 8 + 8 * 10 + 10


def products(function):
  """The FLOPs of all convolutions and matrix products that a traced function carries out."""
  graph = function.graph
  wanted = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
  seen, total = set(), 0
  while wanted:  # What nothing asks for is not run: e.g. derivatives that nobody takes.
    op = wanted.pop()
    if op.name in seen:
      continue
    seen.add(op.name)
    wanted += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    shape = lambda index, op=op: op.inputs[index].shape.as_list()
    if op.type == 'Conv2D':
      total += 2 * math.prod(shape(1)[:3]) * math.prod(op.outputs[0].shape.as_list())
    elif op.type == 'Conv2DBackpropInput':
      total += 2 * math.prod(shape(1)[:3]) * math.prod(shape(2))
    elif op.type == 'Conv2DBackpropFilter':
      total += 2 * math.prod(op.outputs[0].shape.as_list()[:3]) * math.prod(shape(2))
    elif op.type == 'MatMul':
      inner = shape(0)[0] if op.get_attr('transpose_a') else shape(0)[1]
      total += 2 * math.prod(op.outputs[0].shape.as_list()) * inner
    else:
      assert not any(word in op.type for word in ('Conv', 'PartitionedCall', 'While')), op.type
  return total


STEPS = ('supervised', 'uda', 'pseudo_labels', 'release', 'sampled', 'argmax', 'soft', 'sampled_dot')


@pytest.mark.parametrize(
  'name, original_view',
  [(name, 'together') for name in STEPS] + [('uda', 'separate'), ('soft', 'separate')],
)
def test_a_steps_count_is_that_of_its_graph(name, original_view):
  config = Config(
    dataset_name='cifar10',
    model_type='wrn-10-1',
    image_size=8,
    train_batch_size=6,
    uda_data=1,
    original_view=original_view,
    method=name if name in ('supervised', 'uda', 'pseudo_labels') else 'mpl',
  )
  if config.method == 'mpl':
    config = config.replace(mpl_feedback=name)
  shape = (8, 8, 3)
  method = build.method(
    config, student=build.model(config, 1, shape, 10), teacher=build.model(config, 0, shape, 10)
  )
  views = tf.zeros([6, *shape])
  step = tf.function(method.train_step, autograph=False).get_concrete_function(
    (views, tf.range(6), views, views)
  )
  expected = estimate.estimate(config).step_flops
  # The first layer's gradient by the images is not taken: here about a hundredth of all.
  assert 0.98 * expected < products(step) <= expected


def test_the_pass_ahead_of_freematch_by_hand():
  """4 labeled and 12 unlabeled examples, in two parts. UDA: 3 (4 + 12 + 12); MPL with `release`: the
  teacher's as much, 3 (4 + 12) of the student, and 4 again. FreeMatch: all 4 + 12 + 12 once more."""
  parts = dict(train_batch_size=4, uda_data=3, micro_batches=2)
  for method, worth in (('uda', 84), ('mpl', 84 + 48 + 4)):
    count = lambda method=method, **flags: estimate.count_passes(
      Config(method=method, **{**parts, **flags})
    )
    assert count() == count(pseudo_labels='softmatch') == count(pseudo_labels='freematch') - 28 == worth
    assert count(pseudo_labels='freematch', micro_batches=1) == worth  # The sums of its only pass.
    assert count(pseudo_labels='freematch', pseudo_labels_fairness=0.0) == worth
  assert estimate.count_passes(Config(method='supervised', pseudo_labels='freematch', **parts)) == 12


@pytest.mark.parametrize('method, original_view', [('uda', 'together'), ('mpl', 'separate')])
def test_the_pass_ahead_is_what_the_network_sees_more(method, original_view):
  """Rows that pass through UDA's network, or MPL's teacher, in a step."""
  seen = []

  def counted(inputs):
    with tf.control_dependencies(
      [tf.py_function(lambda n: seen.append(int(n)), [tf.shape(inputs)[0]], [])]
    ):
      return tf.identity(inputs)

  inputs = tf.keras.Input([2])
  learner = tf.keras.Model(inputs, tf.keras.layers.Dense(3)(tf.keras.layers.Lambda(counted)(inputs)))
  rows, found = lambda count: tf.random.normal([count, 2]), {}
  for name in ('uda', 'freematch'):
    config = Config(dataset_name='two_moons_6', method=method, pseudo_labels=name, micro_batches=2)
    config = config.replace(train_batch_size=4, uda_data=3, original_view=original_view, num_classes=3)
    student = (
      learner if method == 'uda' else tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=(2,))])
    )
    step = build.method(config, student=student, teacher=learner).train_step
    seen.clear()
    tf.function(step, autograph=False)((rows(4), tf.range(4) % 3, rows(12), rows(12)))
    found[name] = sum(seen), estimate.count_passes(config, together=False)
  assert found['freematch'][0] - found['uda'][0] == found['freematch'][1] - found['uda'][1] == 28


def test_features_are_the_work_of_their_last_layer():
  """MobileNetV2's 1,280 features alone to 10 classes: what the network itself takes is not of a step."""
  flops, found = estimate.measure_network('MobileNetV2', (160, 160, 3), 10, False, 'linear')
  assert flops == 2 * 1280 * 10 and found.parameters == 1280 * 10 + 10
  config = estimate.read(ROOT / 'flags/folder_features_uda.flags', ['--num_classes=10'])
  assert estimate.estimate(config).step_flops == (3 * 16 + 4 * 32) * flops


@pytest.mark.parametrize('method', ['supervised', 'uda', 'pseudo_labels', 'mpl'])
@pytest.mark.parametrize(
  'changes', [dict(), dict(optim_type='rmsprop', finetune_steps=1), dict(optim_type='sgd')]
)
def test_fixed_memory_is_that_of_a_runs_variables(method, changes):
  """Gradients apart, which are no variables: one set a method, two in MPL."""
  from meta_pseudo_labels import build

  config = Config(dataset_name='digits', method=method, model_type='mlp-8x1', image_size=4, **changes)
  phases = build.phases(config, (4, 4, 1), 10)
  held = {}
  for phase in phases:
    optimizers = [phase.method.student_optimizer, getattr(phase.method, 'teacher_optimizer', None)]
    for owner in [phase.method, *filter(None, optimizers)]:
      held.update({id(v): v for v in tf.Module.variables.fget(owner) if v.shape.rank})
  found = estimate.estimate(config)
  gradients = (2 if method == 'mpl' else 1) * found.network.parameters
  assert found.fixed_bytes == 4 * (sum(v.shape.num_elements() for v in held.values()) + gradients)


def test_hours_and_devices_by_hand():
  net = memory.Network(0, 0, 0)
  found = estimate.Estimate(net, 0, 0.0, 3.6e18, 4e9, 50e9, 12, True)
  device = estimate.Device('', 1, 20.0, 100.0, 50.0)
  assert estimate.compute_hours(found, device, 0.5, 4) == 5  # 1e15 FLOP/s peak/10 * .5 * 4 = 2e14.
  # 18 GB usable, 14 free: 50 GB take four of them, and four divide a batch of 12.
  assert estimate.find_device_count(found, device) == 4
  assert estimate.format_cell(found, device, 0.5) == '5.00 on 4'
  # In float32 they are 100 GB: eight, and the next divisor of 12.
  assert estimate.find_device_count(found, dataclasses.replace(device, has_bfloat16=False)) == 12
  several = estimate.Device('', 2, 20.0, 100.0, 50.0)
  assert estimate.format_cell(found, several, 0.5) == 'needs 4 (10.0)'
  small = estimate.Device('', 1, 4.0, 100.0, 50.0)
  assert estimate.format_cell(found, small, 0.5) == 'too large (20.0)'
  # 4.4 GB usable, .4 free: 125 devices and more, of which 12 images occupy 192 in 16 parts each.
  shared = dataclasses.replace(found, cores_per_replica=16)
  near = estimate.Device('', 1, 4.4 / 0.9, 100.0, 50.0)
  assert estimate.find_device_count(shared, near) is None
  assert estimate.find_device_count(shared, dataclasses.replace(near, splits_images=True)) == 192
  assert estimate.format_cell(found, estimate.Device('', 16, 20.0, 100.0, 50.0), 0.5) == '-'
  assert [estimate.format_number(value) for value in (0, 0.01234, 1.234, 123.4, 12345.0)] == [
    '<0.001',
    '0.0123',
    '1.23',
    '123',
    '12,300',
  ]


def test_the_table_of_two_recipes(capsys):
  estimate.main(
    [f'{ROOT}/flags/{name}.flags' for name in ('two_moons_uda', 'digits_supervised')]
    + ['--device=a100,cpu', '--num_train_steps=10']
  )
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].endswith('| h a100 | h cpu |') and lines[2].startswith('| two_moons_uda | <0.001')
  assert lines[3].startswith('| digits_supervised | 0.0776 |')
  assert 'Computed, not measured' in '\n'.join(lines)


@pytest.mark.parametrize(
  'argv, words',
  [
    ([], 'no recipe; give one or more'),
    (['flags/none.flags'], '--flagfile=flags/none.flags: No such file'),
    (['x', '--device=a10'], '--device=a10: unknown; use some of cpu, t4, a100'),
    (['x', '--utilization=35'], '--utilization=35: out of range; give a number above 0'),
    (['x', '--utilization=x'], '--utilization=x: out of range; give'),
    ([f'{ROOT}/flags/digits_uda.flags', '--uda_dat=3'], "did you mean '--uda_data'?"),
  ],
)
def test_bad_requests_are_one_line(argv, words, capsys):
  with pytest.raises(SystemExit) as stop:
    estimate.main(argv)
  error = capsys.readouterr().err
  assert stop.value.code == 2 and words in error and error.count('\n') == 1


def test_the_tables_of_the_docs_are_what_is_computed():
  lines = (ROOT / 'docs/scaling.md').read_text(encoding='utf-8').splitlines()
  starts = [i for i, line in enumerate(lines) if line.startswith('| recipe | parameters')]
  assert len(starts) == 2
  for start in starts:
    length = next(i for i, line in enumerate(lines[start:]) if not line.startswith('|'))
    shown = lines[start : start + length]
    names = [line.split(' | ')[0].lstrip('| ') for line in shown[2:]]
    devices = [cell[2:] for cell in shown[0].strip('| ').split(' | ') if cell.startswith('h ')]
    found = {
      name: estimate.estimate(estimate.read(next((ROOT / 'flags').rglob(f'{name}.flags'))))
      for name in names
    }
    assert estimate.format_table(found, devices, 0.35) == shown
