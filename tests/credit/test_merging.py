"""Merging, and what a verdict must keep to."""

import pytest

from lit_tpgrpo.credit.merging import (
    agrees_with_answer,
    check_verdict,
    merge_thoughts,
    single_steps,
)
from lit_tpgrpo.records import Outcome, StepLabel, StopReason, Thought
from tests.credit.credit_cases import correct, incorrect, retold, solution


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
