"""Unscale and clip gradients between the backward pass and the update; detect overflows, whose step is skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from lit_tpgrpo.training.sharding import full_tensor


@dataclass(frozen=True)
class GradientNorm:
    """Gradient norm of a step before clipping.

    Args:
        value: 0-d, the norm before clipping, over all of the parameters and their shards.
        overflowed: whether the loss was scaled so far that a gradient is not finite: the gradient scaler skips the step and
            lowers the scale.
    """

    value: Tensor
    overflowed: bool = False


def loss_scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    """Return the gradient scaler of ``precision: 16-mixed``, None in any other precision."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def clip_gradients(
    optimizer: Optimizer, parameters: Iterable[Tensor], limit: float | None, scaler: torch.amp.GradScaler | None = None
) -> GradientNorm:
    """Scale the gradients down to the norm ``limit``, in place: g <- g * min(1, limit / ||g||). None clips nothing.

    Call it where gradients are unscaled: in the hook ``on_before_optimizer_step``. For an optimizer that unscales in its step
    (``fused``) they are unscaled here. Gradients that are not finite are left as they are. Collective for shards.
    """
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)
    with_gradient = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    norm = get_total_norm(gradients)
    value = full_tensor(norm)
    if not torch.isfinite(value):
        return GradientNorm(value, scaler is not None and _overflows(gradients, scaler))
    if limit is not None:
        clip_grads_with_norm_(with_gradient, limit, norm)
    return GradientNorm(value)


def _overflows(gradients: list[Tensor], scaler: torch.amp.GradScaler) -> bool:
    """Tell whether a lower scale may help: an element is not finite (not only the norm), and the loss was scaled up."""
    return scaler.get_scale() >= 1 and not bool(torch.isfinite(full_tensor(get_total_norm(gradients, float("inf")))))


def step_metrics(norm: GradientNorm, scaler: torch.amp.GradScaler | None) -> dict[str, float | Tensor]:
    """Return ``train/grad_norm`` of a step that was taken; with a scaler whether it was skipped, and the next scale."""
    metrics: dict[str, float | Tensor] = {} if norm.overflowed else {"train/grad_norm": norm.value}
    if scaler is not None:
        metrics |= {"train/step_skipped": float(norm.overflowed), "train/loss_scale": scaler.get_scale()}
    return metrics
