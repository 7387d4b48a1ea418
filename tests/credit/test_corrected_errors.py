"""What a wrong step earns that is corrected later, by credit: its advantage on average over a group with one in each solution.

It decides whether a policy learns to err less or more where errors are corrected in correct and incorrect solutions alike.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.credit.correct_only import CorrectOnlyCredit
from lit_tpgrpo.credit.incorrect_only import IncorrectOnlyCredit
from lit_tpgrpo.credit.mirrored import MirroredThoughtCredit
from lit_tpgrpo.credit.outcome import OutcomeCredit
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.credit.unadapted import UnadaptedThoughtCredit
from tests.credit.credit_cases import correct, group, incorrect

EXACT = {"ddof": 0, "eps": 0.0}
SIZE = 8


def earned(credit, right: int) -> float:
    """Mean advantage of the second step's token: INCORRECT in correct solutions, UNMATCHED in incorrect ones."""
    judged = group(*[correct("CIC")] * right, *[incorrect("MUM")] * (SIZE - right))
    return sum(credited.advantages[1].item() for credited in credit(judged)) / SIZE


@given(st.integers(1, SIZE - 1), st.floats(0.1, 4))
def test_by_the_formula(right: int, scale: float):
    p = right / SIZE
    spread = (p * (1 - p)) ** 0.5  # p times the outcome advantage of a correct solution
    expected = {
        OutcomeCredit(**EXACT): 0.0,
        ThoughtCredit(alpha=scale, **EXACT): spread - scale * p**2,
        UnadaptedThoughtCredit(**EXACT): spread - p,
        CorrectOnlyCredit(alpha=scale, **EXACT): -scale * p**2,
        IncorrectOnlyCredit(**EXACT): spread,
        MirroredThoughtCredit(kappa=scale, **EXACT): -(1 + scale) * spread,
        MirroredThoughtCredit(kappa=0, **EXACT): -spread,
    }
    for credit, value in expected.items():
        assert earned(credit, right) == pytest.approx(value, abs=1e-5), type(credit).__name__


def test_the_papers_table_rewards_corrected_errors_up_to_five_right_solutions_of_eight():
    """sqrt(p (1 - p)) > p^2 up to p = 0.68; four times the scale moves that to p = 0.34."""
    assert [earned(ThoughtCredit(alpha=1.0, **EXACT), k) > 0 for k in range(1, SIZE)] == [True] * 5 + [False] * 2
    assert [earned(ThoughtCredit(alpha=4.0, **EXACT), k) > 0 for k in range(1, SIZE)] == [True] * 2 + [False] * 5


def test_the_table_of_the_docs():
    """Mean over groups of 8 of a policy with accuracy 0.17, as docs/credit.md has it."""
    shares = {k: math.comb(SIZE, k) * 0.17**k * 0.83 ** (SIZE - k) for k in range(1, SIZE)}
    documented = {
        MirroredThoughtCredit(kappa=1.0, **EXACT): -0.61,
        MirroredThoughtCredit(kappa=0.0, **EXACT): -0.31,
        CorrectOnlyCredit(alpha=1.0, **EXACT): -0.05,
        OutcomeCredit(**EXACT): 0.0,
        UnadaptedThoughtCredit(**EXACT): 0.13,
        ThoughtCredit(alpha=1.0, **EXACT): 0.26,
        ThoughtCredit(alpha=4.0, **EXACT): 0.12,
        IncorrectOnlyCredit(**EXACT): 0.31,
    }
    for credit, value in documented.items():
        mean = sum(share * earned(credit, k) for k, share in shares.items())
        assert mean == pytest.approx(value, abs=0.0056), type(credit).__name__
