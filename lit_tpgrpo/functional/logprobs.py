"""Log-probs of chosen tokens from hidden states, without the (N, V) logits.

At V = 151,936 the logits of 8k tokens are 4.6 GiB in fp32 and the usual log_softmax holds several such tensors. Here
the vocabulary is walked in tiles of (N, chunk) logits: the forward pass folds each tile into a running log-sum-exp, the
backward pass makes the tile again and turns it into the gradient of the logits in place.

Why tiles of vocabulary and an own autograd function, not tiles of tokens under ``torch.utils.checkpoint``: each row
block of the head's weight gradient is then one product over all tokens, written once. Token tiles add a (V, H) gradient
per tile, in the weight's dtype: slower, and in bf16 each addition rounds. ``benchmarks/logprobs.py`` measures both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_TILE = 2**22
"""Logits in a tile on CPU: 16 MiB in fp32, two or three such buffers at a time; 2**20 to 2**25 took alike within noise."""
ACCELERATOR_TILE = 2**25
"""The same elsewhere, 128 MiB: small tiles starve the matrix units. TRL's kernel has tiles of this size too."""


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """log softmax(z)[targets] and the entropy of softmax(z), z = (hidden @ weight.T + bias) / temperature.

    Products run in the inputs' dtype (under autocast, in its dtype), everything after them in fp32 (fp64 for fp64
    inputs). The result does not depend on ``chunk_size`` beyond rounding.

    Args:
        hidden: (N, H) last hidden states at the positions that predict the targets. N may be 0.
        weight: (V, H) the whole head, unsharded.
        targets: (N,) int64 in [0, V); one outside gives NaN, never a number (a check would stall the GPU).
        temperature: > 0; the one the tokens were sampled at.
        bias: (V,) or None.
        chunk_size: vocabulary entries per tile; None takes a tile of ``CPU_TILE`` or ``ACCELERATOR_TILE`` logits.

    Returns:
        (N,) log-probs, differentiable in hidden, weight and bias, and (N,) entropies in nats, without gradient.
    """
    _check(hidden, weight, targets, temperature, bias, chunk_size)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    chunk = chunk_size or max(1, (CPU_TILE if kind == "cpu" else ACCELERATOR_TILE) // max(1, len(hidden)))
    # The dtypes are settled here, so that forward and backward (which autocast does not reach) agree.
    with torch.autocast(kind, enabled=False):
        return _SelectedLogprobs.apply(hidden, weight, bias, targets, temperature, chunk)  # pyright: ignore


def _tile(hidden: Tensor, weight: Tensor, bias: Tensor | None, start: int, end: int, temperature: float) -> Tensor:
    """(N, end - start) logits over the temperature, fp32 or wider, free to be overwritten."""
    logits = hidden @ weight[start:end].t()
    if bias is not None:
        logits += bias[start:end]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits.div_(temperature)


class _SelectedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, chunk):
        # Per tile and token: the largest logit m, and the sums of e and of e * u with u = z - m, e = exp(u).
        tops, sums, weighted = [], [], []
        chosen = torch.full(
            targets.shape, torch.nan, device=hidden.device, dtype=torch.promote_types(hidden.dtype, torch.float32)
        )
        for start in range(0, len(weight), chunk):
            z = _tile(hidden, weight, bias, start, min(start + chunk, len(weight)), temperature)
            local, inside = _locate(targets, start, z.shape[1])
            chosen = torch.where(inside, z.gather(1, local).squeeze(1), chosen)
            top = z.amax(1)
            e = z.sub_(top.unsqueeze(1)).exp()
            tops.append(top)
            sums.append(e.sum(1))
            weighted.append(e.mul_(z).sum(1))
        tops, sums, weighted = torch.stack(tops), torch.stack(sums), torch.stack(weighted)
        top = tops.amax(0)
        shift = tops - top
        scale = shift.exp()
        total = (scale * sums).sum(0)
        log_total = total.log()
        # H = log Z - E[z], both measured from ``top``: no difference of large numbers.
        entropy = log_total - (scale * (weighted + shift * sums)).sum(0) / total
        log_z = top + log_total
        ctx.save_for_backward(hidden, weight, bias, targets, log_z)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return chosen - log_z, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _grad_entropy):
        hidden, weight, bias, targets, log_z = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        # Summed over tiles, so in fp32; the other two are written once per tile and keep the inputs' dtype.
        d_hidden = torch.zeros(hidden.shape, dtype=log_z.dtype, device=hidden.device) if for_hidden else None
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = torch.empty_like(bias) if for_bias else None
        grad = (grad / ctx.temperature).unsqueeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(weight), ctx.chunk):
                end = min(start + ctx.chunk, len(weight))
                d = _tile(hidden, weight, bias, start, end, ctx.temperature)
                # d log p[target] / dz = 1[target] - p
                d.sub_(log_z.unsqueeze(1)).exp_().mul_(-grad)
                local, inside = _locate(targets, start, end - start)
                d.scatter_add_(1, local, torch.where(inside.unsqueeze(1), grad, torch.zeros_like(grad)))
                if d_bias is not None:
                    d_bias[start:end] = d.sum(0)
                d = d.to(hidden.dtype)
                if d_hidden is not None:
                    d_hidden += d @ weight[start:end]
                if d_weight is not None:
                    torch.mm(d.t(), hidden, out=d_weight[start:end])
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None


def _locate(targets: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the targets fall in the tile: (N, 1) column, clamped into it, and (N,) whether they are in it at all."""
    local = targets - start
    return local.clamp(0, width - 1).unsqueeze(1), (local >= 0) & (local < width)


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    bias: Tensor | None,
    chunk_size: int | None,
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected hidden (N, H) and weight (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise ValueError(f"expected hidden and weight of one dtype, got {hidden.dtype} and {weight.dtype}")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"expected int64 targets of shape ({len(hidden)},), got {targets.dtype} {tuple(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected a bias of shape ({len(weight)},), got {tuple(bias.shape)}")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be > 0 (the one the tokens were sampled at), got {temperature}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
