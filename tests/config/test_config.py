"""Flags, Config, validation: what the release's command line promises, and ours."""

import dataclasses
import json
import pathlib

from meta_pseudo_labels.config import (
  Config,
  command_line,
  from_json,
  notes,
  parse,
  to_json,
  unread_note,
  validate,
)
from meta_pseudo_labels.config.unread import UNREAD, type_and_default
from meta_pseudo_labels.errors import UserError, did_you_mean

import pytest
from absl import flags

FLAGFILES = pathlib.Path(__file__).resolve().parents[2] / 'flags'

# fmt: off
# Written from the release's flag_utils.py, not from our table.
RELEASE_BOOLEANS = (
    'running_local_dev reset_output_dir load_checkpoint_and_restart_global_step use_tpu '
    'use_bfloat16 use_augment use_xla_sharding use_vizier').split()
RELEASE_STRINGS = dict(
    load_checkpoint=None, master=None, tpu_topology='', dataset_name=None, task_mode=None,
    output_dir=None, lr_decay_type='exponential', optim_type='momentum', model_type='wrn-28-2',
    inference_ckpt=None, inference_ckpt_ensemble=None, dataset_service_bns_prefix=None,
    mpl_teacher_checkpoint=None, mpl_student_checkpoint=None, tpu_platform=None)
RELEASE_INTEGERS = dict(
    num_infeed_threads=4, save_every=1000, log_every=10, num_shards_per_worker=None,
    batch_norm_batch_size=None, train_batch_size=128, eval_batch_size=128, image_size=32,
    num_classes=10, num_warmup_steps=0, num_train_steps=10000, num_decay_steps=750, ema_start=0,
    augment_magnitude=5, inference_class_id=0, inference_num_threads=None,
    inference_thread_index=0, dataset_service_replicas=None, teacher_num_samples=10,
    uda_warmup_steps=2000, uda_data=4, uda_steps=10000, mpl_student_wait_steps=2500,
    mpl_student_lr_wait_steps=500, mpl_student_lr_warmup_steps=5000,
    mpl_teacher_lr_warmup_steps=5000, num_cores_per_replica=1)
RELEASE_FLOATS = dict(
    batch_norm_decay=.99, batch_norm_epsilon=.001, weight_decay=.0001, dense_dropout_rate=.1,
    stochastic_depth_drop_rate=0., grad_bound=1e9, lr=.016, lr_decay_rate=.97, rmsprop_rho=.9,
    rmsprop_momentum=.9, rmsprop_epsilon=.001, teacher_lr=.1, ema_decay=0., label_smoothing=0.,
    teacher_base_lr=.001, teacher_grad_bound=20., teacher_eps=1e-7, teacher_weight_decay=.0001,
    teacher_temperature=.5, teacher_grad_dot_moving_average_decay=.99, teacher_init_range=.1,
    teacher_one_hot_w=.9, uda_temp=.75, uda_weight=1., uda_threshold=.6, mpl_temp=.75,
    mpl_threshold=.6, mpl_dot_product_bound=.1, mpl_student_lr=.1, mpl_teacher_lr=.1)
OURS = dict(
    method='', mpl_feedback='release', mpl_weight=1., num_labeled=None, label_seed=None,
    num_validation=None, eval_split='test', select='', views='', flip=None,
    augment_ops='', skip_bad_images=False, cache=False, cache_dir='',
    image_background='white', image_range='high_bits',
    unlabeled_manifest=None, select_per_class=1000, seed=0, data_dir=None, strategy='auto',
    labels=None, suggest_images=100, balanced_sampling=False, augment_fill=128,
    num_virtual_devices=0, intra_op_threads=0, steps_per_loop=100, use_float16=None, remat=None,
    pseudo_labels='uda', pseudo_labels_threshold=None, pseudo_labels_momentum=.999,
    pseudo_labels_fairness=.05, pseudo_labels_smoothing=0., distribution_alignment='auto',
    student_targets_from='augmented', pseudo_labels_soft=False, pseudo_label_rounds=1,
    memory=None, micro_batches=0, original_view='together', student_model_type='', model_weights='',
    student_model_weights='', model_inputs='', freeze='none', feature_layers=0, train_batch_norm=False,
    backbone_lr_scale=.1, layer_decay=1., head_steps=0, features=False, feature_views=2,
    head='linear', head_weights=None, whole_image=False, crop_area=.08, time_limit='1h',
    finetune_steps=0, finetune_lr=1e-5,
    finetune_batch_size=512, baselines='', keep_checkpoints=3, save_retry_seconds=300,
    max_nonfinite_steps=10, max_restarts=3, augment_stddev=.1,
    jit_compile=None, precision='auto', use_bfloat16=None, deterministic=False, num_seeds=1,
    export_dir='', export_weights='ema',
    teacher_predictions=None, calibration_units=64, calibration_layers=1,
    export_formats='', export_tflite=False, input='', output='', format='', saved_model='',
    dataset_service_address=None)
