"""Measure the engine-trainer log-prob mismatch of a round: metrics under ``mismatch/`` and a warning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.functional.kl import kl_k3
from lit_tpgrpo.records import CreditedSolution

MISMATCH_ALARM = 0.01
"""Nats per token of ``mismatch/kl`` above which a round is warned of: a choice, far above rounding errors (5e-7 in mean
log-prob difference for vLLM and the tiny policy in float32) and far below the distance of other weights."""


@dataclass(frozen=True)
class MismatchTally:
    """Sums over all tokens of the kept solutions, of one rank or of all; extremes are None without a token."""

    sums: tuple[float, ...]
    gap_max: float | None
    weight_min: float | None
    weight_max: float | None
    kept_mass: float | None = None
    """Of all ranks; None where nothing was cut."""

    def __add__(self, other: MismatchTally) -> MismatchTally:
        def both(choose: Callable[[list[float]], float], *values: float | None) -> float | None:
            given = [v for v in values if v is not None]
            return choose(given) if given else None

        return MismatchTally(
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            both(max, self.gap_max, other.gap_max),
            both(min, self.weight_min, other.weight_min),
            both(max, self.weight_max, other.weight_max),
            self.kept_mass,
        )

    def metrics(self) -> dict[str, float]:
        """Return distances between the engine's and the trainer's log-probs, and weights, under ``mismatch/``.

        With ``top_p`` or ``top_k``, ``kept_mass`` is the mean probability of what they leave; distances include the cut.
        """
        tokens, gap, kl, weight, unscored = self.sums
        metrics = {"mismatch/unscored": unscored}
        if self.kept_mass is not None:
            metrics["mismatch/kept_mass"] = self.kept_mass
        if self.gap_max is None or self.weight_min is None or self.weight_max is None:
            return metrics
        return metrics | {
            "mismatch/logprob_mean": gap / tokens,
            "mismatch/logprob_max": self.gap_max,
            "mismatch/kl": kl / tokens,
            "mismatch/weight_mean": weight / tokens,
            "mismatch/weight_min": self.weight_min,
            "mismatch/weight_max": self.weight_max,
        }


def tally_mismatch(kept: Sequence[CreditedSolution], unscored: int) -> MismatchTally:
    """Return the sums of one rank's kept solutions."""
    if not kept:
        return MismatchTally((0.0, 0.0, 0.0, 0.0, float(unscored)), None, None, None)
    trainer = torch.cat([s.trainer_logprobs for s in kept if s.trainer_logprobs is not None])
    weights = torch.cat([s.importance_weights for s in kept if s.importance_weights is not None])
    engine = torch.cat([torch.tensor(s.judged.solution.logprobs, dtype=torch.float32) for s in kept])
    gap = (engine - trainer).abs()
    sums = (len(gap), gap.double().sum(), kl_k3(engine, trainer).double().sum(), weights.double().sum(), unscored)
    return MismatchTally(tuple(map(float, sums)), float(gap.max()), float(weights.min()), float(weights.max()))


def warn_of_mismatch(kl: float, round_index: int) -> None:
    """Warn if a round was sampled by another policy than the one in training, ``kl`` nats per token away."""
    if kl > MISMATCH_ALARM:
        rank_zero_warn(
            f"round {round_index} was sampled from other weights or another arithmetic than those in training: mismatch/kl is "
            f"{kl:.2g} nats a token, above {MISMATCH_ALARM}. Let the engine compute in the trainer's dtype (an adapter merged "
            "into bfloat16 weights loses its small updates: set the engine's dtype to float32), and look at "
            "sampling settings that change log-probs"
        )
