"""Every bad request and bad input gets one line and a status: the table in docs/bad_requests.md.

    python -m pytest tests/test_bad_requests.py --write-table

writes that table anew from what the program says; without it, the test fails where they differ.
"""

import pathlib
import re
import shutil

from meta_pseudo_labels import main
from meta_pseudo_labels.distribution import gpus

import bad_inputs
import gpu_machines
import pytest

DOC = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'bad_requests.md'
HEAD = """# Bad requests and bad inputs

What the program answers, in one line on stderr, and its exit status: 2 where the request has to be
changed, 1 where a run failed. `tests/test_bad_requests.py` makes every one of these requests and
compares; `--write-table` writes this file. DIR stands for a folder; `...` for what
differs between versions and machines. In front of each request stand
`--dataset_name=digits_40_mpl --output_dir=DIR/new`, which a later flag replaces.
"""
BASE = [
  'main',
  '--dataset_name=digits_40_mpl',
  '--output_dir=DIR/new',
  '--image_size=8',
  '--model_type=mlp-8x1',
  '--strategy=one_device',
]
RUN = [
  '--dataset_name=two_moons_6_mpl',
  '--label_seed=1',
  '--train_batch_size=4',
  '--uda_data=2',
  '--num_train_steps=2',
  '--save_every=1',
  '--log_every=1',
  '--eval_batch_size=700',
]

