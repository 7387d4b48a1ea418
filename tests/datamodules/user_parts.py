"""A user's verifier, keep rules and corrections, named by their import paths in configs."""

from __future__ import annotations

from typing import ClassVar

import torch

from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.base import Verifier


class ByTurns(Verifier):
    """Takes each solution's first characters as its answer and calls every ``every``-th one correct."""

    seen: ClassVar[list[str | None]] = []

    def __init__(self, every: int = 2) -> None:
        self.every = every

    def extract(self, text: str) -> str:
        return text[:3]

    def verify_all(self, pairs):
        answers = [answer for _, answer in pairs]
        self.seen.extend(answers)
        return [Outcome.INCORRECT if i % self.every else Outcome.CORRECT for i in range(len(answers))]


class WithoutExtract:
    def verify_all(self, pairs): ...

    def metrics(self): ...

    def close(self): ...


class FirstSamples:
    """Keeps the first ``n`` solutions of each problem."""

    def __init__(self, n: int = 1) -> None:
        self.n = n

    def __call__(self, solution) -> bool:
        return solution.judged.solution.sample < self.n


def first_sample(solution) -> bool:
    return solution.judged.solution.sample == 0


def number_of_steps(solution):
    return len(solution.judged.verdict.steps)


def halved(log_ratio, floor, cap):
    return log_ratio.exp().clamp(floor, cap) / 2


def one_weight(log_ratio, floor, cap):
    return log_ratio.exp().mean()


def infinite(log_ratio, floor, cap):
    return torch.full_like(log_ratio, float("inf"))
