"""Compute log-probs of selected tokens from hidden states without materialising the (N, V) logits.

At V = 151,936, the logits of 8k tokens take 4.6 GiB in fp32, and the usual log_softmax needs several such tensors. Here
the vocabulary is processed in tiles of (N, chunk) logits: the forward pass adds each tile to a log-sum-exp, the backward
pass recomputes the tile and turns it into the gradient of the logits in place. If the whole vocabulary is one tile, its
softmax is kept in place of computing it again: a quarter of the head's products less, for the memory of one tile.

The tiles are over the vocabulary, with a custom autograd function, and not over tokens under ``torch.utils.checkpoint``:
each row block of the head's weight gradient is then one product over all tokens, written once. Token tiles would add a
(V, H) gradient per tile in the weight's dtype: slower, and in bf16 each addition rounds. ``benchmarks/logprobs.py`` measures
both.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_TILE = 2**22
"""Logits per tile on CPU: 16 MiB in fp32, two or three such buffers at a time; 2**20 to 2**25 are equally fast within noise."""
ACCELERATOR_TILE = 2**25
"""Logits per tile on other devices, 128 MiB in fp32: small tiles underuse the matrix units. TRL's kernel has this size too."""


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log softmax(z)[targets] and the entropy of softmax(z), z = (hidden @ weight.T + bias) / temperature.

    Matrix products are in the inputs' dtype (under autocast, in its dtype), everything after them in fp32 (fp64 for fp64
    inputs). The result does not depend on ``chunk_size`` beyond rounding.

    Args:
        hidden: (N, H) last hidden states at the positions that predict the targets. N may be 0.
        weight: (V, H) the whole head, unsharded.
        targets: (N,) int64 in [0, V); one outside gives NaN, never a number (a check would stall the GPU).
        temperature: > 0; the temperature of sampling.
        bias: (V,) or None.
        chunk_size: vocabulary entries per tile; None for tiles of ``CPU_TILE`` or ``ACCELERATOR_TILE`` logits.

    Returns:
        (N,) log-probs and (N,) entropies in nats, both differentiable in hidden, weight and bias. A loss that does not use the
        entropies costs nothing for them in the backward pass.
    """
    _check(hidden, weight, targets, temperature, bias, chunk_size)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    chunk = chunk_size or max(1, (CPU_TILE if kind == "cpu" else ACCELERATOR_TILE) // max(1, len(hidden)))
    # Fix the dtypes here, so that forward and backward (to which autocast does not apply) agree.
    with torch.autocast(kind, enabled=False):
        return _SelectedLogprobs.apply(hidden, weight, bias, targets, temperature, chunk)


def _tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, chunk: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield tiles of the vocabulary: (rows of the weight, product in the inputs' dtype, logits / temperature in fp32 or wider).

    Both tensors are (N, width), may be overwritten, and are the same tensor if their dtypes are equal. They are reused for
    all tiles: new ones per tile are slower, and on CPU fragment the heap until it takes several times the tile's size.
    """
    n, vocab = len(hidden), len(weight)
    chunk = min(chunk, vocab)
    products = hidden.new_empty(n * chunk)
    wide = _wide(hidden.dtype)
    logits = products if wide == hidden.dtype else hidden.new_empty(n * chunk, dtype=wide)
    for start in range(0, vocab, chunk):
        rows = slice(start, min(start + chunk, vocab))
        width = rows.stop - start
        product, z = (buffer[: n * width].view(n, width) for buffer in (products, logits))
        torch.mm(hidden, weight[rows].t(), out=product)
        if bias is not None:
            product += bias[rows]
        if z.dtype != product.dtype:
            z.copy_(product)
        if temperature != 1.0:
            z.div_(temperature)
        yield rows, product, z


