"""The command that compares our steps with the release's numbers, on files that are at hand."""

import pathlib

import numpy as np
import parity
import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / 'tests/golden'


@pytest.mark.parametrize(
  'case',
  [
    'case1_lowthr_intended',
    'case2_lowthr',
    'case3',
    pytest.param('case6', marks=pytest.mark.slow),  # Quick: a command of CONTRIBUTING.md, in test_docs.py.
    pytest.param('case1_intended', marks=pytest.mark.slow),
    pytest.param('case2', marks=pytest.mark.slow),
  ],
)
def test_all_quantities_are_within_tolerance(case):
  assert parity.main([str(GOLDEN / f'{case}.npz')]) == 0


def test_a_tighter_tolerance_fails(capsys):
  assert parity.main([str(GOLDEN / 'case6.npz'), '--final_atol=1e-9']) == 1
  assert 'NOT OK' in capsys.readouterr().out


def test_a_file_without_steps_is_passed_over_and_an_unreadable_one_is_named(tmp_path, capsys):
  assert parity.main([str(GOLDEN / 'case9.npz')]) == 0
  assert 'not compared, since it has no training steps' in capsys.readouterr().out
  (tmp_path / 'a.npz').write_text('nothing')
  assert parity.main([str(tmp_path / 'a.npz')]) == 2


def test_the_release_s_feedback_term_had_no_gradient_either():
  """google-research issues 534, 541: what its own code printed; ours: methods/test_feedback.py."""
  golden = np.load(GOLDEN / 'case1_intended.npz')
  assert golden['step0/mpl_grad_norm'] < 1e-5 * golden['step0/teacher_l_grad_norm']
