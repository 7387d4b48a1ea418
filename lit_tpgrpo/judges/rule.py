"""A judge without a model: both protocols of the paper's Stage I by deterministic rules on the text.

It is the baseline for a generative judge, and the judge of the embedded arithmetic domain. It reads the solution and its
outcome, never the gold answer. It reads the problem only for the equations given there: they are no evidence that a step
was adopted, and no reflection corrects them. It prefers precision to recall: a step is labelled wrong only if a later one
denies something it can be seen to quote. By construction it misses errors that no reflection mentions, and reflections
that paraphrase the statement they reject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.judges.rule_labellers import Labeller, LocalLabeller, WorkerLabeller
from lit_tpgrpo.judges.rule_labels import RuleCase, RuleLabels
from lit_tpgrpo.records import Outcome, StepLabel, Verdict

COUNTERS = (
    "cases",
    "abstained",
    "steps",
    "steps_incorrect",
    "steps_matched",
    "reflections_nominated",
    "reflections_confirmed",
    "reflections_ineffective",
    "reflections_untraced",
)
MAX_WORK = 10_000_000
EMBEDDED_SOURCE = "arithmetic"
"""The ``Problem.source`` of the embedded domain, whose solutions the rules cover completely."""
SCOPE_WARNING = (
    "RuleJudge is used on problems outside the embedded arithmetic domain (source {source!r}). It matches text and does not "
    "understand it. In a correct solution it labels INCORRECT only what a later step denies by quoting it (an equation, its "
    "result, a step's number): these labels are rare and mostly right, and every error that is described in words is missed. "
    "In an incorrect solution it labels MATCHED by equations and the final value. Process rewards will be sparse. For real "
    "problems use a language model as judge: --config configs/judge/qwen3_32b.yaml (any OpenAI-compatible endpoint), or "
    "--data.judge GenerativeJudge."
)
"""Logged once per judge."""


@checked_arguments()
class RuleJudge:
    """Judge that labels steps by quotations, denials and values; see ``rule_labels`` and ``adoption.adopted_steps``.

    Warns once (``SCOPE_WARNING``) on problems outside the embedded arithmetic domain.

    Keeps the segmentation of the case. Abstains if there is no answer block (a truncated solution) or if a correct
    solution needs more work than ``max_work``. ``metrics`` also counts reflections: those nominated by a marker word are
    confirmed (they correct a statement that was located), untraced (the statement was not located) or ineffective
    (they correct nothing).

    Args:
        max_work: how many numbers and names may be compared between errors and their corrections. This step costs
            corrections x statements; everything else is linear in the text. The default is about three seconds of work;
            60 corrections after 1,500 statements need a twentieth of it.
        workers: worker processes that label solutions side by side, as the verifier's compare answers; 0 for none. They start
            with the first solutions, are replaced when lost, and give the same labels. Worth it for long chains only.
        timeout_s: processor seconds for one solution in a worker; a solution that exceeds them, or crashes two workers, gets no
            labels. One whose workers were killed or starved twice is labelled in this process. Both are counted.

    Raises:
        ConfigError: max_work or timeout_s is not positive, or workers is negative.
    """

    name = "rule"

    def __init__(self, max_work: int = MAX_WORK, workers: int = 0, timeout_s: float = 60.0) -> None:
        if max_work < 1:
            raise ConfigError(f"max_work must be at least 1, got {max_work}")
        if workers < 0 or not timeout_s > 0:
            raise ConfigError(f"workers must be 0 or more and timeout_s positive, got {workers} and {timeout_s}")
        self.max_work = max_work
        self._labeller: Labeller = WorkerLabeller(workers, timeout_s) if workers else LocalLabeller()
        self._counts: Counter[str] = Counter()
        self._warned = False

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        return self.judge_arriving(cases)

    def judge_arriving(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge cases as they come, see ``StreamingJudge``: none waits for another one."""
        seen: list[JudgeCase] = []
        for index, labels in self._labeller.label(enumerate(self._rule_cases(cases, seen))):
            yield index, self._verdict(seen[index], labels)

    def _rule_cases(self, cases: Iterable[JudgeCase], seen: list[JudgeCase]) -> Iterator[RuleCase | str]:
        """Yield what the rules read of each case, or why it has no labels; ``seen`` gets the cases."""
        for case in cases:
            self._counts["cases"] += 1
            self._warn_of_scope(case)
            seen.append(case)
            yield self._rule_case(case) if case.steps and case.steps[-1].is_answer else "no answer block"

    def _warn_of_scope(self, case: JudgeCase) -> None:
        if case.problem.source != EMBEDDED_SOURCE and not self._warned:
            self._warned = True
            rank_zero_warn(SCOPE_WARNING.format(source=case.problem.source), stacklevel=2)

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call and reset them, with those of the workers if there are any."""
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in COUNTERS} | self._labeller.metrics()

    def close(self) -> None:
        """End the workers, if there are any. May be called twice, and the judge may be used again."""
        self._labeller.close()

    def _rule_case(self, case: JudgeCase) -> RuleCase:
        *thinks, last = (case.solution.text[s.start : s.end] for s in case.steps)
        correct = case.outcome is Outcome.CORRECT
        block = None if correct else case.answer_block()
        return RuleCase(case.problem.prompt, tuple(thinks), last if block is None else block, correct, self.max_work)

    def _verdict(self, case: JudgeCase, labels: RuleLabels | str) -> Verdict:
        if isinstance(labels, str):
            return self._abstain(case, labels)
        if labels.limited:
            return self._abstain(case, f"tracing its corrections takes more than max_work {self.max_work}")
        correct = case.outcome is Outcome.CORRECT
        wrong, right = (StepLabel.INCORRECT, StepLabel.CORRECT) if correct else (StepLabel.MATCHED, StepLabel.UNMATCHED)
        given = [wrong if i in labels.wrong else right for i in range(len(case.steps) - 1)]
        given.append(StepLabel.CORRECT if correct else StepLabel.MATCHED)
        self._counts.update(labels.counts)
        self._counts["steps"] += len(given)
        self._counts["steps_incorrect"] += given.count(StepLabel.INCORRECT)
        self._counts["steps_matched"] += given.count(StepLabel.MATCHED)
        return Verdict(case.steps, tuple(given))

    def _abstain(self, case: JudgeCase, note: str) -> Verdict:
        self._counts["abstained"] += 1
        return abstain(case, note)
