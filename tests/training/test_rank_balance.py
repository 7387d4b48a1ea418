"""Sequences change their rank so that loads become even; none is lost, and all ranks plan the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.training.rank_balance import WORTHWHILE, plan_moves, sequence_cost

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch, torch.distributed as dist
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.rank_balance import balance_ranks

dist.init_process_group("gloo")
own = [[400, 300, 200, 100], []][dist.get_rank()]
sequences = [
    TrainingSequence(torch.tensor([7]), torch.arange(n - 1), torch.full((n - 1,), -float(n)), torch.full((n - 1,), float(n)))
    for n in own
]
kept = balance_ranks(sequences, 10**9, torch.device("cpu"))
for s in kept:
    assert torch.equal(s.completion_ids, torch.arange(len(s) - 1)), s
    assert set(s.advantages.tolist()) == {float(len(s))} == {-float(x) for x in s.old_logprobs.tolist()}
lengths = [None, None]
dist.all_gather_object(lengths, [len(s) for s in kept])
if dist.get_rank() == 0:
    print(lengths)
dist.barrier()
dist.destroy_process_group()
"""


def loads_after(costs: list[list[float]]) -> list[float]:
    loads = [sum(of) for of in costs]
    for source, index, to in plan_moves(costs):
        loads[source] -= costs[source][index]
        loads[to] += costs[source][index]
    return loads


def test_cost_by_hand():
    """At 12 H tokens attention costs as much as the layers' matrices."""
    assert sequence_cost(1200, 100) == 2400
    assert sequence_cost(120, 100) == pytest.approx(120 + 12)


def test_moves_by_hand():
    """Ten and none: the four goes, which makes 6 and 4; then nothing makes both more even. Even ranks keep what they have."""
    assert plan_moves([[1.0, 4.0, 5.0], []]) == [(0, 2, 1)]
    assert plan_moves([[4.0, 3.0, 2.0, 1.0], []]) == [(0, 0, 1), (0, 3, 1)]
    assert plan_moves([[3.0, 3.0], [6.0], [2.0, 4.0]]) == []
    assert plan_moves([[100.0], [99.0]]) == []
    assert plan_moves([[], []]) == []
    assert plan_moves([[5.0]]) == []


@given(st.lists(st.lists(st.integers(1, 1000).map(float), max_size=12), min_size=1, max_size=6))
def test_each_moves_at_most_once_and_the_largest_load_never_grows(costs: list[list[float]]):
    moves = plan_moves(costs)
    assert len({(source, index) for source, index, _ in moves}) == len(moves)
    assert all(source != to for source, _, to in moves)
    before, after = [sum(of) for of in costs], loads_after(costs)
    assert sum(after) == sum(before)
    assert max(after) <= max(before)
    if moves:
        assert max(after) - min(after) < max(before) - min(before)


@given(st.lists(st.integers(1, 100).map(float), min_size=40, max_size=60), st.integers(2, 4))
def test_many_small_sequences_on_one_rank_end_nearly_even(costs: list[float], ranks: int):
    """A rank gets a sequence only while it has the least: none ends more than one above the mean."""
    after, mean = loads_after([costs, *([] for _ in range(ranks - 1))]), sum(costs) / ranks
    assert max(after) <= mean + max(costs) + WORTHWHILE * mean


@pytest.mark.slow
def test_sequences_move_whole_between_processes():
    """1,000 tokens on one of two ranks: 500 and 500, and each sequence with its own numbers."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    ended = subprocess.run(
        [*launcher, sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip() == "[[300, 200], [400, 100]]"