# fmt: on
REQUIRED = ['main', '--dataset_name=digits_40_mpl', '--output_dir=/tmp/run']

# fmt: off
# The README's CIFAR-10-4K command; its ImageNet command differs as said below.
COMMAND = dict(
    task_mode='train', model_type='wrn-28-2', dataset_name='cifar10_4000_mpl', log_every=100,
    image_size=32, num_classes=10, optim_type='momentum', lr_decay_type='cosine', save_every=1000,
    use_bfloat16=True, use_tpu=True, use_augment=False, reset_output_dir=True, eval_batch_size=64,
    running_local_dev=True, train_batch_size=128)
CIFAR = dict(
    COMMAND, uda_data=7, weight_decay=5e-4, num_train_steps=300000, augment_magnitude=16,
    batch_norm_batch_size=256, dense_dropout_rate=.2, ema_decay=.995, label_smoothing=.15,
    mpl_student_lr_wait_steps=3000, uda_steps=5000, uda_temp=.7, uda_threshold=.6, uda_weight=8.)
IMAGENET = dict(
    COMMAND, dataset_name='imagenet_10_percent_mpl', image_size=224, num_classes=1000,
    model_type='resnet-50', label_smoothing=.1, grad_bound=5., uda_data=15, uda_steps=50000,
    uda_temp=.5, uda_threshold=.6, uda_weight=20., train_batch_size=1024, num_train_steps=700000,
    num_warmup_steps=10000, augment_magnitude=17, batch_norm_batch_size=1024, mpl_student_lr=.1,
    mpl_student_lr_wait_steps=20000, mpl_student_lr_warmup_steps=5000, mpl_teacher_lr=.15,
    mpl_teacher_lr_warmup_steps=5000, ema_decay=.999, dense_dropout_rate=.1, weight_decay=1e-4)


# fmt: on


def test_every_flag_has_its_name_and_default():
  expected = dict.fromkeys(RELEASE_BOOLEANS, False)
  for group in (RELEASE_STRINGS, RELEASE_INTEGERS, RELEASE_FLOATS, OURS):
    expected.update(group)
  found = dataclasses.asdict(Config())
  found.update({name: type_and_default(name)[1] for name in UNREAD})
  assert found == expected
  assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}
  assert parse(['main']) == Config()


@pytest.mark.parametrize(
  'group, kind',
  [
    (RELEASE_BOOLEANS, 'bool'),
    (RELEASE_STRINGS, 'string'),
    (RELEASE_INTEGERS, 'int'),
    (RELEASE_FLOATS, 'float'),
  ],
)
def test_flag_types_are_the_releases(group, kind):
  values = flags.FlagValues()
  command_line._define(values)
  assert {name: values[name].flag_type() for name in group} == dict.fromkeys(group, kind)


def test_every_flag_has_help():
  values = flags.FlagValues()
  command_line._define(values)
  command_line._define(values)  # A second call does no harm.
  assert [name for name in values if len(values[name].help) < 20] == []
  assert values['mpl_feedback'].help.endswith('Values: release, soft, sampled, sampled_dot, argmax.')
  assert values['uda_temp'].help.endswith('Must be above 0.')


@pytest.mark.parametrize(
  'name, expected', [('cifar10_4000_mpl', CIFAR), ('imagenet_10_percent_mpl', IMAGENET)]
)
def test_release_recipe(name, expected):
  flags.FLAGS['alsologtostderr'].unparse()  # absl's own flags keep their value between parses.
  config = parse(['main', f'--flagfile={FLAGFILES / "paper" / name}.flags'])
  validate(config)
  places = dict(output_dir=f'runs/{name}', master='', tpu_platform='', tpu_topology='')
  assert config == Config(**expected, **places)
  assert flags.FLAGS['alsologtostderr'].value is True
  assert config.method_name == 'mpl'
  assert notes(config)[0].startswith('--mpl_feedback=release')  # Nothing is replaced.


