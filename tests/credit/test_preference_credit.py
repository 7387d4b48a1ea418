"""Credit from preferences between pairs (Think-RM) and from grades: worked numbers, what is missing, order and lengths."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_tpgrpo.credit import CreditAssignment, GradeCredit, ThinkRMCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Preferences, SolutionGrade
from lit_tpgrpo.records import Reward
from tests.credit.credit_cases import correct, group, incorrect, undecided

THREE = ((0.0, 1.0, 1.0), (-1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))


def numbered(judged, sample):
    return dataclasses.replace(judged, solution=dataclasses.replace(judged.solution, sample=sample))


def preferred(matrix, judged=None):
    """Solutions with the rows of a matrix; None for one without preferences."""
    judged = [correct("CC")] * len(matrix) if judged is None else judged
    samples = tuple(range(len(matrix)))
    evidence = [() if row is None else (Preferences(samples, row),) for row in matrix]
    return [
        dataclasses.replace(numbered(s, i), evidence=e) for i, (s, e) in enumerate(zip(judged, evidence, strict=True))
    ]


def graded(*grades, judged=None):
    judged = [correct("CC")] * len(grades) if judged is None else judged
    evidence = [() if g is None else (SolutionGrade(g, 1.0, 10.0),) for g in grades]
    return [
        dataclasses.replace(numbered(s, i), evidence=e) for i, (s, e) in enumerate(zip(judged, evidence, strict=True))
    ]


def advantages(credited):
    """One advantage a solution, which all of its tokens have."""
    assert all(len(set(c.advantages.tolist())) == 1 for c in credited)
    assert [c.outcome_advantage for c in credited] == pytest.approx([c.advantages[0].item() for c in credited])
    return [c.advantages[0].item() for c in credited]


def test_think_rm_worked_numbers_and_lengths():
    """d = [[0,1,1],[-1,0,-1],[-1,1,0]]: denominator sqrt(6 / 12) = .7071. d from rewards 2, 1, 0: denominator 1."""
    judged = [correct("C", lengths=[1]), incorrect("UM", lengths=[4, 5]), correct("CC")]
    credited = ThinkRMCredit()(group(*preferred(THREE, judged)))
    assert [len(c.advantages) for c in credited] == [1, 9, 3]
    assert advantages(credited) == pytest.approx([0.9428, -0.9428, 0.0], abs=1e-4)
    differences = ((0.0, 1.0, 2.0), (-1.0, 0.0, 1.0), (-2.0, -1.0, 0.0))
    assert advantages(ThinkRMCredit()(group(*preferred(differences)))) == pytest.approx([1.0, 0.0, -1.0], abs=1e-5)


@settings(max_examples=25)
@given(grades=st.lists(st.integers(1, 10), min_size=2, max_size=6).filter(lambda g: len(set(g)) > 1))
def test_preferences_that_are_differences_of_grades_give_what_grades_give(grades):
    matrix = [tuple(float(a - b) for b in grades) for a in grades]
    by_pairs = advantages(ThinkRMCredit(eps=0.0)(group(*preferred(matrix))))
    assert by_pairs == pytest.approx(advantages(GradeCredit(eps=0.0)(group(*graded(*grades)))), abs=1e-6)


@pytest.mark.parametrize(("ddof", "expected"), [(1, [1.0, 0.0, -1.0]), (0, [1.2247, 0.0, -1.2247])])
def test_grades_worked_numbers_and_lengths(ddof, expected):
    """Grades 8, 6, 4: mean 6, deviation 2 or 1.6330."""
    judged = [correct("C", lengths=[1]), correct("CC", lengths=[4, 5]), incorrect("UM")]
    credited = GradeCredit(ddof=ddof)(group(*graded(8.0, 6.0, 4.0, judged=judged)))
    assert [len(c.advantages) for c in credited] == [1, 9, 3]
    assert advantages(credited) == pytest.approx(expected, abs=1e-4)


def test_what_has_no_evidence_is_in_no_statistics():
    """Without the second solution d_01 = 1 of two is left: .5 / sqrt(2 / 4). Grades 8 and 4: +-2 / 2.8284."""
    preferences = ThinkRMCredit()(group(*preferred((THREE[0], None, THREE[2]))))
    assert advantages(preferences) == pytest.approx([0.7071, 0.0, -0.7071], abs=1e-4)
    grades = GradeCredit()(group(*graded(8.0, None, 4.0)))
    assert advantages(grades) == pytest.approx([0.7071, 0.0, -0.7071], abs=1e-4)
    for credited in (preferences, grades):
        assert [c.is_compared for c in credited] == [True, False, True]
    for lonely in (
        ThinkRMCredit()(group(*preferred((THREE[0], None, None)))),
        GradeCredit()(group(*graded(None, 3.0, None))),
    ):
        assert advantages(lonely) == [0.0] * 3
        assert not any(c.is_compared for c in lonely)


@pytest.mark.parametrize("missing", ["undecided", "skipped"])
def test_a_solution_without_a_reward_is_in_no_statistics(missing):
    """It was compared and graded all the same: its row and column are left out."""
    last = undecided("A") if missing == "undecided" else correct("CC")
    judged = [correct("CC"), incorrect("UM"), last]
    for credit, solutions in (
        (ThinkRMCredit(), preferred(THREE, judged)),
        (GradeCredit(), graded(9, 2, 5, judged=judged)),
    ):
        if missing == "skipped":
            solutions[2] = dataclasses.replace(solutions[2], reward=Reward(None, 0.0, {"outcome": None}))
        assert advantages(credit(group(*solutions))) == pytest.approx([0.7071, -0.7071, 0.0], abs=1e-4)


def test_all_equal_teaches_nothing():
    assert advantages(ThinkRMCredit()(group(*preferred(((0.0, 0.0), (0.0, 0.0)))))) == [0.0, 0.0]
    assert advantages(GradeCredit()(group(*graded(7.1, 7.1, 7.1)))) == [0.0] * 3


@pytest.mark.parametrize(
    ("credit", "judged"), [(ThinkRMCredit(), preferred(THREE)), (GradeCredit(), graded(1.0, 4.0, 9.0))]
)
def test_what_all_credit_assignments_keep_to(credit, judged):
    assert isinstance(credit, CreditAssignment)
    straight = advantages(credit(group(*judged)))
    assert any(straight)
    assert advantages(credit(group(*reversed(judged)))) == pytest.approx(straight[::-1])
    with pytest.raises(ConfigError, match="'p' has 1 solution"):
        credit(group(judged[0]))
    shaped = dataclasses.replace(judged[0], reward=Reward(0.5, 1.0, {"outcome": 1.0, "overlong": -0.5}))
    with pytest.warns(UserWarning, match=f"{type(credit).__name__} uses (preferences|grades) alone"):
        credit(group(shaped, *judged[1:]))


def test_records_and_settings_are_checked():
    with pytest.raises(ValueError, match="a finite preference for each"):
        Preferences((0, 1), (0.0,))
    with pytest.raises(ValueError, match="a finite preference for each"):
        Preferences((0, 1), (0.0, float("nan")))
    with pytest.raises(ValueError, match="no preference over sample 7"):
        Preferences((0, 1), (0.0, 1.0)).over(7)
    with pytest.raises(ValueError, match=r"\[1.0, 10.0\], the declared scale, got 11"):
        SolutionGrade(11.0, 1.0, 10.0)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"finite.*{value}"):
            ThinkRMCredit(eps=value)
    with pytest.raises(ConfigError, match="ddof"):
        GradeCredit(ddof=2)
