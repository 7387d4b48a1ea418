"""Rollouts: problems in, a round of credited solutions out, kept on disk.

``RoundMaker`` samples, verifies, judges and assigns credit; ``RoundStore`` keeps each solution and verdict as it completes;
``RoundCallback`` has the hooks by which callbacks watch; ``KEEP_RULES`` names the rules for which solutions are trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.rollout.capability import Capability
    from lit_tpgrpo.rollout.correction import Correction
    from lit_tpgrpo.rollout.filters import KEEP_RULES, KeepRule
    from lit_tpgrpo.rollout.hooks import RolloutSource, RoundCallback
    from lit_tpgrpo.rollout.rounds import Assignment, RoundMaker
    from lit_tpgrpo.rollout.store import RoundStore
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "correction": "Correction",
            "filters": "KEEP_RULES KeepRule",
            "hooks": "RoundCallback RolloutSource",
            "capability": "Capability",
            "rounds": "Assignment RoundMaker",
            "store": "RoundStore",
        },
    )

__all__ = [
    "KEEP_RULES",
    "Assignment",
    "Capability",
    "Correction",
    "KeepRule",
    "RolloutSource",
    "RoundCallback",
    "RoundMaker",
    "RoundStore",
]
