"""Which student is reported, and by which split it is chosen."""

from typing import NamedTuple

from meta_pseudo_labels.errors import UserError


class Selection(NamedTuple):
  """How a run's student is chosen.

  Attributes:
    rule: validation, last or best_on_test (`--select`).
    monitored: name of the split that is evaluated while training.
    reported: name of the split that the accuracies in tables are of.
  """

  rule: str
  monitored: str
  reported: str


def choose(rule, eval_split, problem):
  """Returns the Selection of a run.

  Args:
    rule: `--select`, '' for the usual one.
    eval_split: `--eval_split`.
    problem: Problem.

  Raises:
    UserError: the split to select by is not there.
  """
  if not rule:
    # Whoever reports on validation tunes, and wants the last step's accuracy, not the best of many.
    both = eval_split == 'test' and 'validation' in problem.evaluated
    rule = 'validation' if both else 'last'
  # Whatever is reported, the test split is left alone while training where it can be.
  reported = problem.reported(eval_split)
  last = 'validation' if 'validation' in problem.evaluated else reported
  monitored = {'validation': 'validation', 'best_on_test': 'test', 'last': last}[rule]
  if monitored not in problem.evaluated:
    hint = '--num_validation=300 or ' if monitored == 'validation' else ''
    raise UserError(f'--select={rule}: there is no {monitored} split; give {hint}--select=last')
  return Selection(rule, monitored, reported)
