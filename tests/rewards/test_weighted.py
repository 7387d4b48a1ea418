"""The weighted sum: skipped terms, terms that fail, asynchronous ones, and what Python may give."""

from __future__ import annotations

import asyncio
import functools

import numpy as np
import pytest
import torch

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rewards import OutcomeReward, OverlongPenalty, RewardCase, WeightedRewards, WeightedTerm
from lit_tpgrpo.rewards.weighted import Todo, as_rewards
from tests.rewards.reward_cases import case, cases, verified


def rewards(**terms) -> WeightedRewards:
    result = as_rewards(terms, "data.rewards")
    assert result is not None
    return result


def values(weighted: WeightedRewards, given: list[RewardCase]) -> dict[tuple[int, str], float | None]:
    todo = [Todo(i, name) for i in range(len(given)) for name in weighted.terms]
    return {(call.index, call.term): value for call, value in weighted.compute(given, todo)}


def test_the_sum_is_weighted_and_skips_none():
    weighted = rewards(outcome=OutcomeReward(), overlong=(OverlongPenalty(10, 4), 0.5), mine=lambda case: None)
    found = values(weighted, [case([3] * 8)])  # 2 of 4 tokens into the cache
    assert found == {(0, "outcome"): 1.0, (0, "overlong"): -0.5, (0, "mine"): None}
    reward = weighted.reward({"outcome": 1.0, "overlong": -0.5, "mine": None})
    assert (reward.total, reward.outcome) == (0.75, 1.0)
    assert reward.terms == {"outcome": 1.0, "overlong": -0.5, "mine": None}
    assert weighted.reward({"outcome": -1.0, "overlong": 0.0, "mine": 4.0}).total == 3.0


def test_a_solution_that_all_terms_skip_has_no_reward():
    reward = rewards(mine=lambda case: None).reward({"mine": None})
    assert (reward.total, reward.outcome) == (None, 0.0)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), torch.tensor(2)], ids=lambda v: type(v).__name__
)
def test_numbers_of_any_library_are_numbers(value):
    found = values(rewards(mine=lambda case: value), [case()])
    assert found == {(0, "mine"): 2.0}
    assert type(found[0, "mine"]) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "2", [2.0], torch.zeros(2), np.nan])
def test_other_values_name_term_and_solution(value):
    given = cases(verified([3]), verified([4], sample=1))
    with pytest.raises(ConfigError) as caught:
        values(rewards(outcome=OutcomeReward(), mine=lambda c: value if c.solution.sample else 0.0), given)
    text = str(caught.value)
    assert text.startswith(f"data.rewards.mine ({__name__}.test_other_values_name_term_and_solution.<locals>.<lambda>)")
    assert "of sample 1 of problem 'p' must be a finite number or None, got " in text
    assert "\n" not in text


