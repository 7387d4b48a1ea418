"""Step scores from the judge's labels, for methods that expect those of a process reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.merging import has_usable_labels
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Evidence, StepScores
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
from lit_tpgrpo.records import StepLabel


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
        table = {StepLabel.CORRECT: 1.0, StepLabel.INCORRECT: 0.0, StepLabel.MATCHED: 0.0}
        scores = table | {StepLabel.UNMATCHED: self.unmatched}
        return [
            StepScores(tuple(scores[label] for label in case.judged.verdict.labels), 0.0, 1.0)
            if has_usable_labels(case.judged)
            else None
            for case in cases
        ]
