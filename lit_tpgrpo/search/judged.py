"""JudgeStepScores: step scores from any judge's labels."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import named_settings_of, settings_of
from lit_tpgrpo.judges.base import Judge, JudgeCase, RefreshableJudge, Tally, tally_of
from lit_tpgrpo.records import Outcome, Problem, Solution, StepLabel, StopReason, Verdict
from lit_tpgrpo.search.base import StepScorer
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.text.steps import segment_steps
from lit_tpgrpo.token_arrays import NO_INTS


@checked_arguments()
class JudgeStepScores(StepScorer):
    """Score steps by the labels that a judge gives them: 1 CORRECT, 0 INCORRECT, ``unknown`` where it abstains.

    Gold answers are unknown at test time, so that the judge is told that the answer is right: it labels the steps that the
    solution corrects itself, or, for ``DirectLabels`` and ``StepByStep``, those that it finds wrong. The judges of this package
    abstain on a solution without an answer block: only searches over whole solutions can use them. A policy that judges itself
    does so with the weights that search, and with an engine of its own: the one that searches is busy.

    Args:
        judge: labels the steps.
        unknown: score of the steps of a solution on which it abstains.
        source: the problems' source, as the judge sees it.
        format: where a solution's answer block lies.

    Raises:
        ConfigError: unknown is not in [0, 1].
    """

    def __init__(
        self, judge: Judge, unknown: float = 0.5, source: str = "", format: SolutionFormat | None = None
    ) -> None:
        if not 0 <= unknown <= 1:
            raise ConfigError(f"unknown must be in [0, 1], the scale of step scores, got {unknown}")
        self.judge = judge
        self.unknown = unknown
        self.source = source
        self.format = ThinkTags() if format is None else format

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the scores depend on."""
        own = {"unknown": self.unknown, "source": self.source, "format": settings_of(self.format)}
        return {"judge": named_settings_of(self.judge)} | own

    def prepare(self, policy: Policy) -> None:
        """Refresh a judge that is the policy itself, see ``PreparedScorer``."""
        if isinstance(self.judge, RefreshableJudge):
            self.judge.refresh(policy)

    def tally(self) -> Tally:
        """Return the judge's counters since the last call and reset them."""
        return tally_of(self.judge)

    def close(self) -> None:
        self.judge.close()

    def scores(self, cases: Sequence[tuple[str, tuple[str, ...]]]) -> Sequence[Sequence[float]]:
        verdicts = dict(self.judge.judge([self._case(statement, "".join(steps)) for statement, steps in cases]))
        return [self._scores(steps, verdicts[i]) for i, (_, steps) in enumerate(cases)]

    def _case(self, statement: str, text: str) -> JudgeCase:
        n = len(text)
        ids, starts = np.zeros(n, np.int32), np.arange(n, dtype=np.int32)  # a token for each character
        solution = Solution("search", 0, NO_INTS, ids, np.zeros(n, np.float32), StopReason.EOS, 0, text, starts)
        division = self.format.divide(text)
        steps = segment_steps(text, solution.token_starts, n, division)
        return JudgeCase(Problem("search", statement, "", self.source), solution, Outcome.CORRECT, steps, division)

    def _scores(self, steps: Sequence[str], verdict: Verdict) -> list[float]:
        """Return for each step the lowest score of the judge's steps that begin in it, or of the one that it lies in."""
        table = {StepLabel.CORRECT: 1.0, StepLabel.INCORRECT: 0.0}
        labelled = sorted(zip(verdict.steps, verdict.labels, strict=True), key=lambda pair: pair[0].start)
        starts = [step.start for step, _ in labelled]
        judged = [table.get(label, self.unknown) for _, label in labelled]
        scores, start = [], 0
        for step in steps:
            end = start + len(step)
            inside = judged[bisect.bisect_left(starts, start) : bisect.bisect_left(starts, end)]
            before = bisect.bisect_right(starts, start)
            scores.append(min(inside or judged[max(0, before - 1) : before] or [self.unknown]))
            start = end
        return scores
