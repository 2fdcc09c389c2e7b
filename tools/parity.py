"""Compares our training steps with numbers from the release's own code.

    python tools/parity.py tests/golden/case*.npz [--step0_rtol=1e-5] [--loss_rtol=1e-4] ...

The method, model and flags come from the file's `meta`, initial weights and inputs from the rules in
tests/golden/README.md. The output has one line per quantity: largest absolute and relative difference,
the tolerance, ok or not. The exit status is 1 if any quantity is out of tolerance, and 2 if a file
cannot be read.
"""

import argparse
import json
import os
import sys
import zlib

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import meta_pseudo_labels
from meta_pseudo_labels import build, methods
from meta_pseudo_labels.checkpoints import release_format
from meta_pseudo_labels.config import FLAGS_BY_NAME, Config
from meta_pseudo_labels.optim import optimizers

import tensorflow as tf

# The tolerances for another implementation in tests/golden/README.md.
TOLERANCES = {
  'step0_rtol': (1e-5, 'losses and rates of step 0'),
  'logits_atol': (1e-4, 'logits of step 0'),
  'gradient_rtol': (5e-3, 'norm of the gradient of each variable in step 0'),
  'after1_atol': (1e-5, 'weights after the first step'),
  'loss_rtol': (1e-4, 'losses of the later steps'),
  'dot_atol': (1e-3, 'dot products, which are small differences'),
  'final_atol': (1e-3, 'weights and averages after the last step'),
  'slot_atol': (5e-2, 'optimizer slots after the last step'),
  # Two runs of the release itself differ by 4e-3 here and by 5e-5 in the weights. Another implementation
  # may differ by 1e-3 in the weights.
  'eval_atol': (5e-2, 'logits of the evaluation batch after the last step'),
}
SMALL_GRADIENT = 1e-4  # Smaller norms are rounding noise.


def draw_initial_value(name, shape):
  """Draws the initial value of the release's variable `name`: float32 of `shape`."""
  rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
  kind = name.rsplit('/', 1)[-1]
  if kind in ('kernel', 'depthwise_kernel') and len(shape) == 4:
    fan_out = shape[0] * shape[1] * shape[-1]
    return rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / fan_out))
  if kind == 'kernel':
    bound = 1 / np.sqrt(shape[-1])
    return rng.uniform(-bound, bound, shape).astype(np.float32)
  noise = 0.1 * rng.standard_normal(shape)
  if kind == 'gamma':
    return (1 + noise).astype(np.float32)
  if kind == 'moving_variance':
    return (1 + np.abs(noise)).astype(np.float32)
  if kind in ('beta', 'moving_mean', 'bias'):
    return noise.astype(np.float32)
  raise ValueError(f'{name}: no rule for its initial value')


def draw_inputs(params, step):
  """Draws (labeled, labels, original, augmented) of a step by the rules of tests/golden/README.md."""
  rng = np.random.RandomState(1000 + step)
  size, batch = params['image_size'], params['train_batch_size']
  labeled = rng.standard_normal([batch, size, size, 3])
  labels = rng.randint(params['num_classes'], size=batch)
  shape = [batch * params['uda_data'], size, size, 3]
  original = rng.standard_normal(shape).astype(np.float32)
  augmented = original + 0.3 * rng.standard_normal(shape)
  return (labeled.astype(np.float32), labels.astype(np.int32), original, augmented.astype(np.float32))


