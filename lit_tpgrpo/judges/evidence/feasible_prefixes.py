"""Step scores from a binary search for the first step from which the policy finds no correct end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Evidence, StepScores
from lit_tpgrpo.functional.bisection import StepSearch, step_signs
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
from lit_tpgrpo.judges.evidence.continuations import MonteCarloContinuations
from lit_tpgrpo.records import Outcome

COUNTERS = ("search_boundaries", "search_probes")


@checked_arguments()
class FeasiblePrefixScores(EvidenceProvider):
    """Score steps +1 before the first infeasible one and -1 from it on; scale [-1, 1].

    A step is feasible if any of ``samples`` continuations from its end is correct. The first infeasible one is found by binary
    search, on the assumption that none after it is feasible, so that a solution of S steps takes about log2(S) prefixes in
    place of S - 1. The whole solution is one continuation of each of its prefixes: a correct one has +1 throughout, and the
    last step of another is infeasible; neither is sampled for. The searches of a round go on side by side, level by level: the
    engine gets the prefixes of all solutions at once.

    Source: line labels of process-guided code RL (arXiv 2410.17621), second-hand; it trains a reward model on them, and has
    neutral comment lines. Here the labels themselves are the scores, the policy in training is the completer, and steps are
    those of the verdict. A solution of which a probe has no decided continuation, or whose policy has moved on before all
    probes were stored, has no scores.

    Args:
        samples: continuations of a prefix, K; the number is unpublished.
        neutral: regular expression of a whole step, blanks around it aside, that gets no score: ``#.*`` for single comment
            lines. None scores all.
        temperature: of the continuations; None is that of the run's ``sampling``.
        top_p: likewise.

    Raises:
        ConfigError: as ``MonteCarloContinuations``, or ``neutral`` is no regular expression.
    """

    def __init__(
        self,
        samples: int = 8,
        neutral: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> None:
        self.samples, self.neutral = samples, neutral
        self._continuations = MonteCarloContinuations(samples, temperature=temperature, top_p=top_p)
        try:
            self._neutral = None if neutral is None else re.compile(neutral)
        except re.error as error:
            raise ConfigError(f"neutral must be a regular expression, got {neutral!r}: {error}") from None
        self._counts: Counter[str] = Counter()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the scores depend on."""
        sampled = self._continuations
        return {
            "samples": self.samples,
            "neutral": self.neutral,
            "temperature": sampled.temperature,
            "top_p": sampled.top_p,
        }

    @property
    def gives(self) -> type[Evidence]:
        return StepScores

    def metrics(self) -> dict[str, float]:
        """Return and reset the cost, see ``MonteCarloContinuations``, and two counts of the searches.

        ``search_boundaries`` are the ends of steps that a provider without a search would continue, ``search_probes`` those
        that the searches looked at.
        """
        counts = {name: float(self._counts[name]) for name in COUNTERS}
        self._counts.clear()
        return self._continuations.metrics() | counts

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        first = self._first_infeasible(cases, tools)
        return [None if f is None else self._scores(case, f) for case, f in zip(cases, first, strict=True)]

    def _first_infeasible(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> list[int | None]:
        """Return the first infeasible step of each case, counted from 1; the number of steps plus 1 if there is none."""
        searches: list[StepSearch | None] = [_search(case) for case in cases]
        self._counts["search_boundaries"] += sum(s.high for s in searches if s is not None)
        while probes := {i: s.probe for i, s in enumerate(searches) if s is not None and s.probe is not None}:
            prefixes = {
                i: self._continuations.prefix(cases[i], cases[i].judged.verdict.steps[probe - 1].token_end, tools)
                for i, probe in probes.items()
            }
            self._counts["search_probes"] += len(prefixes)
            outcomes = self._continuations.outcomes([[prefix] for prefix in prefixes.values()], tools)
            for i, prefix in prefixes.items():
                found, search = outcomes.get(prefix.key), searches[i]
                searches[i] = search.narrowed(any(found)) if search is not None and found else None
        return [None if search is None else search.low for search in searches]

    def _scores(self, case: EvidenceCase, first_infeasible: int) -> StepScores:
        steps, text = case.judged.verdict.steps, case.judged.solution.text
        scored = zip(steps, step_signs(len(steps), first_infeasible), strict=True)
        return StepScores(
            tuple(None if self._is_neutral(text[step.start : step.end]) else sign for step, sign in scored), -1.0, 1.0
        )

    def _is_neutral(self, step: str) -> bool:
        return self._neutral is not None and self._neutral.fullmatch(step.strip()) is not None


def _search(case: EvidenceCase) -> StepSearch:
    """Return the search of a solution: over the steps whose end is not that of the whole, none of a correct one."""
    steps = case.judged.verdict.steps
    if case.judged.outcome is Outcome.CORRECT:
        return StepSearch(len(steps) + 1, 0)
    whole = len(case.judged.solution.completion_ids)
    return StepSearch(1, sum(step.token_end < whole for step in steps))
