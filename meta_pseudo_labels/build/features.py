"""From a Problem of images to one of their features, where `--features` asks for them."""

import dataclasses
import hashlib
import json

from meta_pseudo_labels.build import networks
from meta_pseudo_labels.data.augment import views as all_views
from meta_pseudo_labels.data.dataset_info import CACHE_DIR
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.features.extract import extract
from meta_pseudo_labels.features.feature_cache import FeatureCache
from meta_pseudo_labels.models.saved_features import SavedFeatures

import numpy as np
import tensorflow as tf


def take_features(config, problem, say):
  """Returns the Problem of the features of a Problem's images; those not in the cache are computed.

  Args:
    config: Config.
    problem: Problem of images.
    say: function of a line (str).

  Raises:
    UserError: there are no images, or the network is none that was trained elsewhere.
  """
  if len(problem.input_shape) != 3:
    raise UserError(f'--features: {problem.info.name} has no images; leave it out')
  backbone = networks.backbone(config, problem.input_shape, problem.num_classes, views=problem.views)
  # What the features depend on. The views of evaluation do not depend on the seed.
  known = {'weights': _sha256(backbone), **json.loads(Serving.of(problem).to_json())}
  known = {name: known[name] for name in ('weights', 'views', 'decoding', 'fit')}
  number, seed = config.feature_views, config.seed
  caches = {
    0: {**known, 'feature_views': 0},
    number: {**known, 'feature_views': number, 'seed': seed if number else 0},
  }
  caches = {
    count: FeatureCache(config.cache_dir or CACHE_DIR, facts, say) for count, facts in caches.items()
  }

  def features(inputs, count):
    return extract(backbone, inputs, problem.views, caches[count], num_views=count, seed=seed, say=say)

  return dataclasses.replace(
    problem,
    inputs=features(problem.inputs, number),
    unlabeled=features(problem.unlabeled, number),
    evaluated={
      name: dataclasses.replace(found, inputs=features(found.inputs, 0))
      for name, found in problem.evaluated.items()
    },
    views=all_views.Features(number, problem.views.dtype),
    images=problem,
    backbone=backbone,
    backbone_sha256=hashlib.sha256(
      json.dumps(caches[number].parameters, sort_keys=True).encode()
    ).hexdigest(),
  )


def _sha256(model):
  """Returns the sha256 of a model's layers, their settings (such as a scale), and its weights: hex str."""
  found = hashlib.sha256()
  for layer in model._flatten_layers(include_self=False):
    # The names of layers count those built before them.
    settings = {} if isinstance(layer, tf.keras.Model) else layer.get_config()
    settings = {name: str(value) for name, value in settings.items() if name != 'name'}
    found.update(json.dumps([type(layer).__name__, settings], sort_keys=True).encode())
  loaded = [layer.loaded.variables for layer in model.layers if isinstance(layer, SavedFeatures)]
  for weight in [*model.weights, *sum(loaded, [])]:
    found.update(np.ascontiguousarray(weight.numpy()).data)
  return found.hexdigest()
