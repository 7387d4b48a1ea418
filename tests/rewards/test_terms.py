"""Each reward term on solutions worked by hand, and beside TRL's where TRL has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome, StopReason
from lit_tpgrpo.rewards import FormatReward, GroupLengthReward, OutcomeReward, OverlongPenalty, RepetitionPenalty
from tests.rewards.reward_cases import case, cases, verified

C, I = Outcome.CORRECT, Outcome.INCORRECT  # noqa: E741


def test_outcome():
    assert [OutcomeReward()(case(outcome=o)) for o in (C, I, Outcome.UNVERIFIABLE)] == [1.0, -1.0, -1.0]
    assert [OutcomeReward(1, 0)(case(outcome=o)) for o in (C, I)] == [1.0, 0.0]
    for settings in ((0.0, 0.0), (-1.0, 1.0), (float("inf"), 0.0), (1.0, float("nan"))):
        with pytest.raises(ConfigError, match="incorrect must be less than correct"):
            OutcomeReward(*settings)


@pytest.mark.parametrize(("length", "value"), [(1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (110, -1.0)])
def test_overlong(length: int, value: float):
    assert OverlongPenalty(100, 20)(case([3] * length)) == value
    assert str(OverlongPenalty(100, 20)(case([3] * 80))) == "0.0"  # a table shows no -0.0


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90))
def test_overlong_is_that_of_trl(longest: int, cache: int, length: int):
    if cache > longest:
        with pytest.raises(
            ConfigError, match=f"between 1 and max_tokens, got cache_tokens {cache}, max_tokens {longest}"
        ):
            OverlongPenalty(longest, cache)
    else:
        expected = get_soft_overlong_punishment(longest, cache)([[3] * length])
        assert [OverlongPenalty(longest, cache)(case([3] * length))] == pytest.approx(expected)


def test_length_within_the_group():
    # 10 to 30 tokens: lambda = 0.5 - (len - 10) / 20
    group = cases(
        *(verified([3] * n, outcome) for n, outcome in ((10, C), (15, C), (30, C), (10, I), (20, I), (30, I)))
    )
    assert [GroupLengthReward()(c) for c in group] == [0.5, 0.25, -0.5, 0.0, 0.0, -0.5]
    assert [GroupLengthReward()(c) for c in cases(verified([3] * 7), verified([4] * 7, I))] == [0.0, 0.0]


def test_repetition():
    # 1 2 1 2 1: pairs 12 21 12 21, two of four distinct
    assert RepetitionPenalty(2)(case([1, 2, 1, 2, 1])) == -0.5
    assert RepetitionPenalty(2)(case([1, 2, 3])) == 0.0
    assert RepetitionPenalty(4)(case([1, 1, 1])) == 0.0
    assert RepetitionPenalty(1)(case([1, 1, 1, 1])) == -0.75
    with pytest.raises(ConfigError, match="n must be at least 1, got 0"):
        RepetitionPenalty(0)


@given(st.integers(1, 5), st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_repetition_is_that_of_trl(n: int, ids: list[int]):
    assert [RepetitionPenalty(n)(case(ids))] == pytest.approx(get_repetition_penalty_reward(n, -1.0)([ids]))


@pytest.mark.parametrize(
    ("value", "settings"),
    [
        (1.0, {}),
        (1.0, {"outcome": I}),
        (1.0, {"text": "<think>maybe \\boxed{1}</think>so \\boxed{2}"}),
        (1.0, {"text": "<think>a</think>\\boxed{2}, again \\boxed{2}"}),
        (1.0, {"text": "<think>a</think>2"}),  # a verifier of another kind read it
        (0.0, {"text": "<think>a</think>\\boxed{2} or \\boxed{3}"}),
        (0.0, {"text": "<think>a</think>no idea", "answer": None}),
        (0.0, {"text": "<think>1 + 1 = \\boxed{2}"}),
        (0.0, {"stop": StopReason.LENGTH}),
    ],
)
def test_format(value: float, settings: dict):
    assert FormatReward()(case(**settings)) == value
    assert FormatReward(0.0, -1.0)(case(**settings)) == value - 1.0