# Requests: flags behind BASE. 'folder', 'npz' and 'run' are filled in by the sections below.
FLAGS = """
--uda_dat=7
--zzzzzz
--uda_data=many
--num_train_steps=3e5
--lr=fast
--use_tpu=maybe
--nouse_tpu=1
--seed
train
--lr=-1
--lr=nan
--grad_bound=inf
--lr=1e39
--uda_temp=1e-320
--ema_decay=.9999999999
--num_train_steps=999999999999999999999999999999
--image_size=100000
--num_virtual_devices=100000
--model_type=mlp-999999999x2
--dataset_name=digits_४०
--output_dir=DIR/a\0b
--output_dir=gs://bucket/run
--use_float16 --use_bfloat16
--precision=float32 --use_bfloat16
--precision=half
--flagfile=
--ema_decay=1
--uda_temp=0
--uda_threshold=1.5
--train_batch_size=0
--keep_checkpoints=0
--save_retry_seconds=-1
--max_nonfinite_steps=-1
--max_restarts=-1
--num_labeled=0
--num_classes=1
--seed=2147483648
--num_seeds=3 --label_seed=2147483646
--mpl_feedback=sampeld
--method=fixmatch
--lr_decay_type=linear
--optim_type=adam
--strategy=mirror
--eval_split=train
--views=sideways
--original_view=alone
--pseudo_labels=fixmacth
--pseudo_labels=freematch --method=supervised
--pseudo_labels=freematch --method=reduced_mpl --teacher_predictions=DIR/few_predictions.npz
--pseudo_labels=freematch --pseudo_labels_threshold=0.9
--pseudo_labels_momentum=1
--pseudo_labels_soft
--pseudo_label_rounds=0
--distribution_alignment=even
--student_targets_from=original --method=uda
--micro_batches=-1
--memory=-1
--baselines=uda,suprvised
--augment_ops=Cutout,rotate
--noflip --dataset_name=two_moons_6
--augment_ops=Cutout --dataset_name=two_moons_6
--calibration_layers=-1
--calibration_units=0
--model_type=wrn-27-2
--model_type=resnet50
--model_type=resnet-50 --dataset_name=two_moons_6
--model_type=MobilNetV2
--model_type=none.h5
--model_type=MobileNetV2 --model_weights=none --dataset_name=two_moons_6
--model_type=MobileNetV2 --model_weights=none --image_size=8
--student_model_type=wrn-9-1
--model_weights=imagenet
--student_model_weights=none
--model_inputs=0_256 --model_type=MobileNetV2
--freeze=all
--freeze=0 --model_type=MobileNetV2
--head_steps=10
--backbone_lr_scale=-1
--crop_area=0
--augment_fill=256
--features
--features --model_type=MobileNetV2 --freeze=1
--features --model_type=MobileNetV2 --head=lineer
--head_weights=head.npz
--task_mode=ladder --time_limit=soon
--task_mode=ladder
--task_mode=ladder --model_type=MobileNetV2 --head=mlp-8x1
--task_mode=suggest --model_type=MobileNetV2
--task_mode=suggest --dataset_name=folder
--task_mode=suggest --suggest_images=-1
--labels=labels.csv
--dataset_name=
--output_dir=
--dataset_name=digits_0_mpl
--dataset_name=cifra10_4000_mpl
--flagfile=/no/such/file
--flagfile=/
--flagfile=DIR/itself.flags
--flagfile=DIR/image.flags
--flagfile=DIR/wrong.flags
"""
SETTINGS = """
--dataset_name=digits_5000_mpl
--num_labeled=3 --label_seed=0
--num_validation=5000
--eval_split=validation
--select=validation
--num_validation=0 --dataset_name=npz --data_dir=DIR/no_test.npz --num_labeled=4
--views=resized_crop
--strategy=mirrored --train_batch_size=6 --eval_batch_size=8
--strategy=mirrored --train_batch_size=8 --eval_batch_size=6
--train_batch_size=6 --micro_batches=5
--memory=0.000001
--strategy=tpu
--strategy=multi_worker
--use_xla_sharding --num_cores_per_replica=16
--use_xla_sharding --num_cores_per_replica=16 --strategy=tpu
--use_xla_sharding --num_cores_per_replica=12
--use_xla_sharding
--num_cores_per_replica=2
--num_virtual_devices=3
--intra_op_threads=3
--unlabeled_manifest=/no/such.json
--unlabeled_manifest=DIR/wrong.flags
--unlabeled_manifest=DIR/other_selection.json
--unlabeled_manifest=DIR/deep.json
--baselines=label_spreading --dataset_name=folder --data_dir=DIR/images --views=resized_crop
--method=reduced_mpl
--baselines=reduced_mpl
--method=reduced_mpl --teacher_predictions=DIR/few_predictions.npz --num_seeds=3
--method=reduced_mpl --teacher_predictions=/no/such.npz
--method=reduced_mpl --teacher_predictions=DIR/empty
--method=reduced_mpl --teacher_predictions=DIR/no_zip.npz
--method=reduced_mpl --teacher_predictions=DIR/cut.npz
--method=reduced_mpl --teacher_predictions=DIR/no_test.npz
--method=reduced_mpl --teacher_predictions=DIR/no_json_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/other_data_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/other_images_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/other_classes_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/three_classes_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/few_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/few_predictions.npz --num_labeled=50
--method=reduced_mpl --teacher_predictions=DIR/float64_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/probabilities_predictions.npz
--method=reduced_mpl --teacher_predictions=DIR/nan_predictions.npz
"""
FOLDERS = """
--dataset_name=folder
--dataset_name=folder --data_dir=/no/such
--dataset_name=folder --data_dir=DIR/image.flags
--dataset_name=folder --data_dir=DIR/empty
--dataset_name=folder --data_dir=DIR/one_class
--dataset_name=folder --data_dir=DIR/no_images
--dataset_name=folder --data_dir=DIR/strange_class
--dataset_name=folder --data_dir=DIR/bad_image
--dataset_name=folder --data_dir=DIR/cut_image
--dataset_name=folder --data_dir=DIR/bomb
--dataset_name=folder --data_dir=DIR/webp
--dataset_name=folder --data_dir=DIR/all_bad --skip_bad_images
--dataset_name=folder --data_dir=DIR/images --num_labeled=1000
--dataset_name=folder --data_dir=DIR/images --labels=/no/such.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/image.flags
--dataset_name=folder --data_dir=DIR/images --labels=DIR/unknown_column.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/no_such_image.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/outside.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/two_classes.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/other_folder.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/no_class.csv
--dataset_name=folder --data_dir=DIR/images --labels=DIR/no_rows.csv
--dataset_name=folder --data_dir=DIR/empty --labels=DIR/two_classes.csv
--dataset_name=fashion_mnist --data_dir=DIR/idx_wrong
--dataset_name=fashion_mnist --data_dir=DIR/idx_short
--dataset_name=fashion_mnist --data_dir=DIR/idx_gzip
--dataset_name=fashion_mnist --data_dir=DIR/idx_negative
--dataset_name=cifar10 --data_dir=DIR/cifar_short
--dataset_name=cifar10 --data_dir=DIR/cifar_part
--dataset_name=imagenet_10_percent_mpl --data_dir=/no/such
--dataset_name=imagenet_10_percent_mpl --data_dir=DIR/empty
--dataset_name=imagenet_heldout --data_dir=/no/such
"""
ARRAYS = tuple(bad_inputs.ARRAYS)
FOLDER_FLAGS = """
--output_dir=/proc/nothing/here
--output_dir=DIR/image.flags
--output_dir=DIR/image.flags/below
--output_dir=DIR/work --reset_output_dir
--output_dir=DIR/repository --reset_output_dir
--output_dir=DIR/images --dataset_name=folder --data_dir=DIR/images --reset_output_dir
--output_dir=DIR/bad_hparams
--output_dir=DIR/old_hparams
--output_dir=DIR/list_hparams
--task_mode=trian
--task_mode=report
--task_mode=eval
--task_mode=eval --reset_output_dir
--task_mode=finetune
--task_mode=finetune --finetune_steps=5
--task_mode=export
--task_mode=predict
--task_mode=predict --input=DIR/images
--task_mode=predict --input=/no/such
--task_mode=predict --input=DIR/images --saved_model=/no/such --output=DIR/p.csv
--task_mode=predict --input=DIR/images --format=xml
--task_mode=select
--task_mode=label
--load_checkpoint=/no/such
--load_checkpoint=DIR/empty
--load_checkpoint=DIR/image.flags
--mpl_teacher_checkpoint=/no/such
"""
# Of a run in DIR/run (two moons), each with RUN's settings and what has been done to a copy of it.
RUNS = (
  ('--lr=3 --weight_decay=0.1', None),
  ('--num_labeled=8', None),
  ('--seed=4', None),
  ('--dataset_name=digits_40_mpl', None),
  ('--model_type=mlp-4x1', None),
  ('--method=uda', None),
  ('--optim_type=lars', None),
  ('--augment_stddev=0.2', None),
  ('--task_mode=export --model_type=wrn-10-1', None),
  ('--task_mode=export --export_dir=DIR/work', None),
  ('--task_mode=export --export_weights=teacher', None),
  ('--task_mode=export --export_formats=tflite,tflite_int4', None),
  ('--task_mode=export --export_formats=onnx', 'no_onnx'),
  ('--task_mode=label --output=/no/such/predictions.npz', None),
  ('--task_mode=predict --input=DIR/images', None),
  ('--task_mode=eval', 'all_damaged'),
  ('--task_mode=export', 'all_damaged'),
  ('', 'all_damaged'),
  ('', 'results_damaged'),
  ('', 'hparams_damaged'),
  ('', 'older_version'),
  ('', 'locked'),
  ('--output_dir=DIR/new --load_checkpoint=DIR/run/ckpt_last/ckpt-1', 'data_damaged'),
  ('--output_dir=DIR/new --load_checkpoint=DIR/run/ckpt_last/ckpt-2 --model_type=mlp-4x1', None),
  ('convert', 'all_damaged'),
  ('convert', 'hparams_damaged'),
  ('convert', 'empty'),
)


