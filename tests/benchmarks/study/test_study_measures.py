"""Measures of the study: hand-worked counts on texts with known truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lightning as L
import numpy as np
import pytest
import torch

from benchmarks.study.measures import (
    added,
    agreement,
    credit_counts,
    entropy,
    explained_share,
    f1,
    mutual_information,
    sign_counts,
    step_of_tokens,
    text_counts,
    true_steps,
    variance,
)
from benchmarks.study.recorder import StudyRecorder
from benchmarks.study.results import FILE
from lit_tpgrpo.datamodules.arithmetic.truth import solution_truth
from lit_tpgrpo.jsonl import read_lines
from lit_tpgrpo.records import (
    CreditedSolution,
    JudgedSolution,
    Outcome,
    Problem,
    Round,
    Solution,
    Step,
    StepLabel,
    StopReason,
    Thought,
    Verdict,
)
from lit_tpgrpo.rollout.run_folder import run_folder

C, X, M, U = StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.MATCHED, StepLabel.UNMATCHED
PROBLEM = Problem("p", "…", "4")


@dataclass(frozen=True)
class ToyStep:
    start: int
    right: bool
    kind: str
    label: StepLabel | None = None


@dataclass(frozen=True)
class ToyTruth:
    steps: tuple[ToyStep, ...]


def truth(problem: Problem, text: str) -> object:
    """Paragraphs of one letter and a mark: ``a+`` is a right step of kind a, ``a-`` a wrong one; ``?`` cannot be read."""
    if "?" in text:
        return object()
    parts, start = [], 0
    for part in text.split(" "):
        parts.append(ToyStep(start, part[1] == "+", part[0], M if part[0] == "m" else None))
        start += len(part) + 1
    return ToyTruth(tuple(parts))


def credited(
    text: str, labels: tuple[StepLabel, ...], advantages: list[float], outcome: Outcome = Outcome.CORRECT
) -> CreditedSolution:
    """A token a character; the judge's steps are the words of the text."""
    solution = Solution(
        "p", 0, (), tuple(range(len(text))), (0.0,) * len(text), StopReason.EOS, 0, text, tuple(range(len(text)))
    )
    steps = tuple(Step(3 * i, min(3 * i + 3, len(text)), 3 * i, min(3 * i + 3, len(text))) for i in range(len(labels)))
    thoughts = (Thought(0, len(steps), 0, len(text), labels[0]),)
    judged = JudgedSolution(solution, outcome, "4", Verdict(steps, labels))
    return CreditedSolution(judged, 0.0, thoughts, (0.0,), torch.tensor(advantages))


def test_signs_by_truth():
    table = sign_counts([-1.0, 0.0, 2.0, 0.5, -0.1], [True, True, True, False, False])
    assert table.tolist() == [[1, 1], [1, 0], [1, 1]]


def test_tokens_before_the_first_step_belong_to_it():
    assert step_of_tokens([2, 5], [0, 1, 2, 4, 5, 9]).tolist() == [0, 0, 0, 0, 1, 1]


def test_information_by_hand():
    """Independent: 0. The sign says everything about a fair coin: ln 2. Otherwise the sum over cells of p ln(p / (p_i p_j))."""
    assert mutual_information([[2, 2], [0, 0], [3, 3]]) == pytest.approx(0)
    assert mutual_information([[0, 5], [0, 0], [5, 0]]) == pytest.approx(math.log(2))
    table = np.array([[1, 3], [0, 2], [4, 0]]) / 10
    by_hand = sum(
        table[i, j] * math.log(table[i, j] / (table[i].sum() * table[:, j].sum()))
        for i in range(3)
        for j in range(2)
        if table[i, j]
    )
    assert mutual_information(table * 10) == pytest.approx(by_hand)
    assert explained_share(table * 10) == pytest.approx(by_hand / math.log(2))
    assert math.isnan(mutual_information([[0, 0], [0, 0], [0, 0]]))
    assert math.isnan(explained_share([[3, 0], [0, 0], [2, 0]]))
    assert entropy([1, 0, 0]) == 0