class _SelectedLogprobs(torch.autograd.Function):
    """Autograd function of ``selected_logprobs``: recomputes the logits of each tile in the backward pass."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, chunk):
        n, wide = len(hidden), _wide(hidden.dtype)
        chosen = torch.full((n,), torch.nan, dtype=wide, device=hidden.device)
        scratch = torch.empty(n * min(chunk, len(weight)), dtype=wide, device=hidden.device)
        # Per tile and token: the largest logit m, and the sums of e and of e * u with u = z - m, e = exp(u).
        tops, sums, weighted = [], [], []
        e = scratch
        for rows, _, z in _tiles(hidden, weight, bias, temperature, chunk):
            local, inside = _locate(targets, rows)
            chosen = torch.where(inside, z.gather(1, local).squeeze(1), chosen)
            top = z.amax(1)
            e = torch.exp(z.sub_(top.unsqueeze(1)), out=scratch[: z.numel()].view_as(z))
            tops.append(top)
            sums.append(e.sum(1))
            weighted.append(z.mul_(e).sum(1))
        tops, sums, weighted = torch.stack(tops), torch.stack(sums), torch.stack(weighted)
        top = tops.amax(0)
        shift = tops - top
        scale = shift.exp()
        total = (scale * sums).sum(0)
        log_total = total.log()
        # H = log Z - E[z], both relative to ``top``, which avoids a difference of large numbers.
        entropy = log_total - (scale * (weighted + shift * sums)).sum(0) / total
        log_z = top + log_total
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, entropy, *((e, total) if len(tops) == 1 else ()))
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)  # None for an output that the loss does not use
        return chosen - log_z, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, grad_entropy):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, log_z, entropy, *kept = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        # d_hidden is summed over tiles, so it is in fp32; the other two are written once and keep the inputs' dtype.
        d_hidden = torch.zeros(hidden.shape, dtype=log_z.dtype, device=hidden.device) if for_hidden else None
        d_weight = torch.empty_like(weight) if for_weight else None
        d_bias = torch.empty_like(bias) if for_bias else None
        grad = torch.zeros_like(log_z) if grad is None else grad
        grad = (grad / ctx.temperature).unsqueeze(1)
        if grad_entropy is not None:
            grad_entropy = (grad_entropy / ctx.temperature).unsqueeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            if kept and grad_entropy is None:
                e, total = kept
                tiles = _kept_tile(e, total, grad, hidden.dtype)
            else:
                logits = _tiles(hidden, weight, bias, ctx.temperature, ctx.chunk)
                tiles = _gradient_tiles(logits, log_z, entropy, grad, grad_entropy)
            for rows, product, d in tiles:
                local, inside = _locate(targets, rows)
                # Not scatter_add_: it has no deterministic CUDA kernel, and with one index per row it is not needed.
                d.scatter_(
                    1, local, d.gather(1, local) + torch.where(inside.unsqueeze(1), grad, torch.zeros_like(grad))
                )
                if d_bias is not None:
                    d_bias[rows] = d.sum(0)
                if product.dtype != d.dtype:
                    product.copy_(d)
                if d_hidden is not None:
                    d_hidden += product @ weight[rows]
                if d_weight is not None:
                    torch.mm(product.t(), hidden, out=d_weight[rows])
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None


def _gradient_tiles(
    tiles: Iterator[tuple[slice, Tensor, Tensor]],
    log_z: Tensor,
    entropy: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Turn tiles of logits into their gradient in place, but for what the targets add: (rows, buffer of products, gradient).

    d log p[target] / dz = 1[target] - p;  dH / dz = -p (log p + H)
    """
    scratch = None
    for rows, product, d in tiles:
        d.sub_(log_z.unsqueeze(1))
        if grad_entropy is None:
            d.exp_().mul_(-grad)
        else:
            scratch = (
                torch.empty(d.numel(), dtype=d.dtype, device=d.device) if scratch is None else scratch
            )  # the widest
            factor = torch.add(d, entropy.unsqueeze(1), out=scratch[: d.numel()].view_as(d))
            d.exp_().mul_(factor.mul_(grad_entropy).add_(grad).neg_())
        yield rows, product, d


def _kept_tile(e: Tensor, total: Tensor, grad: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield the one tile of ``_gradient_tiles`` from what the forward pass kept of it: p = e / total."""
    d = e * (-grad / total.unsqueeze(1))  # a new tensor: the graph may be kept for another backward pass
    yield slice(0, e.shape[1]), d if dtype == d.dtype else torch.empty_like(d, dtype=dtype), d


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of reductions: fp32, or fp64 for fp64 inputs (for gradcheck)."""
    return torch.promote_types(dtype, torch.float32)


def _locate(targets: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Locate targets in a tile: (N, 1) column, clamped to the tile, and (N,) bool, whether they are in the tile."""
    local, width = targets - rows.start, rows.stop - rows.start
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
        raise ValueError(
            f"expected int64 targets of shape ({len(hidden)},), got {targets.dtype} {tuple(targets.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected a bias of shape ({len(weight)},), got {tuple(bias.shape)}")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be > 0 (the temperature of sampling), got {temperature}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
