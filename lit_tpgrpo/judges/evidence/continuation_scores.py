"""Step scores from Monte-Carlo continuations: Math-Shepherd's and ER-PRM's automatic labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.evidence import Evidence, StepScores
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.functional.continuation_values import SoftValue, ValueEstimate
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
from lit_tpgrpo.judges.evidence.continuations import MonteCarloContinuations
from lit_tpgrpo.records import Outcome


@checked_arguments()
class ContinuationScores(EvidenceProvider):
    """Score a step by the value of the prefix that ends with it; the last step has the solution's outcome. Scale [0, 1].

    The sources train a process reward model on these values; here the estimates themselves are the scores, and the policy in
    training is the completer. A step after which nothing was sampled has no score.

    Args:
        value: ``SoftValue`` (the default) or ``HardValue``, Math-Shepherd's; ``EntropyValue``, ER-PRM's.
        samples: continuations of each prefix, 8 in Math-Shepherd (second-hand).
        max_steps: see ``MonteCarloContinuations``.
        temperature: of the continuations; None is that of the run's ``sampling``.
        top_p: likewise.

    Raises:
        ConfigError: as ``MonteCarloContinuations``.
    """

    def __init__(
        self,
        value: ValueEstimate | None = None,
        samples: int = 8,
        max_steps: int = 20,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> None:
        self.value: ValueEstimate = SoftValue() if value is None else value
        self.samples = samples
        self._continuations = MonteCarloContinuations(samples, max_steps, False, temperature, top_p)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the scores depend on: the value among them."""
        sampled = self._continuations
        return {
            "value": settings_of(self.value),
            "samples": self.samples,
            "max_steps": sampled.max_steps,
            "temperature": sampled.temperature,
            "top_p": sampled.top_p,
        }

    @property
    def gives(self) -> type[Evidence]:
        return StepScores

    def metrics(self) -> dict[str, float]:
        """Return and reset the cost, see ``MonteCarloContinuations``."""
        return self._continuations.metrics()

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        found = self._continuations.continued(cases, tools)
        return [
            StepScores(self._scores(case, continued.outcomes), 0.0, 1.0)
            for case, continued in zip(cases, found, strict=True)
        ]

    def _scores(self, case: EvidenceCase, outcomes: Sequence[tuple[float, ...] | None]) -> tuple[float | None, ...]:
        # The start of the next step is the end of this one.
        ends = [None if o is None else self.value(o) for o in outcomes[1:]]
        return (*ends, float(case.judged.outcome is Outcome.CORRECT))
