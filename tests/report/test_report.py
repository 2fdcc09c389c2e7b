"""Task report and the details of task eval: numbers by hand, pages of real runs, a real browser."""

import html.parser
import json
import os
import shutil
import subprocess

from meta_pseudo_labels import build, main
from meta_pseudo_labels.build import Phase
from meta_pseudo_labels.config import from_json, parse
from meta_pseudo_labels.data import semi_supervised
from meta_pseudo_labels.distribution import devices
from meta_pseudo_labels.report import curves, document, page, plots
from meta_pseudo_labels.training import evaluate
from meta_pseudo_labels.training import run as run_module
from meta_pseudo_labels.training.run import Run

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

CHROMIUM = shutil.which('chromium')
TINY = [
  '--label_seed=1',
  '--train_batch_size=4',
  '--uda_data=2',
  '--num_train_steps=4',
  '--save_every=2',
  '--log_every=1',
  '--uda_steps=2',
  '--mpl_feedback=soft',
  '--mpl_student_lr_wait_steps=0',
  '--strategy=one_device',
  '--eval_batch_size=300',
]
DIGITS = [
  '--dataset_name=digits_40_mpl',
  '--model_type=wrn-10-1',
  '--image_size=8',
  '--finetune_steps=2',
  '--finetune_batch_size=8',
  '--ema_decay=0.5',
  '--num_validation=60',
]
# What has attributes that a browser would fetch something for.
FETCHING = ('src', 'href', 'srcset', 'data', 'action', 'poster', 'background')


