"""Metrics of one optimizer step: sums over micro-batches and ranks, turned into means once, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from lit_tpgrpo.losses.metrics import LossMetrics


@dataclass(frozen=True, slots=True)
class BatchSums:
    """``LossMetrics`` plus 0-d sums over tokens of the entropy and of |trainer - sampler log-prob|, and the largest."""

    loss: LossMetrics
    entropy: Tensor
    difference: Tensor
    difference_max: Tensor

    @classmethod
    def of(cls, loss: LossMetrics, logprobs: Tensor, old_logprobs: Tensor, entropy: Tensor) -> BatchSums:
        """Measure one micro-batch's (N,) tensors."""
        gap = (logprobs - old_logprobs).abs()
        return cls(loss, entropy.sum(), gap.sum(), gap.max())

    def zeros_like(self) -> BatchSums:
        """Return the sums of nothing."""
        return BatchSums(
            self.loss.zeros_like(), *(torch.zeros_like(t) for t in (self.entropy, self.difference, self.difference_max))
        )

    def __add__(self, other: BatchSums) -> BatchSums:
        return BatchSums(
            self.loss + other.loss,
            self.entropy + other.entropy,
            self.difference + other.difference,
            torch.maximum(self.difference_max, other.difference_max),
        )

    def reduced(self, over_ranks: Callable[[Tensor, str], Tensor]) -> BatchSums:
        """Merge the ranks' sums with the collective ``over_ranks(tensor, "sum" | "max")``."""
        loss = self.loss.reduce(lambda t: over_ranks(t, "sum"), lambda t: over_ranks(t, "max"))
        both = over_ranks(torch.stack((self.entropy, self.difference)), "sum")
        return BatchSums(loss, both[0], both[1], over_ranks(self.difference_max, "max"))

    def metrics(self, on_policy: bool) -> dict[str, Tensor]:
        """Return per-token means under ``train/``. Where the batch was sampled by the current weights
        (``on_policy``), trainer and sampler should agree: their difference is logged under ``mismatch/``."""
        tokens = self.loss.tokens.clamp(min=1)
        values = self.loss.values()
        metrics = {f"train/{name}": value for name, value in values.items()}
        metrics["train/entropy"] = self.entropy / tokens
        if on_policy:
            metrics["mismatch/logprob_mean"] = self.difference / tokens
            metrics["mismatch/logprob_max"] = self.difference_max
            metrics["mismatch/kl"] = values["kl_old"]
        return metrics


def sum_pieces(pieces: Sequence[BatchSums]) -> BatchSums:
    """Add up the micro-batches of a step: at least one, perhaps a dummy."""
    return reduce(lambda a, b: a + b, pieces)