@pytest.fixture(name='inputs', scope='module')
def fixture_inputs(tmp_path_factory):
  """A folder with all bad inputs, and a good run in run/."""
  folder = tmp_path_factory.mktemp('bad')
  bad_inputs.make(folder)
  flags = [flag.replace('DIR/new', f'{folder}/run') for flag in BASE]
  assert main.run([*flags, *RUN]) == 0
  return folder


def answered(capsys, folder, argv):
  """(status, the line) of a command line; DIR in it stands for the folder."""
  capsys.readouterr()
  shutil.rmtree(folder / 'new', ignore_errors=True)
  status = main.run([flag.replace('DIR', str(folder)) for flag in argv])
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if not re.match(r'[WI]\d{4} |\d{4}-\d\d-\d\d ', line)]
  assert len(lines) == 1 and lines[0].startswith('error: '), f'{argv}: {error}'
  line = lines[0][len('error: ') :].replace(str(folder), 'DIR')
  return status, bad_inputs.without_others_words(line)


def section(capsys, folder, title, requests):
  """Rows of the table: '| request | answer | status |'."""
  rows = [f'\n## {title}\n', '| request | answer | status |', '|---|---|---|']
  for request in requests:
    status, line = answered(capsys, folder, BASE + request.split())
    assert status in (1, 2), request
    rows.append(row(request, line, status))
  return rows


