"""The benchmark of searches: plain voting at equal tokens, and what a row says where the pool is too small for that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.search import SearchBench, SearchRow, line_of
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
