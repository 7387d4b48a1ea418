"""Measurements of a loss: per-token values become sums that add up over micro-batches and ranks, and means at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.kl import kl_k3
from lit_tpgrpo.losses.base import LossInputs, LossOutput

# All that an optimizer step logs under ``train/`` with any loss: here, in training.gradients and in training.optimizer_step.
RESERVED_NAMES = frozenset(
    {
        *("loss", "tokens", "advantage", "ratio", "ratio_max", "kl_old", "entropy"),
        *("grad_norm", "step_skipped", "loss_scale", "lr", "tokens_per_s"),
    }
)


LOGPROB_GAP, LOGPROB_GAP_MAX = "mismatch/logprob_mean", "mismatch/logprob_max"
"""Names of |new - old log-prob|, its mean and maximum: a mismatch where the current weights sampled the batch."""


@dataclass(frozen=True, slots=True)
class LossMetrics:
    """Detached 0-d measurements of one piece of a step; pieces add up with ``+``, ranks with ``reduce``.

    Attributes:
        terms: ``loss`` and the parts of it that the loss named, weighted: they add up.
        token_sums: sums over masked tokens, for means; ``tokens`` counts these.
        maxima: over masked tokens.
    """

    terms: Mapping[str, Tensor]
    token_sums: Mapping[str, Tensor]
    maxima: Mapping[str, Tensor]

    @property
    def loss(self) -> Tensor:
        return self.terms["loss"]

    @property
    def tokens(self) -> Tensor:
        return self.token_sums["tokens"]

    def __add__(self, other: LossMetrics) -> LossMetrics:
        def merged(a: Mapping[str, Tensor], b: Mapping[str, Tensor], merge: Callable[..., Tensor]) -> dict[str, Tensor]:
            if a.keys() != b.keys():
                raise ValueError(f"a loss must log the same names in all micro-batches, got {[*a]} and {[*b]}")
            return {name: merge(a[name], b[name]) for name in a}

        return LossMetrics(
            merged(self.terms, other.terms, torch.add),
            merged(self.token_sums, other.token_sums, torch.add),
            merged(self.maxima, other.maxima, torch.maximum),
        )

    def zeros_like(self) -> LossMetrics:
        """Return the sums of nothing under the same names."""
        parts = (self.terms, self.token_sums, self.maxima)
        return LossMetrics(*({name: torch.zeros_like(value) for name, value in part.items()} for part in parts))

    def reduce(self, all_sum: Callable[[Tensor], Tensor], all_max: Callable[[Tensor], Tensor]) -> LossMetrics:
        """Merge the ranks', in two collectives: each function gets a new 1-d tensor of values, sorted by name."""

        def reduced(part: Mapping[str, Tensor], collective: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
            names = sorted(part)
            return dict(zip(names, collective(torch.stack([part[n] for n in names])).unbind(), strict=True))

        sums = reduced(
            {f"t.{n}": v for n, v in self.terms.items()} | {f"s.{n}": v for n, v in self.token_sums.items()}, all_sum
        )
        return LossMetrics(
            {n: sums[f"t.{n}"] for n in self.terms},
            {n: sums[f"s.{n}"] for n in self.token_sums},
            reduced(self.maxima, all_max),
        )

    def values(self) -> dict[str, Tensor]:
        """Return all by name: terms, the count of tokens and maxima as they are, the other sums as means per token."""
        tokens = self.tokens.clamp(min=1)
        means = {name: value if name == "tokens" else value / tokens for name, value in self.token_sums.items()}
        return {**self.terms, **means, **self.maxima}


@torch.no_grad()
def measure(inputs: LossInputs, output: LossOutput) -> LossMetrics:
    """Measure a micro-batch: what the loss names, and what is of interest with any loss.

    The latter are ``advantage``, ``entropy``, ``ratio`` (new policy to old), its ``ratio_max``, ``kl_old``, k3 of the sampling
    policy, and the gap between new and old log-probs.

    Raises:
        ConfigError: a name of the loss is in ``RESERVED_NAMES``, or both a term and a token value.
    """
    _check_names(output)
    zero = torch.zeros_like(inputs.weights)
    log_ratio = inputs.logprobs - inputs.old_logprobs
    gap = log_ratio.abs()
    ratio = torch.where(inputs.mask, log_ratio.exp(), zero)
    token_values = {
        "tokens": inputs.mask,
        "advantage": inputs.advantages,
        "entropy": inputs.entropy,
        "ratio": ratio,
        "kl_old": kl_k3(inputs.old_logprobs, inputs.logprobs),
        LOGPROB_GAP: gap,
        **output.token_values,
    }
    return LossMetrics(
        terms={"loss": output.loss.detach()} | {name: term.detach() for name, term in output.terms.items()},
        token_sums={
            name: torch.where(inputs.mask, value.detach().to(zero.dtype), zero).sum()
            for name, value in token_values.items()
        },
        maxima={
            name: value.max() if value.numel() else zero.sum()
            for name, value in (("ratio_max", ratio), (LOGPROB_GAP_MAX, gap))
        },
    )


def _check_names(output: LossOutput) -> None:
    """Refuse names under which one measurement would silently replace another."""
    reserved = (RESERVED_NAMES | {LOGPROB_GAP, LOGPROB_GAP_MAX}) & (output.terms.keys() | output.token_values.keys())
    if reserved:
        raise ConfigError(
            f"the loss logs {', '.join(sorted(reserved))}, reserved for what every step logs under train/: rename it; "
            f"reserved are {', '.join(sorted(RESERVED_NAMES))}"
        )
    twice = output.terms.keys() & output.token_values.keys()
    if twice:
        raise ConfigError(f"the loss names {', '.join(sorted(twice))} both in terms and in token_values: rename one")


def clipped_tokens(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> dict[str, Tensor]:
    """Mark the tokens whose gradient a two-sided clip removes, as bool tensors ``clipped_low`` and ``clipped_high``.

    These are ratios below ``1 - clip_low`` with a negative advantage, and above ``1 + clip_high`` with a positive one.
    """
    return {
        "clipped_low": (ratio < 1.0 - clip_low) & (advantages < 0),
        "clipped_high": (ratio > 1.0 + clip_high) & (advantages > 0),
    }
