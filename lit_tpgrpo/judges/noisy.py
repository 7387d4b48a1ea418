"""NoisyJudge: another judge's labels, some of them flipped, to measure what label errors cost."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import named_settings_of
from lit_tpgrpo.judges.base import OTHER_LABEL, Judge, JudgeCase, judge_arriving
from lit_tpgrpo.judges.wrapped import WrappedJudge, noted
from lit_tpgrpo.records import WRONG_LABELS, Verdict
from lit_tpgrpo.seeds import derived_seed

COUNTERS = ("labels_flippable", "labels_flipped")
"""Labels of think steps that the judge gave, and those of them that were flipped."""


@checked_arguments()
class NoisyJudge(WrappedJudge):
    """Judge that takes another judge's labels and flips each think step's with a set probability.

    CORRECT and INCORRECT change places, and MATCHED and UNMATCHED; the step's share of an average vote becomes that of its new
    label, 1 or 0. The answer block keeps its label, which the outcome decides, and an abstention stays one. Whether a label is
    flipped depends on the seed, the problem, the sample, the text of the solution, the step's index and the ``draw`` alone: a
    resumed run and one on any number of processes have the same labels, a solution that is judged twice has the same errors,
    and a larger ``error`` flips all that a smaller one does and more. The errors of two steps are independent, and those of two
    draws, which those of a language model are not.

    Args:
        judge: whose labels are taken. Its cache, engine, weights and counters work as without this class.
        error: probability that the label of a think step is flipped, in [0, 1]; 0 keeps every label.
        seed: another seed flips other labels.

    Raises:
        ConfigError: error is not in [0, 1].
    """

    def __init__(self, judge: Judge, error: float = 0.1, seed: int = 0) -> None:
        if not 0 <= error <= 1:
            raise ConfigError(f"error must be in [0, 1], the probability of a wrong label, got {error}")
        super().__init__(judge, COUNTERS)
        self.error = error
        self.seed = seed

    def check_repeatable(self) -> None:
        """Check that draws differ, see ``RepeatableJudge``.

        Raises:
            ConfigError: the error is 0 or 1, so that the verdicts do not depend on chance.
        """
        if self.error in (0, 1):
            raise ConfigError(
                f"NoisyJudge gives the same verdict each time at error {self.error}; set one between 0 and 1"
            )

    @property
    def name(self) -> str:
        return f"noisy_{self.inner.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that verdicts depend on: those of the inner judge among them."""
        return {"judge": named_settings_of(self.inner), "error": self.error, "seed": self.seed}

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge the cases with the inner judge and flip labels as its verdicts come."""
        return self._flipped(cases, self.inner.judge(cases))

    def judge_arriving(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """As ``judge``, see ``StreamingJudge``."""
        seen: list[JudgeCase] = []
        return self._flipped(seen, judge_arriving(self.inner, noted(cases, seen)))

    def _flipped(
        self, cases: Sequence[JudgeCase], verdicts: Iterator[tuple[int, Verdict]]
    ) -> Iterator[tuple[int, Verdict]]:
        for index, verdict in verdicts:
            yield index, self._with_errors(cases[index], verdict)

    def _with_errors(self, case: JudgeCase, verdict: Verdict) -> Verdict:
        solution = case.solution
        which = (solution.problem_uid, solution.sample, solution.text, *((case.draw,) if case.draw else ()))
        draws = random.Random(derived_seed(self.seed, "noisy judge", *which))
        labels, shares = list(verdict.labels), list(verdict.wrong_shares or ())
        for i, step in enumerate(verdict.steps):
            # One draw per step, used or not: the draws of later steps do not depend on earlier labels.
            is_flipped = draws.random() < self.error
            if is_flipped and not step.is_answer and labels[i] in OTHER_LABEL:
                labels[i] = OTHER_LABEL[labels[i]]
                if shares:
                    shares[i] = float(labels[i] in WRONG_LABELS)
        flipped = sum(a is not b for a, b in zip(labels, verdict.labels, strict=True))
        flippable = sum(
            not s.is_answer and label in OTHER_LABEL for s, label in zip(verdict.steps, labels, strict=True)
        )
        self.own.add(labels_flippable=flippable, labels_flipped=flipped)
        return replace(verdict, labels=tuple(labels), wrong_shares=tuple(shares) or None)
