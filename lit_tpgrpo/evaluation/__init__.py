"""Held-out evaluation: sets of problems sampled in one pass of the engine, their scores, tables and files.

``HeldoutSet`` is one set, ``sampling.evaluate_tasks`` samples and verifies several, ``EvaluationLog`` scores and logs what a
loop's batches hold, ``EvaluationStore`` keeps the groups on disk as they complete, ``tables`` has the Markdown and CSV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.evaluation.log import EvaluationLog, ScoresGroups
    from lit_tpgrpo.evaluation.sets import HeldoutSet, SetSampling
    from lit_tpgrpo.evaluation.store import EvaluationStore
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {"log": "EvaluationLog ScoresGroups", "sets": "HeldoutSet SetSampling", "store": "EvaluationStore"},
    )

__all__ = ["EvaluationLog", "EvaluationStore", "HeldoutSet", "ScoresGroups", "SetSampling"]