def test_release_command_as_printed():
  """The README's spelling: quotes gone (the shell eats them), a flag twice, 'use_augment=False'."""
  config = parse(
    [
      'main.py',
      '--task_mode=train',
      '--dataset_name=cifar10_4000_mpl',
      '--output_dir=path/to/your/output/dir',
      '--master=path/to/your/tpu/worker',
      '--use_tpu',
      '--nouse_augment',
      '--train_batch_size=128',
      '--tpu_platform=your_tpu_platform',
      '--uda_weight=20.',
      '--tpu_platform=tpu_platform',
      '--train_batch_size=1024',
      '--use_augment=False',
      '--alsologtostderr',
    ]
  )
  validate(config)
  assert (config.train_batch_size, config.tpu_platform, config.use_augment, config.uda_weight) == (
    1024,
    'tpu_platform',
    False,
    20.0,
  )


def test_flagfile_comes_where_it_stands(tmp_path):
  (tmp_path / 'base.flags').write_text('# shared\n--lr=1\n--seed=1\n')
  (tmp_path / 'top.flags').write_text(f'--flagfile={tmp_path}/base.flags\n\n--seed=2\n')
  config = parse(['main', '--lr=9', f'--flagfile={tmp_path}/top.flags', '--uda_data=3'])
  assert (config.lr, config.seed, config.uda_data) == (1.0, 2, 3)


def test_parsing_again_starts_from_the_defaults():
  assert parse(['main', '--seed=7', '--use_tpu']).seed == 7
  with pytest.raises(UserError):
    parse(['main', '--seed=8', '--lr=fast'])
  assert parse(['main']) == Config()


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpfull', '--helpshort'])
def test_help_lists_our_flags(flag, capsys):
  with pytest.raises(SystemExit) as stopped:
    parse(['main', flag])
  assert stopped.value.code == 0
  printed = capsys.readouterr().out
  assert '  --mpl_feedback\n' in printed and '  --[no]reset_output_dir\n' in printed
  # By section, the flags that nothing reads apart.
  assert (
    printed.index('Meta Pseudo Labels, and')
    < printed.index('--mpl_weight')
    < printed.index('Devices, precision')
    < printed.index('nothing reads')
    < printed.index('--teacher_eps')
  )


@pytest.mark.parametrize(
  'dataset_name, dataset, count, method, classes',
  [
    ('cifar10_4000_mpl', 'cifar10', 4000, 'mpl', 10),
    ('CIFAR10_4000_UDA', 'cifar10', 4000, 'uda', 10),
    ('cifar10_4000', 'cifar10', 4000, 'supervised', 10),
    ('cifar10', 'cifar10', None, 'supervised', 10),
    ('cifar100_10000_pseudo_labels', 'cifar100', 10000, 'pseudo_labels', 100),
    ('imagenet_10_percent_mpl', 'imagenet_10_percent', None, 'mpl', 1000),
    ('imagenet_10_percent', 'imagenet_10_percent', None, 'supervised', 1000),
    ('imagenet', 'imagenet', None, 'supervised', 1000),
    ('two_moons', 'two_moons', None, 'supervised', None),
    ('two_moons_6_mpl', 'two_moons', 6, 'mpl', None),
    ('digits_40_mpl', 'digits', 40, 'mpl', None),
    ('digits_40_reduced_mpl', 'digits', 40, 'reduced_mpl', None),
    ('folder_reduced_mpl', 'folder', None, 'reduced_mpl', None),
    ('imagenette', 'imagenette', None, 'supervised', None),
    (None, '', None, 'supervised', None),
  ],
)
def test_what_the_dataset_name_says(dataset_name, dataset, count, method, classes):
  config = Config(dataset_name=dataset_name)
  assert (config.dataset, config.labeled_count, config.method_name, config.dataset_classes) == (
    dataset,
    count,
    method,
    classes,
  )


def test_flags_win_over_the_dataset_name():
  config = Config(dataset_name='digits_40_mpl', num_labeled=20, method='uda')
  assert (config.labeled_count, config.method_name) == (20, 'uda')


