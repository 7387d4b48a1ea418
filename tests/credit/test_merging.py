"""Merging, and what a verdict must keep to."""

import pytest
from credit_cases import correct, group, incorrect, retold, solution, undecided

from lit_tpgrpo.credit.merging import (
    agrees_with_answer,
    check_verdict,
    merge_thoughts,
    outcome_advantages,
    single_steps,
)
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, StepLabel, StopReason, Thought


def test_merge_thoughts_tiles_steps_and_tokens():
    assert merge_thoughts(correct("CCICC").verdict) == (
        Thought(0, 2, 0, 2, StepLabel.CORRECT),
        Thought(2, 3, 2, 3, StepLabel.INCORRECT),
        Thought(3, 5, 3, 6, StepLabel.CORRECT),
    )


def test_trailing_think_thought_merges_into_the_answer():
    assert merge_thoughts(incorrect("UMM").verdict) == (
        Thought(0, 1, 0, 1, StepLabel.UNMATCHED),
        Thought(1, 3, 1, 4, StepLabel.MATCHED),
    )


def test_abstained_solution_is_one_thought():
    assert merge_thoughts(incorrect("AAA").verdict) == (Thought(0, 3, 0, 4, StepLabel.ABSTAINED),)


def test_single_steps_are_not_merged():
    assert single_steps(correct("CC").verdict) == (
        Thought(0, 1, 0, 1, StepLabel.CORRECT),
        Thought(1, 2, 1, 3, StepLabel.CORRECT),
    )


def sides(judged):
    found = agrees_with_answer(judged, merge_thoughts(judged.verdict))
    return None if found is None else found.tolist()


def test_an_unverifiable_answer_is_rewarded_as_incorrect():
    outcomes = outcome_advantages(group(correct("C"), solution("M", Outcome.UNVERIFIABLE)), ddof=0, eps=0.0)
    assert outcomes == [1.0, -1.0]


def test_undecided_outcomes_leave_the_groups_statistics():
    # Of 8 right solutions one is undecided: the others are all alike. As incorrect it would have got -2.5.
    judged = group(*[correct("C")] * 7, undecided("A"))
    assert outcome_advantages(judged, ddof=1, eps=1e-6) == [0.0] * 7 + [None]
    assert judged.accuracy == 1.0
    # 1, 1, -1 and two undecided: mean 1/3, population deviation sqrt(8/9)
    mixed = group(undecided("A"), correct("C"), correct("C"), undecided("A"), incorrect("M"))
    assert mixed.accuracy == pytest.approx(2 / 3)
    expected = [None, 0.5**0.5, 0.5**0.5, None, -(2.0**0.5)]
    assert outcome_advantages(mixed, ddof=0, eps=0.0) == pytest.approx(expected)


@pytest.mark.parametrize("decided", [[], [correct("C")], [incorrect("M")]])
def test_fewer_than_two_decided_solutions_have_nothing_to_be_compared_with(decided):
    judged = group(*decided, undecided("A"), undecided("A"))
    assert outcome_advantages(judged, ddof=1, eps=0.0) == [None] * len(judged.solutions)
    assert judged.accuracy == (1.0 if decided == [correct("C")] else 0.0)


def test_group_of_one_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"'p' has 1 solution: .* at least 2"):
        outcome_advantages(group(correct("C")), ddof=1, eps=0.0)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (correct("CIIC"), [True, False, True]),
        (incorrect("UM"), [False, True]),
        (solution("UM", Outcome.UNVERIFIABLE), [False, True]),
        (correct("AAA"), None),
        (incorrect("A"), None),
        (incorrect("UM", stop=StopReason.LENGTH), None),
        (incorrect("UU", stop=StopReason.LENGTH, answer_step=False), None),
        (incorrect("UU", answer_step=False), None),
    ],
)
def test_agrees_with_answer(judged, expected):
    assert sides(judged) == expected


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        (correct("CMC"), r"labels a correct solution \['matched'\]"),
        (incorrect("CC"), r"labels a incorrect solution \['correct'\]"),
        (correct("CI"), "labels the answer block incorrect; expected correct"),
        (incorrect("MU"), "labels the answer block unmatched; expected matched"),
        (solution("MU", Outcome.UNVERIFIABLE), "labels the answer block unmatched; expected matched"),
        (correct("CAC"), "abstains on some steps only"),
    ],
)
def test_verdicts_that_break_the_contract_are_named(judged, message):
    with pytest.raises(ValueError, match="sample 0 of problem 'p' " + message):
        sides(judged)


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        (retold([(0, 1), (1, 2), (2, 3)]), "do not cover its 4 tokens once and in order"),
        (retold([(0, 1), (1, 2), (2, 5)]), "do not cover its 4 tokens once and in order"),
        (retold([(1, 2), (2, 3), (3, 4)]), "do not cover"),
        (retold([(0, 1), (2, 3), (3, 4)]), "do not cover"),
        (retold([(0, 2), (1, 3), (3, 4)]), "do not cover"),
        (retold([(0, 3), (3, 2), (2, 4)]), "do not cover"),
        (retold([(0, 1), (1, 2), (2, 4)], labels="CC"), "has 2 labels for 3 steps"),
        (retold([], labels=""), "has 0 labels for 0 steps"),
    ],
)
def test_steps_that_do_not_tile_are_named(judged, message):
    with pytest.raises(ValueError, match=r"sample 0 of problem 'p' .*" + message):
        check_verdict(judged)


def test_step_without_tokens_is_allowed():
    check_verdict(retold([(0, 1), (1, 1), (1, 4)]))
    assert sides(retold([(0, 1), (1, 1), (1, 4)])) == [True]
