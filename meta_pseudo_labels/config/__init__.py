"""The command line as a frozen `Config`: flags, their rules, parsing, JSON.

TensorFlow is not imported here. Nothing but this package and `main` touches absl's flags.
"""

from meta_pseudo_labels.config.choices import is_pretrained
from meta_pseudo_labels.config.command_line import parse, unread_note
from meta_pseudo_labels.config.hparams import from_json, to_json
from meta_pseudo_labels.config.sections import FLAGS_BY_NAME, Config
from meta_pseudo_labels.config.validation import notes, seconds_of, validate

__all__ = [
  'FLAGS_BY_NAME',
  'Config',
  'from_json',
  'is_pretrained',
  'notes',
  'parse',
  'seconds_of',
  'to_json',
  'unread_note',
  'validate',
]