def row(request, line, status):
  escape = lambda text: text.replace('|', '\\|').replace('\0', '\\0')
  return f'| `{escape(request)}` | {escape(line)} | {status} |'


def of_runs(capsys, folder):
  """Rows about a run that is there already, whole or damaged."""
  rows = [
    '\n## Of a run that is there, whole or damaged\n',
    f'The run in DIR/run was made by `{" ".join(RUN)}`, which stands before each request.\n',
    '| request | the run | answer | status |',
    '|---|---|---|---|',
  ]
  shutil.copytree(folder / 'run', folder / 'kept')
  for request, damage in RUNS:
    shutil.rmtree(folder / 'run')
    shutil.copytree(folder / 'kept', folder / 'run')
    with bad_inputs.damaged(folder / 'run', damage):
      if request == 'convert':
        request = (
          'python -m meta_pseudo_labels.main --task_mode=convert --output_dir=DIR/run --output=DIR/out'
        )
        status, line = answered(capsys, folder, request.split()[2:])
      else:
        status, line = answered(capsys, folder, [*BASE, *RUN, '--output_dir=DIR/run', *request.split()])
    assert status in (1, 2), (request, damage)
    first, rest = row(request or '(the same again)', line, status).split(' | ', 1)
    rows.append(f'{first} | {bad_inputs.DAMAGES.get(damage, "")} | {rest}')
  return rows


def of_gpus():
  """Rows about cards that will not work or be slow."""
  rows = [
    '\n## What is said of GPUs at start\n',
    'Each line begins with `GPU: `. None of them ends a run: it trains on the CPU, or slowly.\n',
    '| what is the matter | what is said |',
    '|---|---|',
  ]
  for what, machine, more in gpu_machines.MACHINES:
    rows.append(f'| {what} | {"<br>".join(gpus.diagnose(machine, **more))} |')
  return rows


def test_every_bad_request_is_answered_in_one_line(inputs, capsys, request, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.delenv('CUDA_CACHE_PATH', raising=False)
  split = lambda text: [line for line in text.splitlines() if line]
  arrays = [f'--dataset_name=npz --data_dir=DIR/{name}.npz' for name in ARRAYS]
  rows = [HEAD]
  for title, requests in (
    ('Flags and values', split(FLAGS)),
    ('Settings that do not go together', split(SETTINGS)),
    ('Folders of data', split(FOLDERS)),
    ('Arrays in a .npz file', arrays),
    ('Tasks, output folders, checkpoints to start from', split(FOLDER_FLAGS)),
  ):
    rows += section(capsys, inputs, title, requests)
  rows += of_runs(capsys, inputs)
  rows += of_gpus()
  text = '\n'.join(rows) + '\n'
  assert text.count(' | 2 |') + text.count(' | 1 |') >= 60
  if request.config.getoption('--write-table'):
    DOC.write_text(text, encoding='utf-8')
  assert DOC.read_text(encoding='utf-8').splitlines() == text.splitlines()
