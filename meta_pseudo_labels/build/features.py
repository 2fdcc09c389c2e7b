"""From a Problem of images to one of their features, where `--features` asks for them."""

import dataclasses
import hashlib
import json

from meta_pseudo_labels.build import networks
from meta_pseudo_labels.data.augment import views as all_views
from meta_pseudo_labels.data.augment.image_ops import GREY
from meta_pseudo_labels.data.dataset_info import CACHE_DIR
from meta_pseudo_labels.data.serving import Serving
from meta_pseudo_labels.errors import UserError
from meta_pseudo_labels.features.extract import extract, fingerprints
from meta_pseudo_labels.features.feature_cache import FeatureCache
from meta_pseudo_labels.models.saved_features import SavedFeatures

import numpy as np
import tensorflow as tf


def take_features(config, problem, say, num_views=None):
  """Returns the Problem of the features of a Problem's images; those not in the cache are computed.

  Args:
    config: Config.
    problem: Problem of images.
    say: function of a line (str).
    num_views: int, random views of each training image; None: `config.feature_views`. A first answer
      begins without, and asks for them where a rung needs them.

  Raises:
    UserError: there are no images, or the network is none that was trained elsewhere.
  """
  if len(problem.input_shape) != 3:
    raise UserError(f'--features: {problem.info.name} has no images; leave it out')
  number, seed = config.feature_views if num_views is None else num_views, config.seed
  backbone = networks.backbone(config, problem.input_shape, problem.num_classes, views=problem.views)
  caches = _caches(config, problem, backbone, number, say)

  def features(inputs, *kinds):
    found = [
      extract(backbone, inputs, problem.views, cache, num_views=kind, seed=seed, say=say)
      for cache, kind in zip(caches, kinds)
    ]
    return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

  return dataclasses.replace(
    problem,
    inputs=features(problem.inputs, 0, number),
    unlabeled=features(problem.unlabeled, 0, number),
    evaluated={
      name: dataclasses.replace(found, inputs=features(found.inputs, 0))
      for name, found in problem.evaluated.items()
    },
    views=all_views.Features(number, problem.views.dtype),
    images=problem,
    backbone=backbone,
    backbone_sha256=hashlib.sha256(
      json.dumps([cache.parameters for cache in caches], sort_keys=True).encode()
    ).hexdigest(),
  )


def count_without_views(config, problem, backbone, say):
  """Returns how many training images of a Problem of images the cache has no random views of: int.

  Args:
    config, problem, say: as of `take_features`.
    backbone: Keras model, as the Problem of features has it.
  """
  cache = _caches(config, problem, backbone, config.feature_views, say)[-1]
  inputs = problem.inputs, problem.unlabeled
  return len(cache.missing(np.concatenate([fingerprints(found) for found in inputs])))


def _caches(config, problem, backbone, number, say):
  """Returns the FeatureCaches of the plain view and, if `number` is not 0, of so many random views."""
  # What the features depend on. The plain view does not depend on the seed.
  known = {'weights': _sha256(backbone), **json.loads(Serving.of(problem).to_json())}
  known = {name: known[name] for name in ('weights', 'views', 'decoding', 'fit')}
  if known['views'].get('fill') == GREY:
    del known['views']['fill']  # As before there was a choice, so that caches of then are found.
  facts = [{**known, 'plain': True}, {**known, 'random_views': number, 'seed': config.seed}]
  return [FeatureCache(config.cache_dir or CACHE_DIR, fact, say) for fact in facts[: 2 if number else 1]]


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
