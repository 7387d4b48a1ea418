"""The first infeasible step by binary search: the worked probes, and any threshold in few of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional.bisection import StepSearch, step_signs


def searched(count, last_feasible):
    """The probes of a search, and what it finds, where the steps up to ``last_feasible`` are feasible."""
    search, probes = StepSearch(1, count), []
    while search.probe is not None:
        probes.append(search.probe)
        search = search.narrowed(search.probe <= last_feasible)
    return probes, search.low


def test_worked_probes_of_five_lines():
    """Feasible after lines 1 and 2, not after 3: probes at 3 (no), 1 (yes), 2 (yes), three in place of five."""
    probes, first = searched(5, last_feasible=2)
    assert probes == [3, 1, 2]
    assert step_signs(5, first) == [1.0, 1.0, -1.0, -1.0, -1.0]


@given(st.integers(0, 200), st.integers(0, 200))
def test_any_first_step_is_found_by_few_probes(count, last_feasible):
    probes, first = searched(count, last_feasible)
    assert first == min(last_feasible, count) + 1
    assert len(probes) == len(set(probes)) <= math.floor(math.log2(count)) + 1 if count else probes == []
    assert step_signs(count, first) == [1.0] * (first - 1) + [-1.0] * (count - first + 1)


def test_a_search_that_has_ended_learns_nothing():
    with pytest.raises(ValueError, match="the search has ended at step 1"):
        StepSearch(1, 0).narrowed(feasible=True)
