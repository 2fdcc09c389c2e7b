"""What a flag is, and the rules that its value must satisfy."""

import dataclasses
import typing
from typing import Any, Callable, Tuple, Union


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a number must satisfy; `words` complete the sentence 'must be ...'."""

  words: str
  holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Names:
  """The names that a text may list, separated by commas; `what` is the word for one of them."""

  what: str
  known: Tuple[str, ...]

  @staticmethod
  def split(text: str) -> Tuple[str, ...]:
    """Returns the names in a text, in the order given."""
    return tuple(name.strip() for name in text.split(',') if name.strip())


POSITIVE = Rule('above 0', lambda v: v > 0)
NON_NEGATIVE = Rule('0 or more', lambda v: v >= 0)
COUNT = Rule('1 or more', lambda v: v >= 1)
FRACTION = Rule('between 0 and 1', lambda v: 0 <= v <= 1)
PART = Rule('above 0 and at most 1', lambda v: 0 < v <= 1)
BELOW_ONE = Rule('at least 0 and below 1', lambda v: 0 <= v < 1)
CLASSES = Rule('2 or more', lambda v: v >= 2)
SEED = Rule('between 0 and 2147483647', lambda v: 0 <= v < 2**31)
# More is a typing error, on which memory would run out before any message came.
PIXELS = Rule('between 1 and 2048', lambda v: 1 <= v <= 2048)
SIZE = Rule('between 1 and 65536', lambda v: 1 <= v <= 65536)
BYTE = Rule('between 0 and 255', lambda v: 0 <= v <= 255)
LAYERS = Rule('between 0 and 100', lambda v: 0 <= v <= 100)
FEW = Rule('between 0 and 1024', lambda v: 0 <= v <= 1024)
SOME = Rule('between 1 and 2000', lambda v: 1 <= v <= 2000)

LARGEST = 2**31 - 1  # Of every whole number: TensorFlow counts many things in int32.


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag.

  Attributes:
    name: str.
    type: bool, int, float or str.
    default: a value of that type; None means 'not given'.
    help: str.
    rule: Rule for numbers; the accepted values or `Names` for texts; None: any value.
    may_change: whether it may differ when a run continues, because it changes nothing that is
      computed, or because its effect is checked in another way.
    per_command: whether a command on a trained run (export, predict, report, ...) says it for
      itself; the others are those of the training.
    in_report: whether the report lists it among the settings of the run.
  """

  name: str
  type: type
  default: Any
  help: str
  rule: Union[None, Rule, Names, Tuple[str, ...]] = None
  may_change: bool = False
  per_command: bool = False
  in_report: bool = True


def flag(
  default: Any,
  help: str,
  rule: Union[None, Rule, Names, Tuple[str, ...]] = None,
  *,
  may_change: bool = False,
  per_command: bool = False,
  in_report: bool = True,
) -> Any:
  """Returns the dataclass field of a flag; arguments as of `Flag`."""
  facts = dict(help=help, rule=rule, may_change=may_change, per_command=per_command, in_report=in_report)
  return dataclasses.field(default=default, metadata=facts)


def flags_of(section: type) -> Tuple[Flag, ...]:
  """Returns the flags of a section, in the order in which they are written."""
  hints = typing.get_type_hints(section)
  found = []
  for field in dataclasses.fields(section):
    accepted = [kind for kind in typing.get_args(hints[field.name]) if kind is not type(None)]
    kind = accepted[0] if accepted else hints[field.name]
    found.append(Flag(field.name, kind, field.default, **field.metadata))
  return tuple(found)