@pytest.mark.parametrize(
  'task_mode, task',
  [
    (None, 'train'),
    ('train', 'train'),
    ('finetune', 'finetune'),
    ('evals', 'eval'),
    ('eval', 'eval'),
    ('eval_forever', 'eval_forever'),
  ],
)
def test_tasks(task_mode, task):
  config = Config(dataset_name='digits', output_dir='d', task_mode=task_mode, finetune_steps=1)
  validate(config)
  assert config.task == task


def test_baseline_names():
  assert Config().baseline_names == ()
  assert Config(baselines='supervised, uda,').baseline_names == ('supervised', 'uda')
  assert Config().augment_op_names == ()
  assert Config(augment_ops='Cutout, ShearX,').augment_op_names == ('Cutout', 'ShearX')


def test_config_is_frozen():
  config = Config(seed=1)
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.seed = 2
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.sede = 2
  assert config.replace(seed=2) == Config(seed=2)
  assert config.seed == 1
  with pytest.raises(TypeError):
    Config(sede=1)


def test_json_round_trip():
  config = parse(REQUIRED + ['--lr=3e-5', '--use_tpu', '--label_seed=4'])
  text = to_json(config)
  assert from_json(text) == config
  values = json.loads(text)
  assert list(values) == sorted(values)
  assert (values['lr'], values['use_tpu'], values['num_labeled']) == (3e-5, True, None)
  assert from_json('{"seed": 5}') == Config(seed=5)
  # Versions before 0.1.0 wrote the flags that nothing reads, too.
  assert from_json('{"seed": 5, "teacher_lr": 0.2}') == Config(seed=5)


@pytest.mark.parametrize(
  'text, line',
  [
    ('{"seed": 5', 'hparams.json: not JSON'),
    ('[1]', 'hparams.json: holds a list, not a JSON object'),
    ('{"sead": 5}', "hparams.json: unknown name 'sead' (did you mean 'seed'?); remove it"),
  ],
)
def test_bad_json_gets_one_line(text, line):
  with pytest.raises(UserError) as caught:
    from_json(text)
  assert str(caught.value).startswith(line) and '\n' not in str(caught.value)


def test_notes():
  quiet = Config(dataset_name='cifar10_4000_mpl', mpl_feedback='soft', ema_decay=0.99)
  assert notes(quiet) == []
  assert notes(quiet.replace(dataset_name='imagenet_10_percent_mpl')) == [
    'num_classes 10 replaced by 1000, the number of classes of imagenet_10_percent'
  ]
  assert notes(quiet.replace(dataset_name='folder', num_classes=7)) == []
  parse(['main', '--mpl_temp=.5', '--teacher_lr=1'])
  assert unread_note() == 'accepted without effect, as in the release: --mpl_temp, --teacher_lr'
  parse(['main'])
  assert unread_note() == ''
  assert notes(quiet.replace(mpl_feedback='release')) == [
    '--mpl_feedback=release: its term has a gradient of exactly zero, so the student is '
    'distilled from a UDA teacher; use --mpl_feedback=soft for a real feedback (docs/fidelity.md)'
  ]
  assert notes(quiet.replace(mpl_feedback='release', method='uda')) == []
  late = quiet.replace(num_train_steps=300, mpl_student_lr_wait_steps=300)
  assert notes(late) == [
    "the student's rate is zero for the first 300 steps (--mpl_student_lr_wait_steps), and there are "
    '300: it learns nothing'
  ]
  for changes in (dict(mpl_student_lr_wait_steps=299), dict(method='uda')):
    assert notes(late.replace(**changes)) == []
  (parts,) = notes(quiet.replace(micro_batches=8))
  assert parts.startswith('--micro_batches=8: batch norms take their statistics over a part')
  assert notes(quiet.replace(micro_batches=8, model_type='mlp-8x2')) == []
  frozen = quiet.replace(micro_batches=8, model_type='MobileNetV2')
  assert notes(frozen) == []  # Its batch norms keep the statistics that they come with.
  assert (
    notes(frozen.replace(train_batch_norm=True)) == notes(frozen.replace(model_weights='none')) == [parts]
  )
  assert notes(quiet.replace(ema_decay=0.0)) == [
    'ema_decay 0: the averaged student is a plain copy of the student'
  ]


def test_suggest():
  assert did_you_mean('cifar01', ['cifar10', 'digits']) == " (did you mean 'cifar10'?)"
  assert did_you_mean('cifar10', ['xyz']) == ''