class Slow:
    """Awaits until as many calls have begun as may at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once, self._running, self.most = at_once, 0, 0
        self._full: asyncio.Event | None = None

    async def __call__(self, case: RewardCase) -> float | None:
        self._full = self._full or asyncio.Event()
        self._running += 1
        self.most = max(self.most, self._running)
        if self._running == self._at_once:
            self._full.set()
        await self._full.wait()  # for ever, were fewer calls admitted
        await asyncio.sleep(0)
        self._running -= 1
        return None if case.solution.sample == 3 else float(case.solution.sample)


def test_asynchronous_calls_are_awaited_together_within_the_bound():
    term = Slow(3)
    weighted = rewards(outcome=OutcomeReward(), slow=WeightedTerm(term, concurrency=3))
    given = cases(*(verified([3], sample=k) for k in range(7)))
    found = values(weighted, given)
    assert term.most == 3
    assert [found[k, "slow"] for k in range(7)] == [0.0, 1.0, 2.0, None, 4.0, 5.0, 6.0]
    assert [found[k, "outcome"] for k in range(7)] == [1.0] * 7


def test_they_may_be_used_inside_a_running_loop():
    async def two(case):
        return 2.0

    async def main():
        return values(rewards(two=functools.partial(two)), [case()])

    assert asyncio.run(main()) == {(0, "two"): 2.0}


async def breaks(case: RewardCase) -> float:
    await asyncio.sleep(0)
    raise KeyError("no\nsuch key")


def breaks_at_once(case: RewardCase) -> float:
    raise KeyError("no\nsuch key")


@pytest.mark.parametrize("term", [breaks, breaks_at_once])
@pytest.mark.filterwarnings("error")  # a coroutine that was never awaited
def test_a_term_that_raises_is_named_and_what_came_before_is_yielded(term):
    async def never_started(case):
        return 0.0

    weighted = rewards(outcome=OutcomeReward(), quiet=never_started, mine=term)
    todo = [Todo(0, "outcome"), Todo(0, "quiet"), Todo(0, "mine")]
    computed = weighted.compute([case()], todo)
    assert next(computed) == (Todo(0, "outcome"), 1.0)
    with pytest.raises(ConfigError) as caught:
        list(computed)
    assert str(caught.value) == (
        f"data.rewards.mine ({__name__}.{term.__name__}) of sample 0 of problem 'p' cannot be computed: it raised KeyError: "
        "'no\\nsuch key'. What was sampled and computed is stored: fix the function, then resume"
    )
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("term", "error"),
    [
        (lambda completions: [0.0 for _ in completions], "TypeError: 'RewardCase' object is not iterable"),
        (lambda case: len(case.completion), "AttributeError: 'RewardCase' object has no attribute 'completion'"),
    ],
)
def test_a_function_for_another_trainer_is_told_what_a_term_takes(term, error):
    with pytest.raises(ConfigError) as caught:
        values(rewards(mine=term), [case()])
    assert f"it raised {error} (a term takes one lit_tpgrpo.RewardCase). What" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"total": OutcomeReward()}, "a term's name is letters, digits, - and _, and not 'total'; got 'total'"),
        ({"a/b": OutcomeReward()}, "a term's name .* got 'a/b'"),
        ({"a": 3}, r"data.rewards.a: term: expected a reward term or a function \(case\) -> number or None, got 3"),
        ({"a": OutcomeReward}, r"data.rewards.a: .*give an object: OutcomeReward\(...\)"),
        ({"a": (OutcomeReward(), -1.0)}, "data.rewards.a: weight of an outcome reward must not be negative, got -1.0"),
        ({"a": (len, float("nan"))}, "data.rewards.a: weight must be finite, got nan"),
        ({"a": {"term": len, "concurrency": 0}}, "data.rewards.a: concurrency must be at least 1, got 0"),
        ({"a": {"weight": 1.0}}, "data.rewards.a: .*term"),
        ({"a": {"term": len, "wieght": 1.0}}, "data.rewards.a: .*did you mean weight"),
        ([OutcomeReward()], r"data.rewards: expected a mapping from names to reward terms, got \["),
    ],
)
def test_what_cannot_be_a_sum_is_refused(given, message: str):
    with pytest.raises(ConfigError, match=message):
        as_rewards(given, "data.rewards")


def test_a_mapping_of_arguments_and_nothing_are_accepted():
    assert as_rewards(None, "data.rewards") is None
    assert as_rewards({}, "data.rewards") is None
    with pytest.raises(ConfigError, match="rewards: expected at least one term, got none"):
        WeightedRewards({})
    weighted = rewards(outcome={"term": OutcomeReward(), "weight": 2})
    assert as_rewards(weighted, "data.rewards") is weighted
    assert weighted.reward({"outcome": -1.0}).total == -2.0
    assert weighted.settings("outcome") == {
        "class": "lit_tpgrpo.rewards.outcome.OutcomeReward",
        "correct": 1.0,
        "incorrect": -1.0,
    }
    assert case(outcome=Outcome.INCORRECT).group[0].outcome is Outcome.INCORRECT
