"""A run of seconds, for tests of what happens around the training; and processes that run it sooner."""

import os
import pathlib
import signal

from meta_pseudo_labels.checkpoints import saver

TINY = [
    '--dataset_name=two_moons_6_mpl', '--model_type=mlp-8x1', '--label_seed=1',
    '--train_batch_size=4', '--uda_data=2', '--num_train_steps=6', '--save_every=3', '--log_every=2',
    '--uda_steps=2', '--lr=4', '--num_warmup_steps=0', '--mpl_student_lr=4',
    '--mpl_student_lr_wait_steps=0', '--mpl_student_lr_warmup_steps=0', '--mpl_teacher_lr=4',
    '--mpl_teacher_lr_warmup_steps=0', '--strategy=one_device', '--eval_batch_size=700']  # fmt: skip


def tiny(folder, *flags):
  """Returns the command line of such a run, with its folder and with flags that change it."""
  return ['main', f'--output_dir={folder}', *TINY, *flags]


def stop_after_saving(patch):
  """Lets runs be stopped by SIGINT at their first checkpoint, through a pytest.MonkeyPatch."""
  save = saver.Checkpoints.save

  def save_and_stop(self, *args):
    save(self, *args)
    os.kill(os.getpid(), signal.SIGINT)

  patch.setattr(saver.Checkpoints, 'save', save_and_stop)


def quick_path(*folders):
  """Returns a PYTHONPATH of folders whose Python is what tests/quick_process/sitecustomize.py makes it."""
  return os.pathsep.join(map(str, [pathlib.Path(__file__).parent / 'quick_process', *folders]))
