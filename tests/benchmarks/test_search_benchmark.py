"""The benchmark of searches: plain voting at equal tokens, and what a row says where the pool is too small for that."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.search import SearchBench, SearchRow, line_of, score_line
from lit_tpgrpo.datamodules.arithmetic.measure import prompt_text
from lit_tpgrpo.records import StopReason
from lit_tpgrpo.search import Found, Partial


def bench(*answers: str) -> Any:
    """One problem with the answer 4, and a pool of solutions of 10 tokens."""
    pool = [[Found(Partial(steps=(f"x</think>\\boxed{{{a}}}",), stop=StopReason.EOS), 10) for a in answers]]
    fake = SimpleNamespace(pool=pool, problems=[None], is_right=lambda i, p: p.text.endswith("{4}"))
    fake.plain = lambda n: SearchBench.plain(fake, n)
    return fake


def test_plain_voting_is_its_expectation_over_subsets():
    assert bench("4", "5", "4").plain(1) == (pytest.approx(2 / 3),)
    # Of the pairs (4, 5), (4, 4), (5, 4) one is right and two are ties.
    assert bench("4", "5", "4").plain(2) == (pytest.approx(2 / 3),)
    assert bench("4", "5", "4").plain(3) == (1.0,)


def test_a_large_pool_is_not_listed():
    """32 of 64 are 1.8e18 subsets."""
    ((found,),) = [bench(*["4"] * 48, *["5"] * 16).plain(32)]
    assert found > 0.95


@pytest.mark.parametrize(
    ("tokens", "compared"), [(20, "n = 2 |"), (30, "n = 3 |"), (50, "n = 3, not the 5 that those tokens pay for")]
)
def test_a_row_says_where_the_pool_has_fewer_tokens_than_the_search(tokens, compared):
    line = line_of(bench("4", "5", "4"), SearchRow("a search", "exact", (1.0,), (tokens,)))
    assert compared in line


def test_scores_that_know_nothing_are_ties():
    fake = bench("4", "5", "4")
    fake.scored = lambda scorer: [[replace(f.partial, scores=(scorer(f.partial),)) for f in own] for own in fake.pool]

    def exact(partial: Partial) -> float:
        return float(partial.text.endswith("{4}"))

    def same(partial: Partial) -> float:
        return 0.5

    assert score_line(fake, "exact", cast(Any, exact), "last") == "| exact | last | 1.000 | 0.000 | 1.000 | 0.000 |"
    assert score_line(fake, "same", cast(Any, same), "mean") == "| same | mean | 0.500 | 0.500 | 0.500 | 1.000 |"


@pytest.mark.slow
def test_the_policy_is_asked_as_it_was_trained():
    """With another prompt the trained policy solved one problem in seventy."""
    made = SearchBench("embedded:tiny-qwen2", "1", problems=1, samples=1, seed=0)
    (prompt,) = made.prompts
    assert made.decode(prompt) == prompt_text(made.tokenizer, made.problems[0].prompt)
