"""The loss interface: the tokens of a micro-batch in, a loss and its measurements out.

The weights w_t of ``LossInputs`` are computed from the counts of the *whole* optimizer step (``functional.aggregation``), so a
loss that is a sum of w_t * something has the same gradient however a step is cut into micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

LossState = Mapping[str, float]
"""What a loss carries from one optimizer step to the next (``CarriesState``): numbers by name, kept in checkpoints."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """The completion tokens of one micro-batch, packed: tensors are (N,) float32 (or wider) unless stated.

    Built by ``loss_inputs``, which detaches all but ``logprobs`` and ``differentiable_entropy`` and sets every value outside of
    the mask to 0, so that nothing a loss computes there is NaN. A micro-batch holds whole sequences: sequence-level quantities
    are exact.

    Attributes:
        logprobs: of the policy in training, at the sampling temperature, with gradient.
        old_logprobs: of the policy that sampled, or the trainer's own of that moment where a correction is on.
        advantages: one per token.
        mask: bool; False leaves a token out of the loss and of its metrics. Weights still divide by all tokens.
        weights: w_t, each token's share of the step's mean (``functional.aggregation``).
        importance_weights: c_t, corrections of the engine-trainer mismatch; 1 where there is none.
        row: int64, index of each token's sequence, below B.
        lengths: (B,) int64, completion tokens of each sequence.
        entropy: of the policy's distribution at each token, without gradient.
        ref_logprobs: of the reference policy; None where the loss does not need them.
        differentiable_entropy: ``entropy`` with gradient, for a loss that rewards it; None where no entropy was given.
        entropy_threshold: 0-d, the quantile that the loss asked for (``AsksForEntropyQuantile``) of the step's entropies.
        state: that of the loss (``CarriesState``), the same in all micro-batches and ranks of a step; None for one without.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    weights: Tensor
    importance_weights: Tensor
    row: Tensor
    lengths: Tensor
    entropy: Tensor
    ref_logprobs: Tensor | None = None
    differentiable_entropy: Tensor | None = None
    entropy_threshold: Tensor | None = None
    state: LossState | None = None

    def sequence_sum(self, values: Tensor) -> Tensor:
        """Sum (N,) values over each sequence's masked tokens; (N,), each token carries its sequence's sum."""
        kept = torch.where(self.mask, values, torch.zeros_like(values))
        totals = kept.new_zeros(len(self.lengths)).index_add(0, self.row.flatten(), kept.flatten())
        return totals[self.row]

    def sequence_mean(self, values: Tensor) -> Tensor:
        """Average (N,) values over each sequence's masked tokens; (N,), each token carries its sequence's mean."""
        return self.sequence_sum(values) / self.sequence_sum(torch.ones_like(values)).clamp(min=1)


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss and what to log of it. The names must be the same in every micro-batch.

    A name is a term or a token value, not both, and none of ``losses.metrics.RESERVED_NAMES`` (``loss``, ``tokens``,
    ``ratio``, ...), which every step logs: else ``ConfigError`` at the first step.

    Attributes:
        loss: 0-d, differentiable; the losses of all micro-batches and ranks are added up.
        terms: 0-d parts of the loss, added up likewise and logged as ``train/NAME``.
        token_values: (N,) values, bool or float, whose mean over the step's masked tokens is logged as ``train/NAME``.
    """

    loss: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    token_values: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class TokenLoss(Protocol):
    """Computes the loss of a micro-batch. An instance holds its settings and no state; see ``CarriesState`` for one.

    A checkpoint records the settings by the names of the constructor's arguments, so keep each as an attribute of that name.
    """

    def needs_reference(self) -> bool:
        """Tell whether ``LossInputs.ref_logprobs`` are to be computed; if not, no reference policy is built."""
        ...

    def __call__(self, inputs: LossInputs) -> LossOutput: ...


@runtime_checkable
class AsksForEntropyQuantile(Protocol):
    """A loss that needs to know where a token's entropy is among all of the optimizer step's, over micro-batches and ranks.

    The module computes them first, in a forward pass of its own, if the quantile is not None.
    """

    def entropy_quantile(self) -> float | None:
        """Return the quantile, between 0 and 1, that ``LossInputs.entropy_threshold`` is to be; None for none."""
        ...


def entropy_quantile(loss: TokenLoss) -> float | None:
    """Return the quantile of the step's entropies that a loss asks for, None if it asks for none."""
    return loss.entropy_quantile() if isinstance(loss, AsksForEntropyQuantile) else None


