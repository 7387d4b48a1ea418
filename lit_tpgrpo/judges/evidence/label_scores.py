"""Step scores from the judge's labels, for methods that expect those of a process reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.step_scores import step_scores
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Evidence, StepScores
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools


@checked_arguments()
class LabelScores(EvidenceProvider):
    """Score steps 1 if they are labelled CORRECT, 0 if INCORRECT or MATCHED; a solution without usable labels has none.

    It costs nothing: labels are there already. The scale is [0, 1].

    Args:
        unmatched: score of an UNMATCHED step, of which the judge knows nothing; None leaves it without one.

    Raises:
        ConfigError: unmatched is outside [0, 1].
    """

    uses_engine: ClassVar = False

    def __init__(self, unmatched: float | None = 0.5) -> None:
        if unmatched is not None and not 0 <= unmatched <= 1:
            raise ConfigError(f"unmatched must be in [0, 1], the scale of these scores, or null, got {unmatched}")
        self.unmatched = unmatched

    @property
    def gives(self) -> type[Evidence]:
        return StepScores

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        scored = [step_scores(case.judged, self.unmatched, wrong=0.0) for case in cases]
        return [None if scores is None else StepScores(tuple(scores), 0.0, 1.0) for scores in scored]
