"""What one optimizer step is measured by: sums over micro-batches and ranks, turned into means once, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from lit_tpgrpo.functional.losses import LossSums


@dataclass(frozen=True, slots=True)
class BatchSums:
    """``LossSums`` plus 0-d sums over tokens of the entropy and of |trainer - sampler log-prob|, and the largest."""

    loss: LossSums
    entropy: Tensor
    difference: Tensor
    difference_max: Tensor

    @classmethod
    def of(cls, loss: LossSums, logprobs: Tensor, old_logprobs: Tensor, entropy: Tensor) -> BatchSums:
        """From one micro-batch's (N,) tensors."""
        gap = (logprobs - old_logprobs).abs()
        return cls(loss, entropy.sum(), gap.sum(), gap.max())

    def zeros_like(self) -> BatchSums:
        """The sums of nothing."""
        loss = LossSums(*(torch.zeros_like(getattr(self.loss, name)) for name in LossSums.__slots__))
        return BatchSums(loss, *(torch.zeros_like(t) for t in (self.entropy, self.difference, self.difference_max)))

    def __add__(self, other: BatchSums) -> BatchSums:
        return BatchSums(
            self.loss + other.loss,
            self.entropy + other.entropy,
            self.difference + other.difference,
            torch.maximum(self.difference_max, other.difference_max),
        )

    def reduced(self, over_ranks: Callable[[Tensor, str], Tensor]) -> BatchSums:
        """Over ranks: ``over_ranks(tensor, "sum" | "max")``."""
        loss = self.loss.reduce(lambda t: over_ranks(t, "sum"), lambda t: over_ranks(t, "max"))
        both = over_ranks(torch.stack((self.entropy, self.difference)), "sum")
        return BatchSums(loss, both[0], both[1], over_ranks(self.difference_max, "max"))

    def metrics(self, on_policy: bool) -> dict[str, Tensor]:
        """Per-token means under ``train/``. Where the batch was sampled by the very weights that now train
        (``on_policy``), trainer and sampler should agree: their difference is logged under ``mismatch/``."""
        tokens = self.loss.tokens.clamp(min=1)
        means = self.loss.means()
        metrics = {f"train/{name}": value for name, value in means.items()}
        metrics["train/loss"] = self.loss.policy_loss + self.loss.kl_loss
        metrics["train/entropy"] = self.entropy / tokens
        if on_policy:
            metrics["mismatch/logprob_mean"] = self.difference / tokens
            metrics["mismatch/logprob_max"] = self.difference_max
            metrics["mismatch/kl"] = means["kl_old"]
        return metrics


def sum_pieces(pieces: Sequence[BatchSums]) -> BatchSums:
    """All micro-batches of a step; there is always at least one, be it a filler."""
    return reduce(lambda a, b: a + b, pieces)