@runtime_checkable
class CarriesState(Protocol):
    """A loss with a state between optimizer steps, which its caller keeps: the instance itself does not change.

    ``LossInputs.state`` is ``initial_state()`` in the first step, then what ``next_state`` returned after the step before. The
    module keeps it in checkpoints, so that a resumed run goes on with the same numbers.
    """

    def initial_state(self) -> LossState:
        """Return the state before the first step."""
        ...

    def next_state(self, state: LossState, measured: Mapping[str, float]) -> LossState:
        """Return the state after a step.

        Args:
            state: that of the step.
            measured: what is logged of the step, by its names without ``train/``.
        """
        ...


def stateful_part(loss: object) -> CarriesState | None:
    """Return the loss itself or the one that it wraps, at any depth, that carries a state; None if none does."""
    if isinstance(loss, CarriesState):
        return loss
    inner = getattr(loss, "loss", None)
    return stateful_part(inner) if isinstance(inner, TokenLoss) else None


def needs_one_advantage_per_solution(loss: object) -> bool:
    """Tell whether a loss, or one that it wraps as ``loss``, has the attribute ``one_advantage_per_solution``, and True."""
    inner = getattr(loss, "loss", None)
    needs = bool(getattr(loss, "one_advantage_per_solution", False))
    return needs or (isinstance(inner, TokenLoss) and needs_one_advantage_per_solution(inner))


def loss_inputs(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    row: Tensor,
    lengths: Tensor,
    *,
    mask: Tensor | None = None,
    importance_weights: Tensor | None = None,
    entropy: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    entropy_threshold: Tensor | None = None,
    state: LossState | None = None,
) -> LossInputs:
    """Check and prepare the inputs of a loss: float32 at least, detached but for log-probs and entropy, 0 outside of the mask.

    Arguments are those of ``LossInputs``; ``mask`` is True everywhere by default, and ``entropy`` 0. All but ``lengths`` and
    ``entropy_threshold`` have one shape, (N,), or (B, L) for padded sequences. Values outside of the mask are never read (they
    may be NaN).

    Raises:
        ValueError: the shapes differ, the mask is not bool, or another tensor is not floating point.
    """
    mask = torch.ones_like(logprobs, dtype=torch.bool) if mask is None else mask
    given = {
        "logprobs": logprobs,
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "weights": weights,
        "importance_weights": torch.ones_like(logprobs) if importance_weights is None else importance_weights,
        "entropy": torch.zeros_like(logprobs) if entropy is None else entropy,
    }
    if ref_logprobs is not None:
        given["ref_logprobs"] = ref_logprobs
    for name, tensor in (given | {"mask": mask, "row": row}).items():
        if tensor.shape != logprobs.shape:
            shapes = f"{tuple(logprobs.shape)}, got {tuple(tensor.shape)}"
            raise ValueError(f"expected {name} of the shape of logprobs, {shapes}")
        if name in given and not tensor.is_floating_point():
            raise ValueError(f"expected floating point {name}, got {tensor.dtype}")
    if mask.dtype != torch.bool:
        raise ValueError(f"expected a bool mask, got {mask.dtype}")
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    zero = torch.zeros((), dtype=dtype, device=logprobs.device)

    def masked(tensor: Tensor) -> Tensor:
        # Before any exp: 0 * inf in a masked position would make the gradient NaN.
        return torch.where(mask, tensor.to(dtype), zero)

    return LossInputs(
        **{n: masked(t.detach() if n != "logprobs" else t) for n, t in given.items()},
        mask=mask,
        row=row,
        lengths=lengths,
        differentiable_entropy=None if entropy is None else masked(entropy),
        entropy_threshold=entropy_threshold,
        state=state,
    )
