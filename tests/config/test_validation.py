"""Every bad value of a flag gets one line that names it."""

from meta_pseudo_labels.config import Config, parse, validate
from meta_pseudo_labels.errors import UserError

import pytest

REQUIRED = ['main', '--dataset_name=digits_40_mpl', '--output_dir=/tmp/run']


def refusal(*args):
  """The line that a command line with the required flags and `args` is refused with."""
  with pytest.raises(UserError) as caught:
    validate(parse(REQUIRED + list(args)))
  line = str(caught.value)
  assert '\n' not in line
  return line


@pytest.mark.parametrize(
  'model_type',
  [
    'wrn-10-1',
    'wrn-28-2',
    'wrn-40-4',
    'wrn-28-large',
    'resnet-50',
    'efficientnet-bs',
    'efficientnet-b0',
    'efficientnet-b8',
    'efficientnet-l2',
    'efficientnet-b5-mpl',
    'efficientnet-b6-mpl',
    'mlp-8x2',
  ],
)
def test_models(model_type):
  validate(Config(dataset_name='digits', output_dir='d', model_type=model_type))


FEEDBACK_WORDS = 'release, soft, sampled, sampled_dot, argmax'


@pytest.mark.parametrize(
  'arg, line',
  [
    # Not a flag, not a value.
    ('--uda_dat=7', "--uda_dat: unknown flag (did you mean '--uda_data'?); --help lists all flags"),
    ('--zzzzzz', '--zzzzzz: unknown flag; --help lists all flags'),
    ('--uda_data=many', '--uda_data=many: must be a whole number in digits, such as 300000'),
    ('--num_train_steps=3e5', '--num_train_steps=3e5: must be a whole number in digits, such as 300000'),
    ('--lr=fast', '--lr=fast: must be a number'),
    ('--use_tpu=maybe', '--use_tpu=maybe: must be true or false'),
    ('--nouse_tpu=1', '--nouse_tpu=1 does not take an argument'),
    ('--seed', 'Missing value for flag --seed'),
    ('train', 'train: not a flag; write flags as --name=value'),
    (
      '--flagfile=/nowhere/x.flags',
      '--flagfile=/nowhere/x.flags: No such file or directory; give '
      'the path of a file with one flag per line',
    ),
    ('--flagfile=/', '--flagfile=/: Is a directory; give the path of a file with one flag per line'),
    # Ranges.
    ('--lr=-1', '--lr=-1.0: must be 0 or more'),
    ('--lr=nan', '--lr=nan: must be a finite number'),
    ('--grad_bound=inf', '--grad_bound=inf: must be a finite number'),
    ('--mpl_teacher_lr=-.1', '--mpl_teacher_lr=-0.1: must be 0 or more'),
    ('--ema_decay=1', '--ema_decay=1.0: must be at least 0 and below 1'),
    ('--dense_dropout_rate=1', '--dense_dropout_rate=1.0: must be at least 0 and below 1'),
    ('--uda_temp=0', '--uda_temp=0.0: must be above 0'),
    ('--uda_threshold=1.5', '--uda_threshold=1.5: must be between 0 and 1'),
    ('--label_smoothing=-.1', '--label_smoothing=-0.1: must be between 0 and 1'),
    ('--train_batch_size=0', '--train_batch_size=0: must be 1 or more'),
    ('--num_train_steps=-5', '--num_train_steps=-5: must be 1 or more'),
    ('--finetune_steps=-1', '--finetune_steps=-1: must be 0 or more'),
    ('--num_labeled=0', '--num_labeled=0: must be 1 or more'),
    ('--num_classes=1', '--num_classes=1: must be 2 or more'),
    ('--seed=2147483648', '--seed=2147483648: must be between 0 and 2147483647'),
    (
      '--dataset_name=digits_0_mpl',
      '--dataset_name=digits_0_mpl: the number of labeled examples in it must be 1 or more',
    ),
    # Choices.
    (
      '--mpl_feedback=sampeld',
      f"--mpl_feedback=sampeld: unknown value (did you mean 'sampled'?); use one of {FEEDBACK_WORDS}",
    ),
    (
      '--method=fixmatch',
      '--method=fixmatch: unknown value; use one of (empty), supervised, '
      'pseudo_labels, uda, mpl, reduced_mpl',
    ),
    (
      '--strategy=mirror',
      "--strategy=mirror: unknown value (did you mean 'mirrored'?); use one of "
      'auto, one_device, mirrored, multi_worker, tpu',
    ),
    (
      '--lr_decay_type=linear',
      '--lr_decay_type=linear: unknown value; use one of constant, exponential, cosine',
    ),
    (
      '--optim_type=zzz',
      '--optim_type=zzz: unknown value; use one of sgd, momentum, rmsprop, lars, adamw',
    ),
    ('--eval_split=train', '--eval_split=train: unknown value; use one of validation, test'),
    (
      '--task_mode=trian',
      "--task_mode=trian: unknown value (did you mean 'train'?); use one of "
      'train, finetune, eval, eval_forever, export, predict, report, select, label, convert, prepare, '
      'ladder, suggest, evals',
    ),
    (
      '--baselines=uda,suprvised',
      "--baselines=uda,suprvised: unknown method 'suprvised' (did you "
      "mean 'supervised'?); use supervised, pseudo_labels, uda, mpl, reduced_mpl, mpl_without_uda, "
      'label_spreading',
    ),
    (
      '--augment_ops=Cutout,rotate',
      "--augment_ops=Cutout,rotate: unknown operation 'rotate' (did you "
      "mean 'Rotate'?); use AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, Color, "
      'Contrast, Brightness, Sharpness, ShearX, ShearY, TranslateX, TranslateY, Cutout, SolarizeAdd, '
      'Identity',
    ),
    ('--model_type=wrn-27-2', '--model_type=wrn-27-2: the depth 27 must be 6n+4, such as 10, 16, 22, 28'),
    ('--model_type=wrn-4-2', '--model_type=wrn-4-2: the depth 4 must be 6n+4, such as 10, 16, 22, 28'),
    (
      '--model_type=resnet50',
      "--model_type=resnet50: unknown model (did you mean 'resnet-50'?); "
      'use wrn-<depth>-<width>, wrn-28-large, resnet-50, efficientnet-<variant>, mlp-<units>x<layers>, a '
      'network of tf.keras.applications such as MobileNetV2, or the path of a Keras model',
    ),
    # What is missing.
    ('--dataset_name=', '--dataset_name: not given; --task_mode=train needs --dataset_name=...'),
    ('--output_dir=', '--output_dir: not given; --task_mode=train needs --output_dir=...'),
  ],
)
def test_bad_request_gets_one_line(arg, line):
  assert refusal(arg) == line


