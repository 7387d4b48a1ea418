"""How the kept solutions of a round become optimizer steps, all at once or as they arrive."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.rollout.step_cuts import CUTS, EvenSteps, FullSteps, StepCut, even_steps


def cut(steps: StepCut[int], *parts: range) -> list[list[int]]:
    for part in parts:
        steps.add(part)
    steps.end()
    return [list(step) for step in steps.steps]


@given(st.integers(0, 200), st.integers(1, 50))
def test_even_steps_cut_in_order_and_evenly(n: int, per_step: int):
    steps = even_steps(range(n), per_step)
    assert [i for step in steps for i in step] == list(range(n))
    assert all(steps)
    if steps:
        sizes = [len(s) for s in steps]
        assert max(sizes) - min(sizes) <= 1
        assert abs(len(steps) - n / per_step) <= 0.5 or len(steps) == 1


@pytest.mark.parametrize(
    ("n", "per_step", "even", "full"),
    [
        (100, 40, [50, 50], [40, 40, 20]),
        (99, 40, [49, 50], [40, 59]),
        (120, 40, [40] * 3, [40] * 3),
        (139, 40, [46, 46, 47], [40, 40, 59]),
        (7, 40, [7], [7]),
        (0, 4, [], []),
        (3, 1, [1] * 3, [1] * 3),
        (7, 5, [7], [7]),
        (8, 5, [4, 4], [5, 3]),
    ],
)
def test_sizes_by_hand(n: int, per_step: int, even: list[int], full: list[int]):
    assert [len(s) for s in cut(EvenSteps(per_step), range(n))] == even
    assert [len(s) for s in cut(FullSteps(per_step), range(n))] == full


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(1, 40))
def test_full_steps_but_for_the_last_one(parts: list[int], per_step: int):
    n = sum(parts)
    steps = cut(FullSteps(per_step), range(n))
    assert [i for step in steps for i in step] == list(range(n))
    assert len(steps) == (max(1, math.floor(n / per_step + 0.5)) if n else 0)
    assert all(len(step) == per_step for step in steps[:-1])
    assert all(len(step) < 1.5 * per_step for step in steps[-1:])
    assert all(2 * len(step) >= per_step for step in steps[1:])


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(1, 40), st.sampled_from(sorted(CUTS)))
def test_steps_do_not_depend_on_the_parts_in_which_items_arrive(parts: list[int], per_step: int, name):
    bounds = [sum(parts[:i]) for i in range(len(parts) + 1)]
    ranges = [range(a, b) for a, b in itertools.pairwise(bounds)]
    assert cut(CUTS[name](per_step), *ranges) == cut(CUTS[name](per_step), range(sum(parts)))


def test_a_full_step_is_known_when_half_a_step_beyond_it_is_there():
    steps = FullSteps[int](4)
    steps.add(range(5))
    assert steps.steps == []
    steps.add([5])
    assert steps.steps == [(0, 1, 2, 3)]
    steps.add([6, 7, 8])
    assert len(steps.steps) == 1
    steps.add(range(9, 14))
    assert steps.steps == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    steps.end()
    assert steps.steps[3:] == [(12, 13)]