class Comparison:
  """Prints one line per quantity and records whether all are within their tolerance."""

  def __init__(self, tolerances):
    self.tolerances = tolerances
    self.ok = True

  def __call__(self, what, ours, theirs, tolerance):
    """Compares arrays; `tolerance` names an entry whose suffix says absolute or relative."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    limit = self.tolerances[tolerance]
    if ours.shape != theirs.shape:
      self.ok = False
      print(f'  {what:44} shape {ours.shape} is not {theirs.shape}: NOT OK')
      return
    absolute = np.abs(ours - theirs)
    relative = absolute / np.maximum(np.abs(theirs), 1e-30)
    # A relative tolerance cannot require more precision near zero than float32 has.
    within = absolute <= limit * np.abs(theirs) + 1e-7 if tolerance.endswith('rtol') else absolute <= limit
    ok = bool(np.all(within))
    self.ok &= ok
    print(
      f'  {what:44} abs {np.max(absolute, initial=0):8.1e} '
      f'rel {np.max(np.where(absolute > 1e-7, relative, 0), initial=0):8.1e} '
      f'{tolerance} {limit:.0e} {"ok" if ok else "NOT OK"}'
    )


class Replay:
  """Runs our method with the release's initial weights on the release's inputs."""

  def __init__(self, golden):
    self.golden = golden
    self.params = json.loads(str(golden['meta']))['params']
    known = {field for field in FLAGS_BY_NAME}
    flags = {name: value for name, value in self.params.items() if name in known}
    self.config = Config(**{**flags, 'mpl_feedback': 'release', 'output_dir': '.'})
    size = self.params['image_size']
    shape = (size, size, 3)
    make = lambda number: build.model(self.config, number, shape, self.params['num_classes'])
    self.models = {'model': make(0)}
    if self.config.method_name == 'mpl':
      self.models['teacher'] = make(1)
    self.method = build.method(
      self.config, student=self.models['model'], teacher=self.models.get('teacher')
    )
    for scope, model in self.models.items():
      for variable in model.variables:
        variable.assign(
          draw_initial_value(release_format.release_name(variable, scope), variable.shape.as_list())
        )
    self.captured = {}
    self.method.apply_update = self._capture_update
    self.method.forward = self._capture_forward
    self.step = tf.function(self._step)

  def _capture_forward(self, model, role, views):
    logits = type(self.method).forward(self.method, model, role, views)
    self.captured[f'{role}/{"+".join(views)}'] = tf.concat(list(logits.values()), axis=0)
    return logits

  def _capture_update(self, model, optimizer, gradients):
    scope = 'teacher' if model is self.models.get('teacher') else 'model'
    decayed = optimizers.add_weight_decay(
      gradients,
      [tf.convert_to_tensor(v) for v in model.trainable_variables],
      [v.name for v in model.trainable_variables],
      self.config.weight_decay,
    )
    self.captured[f'gradients/{scope}'] = decayed
    update = type(self.method).apply_update(self.method, model, optimizer, gradients)
    self.captured[f'grad_norm/{scope}'] = update.norm
    return update

  def _step(self, data):
    logs = self.method.train_step(data)
    return logs, dict(self.captured)

  def variables(self):
    """Returns {release's name: our variable} for the variables that the release has too."""
    return release_format.map_names(self.method)


def compare_variables(compare, replay, moment, tolerances):
  """Compares our variables with the samples stored at `moment` (init, after1, ..., final)."""
  golden = replay.golden
  ours = replay.variables()
  groups = {}
  for index, name in enumerate(golden['vars/names'].tolist()):
    name = name.decode() if isinstance(name, bytes) else name
    kind = (
      'slots'
      if name.rsplit('/', 1)[-1] in ('Momentum', 'LARSOptimizer', 'RMSProp', 'RMSProp_1')
      else name.split('/')[0]
    )
    if name == 'cross_entropy_old':
      continue  # The release passes a value on in this variable. We need no variable for it.
    if name == 'moving_dot_product' and moment != 'init':
      continue  # Compared among the logs, where the intended reading is known.
    if name not in ours:
      compare.ok = False
      print(f'  {name}: NOT FOUND among ours')
      continue
    flat = ours[name].numpy().astype(np.float64).ravel()
    samples = [flat[(k * flat.size) // 8] for k in range(8)]
    # The stored data only allow a comparison of samples and of the mean.
    groups.setdefault(kind, []).append(
      (
        samples + [flat.sum() / flat.size],
        golden[f'{moment}/samples'][index].tolist() + [golden[f'{moment}/sum'][index] / flat.size],
      )
    )
  for kind, pairs in groups.items():
    mine, theirs = zip(*pairs)
    compare(f'{moment}: {len(pairs)} x {kind}', mine, theirs, tolerances.get(kind, tolerances['weights']))


def compare_step(compare, golden, step, logs, captured):
  """Compares one step's logs and, in step 0, logits and gradients."""
  tolerance = 'step0_rtol' if step == 0 else 'loss_rtol'
  for key in [k for k in golden.files if k.startswith('log/')]:
    name, theirs = key[len('log/') :], golden[key][step]
    if name == 'uda/l_ratio' and 'derived/l_ratio_step_before' in golden.files:
      theirs = golden['derived/l_ratio_step_before'][step]  # The logged value depends on a race.
    if f'derived/{name[len("mpl/") :]}_this_step' in golden.files:
      # The release's logged value depends on the moment at which it reads `cross_entropy_old`.
      theirs = golden[f'derived/{name[len("mpl/") :]}_this_step'][step]
    if name not in logs:
      compare.ok = False
      print(f'  step {step} {name}: NOT among our logs')
      continue
    dot = name.startswith('mpl/')
    loose = name == 'loss/grad_norm'
    compare(
      f'step {step} {name}',
      logs[name].numpy(),
      theirs,
      'dot_atol' if dot else 'gradient_rtol' if loose else tolerance,
    )
  if step:
    return
  pairs = {
    'extra/logits/all': ['uda/labeled+original+augmented'],
    'extra/logits/student_on_u_aug_and_l': ['student/augmented+labeled'],
    'extra/logits/student_on_l_new': ['student/labeled'],
    'extra/logits/student': ['student/labeled'],
  }
  for key, names in pairs.items():
    if key in golden.files:
      ours = next(captured[name] for name in names if name in captured)
      compare(f'step 0 {key}', ours.numpy(), golden[key][0], 'logits_atol')
  for scope in ('model', 'teacher'):
    if f'step0/grads/{scope}/names' in golden.files:
      mine = np.array([np.linalg.norm(g.numpy()) for g in captured[f'gradients/{scope}']])
      theirs = np.sqrt(golden[f'step0/grads/{scope}/sumsq'])
      large = theirs >= SMALL_GRADIENT
      compare(f'step 0 gradients of {scope} ({large.sum()})', mine[large], theirs[large], 'gradient_rtol')


def run(path, tolerances):
  """Compares one file; returns whether all quantities are within tolerance: bool."""
  golden = np.load(path, allow_pickle=False)
  replay = Replay(golden)
  print(
    f'{path}: {replay.config.method_name} {replay.config.model_type} '
    f'{replay.config.optim_type} {replay.config.lr_decay_type}'
  )
  compare = Comparison(tolerances)
  tight = {'weights': 'after1_atol', 'slots': 'slot_atol', 'ema': 'after1_atol'}
  loose = {'weights': 'final_atol', 'slots': 'slot_atol', 'ema': 'final_atol'}
  compare_variables(compare, replay, 'init', tight)
  steps = len(golden['log/global_step'])
  for step in range(steps):
    data = tuple(tf.constant(x) for x in draw_inputs(replay.params, step))
    logs, captured = replay.step(data)
    compare_step(compare, golden, step, logs, captured)
    moment = f'after{step + 1}' if step + 1 < steps else 'final'
    compare_variables(compare, replay, moment, tight if step == 0 else loose)
  size = replay.params['image_size']
  batch = np.random.RandomState(7).standard_normal([8, size, size, 3]).astype(np.float32)
  student = replay.method.student
  compare('eval/model_logits', student(batch, training=False), golden['eval/model_logits'], 'eval_atol')
  with replay.method.average.applied():
    compare('eval/ema_logits', student(batch, training=False), golden['eval/ema_logits'], 'eval_atol')
  return compare.ok


def main(argv=None):
  """Runs the command line; returns 0 if all is within tolerance, 1 if not, 2 for an unreadable file."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+')
  for name, (default, what) in TOLERANCES.items():
    parser.add_argument(f'--{name}', type=float, default=default, help=what)
  args = parser.parse_args(argv)
  # The release's numbers are float32's; GPUs from Ampere on would round the factors of products to TF32.
  tf.config.experimental.enable_tensor_float_32_execution(False)
  tolerances = {name: getattr(args, name) for name in TOLERANCES}
  results = {}
  for path in args.files:
    try:
      with np.load(path, allow_pickle=False) as golden:
        if 'log/global_step' not in golden.files:
          print(f'{path}: not compared, since it has no training steps')
          continue
    except (OSError, ValueError) as error:
      print(f'{path}: cannot be read ({error}); give .npz files such as tests/golden/case3.npz')
      return 2
    results[path] = run(path, tolerances)
  for path, ok in results.items():
    print(f'{path}: {"all ok" if ok else "NOT OK"}')
  return 0 if all(results.values()) else 1


if __name__ == '__main__':
  sys.exit(main())
