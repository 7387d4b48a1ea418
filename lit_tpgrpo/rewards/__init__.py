"""Rewards: a weighted sum of terms, each computed from a verified solution.

Without ``data.rewards`` the reward is the outcome's, +1 or -1. A term is called with a ``RewardCase`` and returns a number or
None; a file here has one term. ``WeightedRewards`` adds them up. How a reward that is not the outcome's alone enters the
credit: ``docs/method.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.rewards.base import RewardCase, RewardTerm, VerifiedSolution
    from lit_tpgrpo.rewards.format import FormatReward
    from lit_tpgrpo.rewards.length import GroupLengthReward
    from lit_tpgrpo.rewards.outcome import OutcomeReward
    from lit_tpgrpo.rewards.overlong import OverlongPenalty
    from lit_tpgrpo.rewards.repetition import RepetitionPenalty
    from lit_tpgrpo.rewards.weighted import WeightedRewards, WeightedTerm
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "base": "RewardCase RewardTerm VerifiedSolution",
            "format": "FormatReward",
            "length": "GroupLengthReward",
            "outcome": "OutcomeReward",
            "overlong": "OverlongPenalty",
            "repetition": "RepetitionPenalty",
            "weighted": "WeightedRewards WeightedTerm",
        },
    )

__all__ = [
    "FormatReward",
    "GroupLengthReward",
    "OutcomeReward",
    "OverlongPenalty",
    "RepetitionPenalty",
    "RewardCase",
    "RewardTerm",
    "VerifiedSolution",
    "WeightedRewards",
    "WeightedTerm",
]
