"""PROF: the worked example, sides and edges, ragged groups."""

import dataclasses

import pytest

from lit_tpgrpo.credit.filters import ChecksGroupSize, GroupFilter, PROFFilter
from lit_tpgrpo.credit.filters.prof import consistency, correct_removed
from lit_tpgrpo.datamodules.settings_checks import check_filter
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import StepScores
from tests.credit.credit_cases import correct, group, incorrect, undecided


def scored(judged, scores, low=0.0, high=1.0):
    return dataclasses.replace(judged, evidence=(StepScores(tuple(scores), low, high),))


EXAMPLE = group(
    scored(correct("CC"), (0.9, 0.8)),
    scored(correct("CC"), (0.9, 0.2)),
    scored(correct("CC"), (0.6, 0.6)),
    scored(incorrect("MM"), (0.3, 0.5)),
)


def survivors(prof, *groups):
    assert isinstance(prof, GroupFilter)
    return [list(p) for p in prof.survivors(groups, [prof.summarise(g) for g in groups])]


def test_the_worked_example():
    """Consistency .5, -.1, 0, .4 at a mean of .6; 3 correct, 1 wrong, m = 2: two correct ones go, the second and third."""
    rows = [(0.9, 0.8), (0.9, 0.2), (0.6, 0.6), (0.3, 0.5)]
    values = [consistency(row, 0.6, i < 3) for i, row in enumerate(rows)]
    assert values == pytest.approx([0.5, -0.1, 0.0, 0.4])
    assert correct_removed(3, 1, 2) == 2
    assert survivors(PROFFilter(removed=2), EXAMPLE) == [[0, 3]]


@pytest.mark.parametrize(
    ("correct_ones", "wrong_ones", "removed", "expected"),
    [(4, 4, 4, 2), (6, 2, 4, 4), (7, 1, 4, 4), (2, 6, 4, 0), (1, 7, 4, 0), (5, 4, 4, 2), (6, 3, 4, 4), (3, 2, 2, 2)],
)
def test_how_many_correct_ones_go(correct_ones, wrong_ones, removed, expected):
    """(5, 4, 4): 2.5 is rounded to 2, to even; (6, 3, 4) is 3.5, to 4; (3, 2, 2) is 1.5, to 2."""
    assert correct_removed(correct_ones, wrong_ones, removed) == expected


def test_a_side_that_has_too_few_loses_fewer():
    """1 correct and 3 wrong, m = 4: round((-2 + 4) / 2) = 1 correct, and all three wrong ones: none is left."""
    judged = group(correct("CC"), *(incorrect("MM") for _ in range(3)))
    assert survivors(PROFFilter(removed=4), judged) == [[]]
    # 4 correct: round((4 + 3) / 2) = 4 to even, at most 3.
    assert survivors(PROFFilter(removed=3), group(*(correct("CC") for _ in range(4)))) == [[3]]


def test_the_mean_is_that_of_the_round():
    """A second group of scores 0 takes the mean to .3: now the third, .6, is more consistent than the second, .55."""
    prof = PROFFilter(removed=1)
    other = group(*(scored(incorrect("MM"), (0.0, 0.0)) for _ in range(4)))
    batch = [prof.summarise(EXAMPLE), prof.summarise(other)]
    assert batch == [pytest.approx((4.8, 8.0)), (0.0, 8.0)]
    assert prof.survivors([EXAMPLE], batch) == [[0, 2, 3]]
    assert prof.survivors([other], batch) == [[1, 2, 3]]
    assert prof.survivors([], batch) == []


def test_too_few_and_too_many_steps_go_first():
    """The good solutions have one step and 31: penalised by 10. Lengths do not matter."""
    judged = group(
        scored(correct("C", lengths=[9]), (1.0,)),
        scored(correct("CC", lengths=[1, 9]), (0.1, 0.1)),
        scored(correct("C" * 31), (1.0,) * 31),
        scored(correct("CC", lengths=[9, 1]), (0.2, 0.2)),
    )
    assert correct_removed(4, 0, 2) == 2
    assert survivors(PROFFilter(removed=2), judged) == [[1, 3]]


def test_without_scores_a_solution_has_no_step_and_goes_first():
    judged = group(scored(correct("CC"), (0.0, 0.0)), correct("AA"), scored(correct("CC"), (None, None)))
    assert survivors(PROFFilter(removed=1), judged) == [[0, 2]]


def test_undecided_solutions_stay():
    judged = group(undecided("AA"), correct("CC"), correct("CC"), undecided("AA"))
    assert survivors(PROFFilter(removed=2), judged) == [[0, 3]]


def test_wrong_ones_at_random_depend_on_the_problem_alone():
    wrong = [scored(incorrect("MM"), (0.1 * i, 0.1 * i)) for i in range(8)]
    prof = PROFFilter(removed=4, side="correct")
    once, again = survivors(prof, group(*wrong))[0], survivors(prof, group(*wrong))[0]
    assert once == again
    assert len(once) == 4
    # The most consistent ones are the first four here.
    assert survivors(PROFFilter(removed=4), group(*wrong)) == [[0, 1, 2, 3]]
    assert once != [0, 1, 2, 3]


def test_another_scale_and_settings_are_refused():
    with pytest.raises(
        ConfigError, match=r"needs step scores on the scale \[0, 1\], and data.evidence gives \[-1.0, 1.0\]"
    ):
        PROFFilter().summarise(group(scored(correct("CC"), (0.5, 0.5), -1.0)))
    with pytest.raises(ConfigError, match="removed must be at least 1, got 0"):
        PROFFilter(removed=0)
    assert isinstance(PROFFilter(), ChecksGroupSize)
    with pytest.raises(ConfigError, match="lower removed to at most 2, or sample larger groups"):
        check_filter(PROFFilter(removed=3), 4)
    with pytest.raises(ConfigError, match=r"needs data\.group_size 3 or more"):
        check_filter(PROFFilter(removed=1), 2)
    check_filter(PROFFilter(removed=2), 4)
    check_filter(None, 2)
    with pytest.raises(ConfigError, match="side: expected both or correct"):
        PROFFilter(side="wrong")
