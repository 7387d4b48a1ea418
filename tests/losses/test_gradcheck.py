"""The gradient of every loss is the derivative of its value by finite differences, in float64, away from its edges.

Losses are piecewise where they compare something that the log-probs move with a bound: at the bound the derivative from below
is not that from above. ``edges`` names each loss's bounds, and the step is checked to keep a distance from them that is a
hundred times the finite difference.

Several losses hold constants ("sg" in their formulas): their gradient is the derivative of the value with these constants
held. Finite differences of the value alone must then differ, or nothing is held. What is held that should not be, or the
other way round, ``test_all_losses.test_gradient_by_the_formula`` finds.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.overrides import TorchFunctionMode

from lit_tpgrpo.functional.corrections import importance_weights
from lit_tpgrpo.functional.kl import KLName
from lit_tpgrpo.losses import (
    CISPO,
    GSPO,
    SAPO,
    VESPO,
    AdaptiveEntropyBonus,
    ClippedSurrogate,
    DPPOTotalVariation,
    DualClip,
    EntropyBonus,
    GSPOToken,
    MiniRL,
    StaleNegatives,
    TokenLoss,
    TopEntropy,
)
from lit_tpgrpo.losses.vespo import MIN_LOG_WEIGHT
from tests.losses.loss_cases import LOSSES, THRESHOLD, WRAPPED, a_step, inputs_of, with_kl

EPS = 1e-6
"""Of the finite differences: gradcheck's default."""
CAP = 1.0625
"""Of the corrections, which are float32: an exact number."""


class HeldConstants(TorchFunctionMode):
    """What a loss detaches has the value that it had in the first call, whatever its arguments are since."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self.next = 0

    def __enter__(self) -> HeldConstants:
        self.next = 0
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.detach:
            return result
        if self.next == len(self.values):
            self.values.append(result.clone())
        self.next += 1
        return self.values[self.next - 1]


def holds_constants(loss: TokenLoss) -> bool:
    inner = getattr(loss, "loss", None)
    if isinstance(inner, TokenLoss):
        return holds_constants(inner)
    return isinstance(loss, (GSPOToken, CISPO, VESPO, DPPOTotalVariation, MiniRL)) or loss.kl_estimator == "k2_unbiased"  # pyright: ignore


def edges(loss: TokenLoss, step: dict[str, Tensor]) -> list[tuple[Tensor, float]]:
    """What the loss compares with bounds, and the bounds: nowhere else is it not smooth."""
    log_ratio = step["logprobs"] - step["old_logprobs"]
    kappa, inputs = log_ratio.exp(), inputs_of(step)
    ratio = inputs.sequence_mean(log_ratio).exp() if isinstance(loss, (GSPO, GSPOToken)) else kappa
    match loss:
        case DualClip():
            return [(kappa, 1 - loss.clip_low), (kappa, 1 + loss.clip_high), (kappa, loss.delta)]
        case ClippedSurrogate() | GSPO() | GSPOToken():
            return [(ratio, 1 - loss.clip_low), (ratio, 1 + loss.clip_high)]
        case CISPO():
            return [(kappa, loss.cap)]
        case SAPO():
            return []  # its temperature jumps at A = 0, and advantages are constants
        case VESPO():
            log_w = inputs.sequence_sum(log_ratio + step["importance_weights"].log().clamp(min=MIN_LOG_WEIGHT))
            return [(log_ratio, -20.0), (log_ratio, 20.0), (log_w, MIN_LOG_WEIGHT), (log_w, 20.0)]
        case DPPOTotalVariation():
            moved = step["logprobs"].exp() - step["old_logprobs"].exp()
            return [(moved, -loss.tv_low), (moved, loss.tv_high), (kappa, loss.cap)]
        case MiniRL():
            whole = kappa * step["importance_weights"]
            return [(kappa, 1 - loss.clip_low), (kappa, 1 + loss.clip_high), (whole, loss.cap)]
        case EntropyBonus() | AdaptiveEntropyBonus():
            return edges(loss.loss, step)
        case TopEntropy():
            return [(step["entropy"], THRESHOLD.item()), *edges(loss.loss, step)]
        case StaleNegatives():
            return [(inputs.sequence_mean(-log_ratio), loss.threshold), *edges(loss.loss, step)]
    raise AssertionError(loss)


def corrected(step: dict[str, Tensor], method: str) -> dict[str, Tensor]:
    """The step with the weights of a correction, from an engine whose log-probs are off by some .1, so that bounds act."""
    engine = step["old_logprobs"] - step["importance_weights"].log()
    rows = [step["row"] == i for i in range(len(step["lengths"]))]
    weights = torch.cat([importance_weights(step["old_logprobs"][r], engine[r], method, CAP, 0.9375) for r in rows])
    return {**step, "importance_weights": weights.double()}


def checked(loss: TokenLoss, step: dict[str, Tensor], held: HeldConstants | None) -> bool:
    """Compare the gradients of log-probs and entropies with finite differences."""
    for value, bound in edges(loss, step):
        assert (value - bound).abs().min() > 100 * EPS, f"the step lies on an edge: {bound}"

    def value(logprobs: Tensor, entropy: Tensor) -> Tensor:
        step_there = {**step, "entropy": entropy, "logprobs": logprobs}
        with held or nullcontext():
            return loss(inputs_of(step_there, "sequence")).loss

    point = [step[name].clone().requires_grad_() for name in ("logprobs", "entropy")]
    value(*point)  # what is held is held here
    return torch.autograd.gradcheck(value, point, eps=EPS, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("correction", ["token_truncate", "token_mask", "sequence_truncate"])
@pytest.mark.parametrize("loss", [*LOSSES, *WRAPPED], ids=lambda loss: type(loss).__name__)
def test_gradient_is_the_derivative_of_the_value(loss, correction):
    step = corrected(a_step(loss), correction)
    assert 0 < (step["importance_weights"] == (0.0 if "mask" in correction else CAP)).sum() < len(step["row"])
    loss = with_kl(loss)
    if not holds_constants(loss):
        assert checked(loss, step, None)
        return
    assert checked(loss, step, HeldConstants())
    with pytest.raises(GradcheckError):
        checked(loss, step, None)


@pytest.mark.parametrize("estimator", get_args(KLName))
def test_gradient_of_the_kl_term(estimator):
    loss = with_kl(ClippedSurrogate(0.1, 0.15), estimator)
    assert checked(loss, a_step(loss), HeldConstants() if holds_constants(loss) else None)
    if holds_constants(loss):
        with pytest.raises(GradcheckError):
            checked(loss, a_step(loss), None)


def test_an_edge_is_noticed():
    """A token whose ratio is the clip's bound: the check of distances fails, and so would the derivative."""
    loss = ClippedSurrogate(0.1, 0.15)
    step = a_step(loss)
    on = (step["advantages"] > 0).nonzero()[0]
    step["logprobs"][on] = step["old_logprobs"][on] + math.log(1.15)
    with pytest.raises(AssertionError, match=r"on an edge: 1\.15"):
        checked(loss, step, None)
    # A millionth of a millionth beside it finite differences cross the edge.
    step["logprobs"][on] -= 1e-12
    point = step["logprobs"].clone().requires_grad_()
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda x: loss(inputs_of({**step, "logprobs": x})).loss, [point], eps=EPS)
