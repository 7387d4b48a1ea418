"""Any position of the stream can be reached directly; passes are permutations."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.stream import ProblemStream, derived_seed
from lit_tpgrpo.records import Problem

PROBLEMS = [Problem(f"p/{i}", "q", "a") for i in range(7)]


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 5))
def test_a_position_is_the_same_however_it_is_reached(start: int, count: int, seed: int):
    whole = ProblemStream(PROBLEMS, seed).take(0, start + count)
    assert ProblemStream(PROBLEMS, seed).take(start, count) == whole[start:]


@given(st.integers(0, 50), st.integers(0, 5))
def test_each_pass_meets_each_problem_once(number: int, seed: int):
    met = ProblemStream(PROBLEMS, seed).take(7 * number, 7)
    assert Counter(p.uid for p in met) == Counter(p.uid for p in PROBLEMS)


def test_passes_differ():
    stream = ProblemStream(PROBLEMS, 0)
    assert len({tuple(p.uid for p in stream.take(7 * i, 7)) for i in range(20)}) > 10


def test_draws_follow_weights_without_repeats():
    stream = ProblemStream(PROBLEMS, 0)
    weights = [0.0, 1.0, 1.0, 1.0, 50.0, 1.0, 1.0]
    counts: Counter[str] = Counter()
    for start in range(300):
        drawn = stream.draw(start, 3, weights)
        assert len({p.uid for p in drawn}) == 3
        counts.update(p.uid for p in drawn)
    assert counts["p/0"] == 0
    assert counts["p/4"] > 290
    assert stream.draw(5, 3, weights) == stream.draw(5, 3, weights)
    # More than there are: repeats are the only way.
    assert len(stream.draw(0, 20, weights)) == 20


def test_seeds_depend_on_every_part():
    assert derived_seed(1, "round", 2) != derived_seed(1, "round", 3) != derived_seed(2, "round", 3)
    assert derived_seed("1", "1") != derived_seed("11")
