"""From a command line to a `Config`. No other module touches absl's flags."""

import os
import re
import sys
import textwrap
from typing import List, Tuple

from meta_pseudo_labels.config.fields import Flag, Names, Rule, flags_of
from meta_pseudo_labels.config.sections import FLAGS_BY_NAME, SECTIONS, Config
from meta_pseudo_labels.config.unread import HELP, UNREAD, type_and_default
from meta_pseudo_labels.config.validation import choices, type_words
from meta_pseudo_labels.errors import UserError, did_you_mean

from absl import app, flags

WIDTH = 100  # Characters of a line of --help.


def parse(argv: List[str], flag_values=flags.FLAGS) -> Config:
  """Returns the Config of a command line, program name first; it is not validated.

  absl's own flags are taken too. Flags start from their defaults each time, so that one process
  can parse many command lines. --help and --helpfull print and raise SystemExit(0).

  Raises:
    UserError: an unknown flag, a value of the wrong type, an unreadable flagfile, a stray argument.
  """
  app.define_help_flags()
  _define(flag_values)
  for name in (*FLAGS_BY_NAME, *UNREAD):
    flag_values[name].unparse()
  arguments = _without_flagfiles(argv)
  if set(arguments[1:]) & {'--help', '-help', '-h', '-?', '--helpshort', '--helpfull', '-helpfull'}:
    print(help_text(flag_values, full=any(a.endswith('helpfull') for a in arguments[1:])))
    raise SystemExit(0)
  try:
    rest = flag_values(arguments)[1:]
  except flags.UnrecognizedFlagError as error:
    name = '--' + error.flagname
    hint = did_you_mean(name, ['--' + known for known in flag_values if known not in UNREAD])
    raise UserError(f'{name}: unknown flag{hint}; --help lists all flags') from None
  except (flags.Error, ValueError) as error:
    raise UserError(_value_error_line(str(error))) from None
  if rest:
    raise UserError(f'{rest[0]}: not a flag; write flags as --name=value')
  return Config(**{name: flag_values[name].value for name in FLAGS_BY_NAME})


def unread_note(flag_values=flags.FLAGS) -> str:
  """Returns a line about the flags of the last `parse` that nothing reads, or ''."""
  given = [f'--{name}' for name in UNREAD if flag_values[name].value != type_and_default(name)[1]]
  return f'accepted without effect, as in the release: {", ".join(given)}' if given else ''


def help_text(flag_values=flags.FLAGS, full: bool = False) -> str:
  """Returns what --help prints: all flags by section; `full`: the unread ones and absl's too."""
  lines = ['usage: meta-pseudo-labels [--flagfile=PATH] [--flag=value ...]']
  for section in SECTIONS:
    lines += ['', textwrap.dedent(section.__doc__).strip()]
    for flag in flags_of(section):
      lines += _help_lines(_flag_word(flag), _help(flag), flag.default)
  lines += ['', 'Flags of the release that nothing reads (accepted, without effect).']
  lines += textwrap.wrap(
    ', '.join(f'--{name}' for name in UNREAD),
    WIDTH - 4,
    initial_indent='  ',
    subsequent_indent='  ',
    break_on_hyphens=False,
  )
  lines += [
    '',
    '--flagfile=PATH reads flags from a file, one per line; it may name others, relative to itself.',
  ]
  if full:
    for module in ('absl.app', 'absl.logging', 'absl.flags'):
      lines += ['', flag_values.module_help(module)]
  return '\n'.join(lines)


def _flag_word(flag: Flag) -> str:
  return f'--[no]{flag.name}' if flag.type is bool else f'--{flag.name}'


def _help_lines(word: str, text: str, default) -> List[str]:
  shown = {None: 'none', '': 'empty', True: 'true', False: 'false'}.get(default, default)
  return [f'  {word}'] + textwrap.wrap(
    f'{text} Default: {shown}.', WIDTH - 6, initial_indent='      ', subsequent_indent='      '
  )


def _help(flag: Flag) -> str:
  if isinstance(flag.rule, Rule):
    return f'{flag.help} Must be {flag.rule.words}.'
  if isinstance(flag.rule, Names):
    return f'{flag.help} Values, separated by commas: {choices(flag.rule.known)}.'
  return f'{flag.help} Values: {choices(flag.rule)}.' if flag.rule else flag.help


def _define(flag_values) -> None:
  """Defines every flag on `flag_values`; a second call does nothing."""
  if 'task_mode' in flag_values:
    return
  define = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
  }
  wanted = [(flag.name, flag.type, flag.default, _help(flag)) for flag in FLAGS_BY_NAME.values()]
  wanted += [(name, *type_and_default(name), HELP) for name in UNREAD]
  for name, kind, default, text in wanted:
    define[kind](name, default, text, flag_values=flag_values)
    flag_values.register_key_flag_for_module(sys.argv[0], flag_values[name])


def _without_flagfiles(argv: List[str], base: str = '', inside: Tuple[str, ...] = ()) -> List[str]:
  """Returns the arguments with every --flagfile=PATH replaced by what that file holds.

  absl would do it too, but takes a flagfile named in a flagfile relative to the current folder;
  here it is relative to the file that names it, so that recipes can share their settings.

  Args:
    argv: arguments, or lines of a file without comments.
    base: folder that relative paths start from.
    inside: the files that are being read, outermost first.

  Raises:
    UserError: a file cannot be read, or includes itself.
  """
  result, rest = [], iter(argv)
  for argument in rest:
    match = re.fullmatch(r'--?flagfile(?:=(.*))?', argument)
    if not match:
      result.append(argument)
      continue
    value = match.group(1) if match.group(1) is not None else next(rest, '')
    path = os.path.join(base, os.path.expanduser(value))
    if not value or '\0' in value:
      raise UserError(f'--flagfile={value}: no path; give that of a file with one flag per line')
    try:
      with open(path, encoding='utf-8') as file:
        lines = [line.strip() for line in file]
    except OSError as error:
      raise UserError(
        f'--flagfile={path}: {error.strerror}; give the path of a file with one flag per line'
      ) from None
    except UnicodeDecodeError:
      raise UserError(f'--flagfile={path}: not a text file; give a file with one flag per line') from None
    if os.path.realpath(path) in inside:
      raise UserError(f'--flagfile={path}: includes itself; remove that line')
    result += _without_flagfiles(
      [line for line in lines if line and not line.startswith(('#', '//'))],
      os.path.dirname(path),
      (*inside, os.path.realpath(path)),
    )
  return result


def _value_error_line(message: str) -> str:
  """Returns one line for absl's message about a value, with what was expected in plain words."""
  match = re.match(r'flag (--(\w+)=.*?): ', message, re.DOTALL)
  if match and match.group(2) in FLAGS_BY_NAME:
    message = f'{match.group(1)}: must be {type_words(FLAGS_BY_NAME[match.group(2)].type)}'
  return ' '.join(message.split())
