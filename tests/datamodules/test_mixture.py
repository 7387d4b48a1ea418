"""Mixtures: shares, order, uids, what training sees of them, and every mistake in one line."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import datasets
import lightning as L
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.mixture_stream import MixtureStream, problem_stream
from lit_tpgrpo.datamodules.sources import Decontaminated, FileProblems, MemoryProblems, MixtureProblems, ProblemSource
from lit_tpgrpo.datamodules.stream import ProblemStream
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome, Problem
from lit_tpgrpo.rollout.by_source import SourceTally
from lit_tpgrpo.verify.verifier import MathVerifier


def rows(name: str, count: int) -> list[dict]:
    return [{"id": i, "problem": f"{name} {i}?", "answer": i} for i in range(count)]


def mixture(sizes: dict[str, int], weights: dict[str, float] | None = None) -> MixtureProblems:
    return MixtureProblems({name: rows(name, size) for name, size in sizes.items()}, weights)


def test_problems_of_all_sources_in_order_with_their_names():
    source = mixture({"easy": 2, "hard": 1})
    assert isinstance(source, ProblemSource)
    assert list(source.load()) == [
        Problem("easy/0", "easy 0?", "0", "easy"),
        Problem("easy/1", "easy 1?", "1", "easy"),
        Problem("hard/0", "hard 0?", "0", "hard"),
    ]
    assert source.metrics() == {"problems": 3.0, "problems/easy": 2.0, "problems/hard": 1.0, "duplicates": 0.0}
    assert list(source.load()) == list(source.load())


def test_the_same_uid_in_two_sources_is_two_problems(tmp_path):
    given_uids = [Problem("1", "One?", "1"), Problem("a/2", "Two?", "2")]
    (tmp_path / "math.jsonl").write_text(json.dumps({"id": 1, "problem": "Three?", "answer": "3"}))
    source = MixtureProblems({"a": given_uids, "b": given_uids[:1], "c": FileProblems(tmp_path / "math.jsonl")})
    with pytest.warns(
        UserWarning, match="1 problems have the statement of one in an earlier source, such as b/1 that of a/1"
    ):
        uids = [problem.uid for problem in source.load()]
    # All of a source's uids get the name, or none: a/2 beside 2 would be one uid otherwise.
    assert uids == ["a/1", "a/a/2", "b/1", "c/math/1"]
    assert source.metrics()["duplicates"] == 1.0


def test_a_cycle_has_each_sources_share_and_each_source_is_passed_through_in_full():
    source = mixture({"easy": 5, "hard": 2}, {"easy": 0.75, "hard": 0.25})
    assert source.turns == {"easy": 3, "hard": 1}
    stream = problem_stream(source, source.load(), seed=1)
    cycles = [stream.take(4 * i, 4) for i in range(10)]
    assert [Counter(p.source for p in cycle) for cycle in cycles] == [Counter(easy=3, hard=1)] * 10
    assert len({tuple(p.source for p in cycle) for cycle in cycles}) > 1  # not always the same rank's turn
    easy = [p.uid for cycle in cycles for p in cycle if p.source == "easy"]
    hard = [p.uid for cycle in cycles for p in cycle if p.source == "hard"]
    assert [sorted(easy[i : i + 5]) for i in range(0, 30, 5)] == [[f"easy/{i}" for i in range(5)]] * 6
    assert [sorted(hard[i : i + 2]) for i in range(0, 10, 2)] == [["hard/0", "hard/1"]] * 5


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    start=st.integers(0, 500),
    count=st.integers(1, 60),
    seed=st.integers(0, 3),
)
def test_any_position_is_reached_at_once_and_shares_are_exact_over_cycles(sizes, weights, start, count, seed):
    given_weights = dict(zip("abcd", map(float, weights[: len(sizes)]), strict=False))
    source = mixture(dict(zip("abcd", sizes, strict=False)), given_weights)
    problems = source.load()
    stream = problem_stream(source, problems, seed)
    assert isinstance(stream, MixtureStream)
    whole = problem_stream(source, problems, seed).take(0, start + count)
    assert stream.take(start, count) == whole[start:]
    assert source.turns is not None
    cycle = sum(source.turns.values())
    counts = Counter(p.source for p in stream.take(cycle * 7, cycle * 3))
    total = sum(given_weights.values())
    assert {name: Fraction(counts[name], 3 * cycle) for name in counts} == {
        name: Fraction(weight) / Fraction(total) for name, weight in given_weights.items()
    }


def test_without_weights_and_for_other_sources_the_order_is_the_plain_one():
    source = mixture({"easy": 3, "hard": 2})
    problems = source.load()
    assert type(problem_stream(source, problems, 4)) is ProblemStream
    assert problem_stream(source, problems, 4).take(0, 20) == ProblemStream(problems, 4).take(0, 20)
    assert type(problem_stream(MemoryProblems(rows("a", 2)), problems, 4)) is ProblemStream


def test_a_part_of_a_mixture_has_its_shares():
    """``overfit_batches`` takes the first problems: the first of the list are all of the first source."""
    source = mixture({"easy": 40, "hard": 40}, {"easy": 1, "hard": 3})
    part = problem_stream(source, source.load(), 0, most=8)
    assert Counter(p.source for p in part.problems) == Counter(easy=2, hard=6)
    assert sorted(p.uid for p in part.take(0, 8)) == sorted(p.uid for p in part.take(8, 8))
    tiny = mixture({"easy": 1, "hard": 40}, {"easy": 1, "hard": 1})
    assert Counter(p.source for p in problem_stream(tiny, tiny.load(), 0, most=8).problems) == Counter(easy=1, hard=4)
    plain = mixture({"easy": 4})
    assert problem_stream(plain, plain.load(), 0, most=2).problems == tuple(plain.load()[:2])


def test_a_decontaminated_mixture_keeps_its_shares():
    source = Decontaminated(
        mixture({"easy": 3, "hard": 3}, {"easy": 1, "hard": 2}), [{"problem": "hard 1?", "answer": 1}]
    )
    problems = source.load()
    assert [p.uid for p in problems] == ["easy/0", "easy/1", "easy/2", "hard/0", "hard/2"]
    taken = problem_stream(source, problems, 0).take(0, 30)
    assert Counter(p.source for p in taken) == Counter(easy=10, hard=20)


def test_weighted_draws_keep_the_shares_of_the_sources():
    """A curriculum weights problems within a source; hard has ten times the problems and still half of the draws."""
    source = mixture({"easy": 4, "hard": 40}, {"easy": 1, "hard": 1})
    stream = problem_stream(source, source.load(), 0)
    weights = [5.0, 1.0, 1.0, 0.0] + [0.1] * 40
    drawn = Counter(stream.draw(start, 1, weights)[0].uid for start in range(3000))
    easy = sum(count for uid, count in drawn.items() if uid.startswith("easy"))
    assert abs(easy / 3000 - 0.5) < 0.03  # three standard deviations; the seed is fixed
    assert drawn["easy/3"] == 0
    assert abs(drawn["easy/0"] / easy - 5 / 7) < 0.04


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        ({}, None, "sources: expected at least one problem source"),
        ([rows("a", 1)], None, "sources: expected a dict with the name of each source, got "),
        ({"a/b": rows("a", 1)}, None, "sources: expected names without slashes, got 'a/b'"),
        ({"a": "train.jsonl"}, None, r"sources: a: expected problems, got 'train.jsonl' .*FileProblems\('train.jsonl'\)"),
        ({"a": iter([])}, None, "sources: a: expected a problem source, a list of problems"),
        ({"a": rows("a", 1)}, {"b": 1.0}, "weights: expected one for each of a, got weights for b"),
        ({"a": rows("a", 1)}, {"a": 0.0}, "weights: expected positive numbers, got 0.0 for a"),
        ({"a": rows("a", 1)}, {"a": float("nan")}, "weights: expected positive numbers, got nan for a"),
        ({"a": rows("a", 1)}, {"a": "much"}, r"weights\['a'\]: expected a number, got 'much'"),
        ({"a": rows("a", 1), "b": rows("b", 1)}, {"a": 1.0, "b": 12345.0}, "a cycle of them has 12,346 problems"),
        ({"a": MixtureProblems({"b": rows("b", 1)})}, None, "sources: a is a mixture: list its sources here instead"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_at_construction(sources, weights, message):
    with pytest.raises(ConfigError, match=message):
        MixtureProblems(sources, weights)


def test_a_source_without_problems_is_named():
    class Nothing:
        name = "nothing"

        def load(self) -> list[Problem]:
            return []

    with pytest.raises(InputError, match="mixture: expected problems in each source, but b is empty"):
        MixtureProblems({"a": rows("a", 1), "b": Nothing()}).load()
    source = mixture({"a": 2, "b": 2}, {"a": 1, "b": 1})
    with pytest.raises(InputError, match="source b has no problem left; raise max_prompt_tokens"):
        problem_stream(source, source.load()[:2], 0)


def test_any_kind_of_source_is_mixed(tmp_path):
    (tmp_path / "f.csv").write_text("question,answer\nFile?,1.50\n")
    source = MixtureProblems(
        {
            "file": FileProblems(tmp_path / "f.csv"),
            "table": datasets.Dataset.from_list(rows("table", 1)),
            "listed": rows("listed", 1),
        }
    )
    assert [(p.prompt, p.answer, p.source) for p in source.load()] == [
        ("File?", "1.50", "file"),
        ("table 0?", "0", "table"),
        ("listed 0?", "0", "listed"),
    ]


class CorrectByTurns(MathVerifier):
    """Half of each group is correct: a random model is never right."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i % 2 else Outcome.INCORRECT for i, _ in enumerate(pairs)]


@pytest.mark.slow
def test_a_round_counts_problems_and_accuracy_of_each_source(random_model, tmp_path):
    data = MathRolloutDataModule(
        train=mixture({"easy": 3, "hard": 5}, {"easy": 3, "hard": 1}),
        verifier=CorrectByTurns(),
        group_size=4,
        problems_per_step=2,
        steps_per_round=4,
        sampling=SamplingParams(max_new_tokens=4),
        prompt_template="{problem}",
        keep="all",
        progress=False,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(TPGRPOModule(random_model), data)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("sources/")}
    assert metrics == {
        "sources/easy/problems": 6.0,
        "sources/hard/problems": 2.0,
        "sources/easy/accuracy": 0.5,
        "sources/hard/accuracy": 0.5,
    }


def test_tallies_of_ranks_are_summed_before_shares_are_taken():
    one = SourceTally({"easy": 2}, {"easy": 8}, {"easy": 8})
    other = SourceTally({"easy": 1, "hard": 1}, {"easy": 4, "hard": 0}, {"easy": 1, "hard": 0})
    assert (one + other).metrics() == {
        "sources/easy/problems": 3.0,
        "sources/hard/problems": 1.0,
        "sources/easy/accuracy": 0.75,
    }
