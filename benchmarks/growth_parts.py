"""The parts whose growth ``benchmarks.growth`` measures: each prepares a size, and returns what is timed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.store import made_solutions
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules.arithmetic.judge_report import writer_samples
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.records import (
    JudgedGroup,
    JudgedSolution,
    Outcome,
    Problem,
    Solution,
    Step,
    StepLabel,
    StopReason,
    Verdict,
)
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.text.steps import segment_steps

PROBLEM = Problem("made/1", "What is 1+1?", "2", "arithmetic")
CHARACTERS_A_TOKEN = 1.72
"""Of the embedded domain's tokenizer on its own solutions."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a round: tokens of each solution, solutions of each group, groups; and the policy's vocabulary."""

    length: int = 512
    group_size: int = 4
    groups: int = 2
    vocabulary: int = 4096

    @property
    def solutions(self) -> int:
        return self.group_size * self.groups


def credit_work(size: Size) -> Callable[[], object]:
    """Credit groups whose solutions have a step for each 32 tokens, a third of them wrong."""
    n = size.length
    cuts = [*range(0, n, 32), n]
    steps = tuple(Step(a, b, a, b, b == n) for a, b in itertools.pairwise(cuts))

    def judged(sample: int) -> JudgedSolution:
        correct = sample % 2 == 0
        right, wrong = (StepLabel.CORRECT, StepLabel.INCORRECT) if correct else (StepLabel.UNMATCHED, StepLabel.MATCHED)
        labels = [wrong if i % 3 == 1 else right for i in range(len(steps) - 1)]
        labels.append(StepLabel.CORRECT if correct else StepLabel.MATCHED)
        ids = np.arange(n)
        solution = Solution("made/1", sample, ids[:8], ids, -ids / n, StopReason.EOS, 0, "x" * n, ids)  # pyright: ignore
        outcome = Outcome.CORRECT if correct else Outcome.INCORRECT
        return JudgedSolution(solution, outcome, "2", Verdict(steps, tuple(labels)))

    groups = [JudgedGroup(PROBLEM, tuple(map(judged, range(size.group_size))), 0.5) for _ in range(size.groups)]
    credit = ThoughtCredit()
    return lambda: [credit(group) for group in groups]


def judge_work(size: Size) -> Callable[[], object]:
    """Judge written chains of the embedded domain, joined to the length, in turn as right and as wrong ones."""
    chains = [text.partition("</think>")[0].strip() for _, text in writer_samples("3", 40, 0)]
    characters = int(size.length * CHARACTERS_A_TOKEN)
    cases = []
    for sample in range(size.solutions):
        parts, written = [], 0
        while written < characters:
            parts.append(chains[(sample + len(parts)) % len(chains)])
            written += len(parts[-1]) + 2
        text = "\n\n".join(parts) + "\n</think>\n\nSo 8*9=2, and the answer is \\boxed{2}."
        starts = np.arange(len(text), dtype=np.int32)
        solution = Solution("made/1", sample, starts[:0], starts, starts * 0.0, StopReason.EOS, 0, text, starts)  # pyright: ignore
        outcome = Outcome.INCORRECT if sample % 2 else Outcome.CORRECT
        cases.append(JudgeCase(PROBLEM, solution, outcome, segment_steps(text, starts, len(text))))
    return lambda: list(RuleJudge(max_work=10**12).judge(cases))


def store_work(size: Size) -> Callable[[], object]:
    """Write a round in groups, and read it."""
    made = made_solutions(size.solutions, size.length)
    solutions = [Solution(*(getattr(s, name) for name in s.__slots__)) for s in made]
    groups = [
        tuple(replace(solutions[first + k], sample=k) for k in range(size.group_size))
        for first in range(0, size.solutions, size.group_size)
    ]

    def write_and_read() -> object:
        with tempfile.TemporaryDirectory() as folder:
            file = RoundFile(Path(folder))
            for index, group in enumerate(groups):
                file.add_solutions({index: (PROBLEM, group)})
            return RoundFile(Path(folder)).solutions(size.group_size)

    return write_and_read


WORK: dict[str, Callable[[Size], Callable[[], object]]] = {
    "credit": credit_work,
    "rule judge": judge_work,
    "store": store_work,
}