class Page(html.parser.HTMLParser):
  """The elements of a page: [(tag, attributes)], its texts, and the ids of its sections."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.texts = [], []
    self.feed(text)
    self.sections = [found['id'] for tag, found in self.elements if tag == 'section']

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.texts.append(data)

  @property
  def fetched(self):
    """What is no part of the page: values that are neither data: nor a place within it."""
    return [
      value
      for _, attributes in self.elements
      for name, value in attributes.items()
      if name in FETCHING and not value.startswith(('data:', '#'))
    ]


def read(folder):
  return Page((folder / 'report.html').read_text(encoding='utf-8'))


@pytest.fixture(name='run', scope='module')
def fixture_run(tmp_path_factory):
  """The folder of a run on digits, with a name that HTML gives a meaning to."""
  folder = tmp_path_factory.mktemp('run') / '<b>"a" & b</b>'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run_module, 'EVALUATIONS_PER_PICTURE', 2)
    assert main.run(['main', f'--output_dir={folder}', *TINY, *DIGITS]) == 0
  return folder


def test_a_training_ends_with_a_report_of_all_there_is(run, capsys):
  text = (run / 'report.html').read_text(encoding='utf-8')
  found = read(run)
  assert found.sections == [
    'results',
    'what',
    'curves',
    'losses',
    'feedback',
    'pseudo_labels',
    'views',
    'classes',
    'mistakes',
  ]
  assert found.fetched == [] and '<script' not in text and '@import' not in text
  assert 'url(' not in text and '<b>"a"' not in text
  for words in (
    '--mpl_feedback=soft',
    'Finetune on the labeled examples',
    '--num_train_steps',
    'was the best on the validation split',
    f'TensorFlow {tf.__version__}',
    '40 labeled (4 to 4 per class)',
  ):
    assert words in ' '.join(found.texts), words
  results = json.loads((run / 'results.json').read_text())
  accuracy = results['selected']['models']['student']['top1']
  assert f'{100 * accuracy:.2f}%' in found.texts
  # Twelve pairs of views, and twelve mistakes: the network is as good as untrained.
  alts = [attributes['alt'] for tag, attributes in found.elements if tag == 'img']
  assert alts.count('original view') == alts.count('augmented view') == 12
  assert sum(alt.startswith('example ') for alt in alts) == 12
  # The command in it makes the same run; the folder is named so that a shell takes it.
  import shlex

  written = next(text for text in found.texts if text.startswith('python -m'))
  again = parse(['main', *shlex.split(written.replace('\\\n', ''))[3:]])
  hparams = from_json((run / 'hparams.json').read_text())
  assert again.replace(num_classes=hparams.num_classes) == hparams
  # The task makes it again from the folder alone, and leaves the checkpoint as it was.
  os.remove(run / 'report.html')
  capsys.readouterr()
  assert main.run(['main', f'--output_dir={run}', '--task_mode=report']) == 0
  assert f'report: {run}/report.html' in capsys.readouterr().out
  assert read(run).sections == found.sections


def test_eval_writes_details_that_agree_with_the_accuracy(run, capsys):
  assert main.run(['main', f'--output_dir={run}', *TINY, *DIGITS, '--task_mode=eval']) == 0
  assert 'expected calibration error of the student' in capsys.readouterr().out
  found = json.loads((run / 'eval_test.json').read_text())
  details, student = found['details'], found['models']['student']
  matrix = np.array(details['confusion'])
  assert details['model'] == 'student' and matrix.shape == (10, 10)
  assert matrix.sum(axis=1).tolist() == [50] * 10 == [entry['examples'] for entry in details['per_class']]
  assert matrix.trace() / 500 == pytest.approx(student['top1'])
  assert [entry['accuracy'] for entry in details['per_class']] == pytest.approx(matrix.diagonal() / 50)
  assert details['calibration']['num_bins'] == len(details['calibration']['bins']) == 15
  assert sum(entry['examples'] for entry in details['calibration']['bins']) == 500
  for what in ('confusion', 'per_class', 'reliability'):
    picture = tf.io.decode_png((run / f'eval_test_{what}.png').read_bytes()).numpy()
    assert picture.shape[1] > 600 and picture[..., :3].std() > 10


@pytest.mark.parametrize(
  'flags, sections',
  [
    (
      ['--dataset_name=two_moons_6', '--model_type=mlp-8x1'],
      ['results', 'what', 'curves', 'losses', 'classes', 'regions'],
    ),
    (
      ['--dataset_name=two_moons_6_mpl', '--model_type=mlp-8x1', '--num_seeds=2'],
      ['results', 'what', 'curves', 'losses', 'feedback', 'pseudo_labels', 'classes', 'regions'],
    ),
    (
      ['--dataset_name=digits_40', '--method=pseudo_labels', '--model_type=mlp-8x1', '--image_size=8'],
      ['results', 'what', 'curves', 'losses', 'pseudo_labels', 'views', 'classes', 'mistakes'],
    ),
    (
      ['--dataset_name=digits_40_uda', '--model_type=mlp-8x1', '--image_size=8'],
      ['results', 'what', 'curves', 'losses', 'pseudo_labels', 'views', 'classes', 'mistakes'],
    ),
  ],
)
def test_what_does_not_apply_is_left_out(tmp_path, capsys, flags, sections, monkeypatch):
  if '--dataset_name=two_moons_6' not in flags:  # The others' charts are the above run's, or this one's.
    monkeypatch.setattr(plots, '_png', lambda drawing: b'not rendered')
  assert main.run(['main', f'--output_dir={tmp_path}', *TINY, *flags]) == 0
  assert f'report:          {tmp_path}/report.html' in capsys.readouterr().out
  assert read(tmp_path).sections == sections
  if '--num_seeds=2' in flags:
    words = ' '.join(read(tmp_path).texts)
    assert ' ± ' in words and 'about seed 0' in words
    other = read(tmp_path / 'seed_1')
    assert other.sections == sections[:-1] and ' ± ' not in ' '.join(other.texts)
    table = json.loads((tmp_path / 'seed_1' / 'table.json').read_text())
    assert (
      table[-1]['accuracies'] == json.loads((tmp_path / 'table.json').read_text())[-1]['accuracies'][1:]
    )


def test_a_failing_report_is_one_line_and_no_failure(tmp_path, capsys, monkeypatch):
  def fail(run):
    raise OSError(28, 'No space left\non device')

  monkeypatch.setattr(document, 'write', fail)
  argv = ['main', '--dataset_name=two_moons_6', '--model_type=mlp-8x1', f'--output_dir={tmp_path}']
  assert main.run([*argv, *TINY]) == 0
  (line,) = [line for line in capsys.readouterr().out.splitlines() if 'report.html' in line]
  assert line.startswith('report.html was not written (OSError: No space left on device)')
  assert (tmp_path / 'table.json').exists()


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--output_dir=/no/such'], '--output_dir=/no/such: no run there'),
    (['--output_dir='], '--output_dir: not given'),
    (['--model_type=wrn-16-1'], 'model_type wrn-10-1 -> wrn-16-1'),
    (['--reset_output_dir'], 'would delete the checkpoints'),
    (['--output_dir={empty}'], 'no checkpoint there, which --task_mode=report needs'),
  ],
)
def test_a_bad_request_is_one_line_and_status_2(run, tmp_path, capsys, flags, words):
  shutil.copy(run / 'hparams.json', tmp_path)
  flags = [flag.format(empty=tmp_path) for flag in flags]
  assert main.run(['main', f'--output_dir={run}', '--task_mode=report', *flags]) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().splitlines()) == 1


def test_outcomes_are_in_order_on_every_strategy(tmp_path):
  """Four replicas, seven batches of 300, the last one filled up, against plain arithmetic."""
  config = parse(
    ['main', '--dataset_name=two_moons_6', '--model_type=mlp-8x1', f'--output_dir={tmp_path}', *TINY]
  )
  problem = build.problem(config)
  for strategy in (devices.create_strategy('one_device'), devices.create_strategy('mirrored')):
    run = Run(config, problem, strategy)
    run.phases[0].method.average.update(run.phases[0].method.step)
    found = run.outcomes(run.phases[0], 'raw_student')
    test = problem.evaluated['test']
    probabilities = tf.nn.softmax(run.phases[0].method.student(test.inputs)).numpy()
    np.testing.assert_array_equal(found.labels, test.labels)
    np.testing.assert_array_equal(found.predicted, probabilities.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=1), rtol=1e-5)
    wrong = found.mistakes(3)
    assert (found.predicted[wrong] != test.labels[wrong]).all()
    assert found.confidence[wrong[0]] == found.confidence[~found.right].max()


def test_tensorboard_gets_the_views(run):
  images, texts = [], []
  for path in (run / 'logs' / 'train').iterdir():
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      for value in event_pb2.Event.FromString(record).summary.value:
        if value.tag == 'views':
          found = tf.make_ndarray(value.tensor)
          (images if value.metadata.plugin_data.plugin_name == 'images' else texts).append(found)
  # At the second of two evaluations, of the one phase that has views.
  ((width, height, picture),) = images
  assert (width, height) == (b'96', b'16')  # Twelve pairs of 8 pixels.
  assert tf.io.decode_png(picture).shape == (16, 96, 1)
  assert b'labels by the teacher, on the augmented views: ' in texts[0].item()


def test_calibration_by_hand():
  found = evaluate.Outcomes(
    labels=np.array([0, 1, 1, 0]),
    predicted=np.array([0, 1, 0, 2]),
    confidence=np.array([1.0, 0.9, 0.5, 0.45], np.float32),
  )
  assert evaluate.count_confusions(found, 3).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
  result = evaluate.measure_calibration(found, num_bins=2)
  # .5 belongs to the lower of two bins: two wrong ones there, two right ones in the upper.
  assert [(entry['examples'], entry['accuracy']) for entry in result['bins']] == [(2, 0), (2, 1)]
  assert result['ece'] == pytest.approx(0.5 * 0.475 + 0.5 * 0.05)
  assert evaluate.measure_calibration(found, num_bins=10)['bins'][0] == {
    'from': 0.0,
    'to': 0.1,
    'examples': 0,
    'confidence': None,
    'accuracy': None,
  }
  assert evaluate.summarize(found, ['a', 'b', 'c'])['per_class'][2]['accuracy'] is None
  assert found.mistakes(5).tolist() == [2, 3]


def test_texts_are_escaped_everywhere():
  bad = '<img src="https://x/">\udcff'
  for text in (
    page.tag('p', bad),
    page.tag('p', 'x', title=bad),
    page.table((bad,), [(bad,)]),
    page.image(b'', bad),
    page.document(bad, '', [('a', bad, page.Markup('<p>'))]),
  ):
    assert '<img src="https' not in text
    text.encode()
    assert not Page(text).fetched


def test_curves_go_over_phases_and_are_thinned(tmp_path):
  (tmp_path / 'm.jsonl').write_text(
    ''.join(
      json.dumps({'kind': 'train', 'phase': phase, 'step': step, 'x': step}) + '\n'
      for phase in ('train', 'finetune')
      for step in range(1, 601)
    )
    + '{"half'
  )

  class Recorded:
    phases = [Phase(name, None, 600, 1, 0, {}) for name in ('train', 'finetune')]
    steps_before = Run.steps_before

  logged = curves.read_metrics(str(tmp_path / 'm.jsonl'))
  x, y = curves.collect_series(Recorded(), logged, 'train', {'x': 'X', 'z': 'Z'})['X']
  assert len(x) == 300 and x[0] == 2.5 and x[-1] == 1198.5
  assert y[0] == y[150] == 2.5


@pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium')
def test_a_browser_shows_it_without_network_and_errors(run, tmp_path):
  shutil.copy(run / 'report.html', tmp_path / 'report.html')
  # Narrower than a headless window can be: in a frame.
  (tmp_path / 'frame.html').write_text(
    '<iframe src="report.html" style="width:400px;height:800px;border:0"></iframe><script>'
    'onload = () => { const inner = document.querySelector("iframe").contentDocument.'
    'documentElement; document.title = "over " + (inner.scrollWidth - inner.clientWidth); }</script>'
  )
  flags = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--no-first-run',
    '--disable-sync',
    '--disable-background-networking',
    '--disable-component-update',
    '--enable-logging=stderr',
    '--disable-features=NetworkTimeServiceQuerying',
    '--allow-file-access-from-files',
  ]

  def opened(name):
    """(DOM, what the browser's console says)."""
    done = subprocess.run(
      [
        CHROMIUM,
        *flags,
        f'--user-data-dir={tmp_path}/user_{name}',
        '--dump-dom',
        f'file://{tmp_path}/{name}.html',
      ],
      capture_output=True,
      text=True,
      timeout=120,
      check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if 'CONSOLE' in line]

  dom, said = opened('report')
  assert Page(dom).sections == read(run).sections and said == []
  dom, said = opened('frame')
  assert '<title>over 0</title>' in dom and said == []
  # What would be fetched is refused by the page itself, and seen here.
  text = (run / 'report.html').read_text(encoding='utf-8')
  (tmp_path / 'other.html').write_text(text.replace('<nav>', '<img src="http://localhost:9/x"><nav>'))
  assert 'Content Security Policy' in opened('other')[1][0]
