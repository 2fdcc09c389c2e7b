"""From a Config to what it describes: the problem, the networks, the method, the phases.

The only place that reads many of Config's fields; what it makes takes plain arguments.
"""

from meta_pseudo_labels.build.data import identify, problem
from meta_pseudo_labels.build.features import count_without_views, take_features
from meta_pseudo_labels.build.networks import architectures, backbone, model
from meta_pseudo_labels.build.phases import Phase, method, phases, start_from_head

__all__ = [
  'Phase',
  'architectures',
  'backbone',
  'count_without_views',
  'identify',
  'method',
  'model',
  'phases',
  'problem',
  'start_from_head',
  'take_features',
]
