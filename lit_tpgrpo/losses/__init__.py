"""Losses over completion tokens. One loss a file, behind ``TokenLoss``; all measured by ``metrics``.

``docs/losses.md`` lists them with their sources. ``PolicyLoss`` has what ours share: a KL term beside the policy's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_tpgrpo.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from lit_tpgrpo.losses.adaptive_entropy import AdaptiveEntropyBonus
    from lit_tpgrpo.losses.base import (
        AsksForEntropyQuantile,
        CarriesState,
        LossInputs,
        LossOutput,
        LossState,
        TokenLoss,
        loss_inputs,
    )
    from lit_tpgrpo.losses.cispo import CISPO
    from lit_tpgrpo.losses.clipped import ClippedSurrogate
    from lit_tpgrpo.losses.dppo import DPPOTotalVariation
    from lit_tpgrpo.losses.dual_clip import DualClip
    from lit_tpgrpo.losses.entropy_bonus import EntropyBonus
    from lit_tpgrpo.losses.gspo import GSPO
    from lit_tpgrpo.losses.gspo_token import GSPOToken
    from lit_tpgrpo.losses.minirl import MiniRL
    from lit_tpgrpo.losses.policy_loss import PolicyLoss, PolicyTerm
    from lit_tpgrpo.losses.sapo import SAPO
    from lit_tpgrpo.losses.stale_negatives import StaleNegatives
    from lit_tpgrpo.losses.top_entropy import TopEntropy
    from lit_tpgrpo.losses.vespo import VESPO
    from lit_tpgrpo.losses.wrapped import MaskedLoss, WrappedLoss
else:
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "adaptive_entropy": "AdaptiveEntropyBonus",
            "base": "AsksForEntropyQuantile CarriesState LossInputs LossOutput LossState TokenLoss loss_inputs",
            "cispo": "CISPO",
            "clipped": "ClippedSurrogate",
            "dppo": "DPPOTotalVariation",
            "dual_clip": "DualClip",
            "entropy_bonus": "EntropyBonus",
            "gspo": "GSPO",
            "gspo_token": "GSPOToken",
            "minirl": "MiniRL",
            "policy_loss": "PolicyLoss PolicyTerm",
            "sapo": "SAPO",
            "stale_negatives": "StaleNegatives",
            "top_entropy": "TopEntropy",
            "vespo": "VESPO",
            "wrapped": "MaskedLoss WrappedLoss",
        },
    )

__all__ = [
    "CISPO",
    "GSPO",
    "SAPO",
    "VESPO",
    "AdaptiveEntropyBonus",
    "AsksForEntropyQuantile",
    "CarriesState",
    "ClippedSurrogate",
    "DPPOTotalVariation",
    "DualClip",
    "EntropyBonus",
    "GSPOToken",
    "LossInputs",
    "LossOutput",
    "LossState",
    "MaskedLoss",
    "MiniRL",
    "PolicyLoss",
    "PolicyTerm",
    "StaleNegatives",
    "TokenLoss",
    "TopEntropy",
    "WrappedLoss",
    "loss_inputs",
]