@pytest.mark.parametrize(
  'model_type', ['wrn-28-0', 'wrn-28', 'mlp-0x2', 'mlp-8', 'efficientnet-b9', 'nas-1', 'wrn-28-2 ', '']
)
def test_unknown_model_names(model_type):
  assert refusal(f'--model_type={model_type}').startswith(f'--model_type={model_type}: unknown model')


@pytest.mark.parametrize('task_mode', ['evals', 'eval', 'eval_forever'])
def test_evaluation_never_deletes(task_mode):
  assert refusal(f'--task_mode={task_mode}', '--reset_output_dir') == (
    '--reset_output_dir: would delete the checkpoints that '
    f'--task_mode={task_mode} is to evaluate; leave it out'
  )


def test_flagfile_that_is_no_text(tmp_path):
  (tmp_path / 'image.flags').write_bytes(b'\xff\xd8\xff\xe0')
  assert refusal(f'--flagfile={tmp_path}/image.flags') == (
    f'--flagfile={tmp_path}/image.flags: not a text file; give a file with one flag per line'
  )


def test_seeds_that_count_beyond_the_last():
  assert refusal('--num_seeds=3', '--label_seed=2147483646') == (
    '--num_seeds=3: counts --label_seed=2147483646 up beyond 2147483647; give a smaller one'
  )


def test_a_flagfile_in_a_flagfile_is_looked_for_beside_it(tmp_path, monkeypatch):
  (tmp_path / 'recipes').mkdir()
  (tmp_path / 'recipes' / 'shared.flags').write_text('# Shared.\n--lr=3\n  // Seeds.\n--seed=1\n')
  (tmp_path / 'recipes' / 'top.flags').write_text('--flagfile=shared.flags\n--seed=2\n')
  monkeypatch.chdir(tmp_path)
  config = parse(['main', '--flagfile', 'recipes/top.flags', '--uda_data=3'])
  assert (config.lr, config.seed, config.uda_data) == (3.0, 2, 3)


def test_a_flagfile_that_includes_itself(tmp_path):
  (tmp_path / 'a.flags').write_text('--flagfile=b.flags\n')
  (tmp_path / 'b.flags').write_text('--flagfile=a.flags\n')
  assert refusal(f'--flagfile={tmp_path}/a.flags') == (
    f'--flagfile={tmp_path}/a.flags: includes itself; remove that line'
  )


def test_values_of_the_wrong_type_are_named():
  """As a hand-edited hparams.json has them."""
  config = Config(dataset_name='digits', output_dir='d')
  validate(config.replace(lr=1))  # A whole number is a number.
  for change, line in [
    ({'lr': '.1'}, '--lr=.1: must be a number'),
    ({'seed': 1.5}, '--seed=1.5: must be a whole number in digits, such as 300000'),
    ({'seed': True}, '--seed=True: must be a whole number in digits, such as 300000'),
    ({'use_tpu': 1}, '--use_tpu=1: must be true or false'),
    ({'lr': None}, '--lr=None: must be a number'),
  ]:
    with pytest.raises(UserError) as caught:
      validate(config.replace(**change))
    assert str(caught.value) == line
