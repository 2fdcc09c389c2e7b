"""A Config as JSON: the `hparams.json` of a run's folder."""

import dataclasses
import json
from typing import Union

from meta_pseudo_labels.config.sections import FLAGS_BY_NAME, Config
from meta_pseudo_labels.config.unread import UNREAD
from meta_pseudo_labels.config.validation import has_type, type_words
from meta_pseudo_labels.errors import UserError, did_you_mean


def to_json(config: Config) -> str:
  """Returns the text of hparams.json: every field, sorted by name."""
  return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + '\n'


def from_json(text: Union[str, bytes], where: str = 'hparams.json') -> Config:
  """Returns the Config of an hparams.json; it is not validated.

  A field that the file does not name has its default. Flags that nothing reads are left out:
  versions before 0.1.0 wrote them too.

  Args:
    text: of the file.
    where: what an error calls it.

  Raises:
    UserError: not a JSON object, a name that is no flag, or a value of another type than its flag.
  """
  try:
    values = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise UserError(f'{where}: not JSON ({error}); restore it or remove it') from None
  if not isinstance(values, dict):
    raise UserError(
      f'{where}: holds a {type(values).__name__}, not a JSON object; restore it or remove it'
    )
  values = {name: value for name, value in values.items() if name not in UNREAD}
  for name, value in values.items():
    if name not in FLAGS_BY_NAME:
      raise UserError(f'{where}: unknown name {name!r}{did_you_mean(name, FLAGS_BY_NAME)}; remove it')
    if not has_type(FLAGS_BY_NAME[name], value):
      raise UserError(
        f'{where}: {name} is {value!r}, but must be {type_words(FLAGS_BY_NAME[name].type)}; restore it'
      )
  return Config(**values)
