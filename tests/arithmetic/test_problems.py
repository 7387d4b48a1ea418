"""Problems: the statement says what the answer needs, splits cannot mix, everything is reproducible."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules.arithmetic.problems import LEVELS, Level, Operation, Task, draw_task, make_problems
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.sources import ProblemSource
from lit_tpgrpo.errors import ConfigError

TASK = Task(10, 3, (Operation("+", 5), Operation("*", 7), Operation("-", 9)))


def test_statement_and_answer_of_a_hand_worked_task():
    assert TASK.prompt == ("Working modulo 10, start with 3, add 5, multiply by 7, subtract 9. What is the result?")
    assert [str(e) for e in TASK.equations] == ["3+5=8", "8*7=6", "6-9=7"]
    assert TASK.answer == 7


def test_digest_and_split_are_the_same_in_every_process_and_release():
    # Recorded once. Were they to change, a published model's held-out problems would leak into training.
    assert TASK.digest == "d2a3114f5eaccc36"
    assert TASK.split == "train"


@given(st.sampled_from(sorted(LEVELS)), st.integers(0, 10**9))
def test_the_statement_holds_the_whole_task(level, seed):
    task = draw_task(LEVELS[level], random.Random(seed))
    assert Task.from_prompt(task.prompt) == task


@given(st.sampled_from(sorted(LEVELS)), st.integers(0, 10**9), st.data())
def test_every_operation_is_a_bijection_so_that_a_wrong_value_never_heals(level, seed, data):
    task = draw_task(LEVELS[level], random.Random(seed))
    operation = data.draw(st.sampled_from(task.operations))
    assert len({operation(value, task.modulus) for value in range(task.modulus)}) == task.modulus


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_splits_are_disjoint_whatever_the_seeds(level):
    train = {p.prompt for seed in range(3) for p in make_problems(level, 400, seed, "train")}
    heldout = {p.prompt for seed in range(3) for p in make_problems(level, 400, seed, "heldout")}
    assert not train & heldout
    # The reason, not only the luck: the split is a function of the problem.
    assert {Task.from_prompt(p).split for p in train} == {"train"}
    assert {Task.from_prompt(p).split for p in heldout} == {"heldout"}


def test_problems_are_distinct_reproducible_and_of_their_level():
    problems = make_problems("4", 300, seed=7, split="train")
    assert problems == make_problems("4", 300, seed=7, split="train")
    assert problems != make_problems("4", 300, seed=8, split="train")
    assert len({p.prompt for p in problems}) == len({p.uid for p in problems}) == 300
    for problem in problems:
        task = Task.from_prompt(problem.prompt)
        assert (len(task.operations), task.modulus) == (LEVELS["4"].steps, LEVELS["4"].modulus)
        assert problem.answer == str(task.answer)
        assert (problem.source, problem.level) == ("arithmetic", "4")


def test_more_problems_begin_with_the_fewer_ones():
    assert make_problems("2", 50, 0, "heldout")[:20] == make_problems("2", 20, 0, "heldout")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("9", 1, 0, "train"), "level must be one of 1, 2, 3, 4, 5, 6, got '9'"),
        (("2", 0, 0, "train"), "n must be at least 1, got 0"),
        # 10 starts, 9 + 9 + 3 operations, 4 steps: 10 * 21^4 = 1,944,810 tasks, 243,101 of them held out.
        (("1", 121_551, 0, "heldout"), "n must be at most 121550 for level '1' and split 'heldout', got 121551"),
        (("1", 850_855, 0, "train"), "n must be at most 850854 for level '1' and split 'train', got 850855"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    level, n, seed, split = arguments
    with pytest.raises(ValueError, match=message):
        make_problems(*arguments)
    with pytest.raises(ConfigError, match=message):
        ArithmeticProblems(level, n, seed, split)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split must be 'train' or 'heldout', got 'test'"):
        make_problems("2", 1, 0, "test")
    with pytest.raises(ConfigError, match="split: expected train or heldout, got 'test'"):
        ArithmeticProblems("2", 1, 0, "test")


def test_tasks_of_a_level_are_counted():
    # Modulo 10 the multipliers are 3, 7, 9; modulo 13 all of 2 to 9.
    assert Level(steps=1, modulus=10).tasks == 10 * (9 + 9 + 3)
    assert Level(steps=2, modulus=13).tasks == 13 * (9 + 9 + 8) ** 2


@pytest.mark.parametrize(("split", "most"), [("train", 92), ("heldout", 13)])
def test_as_many_problems_as_are_allowed_can_be_had(monkeypatch, split, most):
    # One step modulo 10: 210 tasks, of which 26 may be expected to be held out and 184 not.
    monkeypatch.setitem(LEVELS, "1", Level(steps=1, modulus=10))
    assert len({p.uid for p in make_problems("1", most, 0, split)}) == most
    with pytest.raises(ValueError, match=f"n must be at most {most} "):
        make_problems("1", most + 1, 0, split)


def test_uids_begin_with_the_name_of_the_source():
    source = ArithmeticProblems("2", n=3)
    assert isinstance(source, ProblemSource)
    assert all(p.uid.startswith(f"{source.name}/") for p in source.load())
    assert {p.source for p in source.load()} == {source.name}


def test_a_statement_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"expected a statement written by Task\.prompt"):
        Task.from_prompt("What is 1 + 1?")


def test_levels_that_could_not_be_drawn_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Level(0, 10)
    with pytest.raises(ValueError, match="modulus must be at least 10"):
        Level(3, 7)
