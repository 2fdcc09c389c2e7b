"""The benchmark programs: their statistics by hand, and each one once on tiny settings."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

from meta_pseudo_labels import config
from meta_pseudo_labels.data import registry, semi_supervised
from meta_pseudo_labels.data.augment import views

import augment
import digits
import first_answer
import gpu
import gpu_steps
import numpy as np
import op_times
import overhead
import predict as predict_benchmark
import pytest
import scaling
import step
import step_cost
import study
import suggest as suggest_benchmark
import tensorflow as tf

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]


def line(dataset, setting, seed, **accuracy):
  return (dataset, setting, seed), {'accuracy': accuracy}


def test_the_study_s_table_pairs_by_seed_and_by_kind_of_labels():
  runs = dict(
    [
      line('d', 'MPL 0', 0, student=0.90, teacher=0.80),
      line('d', 'MPL 0', 1, student=0.92),
      line('d', 'soft 1', 0, student=0.91),
      line('d', 'soft 1', 1, student=0.95),
      line('d', 'soft 1', 2, student=0.10),  # Without a partner: in the mean, not in the pairs.
      line('d', 'sampled 0', 0, student=0.50),
      line('d', 'sampled 0', 1, student=0.50),
      line('d', 'sampled 1', 0, student=0.40),
      line('d', 'sampled 1', 1, student=0.40),
    ]
  )
  table = study.format_table(runs)
  assert '**d**' in table
  # Differences 1 and 3: mean 2, standard error 1, and t(.975, 1 degree of freedom) = 12.706.
  assert '| soft 1 | 3 | 65.33 ± 47.96 | +2.00 ± 12.71 |' in table
  assert '| sampled 1 | 2 | 40.00 ± 0.00 | -10.00 ± 0.00 |' in table
  assert '| MPL 0 | 2 | 91.00 ± 1.41 |  |' in table
  assert '| MPL 0 (teacher) | 1 | 80.00 | -10.00 ± nan |' in table


def test_the_study_of_strategies_pairs_each_step_with_the_one_before(tmp_path, capsys):
  """Alone with UDA, MPL's student with its teacher's strategy alone, the feedback with none."""
  names = ('uda', 'freematch', 'freematch MPL 0', 'freematch soft 1')
  assert [study.find_control(name) for name in names] == ['uda', 'uda', 'freematch', 'freematch MPL 0']
  assert study.find_control('freematch soft 1 (teacher)') == 'freematch MPL 0'
  args = study.parse(['--strategies=uda,softmatch'])
  assert args.settings == [
    'uda',
    'uda MPL 0',
    'uda soft 1',
    'softmatch',
    'softmatch MPL 0',
    'softmatch soft 1',
  ]
  assert study.parse([]).settings == list(study.SETTINGS)
  argv = [
    f'--output={tmp_path}/out.jsonl',
    f'--recipe={CHECKOUT}/flags/base/two_moons.flags',
    '--datasets=two_moons_6',
    '--seeds=0-0',
    '--strategies=flexmatch',
    '--num_train_steps=2',
    '--uda_data=2',
  ]
  study.work(study.parse(argv), 0)
  study.main([*argv, '--table'])
  table = capsys.readouterr().out
  assert '| flexmatch MPL 0 | 1 |' in table and table.count('| flexmatch') == 5  # Two of them teachers.
  with pytest.raises(SystemExit):
    study.parse(['--strategies=fixmatsch'])
  assert '--strategies=fixmatsch: unknown; use some of uda, fixmatch' in capsys.readouterr().err


def test_the_study_runs_each_setting_once(tmp_path, capsys):
  recipe = CHECKOUT / 'flags/base/two_moons.flags'
  argv = [
    f'--recipe={recipe}',
    f'--output={tmp_path}/out.jsonl',
    '--datasets=two_moons_6',
    '--seeds=3-3',
    '--num_train_steps=4',
    '--uda_data=2',
  ]
  args = study.parse([*argv, '--settings=UDA,sampled 1'])
  study.work(args, 0)
  study.work(args, 0)  # Nothing is left to do.
  lines = [json.loads(text) for text in (tmp_path / 'out.jsonl').read_text().splitlines()]
  assert [(entry['setting'], entry['seed']) for entry in lines] == [('UDA', 3), ('sampled 1', 3)]
  assert set(lines[1]['accuracy']) == {'student', 'raw_student', 'teacher'}
  assert all(0 < value < 1 for value in lines[1]['accuracy'].values())
  assert '--uda_data=2' in lines[0]['flags'] and '--mpl_feedback=sampled' in lines[1]['flags']
  study.main([*argv, '--table'])
  assert '| UDA | 1 |' in capsys.readouterr().out


def test_an_unknown_setting_is_refused(capsys):
  with pytest.raises(SystemExit) as stop:
    study.parse(['--settings=UDDA'])
  assert stop.value.code == 2
  assert '--settings=UDDA: unknown; use some of supervised' in capsys.readouterr().err


def test_bad_requests_are_one_line(tmp_path, capsys):
  for argv, words in (
    (['--methods=udda'], '--methods=udda: unknown; use some of release, soft'),
    (['--rounds=0'], '--rounds=0: not a positive integer; give 1 or more'),
    (['--image_size=big'], '--image_size=big: must be'),
  ):
    with pytest.raises(SystemExit) as stop:
      step_cost.main(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count('\n') == 1
  with pytest.raises(SystemExit) as stop:
    study.main([f'--output={tmp_path}/out.jsonl', '--datasets=digitz', '--part=0', '--seeds=0-0'])
  assert stop.value.code == 2 and capsys.readouterr().err.startswith(
    'error: --dataset_name=digitz: unknown dataset'
  )


def test_the_summary_of_digits_by_hand():
  tables = [{'MPL student': 90.0, 'UDA': 89.0}, {'MPL student': 94.0, 'UDA': 89.0}]
  text = '\n'.join(digits.summarize(tables))
  assert 'MPL student   92.00 +- 2.83' in text
  assert '+3.00 +- 2.00' in text  # 1 and 5: standard deviation 2.83, standard error 2.


def test_step_costs_are_ratios_to_the_first(capsys, monkeypatch):
  monkeypatch.setattr(step_cost, 'SECONDS_A_TURN', 0.0)
  step_cost.main(
    [
      '--methods=release,uda,uda+input',
      '--rounds=2',
      '--model_type=mlp-8x1',
      '--image_size=8',
      '--train_batch_size=2',
      '--uda_data=1',
    ]
  )
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split() == 'release 1.000 of release (1.000 to 1.000)'.split()
  assert lines[2].startswith('uda') and 0 < float(lines[2].split()[1])
  assert lines[3].startswith('uda+input') and 0 < float(lines[3].split()[1])


def test_predict_is_a_ratio_to_the_bare_network(capsys):
  predict_benchmark.main(
    ['--images=30', '--rounds=1', '--model_type=mlp-8x1', '--image_size=8', '--eval_batch_size=8']
  )
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].startswith('predict makes ') and 0 < float(lines[1].split()[2])
  for argv, words in (
    (['--images=0'], '--images=0: not a positive integer'),
    (['--model_type=x'], '--model_type=x'),
  ):
    with pytest.raises(SystemExit) as stop:
      predict_benchmark.main(argv)
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_augment_compares_the_views(capsys):
  augment.main(['--seconds=0.1', '--rounds=1'])
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(('ours', 'tensorflow-addons: not installed'))
  assert lines[-1].startswith('Pillow') and 'times as many' in lines[-1]


def test_augments_peers_make_views_of_the_same_shape():
  images = np.random.RandomState(0).randint(0, 256, [200, 32, 32, 3]).astype(np.uint8)
  pairs = augment.build_pillow(images, 16)
  assert [view.shape for view in next(pairs)] == [(32, 32, 3)] * 2
  for _ in range(200):  # Every operation, sooner or later.
    assert all(np.isfinite(view).all() for view in next(pairs))
  for dataset in (augment.build_ours(images, 16), augment.build_addons(images, 16)):
    if dataset is not None:
      assert [view.shape for view in next(iter(dataset))] == [(128, 32, 32, 3)] * 2


def test_the_studys_wrong_priors():
  labels = np.repeat(np.arange(10), 30)
  chosen = np.arange(0, 300, 7)[:40]
  random = np.random.RandomState(0)
  changed, same = study.make_noisy(labels, chosen, 10, random)
  assert same is chosen and (changed != labels).sum() == 10
  assert set(np.flatnonzero(changed != labels)) <= set(chosen)
  same, drawn = study.make_imbalanced(labels, chosen, 10, random)
  assert same is labels and len(np.unique(drawn)) == 40
  assert np.bincount(labels[drawn]).tolist() == [7, 7, 7, 7, 7, 1, 1, 1, 1, 1]
  with pytest.raises(SystemExit):
    study.main(['--datasets=digits_40+nosy'])


SMALL = ['--model_type=wrn-10-1', '--image_size=8', '--uda_data=1']


def test_a_step_s_share_of_the_peak(monkeypatch):
  monkeypatch.setattr(step, 'SECONDS', 0.0)
  monkeypatch.setattr(step, 'PEAK_SIZES', (8, 16))
  found = step.measure('uda', 3, False, [*SMALL, '--train_batch_size=2'])
  assert len(found['seconds']) == len(found['peaks']) == 3 and found['first'] > 0
  assert 0 < found['before'] <= found['most'] < 100
  # 12.5, 50 and 25 % of the peaks of their rounds; 25 % is the middle.
  numbers = dict(found, operations=1e9, seconds=[4.0, 1.0, 2.0], peaks=[2e9, 2e9, 2e9], step_memory=1.0)
  text = step.format_line(numbers, dict(numbers, seconds=[8.0, 8.0, 8.0], step_memory=4.0))
  assert '2.000 s for 1 GFLOP: 25 % of 2 GFLOP/s (12 to 50)' in text
  assert text.endswith('0.250 of the time, 0.250 of the memory')


def test_where_a_step_s_time_goes():
  images, kernel, scale = tf.ones([64, 32, 32, 16]), tf.ones([3, 3, 16, 16]), tf.ones([16])

  @tf.function(autograph=False)
  def work():
    outputs = tf.nn.conv2d(images, kernel, 1, 'SAME')
    return tf.reduce_sum(tf.compat.v1.nn.fused_batch_norm(outputs, scale, scale)[0])

  work()
  began = time.perf_counter()
  found = op_times.measure_by_kind(lambda: float(work()), calls=2)
  assert 0 < sum(found.values()) <= (time.perf_counter() - began) / 2
  assert min(found['convolutions'], found['batch norm']) > 0 and set(found) == {
    'convolutions',
    'batch norm',
    op_times.REST,
  }


def test_the_profile_in_words():
  text = step.format_profile(
    {
      'kinds': {'convolutions': 0.5, 'products': 0.25, 'the rest': 2.0},
      'operations': 1.5e9,
      'peaks': [4e9],
    }
  )
  assert text == (
    'convolutions 0.500 s, products 0.250 s, the rest 2.000 s; convolutions and products '
    'alone: 50 % of the peak'
  )


@pytest.mark.slow
def test_scaling_measures_replicas(monkeypatch):
  monkeypatch.setattr(scaling, 'SECONDS', 0.0)
  assert scaling.measure('uda', 4, [*SMALL, '--train_batch_size=4']) > 0


def test_everything_about_a_device_in_one_command(tmp_path):
  """On the CPU and small; what a test of another file covers in full is left out."""
  report = tmp_path / 'gpu.json'
  flags = [
    '--device=cpu',
    '--quick',
    '--only=machine,peak,steps,resnet,replicas,parity',
    f'--json={report}',
  ]
  done = subprocess.run(
    [sys.executable, str(CHECKOUT / 'benchmarks/gpu.py'), *flags],
    capture_output=True,
    text=True,
    check=True,
  )
  rows = json.loads(report.read_text())['rows']
  assert [row['section'] for row in rows].count('peak') == 4
  steps = [row for row in rows if row['section'] in ('steps', 'resnet')]
  assert len(steps) == 4 and all(row['images_per_s'] > 0 and row['share_of_peak'] > 0 for row in steps)
  assert rows[-1]['section'] == 'parity' and rows[-1]['status'] == 0 and 'first_bad' not in rows[-1]
  assert len(done.stdout.splitlines()) >= len(rows)


def test_a_step_that_fails_is_a_row(tmp_path, capsys):
  report = gpu.Report(None, 10)
  bad = gpu_steps.Case('steps', 'bad', 'release', 'float32', ('--model_type=wrn-9-1',))
  gpu.measure_cases([bad], 1, 'cpu', report)
  assert report.rows[0]['failed'].startswith('--model_type=wrn-9-1') and 'bad' in capsys.readouterr().out
  late = gpu.Report(None, 0)
  gpu.measure_cases([bad], 1, 'cpu', late)
  assert late.rows[0]['skipped'] == 'the minutes are over'


def test_what_a_step_costs_besides_its_arithmetic():
  found = overhead.measure(['release'], 2)
  assert set(found) == {'fit', 'release'} and all(len(values) == 2 for values in found.values())
  # At most a few times what Keras' own loop takes; a step that returns to Python takes ten times as much.
  assert min(found['release']) < 10 * max(found['fit'])


def test_suggestions_are_compared_with_random_labels_seed_by_seed():
  rows = [dict(start=50.0, random=60.0, suggested=61.0), dict(start=52.0, random=61.0, suggested=64.0)]
  # Differences 1 and 3, as above.
  assert suggest_benchmark.format_table(rows).splitlines()[2:] == [
    '| start | 51.00 ± 1.41 | |',
    '| random | 60.50 ± 0.71 | |',
    '| suggested | 62.50 ± 2.12 | +2.00 ± 12.71 |',
  ]


@pytest.mark.parametrize('way', suggest_benchmark.WAYS)
def test_each_way_of_choosing_gives_other_images_without_labels(way):
  random = np.random.RandomState(0)
  labels = np.arange(90) % 3
  pool = suggest_benchmark.Pool(random.rand(90, 6).astype(np.float32) + np.eye(6)[labels], labels)
  pool.start(seed=0, per_class=2)
  found = suggest_benchmark.WAYS[way](pool, 10)
  assert 8 <= len(found) == len(set(found.tolist())) <= 10 and 0 <= found.min() <= found.max() < 84
  test = pool.inputs[:30], labels[:30]
  accuracies = suggest_benchmark.measure(pool, test, [way], 0, 2, 10)
  assert list(accuracies) == ['start', way] and min(accuracies.values()) > 60


def pool_of_clouds():
  """60 points of each of 3 classes, and 60 of none."""
  random, labels = np.random.RandomState(0), np.repeat([0, 1, 2, -1], 60)
  inputs = random.randn(240, 1, 6) + 6 * np.eye(6)[labels][:, np.newaxis]
  found = semi_supervised.Problem(
    info=dataclasses.replace(registry.info('digits'), class_names=('a', 'b', 'c')),
    split=None,
    inputs=inputs.astype(np.float16),
    labels=labels.astype(np.int32),
    unlabeled=None,
    truth=None,
    evaluated={},
    views=views.Features(0, tf.float32),
  )
  order = lambda seed: [
    np.random.RandomState(seed).permutation(np.flatnonzero(labels == label)) for label in range(3)
  ]
  return first_answer.Pool(config.Config(), found, order)


def test_what_the_cases_of_the_first_answer_draw(monkeypatch):
  monkeypatch.setattr(first_answer, 'TEST', 10)
  pool = pool_of_clouds()
  truth = pool.problem.labels
  for case in first_answer.CASES:
    drawn = first_answer.draw(pool, case, 1, 10)
    both = np.concatenate([drawn.labeled, drawn.unlabeled, drawn.test])
    assert len(np.unique(both)) == len(both)
    assert np.bincount(truth[drawn.test]).tolist() == [10] * 3
    wrong = (drawn.labels != truth[drawn.labeled]).sum()
    assert wrong == (3 if case == 'flipped' else 0)
    strangers = (truth[drawn.unlabeled] < 0).sum()
    assert (strangers, len(drawn.unlabeled)) == {'foreign': (60, 120), 'imbalanced': (0, 41)}.get(
      case, (0, 120)
    )
  # Shares of 1, 10^-1/2 and 1/10 of 30 labeled images.
  assert sorted(np.bincount(drawn.labels)) == [2, 7, 21]


def test_the_first_answer_is_measured_draw_by_draw(monkeypatch):
  monkeypatch.setattr(first_answer, 'TEST', 10)
  row = first_answer.measure(pool_of_clouds(), 'flipped', 1, 10)
  assert list(row) == ['logistic regression', 'label spreading', 'chosen', 'wrong labels found']
  assert row['label spreading'] > 90 and row['chosen'] in (
    row['logistic regression'],
    row['label spreading'],
  )
  assert row['wrong labels found'] == 100  # Clouds that are far apart.
  rows = [{'logistic regression': 50.0, 'chosen': 53.0}, {'logistic regression': 52.0, 'chosen': 53.0}]
  # Gains of 3 and 1: mean 2, standard error 1, and t(.975, 1 degree of freedom) = 12.706.
  assert first_answer.format_row('plain', 10, rows) == '| plain | 10 | 51.0 ± 1.4 | 53.0 (+2.0 ± 12.7) |'