def test_variance_is_that_of_the_values():
    values = np.array([1.0, -2.0, 0.5, 0.5])
    sums = {"n": 4, "sum": float(values.sum()), "squares": float((values**2).sum())}
    assert variance(sums) == pytest.approx(values.var())
    assert math.isnan(variance({"n": 0, "sum": 0.0, "squares": 0.0}))


def test_counts_of_credited_solutions():
    """Two right solutions with a judge that misses a wrong step, an incorrect one, and one whose text has no truth."""
    counts = credit_counts(
        {"p": PROBLEM},
        [
            credited("a+ a+ b-", (C, C, C), [1, 1, 1, 1, 1, 1, -2, -2]),
            credited("a+ b-", (C, X), [0, 0, 0, 1, 1]),
            credited("m+ a-", (M, U), [-1, -1, -1, 0, 0], Outcome.INCORRECT),
            credited("a?", (C,), [3, 3]),
            credited("a+", (C,), [9, 9], Outcome.UNDECIDED),
        ],
        truth,
    )
    assert (counts["credited"], counts["steps"], counts["thoughts"], counts["repeated"]) == (4, 8, 4, 1)
    assert counts["advantages"] == {"n": 20, "sum": 6 - 4 + 2 - 3 + 6, "squares": 6 + 8 + 2 + 3 + 18}
    assert counts["signs"] == [[[0, 2], [3, 0], [6, 2]], [[3, 0], [0, 2], [0, 0]]]
    # Truth of the incorrect solution's second step is not known: it has no label.
    assert counts["labels"] == {
        "correct": {"correct": 3},
        "incorrect": {"correct": 1, "incorrect": 1},
        "matched": {"matched": 1},
    }
    assert f1(counts["labels"], X) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert agreement(counts["labels"]) == pytest.approx(5 / 6)
    assert math.isnan(f1({}, M))


def test_counts_of_texts():
    texts = [("a+ b-", StopReason.EOS), ("a? x", StopReason.LENGTH), ("b+", StopReason.EOS)]
    solutions = [Solution("p", 0, (), (0,) * len(t), (), stop, 0, t, ()) for t, stop in texts]
    assert text_counts([(PROBLEM, s) for s in solutions], truth) == {
        "solutions": 3,
        "tokens": 5 + 4 + 2,
        "truncated": 1,
        "unparsable": 1,
        "kinds": {"a": [1, 0], "b": [1, 1]},
    }


def test_counts_add_up_by_key():
    parts = [{"n": 1, "kinds": {"a": [1, 0]}, "s": [[1], [2]]}, {"n": 2, "kinds": {"b": [0, 3]}, "s": [[1], [1]]}]
    assert added(parts) == {"n": 3, "kinds": {"a": [1, 0], "b": [0, 3]}, "s": [[2], [3]]}


def test_truth_of_the_embedded_domain_fits():
    problem = Problem("q", "Working modulo 10, start with 3, add 4, multiply by 3. What is the result?", "1")
    text = "Okay, I start with 3 and work modulo 10.\n\nFirst, 3+4=8.\n\nWait, 3+4=8 is wrong. It should be 3+4=7.\n\n"
    text += "With that, 7*3=1.\n\n</think>So 3+4=7, 7*3=1, and the answer is \\boxed{1}."
    steps = true_steps(solution_truth, problem, text)
    assert steps is not None
    assert [(s.kind, s.right) for s in steps] == [
        ("opening", True),
        ("step", False),
        ("correction", True),
        ("step", True),
        ("answer", True),
    ]
    assert true_steps(solution_truth, problem, "no think end") is None


@pytest.mark.parametrize("metrics", [{}, {"evidence/continuation_tokens": 512.0, "rollout/length": 9.0}])
def test_what_a_round_sampled_as_evidence_is_recorded(tmp_path, metrics: dict[str, float]):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    round_ = Round(3, 12, 1.0, groups=(), credited=(), kept=(), metrics=metrics)
    StudyRecorder(truth).on_round_end(trainer, L.LightningModule(), round_)
    (row,) = read_lines(run_folder(trainer) / FILE)
    assert (row["record"], row["index"], row["step"]) == ("round", 3, 12)
    assert row.get("evidence") == ({"evidence/continuation_tokens": 512.0} if metrics else None)
