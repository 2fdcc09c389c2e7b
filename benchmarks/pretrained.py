"""What the features of a pretrained network are worth on your own images, without any training of it.

  python benchmarks/pretrained.py --data_dir=images --model_type=PATH [--image_sizes=96,128,224]

Runs the network once over the labeled and the test images, as evaluation sees them, and fits logistic
regression (scikit-learn) to the labeled ones. Prints its accuracy in cross-validation and on the test
images for each image size, with the seconds that the features took. The regularization is chosen by that
cross-validation, so its accuracy looks a little too good.
"""

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

from meta_pseudo_labels import build
from meta_pseudo_labels.config import parse, validate
from meta_pseudo_labels.data import input_pipeline

import numpy as np
import tensorflow as tf
from sklearn import linear_model, model_selection, pipeline, preprocessing


def features(config, problem):
  """Returns {split: (features float32 `[N, D]`, labels int32 `[N]`)} of the training and test images."""
  model = build.model(config, 0, problem.input_shape, problem.num_classes, views=problem.views)
  network = tf.keras.Model(model.input, model.get_layer('head/dropout').input)
  step = tf.function(lambda inputs: network(inputs, training=False), autograph=False)
  inputs, labels = problem.labeled
  batches = {
    'labeled': input_pipeline.eval_batches(inputs, labels, views=problem.views, batch_size=64),
    'test': problem.eval_batches('test', batch_size=64),
  }
  found = {}
  for split, dataset in batches.items():
    rows = []
    for views, labels_of_views, weights in dataset:
      kept = weights.numpy() > 0  # The last batch is padded.
      rows.append((step(views).numpy()[kept], labels_of_views.numpy()[kept]))
    found[split] = tuple(np.concatenate(parts) for parts in zip(*rows))
  return found


def accuracy(labeled, test):
  """Returns the accuracies of logistic regression on `labeled`, both (features, labels): floats.

  The first is that on `test`, the second that in cross-validation.
  """
  search = model_selection.GridSearchCV(
    pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=2000)),
    {'logisticregression__C': [1e-4, 1e-3, 1e-2, 1e-1, 1.0]},
    cv=model_selection.StratifiedKFold(5, shuffle=True, random_state=0),
  )
  return search.fit(*labeled).score(*test), search.best_score_


def main():
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--model_type', required=True)
  parser.add_argument('--image_sizes', default='96,128,224')
  flags, others = parser.parse_known_args()
  for size in flags.image_sizes.split(','):
    argv = ['', '--dataset_name=folder', f'--data_dir={flags.data_dir}', '--output_dir=unused']
    argv += [f'--model_type={flags.model_type}', f'--image_size={size}', '--num_validation=0', *others]
    config = parse(argv)
    validate(config)
    problem = build.problem(config, print)
    began = time.perf_counter()
    found = features(config, problem)
    seconds = time.perf_counter() - began
    tested, validated = accuracy(found['labeled'], found['test'])
    print(
      f'{size} pixels: {100 * validated:.1f} % in cross-validation, {100 * tested:.1f} % of '
      f'{len(found["test"][1])} test images, {len(found["labeled"][1])} labeled; features '
      f'{found["test"][0].shape[1]}, {seconds:.0f} s',
      flush=True,
    )


if __name__ == '__main__':
  main()
