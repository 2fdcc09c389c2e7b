"""The rungs of the ladder: what each does with labeled and unlabeled images.

A rung on features gives a linear classifier of them. A rung that finetunes gives logits alone, and its
network is trained once more for the end.
"""

import dataclasses
import os
from typing import Callable, Optional

from meta_pseudo_labels.checkpoints import run_folder
from meta_pseudo_labels.features import linear, spreading
from meta_pseudo_labels.ladder import folds
from meta_pseudo_labels.training import fit_memory
from meta_pseudo_labels.training.logs import Progress

import numpy as np

# Of the rungs that train a last layer: chosen on validation images (docs/own_images.md).
HEAD_FLAGS = dict(
  train_batch_size=64,
  uda_data=7,
  num_train_steps=500,
  num_warmup_steps=0,
  optim_type='adamw',
  lr_decay_type='cosine',
  lr=0.0004,
  mpl_student_lr=0.0004,
  mpl_teacher_lr=0.0004,
  mpl_student_lr_wait_steps=0,
  mpl_student_lr_warmup_steps=0,
  mpl_teacher_lr_warmup_steps=0,
  mpl_feedback='soft',
  weight_decay=0.01,
  ema_decay=0.99,
  label_smoothing=0.0,
  dense_dropout_rate=0.2,
  uda_steps=100,
  finetune_steps=0,
  head_steps=0,
  freeze='none',
  train_batch_norm=False,
  layer_decay=1.0,
  features=True,
)
PSEUDO_SHARE = 0.3  # The weight of a spread label that is sure, beside that of a given one.


@dataclasses.dataclass(frozen=True)
class Rung:
  """A step of the ladder.

  Attributes:
    name: what tables call it.
    unlabeled: whether it learns from the unlabeled images.
    method: of the runs it makes, '' where it makes none.
    finetunes: whether it trains the whole network.
    fit: function of a Problem of features -> Linear of them; None where a network is trained.
  """

  name: str
  unlabeled: bool
  method: str = ''
  finetunes: bool = False
  fit: Optional[Callable] = None


def plain(problem):
  """Returns (features of the labeled `[n, D]`, labels `[n]`, features of those without `[M, D]`)."""
  inputs, labels = problem.labeled
  first = lambda values: np.asarray(values[:, 0], np.float32)
  return first(inputs), labels, first(folds.without_labels(problem))


def fit_logistic_regression(problem):
  """Returns the Linear of logistic regression on the labeled images."""
  labeled, labels, unlabeled = plain(problem)
  scale = linear.deviations(np.concatenate([labeled, unlabeled]))
  weights = linear.class_weights(labels, problem.num_classes) if problem.balanced else None
  return linear.logistic_regression(labeled, labels, problem.num_classes, scale=scale, weights=weights)


def fit_label_spreading(problem):
  """Returns the Linear of logistic regression on given labels and on those that spreading finds."""
  labeled, labels, unlabeled = plain(problem)
  every = np.concatenate([labeled, unlabeled])
  scale = linear.deviations(every)
  c = linear.choose_c((labeled - labeled.mean(axis=0)) / scale, labels)
  known = np.concatenate([labels, np.full(len(unlabeled), -1, np.int32)])
  found = spreading.spread(spreading.graph(spreading.embed(every)), known, problem.num_classes)
  hard = np.where(known >= 0, known, found.argmax(axis=1))
  weights = np.where(known >= 0, 1.0, PSEUDO_SHARE * spreading.margins(found))
  if problem.balanced:
    weights = linear.class_weights(hard, problem.num_classes, weights)
  return linear.logistic_regression(every, hard, problem.num_classes, scale=scale, c=c, weights=weights)


def spread_held_out(problem, assigned):
  """Returns how probable each class is for each labeled image by the labels of the others alone.

  They are spread once for each fold. Of wrong labels this finds more than classifiers in cross-validation
  do (docs/own_images.md).

  Args:
    problem: Problem of features.
    assigned: int `[n]`, the fold of each labeled image, see `folds.assign`.

  Returns:
    float64 `[n, K]`, rows of sum 1.
  """
  labeled, labels, unlabeled = plain(problem)
  weights = spreading.graph(spreading.embed(np.concatenate([labeled, unlabeled])))
  found = np.zeros([len(labels), problem.num_classes])
  for fold in range(assigned.max() + 1):
    held = assigned == fold
    known = np.concatenate([np.where(held, -1, labels), np.full(len(unlabeled), -1)])
    found[held] = spreading.spread(weights, known, problem.num_classes)[: len(labels)][held]
  return found


RUNGS = (
  Rung('logistic regression', False, fit=fit_logistic_regression),
  Rung('label spreading', True, fit=fit_label_spreading),
  Rung('self-training', True, method='pseudo_labels'),
  Rung('UDA', True, method='uda'),
  Rung('MPL', True, method='mpl'),
  Rung('finetuning', False, method='supervised', finetunes=True),
  Rung('finetuning by UDA', True, method='uda', finetunes=True),
)


def start_of(rung):
  """Returns the function of a Problem that gives the Linear with which a rung's last layer starts."""
  return fit_label_spreading if rung.unlabeled else fit_logistic_regression


def configure(config, rung, folder, head_path):
  """Returns the Config of a rung's run in a folder, whose last layer starts with the weights in a file."""
  changes = dict(features=False) if rung.finetunes else HEAD_FLAGS
  steps = changes.get('num_train_steps', config.num_train_steps)
  return config.replace(
    **changes,
    task_mode='train',
    method=rung.method,
    head_weights=head_path,
    num_validation=None,
    select='last',
    eval_split='test',
    save_every=steps,
    baselines='',
    num_seeds=1,
    keep_checkpoints=1,
    output_dir=os.path.join(folder, rung.name.replace(' ', '_')),
  )


def train(config, problem, strategy):
  """Trains a run without a word, or goes on with it: the Run at its end.

  Args:
    config: Config, of `configure`.
    problem: Problem.
    strategy: tf.distribute.Strategy.
  """
  os.makedirs(config.output_dir, exist_ok=True)
  run_folder.prepare_folder(config)
  with open(os.devnull, 'w', encoding='utf-8') as nowhere:
    return fit_memory.train(config, problem, strategy, Progress(nowhere))[0]
