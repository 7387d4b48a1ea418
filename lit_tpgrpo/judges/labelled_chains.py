"""Solutions whose steps were labelled by people with the labels of the protocol, and a judge's scores on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import Outcome, StepLabel, Verdict


@dataclass(frozen=True, slots=True)
class LabelledChain:
    """A solution and the label of each step of ``case``; None where it is not known, as that of the answer block."""

    case: JudgeCase
    labels: tuple[StepLabel | None, ...]


class LabelledChainsReport:
    """Labelled chains and the scores of a judge's verdicts on them.

    Args:
        records: the chains.
        unusable: reasons for which rows of the data were left out, with their counts.
    """

    def __init__(self, records: Sequence[LabelledChain], unusable: Counter[str] | None = None) -> None:
        self.records = records
        self.unusable = unusable or Counter()
        self.counts = LabelCounts()

    @property
    def cases(self) -> list[JudgeCase]:
        """The cases to judge."""
        return [record.case for record in self.records]

    def truth(self, index: int) -> list[str | None]:
        """Return the known labels of a chain as JSON values."""
        return [None if label is None else label.value for label in self.records[index].labels]

    def known_labels(self, index: int) -> tuple[StepLabel | None, ...]:
        """Return the known labels of a chain."""
        return self.records[index].labels

    def add(self, index: int, verdict: Verdict) -> None:
        """Count the verdict on a chain."""
        record = self.records[index]
        self.counts.add(record.case, record.labels, verdict)

    def heading(self) -> str:
        """Return lines that say how many chains have a right answer and how many rows were left out."""
        right = sum(record.case.outcome is Outcome.CORRECT for record in self.records)
        line = f"{len(self.records)} solutions, {right} with a right answer; {self.unusable.total()} rows left out"
        return "\n".join([line, *(f"  {n} left out: {reason}" for reason, n in self.unusable.most_common())])

    def tables(self) -> str:
        """Return the scores of each label as text."""
        return self.counts.table()
