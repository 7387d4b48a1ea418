"""Compute log-probs of selected tokens from hidden states without materialising the (N, V) logits.

At V = 151,936, the logits of 8k tokens take 4.6 GiB in fp32, and the usual log_softmax needs several such tensors. Here
the vocabulary is processed in tiles of (N, chunk) logits: the forward pass adds each tile to a log-sum-exp, the backward
pass recomputes the tile and turns it into the gradient of the logits in place. If the whole vocabulary is one tile, it is
kept in place of computing it again: a quarter of the head's products less, for the memory of one tile. The arithmetic of a
tile is in ``logprob_tiles`` and, for GPUs, in ``compiled_tiles``; ``tile_math_for`` chooses.

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

from lit_tpgrpo.functional.compilation import can_compile
from lit_tpgrpo.functional.compiled_tiles import CompiledTiles
from lit_tpgrpo.functional.logprob_tiles import EagerTiles, TileMath, UpstreamGradients, wide

CPU_TILE = 2**22
"""Logits per tile on CPU: 16 MiB in fp32, two or three such buffers at a time; 2**20 to 2**25 are equally fast within noise."""
ACCELERATOR_TILE = 2**25
"""Logits per tile on other devices, 64 MiB in bf16: small tiles underuse the matrix units. TRL's kernel has this size too."""
ALIGNMENT = 128
"""A tile's width is a multiple of this on other devices than a CPU, for rows that are not aligned are slow to multiply."""
WIDENED = 2**20
"""Entries of the weight that are copied to fp32 at a time on a CPU."""


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    chunk_size: int | None = None,
    tile_math: type[TileMath] | None = None,
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
        tile_math: arithmetic of a tile; None for what suits the device (``tile_math_for``): compiled on CUDA devices, unless
            ``TORCH_COMPILE_DISABLE=1`` or something is missing for it, of which a warning tells.

    Returns:
        (N,) log-probs and (N,) entropies in nats, both differentiable in hidden, weight and bias. A loss that does not use the
        entropies costs nothing for them in the backward pass.
    """
    _check(hidden, weight, targets, temperature, bias, chunk_size)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    chunk = chunk_size or _default_chunk(kind, len(hidden))
    arithmetic = tile_math or tile_math_for(hidden.device, len(hidden))
    # Fix the dtypes here, so that forward and backward (to which autocast does not apply) agree.
    with torch.autocast(kind, enabled=False):
        return _SelectedLogprobs.apply(hidden, weight, bias, targets, temperature, chunk, arithmetic)


def tile_math_for(device: torch.device, tokens: int) -> type[TileMath]:
    """Choose the implementation: compiled on CUDA devices where that can work (``can_compile``), else eager.

    Dynamo compiles sizes 0 and 1 separately, which is not worth it, so fewer than two tokens are eager everywhere.
    """
    return CompiledTiles if device.type == "cuda" and tokens > 1 and can_compile(device) else EagerTiles


def _default_chunk(kind: str, tokens: int) -> int:
    if kind == "cpu":
        return max(1, CPU_TILE // max(1, tokens))
    return max(ALIGNMENT, ACCELERATOR_TILE // max(1, tokens) // ALIGNMENT * ALIGNMENT)


def _products(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield tiles of the vocabulary: (rows of the weight, hidden @ weight[rows].T + bias[rows] in the inputs' dtype).

    The product is (N, width) and may be overwritten: its memory is that of all tiles.
    """
    n, vocab = len(hidden), len(weight)
    buffer = hidden.new_empty(n * min(chunk, vocab))
    for start in range(0, vocab, chunk):
        rows = slice(start, min(start + chunk, vocab))
        width = rows.stop - start
        product = buffer[: n * width].view(n, width)
        torch.mm(hidden, weight[rows].t(), out=product)
        if bias is not None:
            product += bias[rows]
        yield rows, product


class _SelectedLogprobs(torch.autograd.Function):
    """Autograd function of ``selected_logprobs``: recomputes the logits of each tile in the backward pass."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, chunk, tile_math):
        chosen = torch.full((len(hidden),), torch.nan, dtype=wide(hidden.dtype), device=hidden.device)
        arithmetic: TileMath = tile_math(temperature)
        tiles, kept = [], ()
        for rows, product in _products(hidden, weight, bias, chunk):
            sums = arithmetic.sums(product, targets - rows.start, chosen)
            chosen = sums.chosen
            tiles.append(sums)
            if len(weight) <= chunk:
                kept = arithmetic.kept(product, sums)
        tops = torch.stack([sums.top for sums in tiles])
        top = tops.amax(0)
        shift = tops - top
        scale = shift.exp()
        totals = torch.stack([sums.total for sums in tiles])
        total = (scale * totals).sum(0)
        log_total = total.log()
        # H = log Z - E[z], both relative to ``top``, which avoids a difference of large numbers.
        weighted = torch.stack([sums.weighted for sums in tiles])
        entropy = log_total - (scale * (weighted + shift * totals)).sum(0) / total
        log_z = top + log_total
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, entropy, *kept)
        ctx.temperature, ctx.chunk, ctx.tile_math = temperature, chunk, tile_math
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
        upstream = UpstreamGradients(
            log_z,
            entropy,
            torch.zeros_like(log_z) if grad is None else grad / ctx.temperature,
            None if grad_entropy is None else grad_entropy / ctx.temperature,
        )
        arithmetic: TileMath = ctx.tile_math(ctx.temperature)
        with torch.autocast(hidden.device.type, enabled=False):
            if kept:
                only = arithmetic.gradient_of_kept(tuple(kept), targets, upstream, hidden.dtype)
                tiles = iter([(slice(0, len(weight)), only)])
            else:
                tiles = _gradients(arithmetic, _products(hidden, weight, bias, ctx.chunk), targets, upstream)
            for rows, d in tiles:
                if d_bias is not None:
                    d_bias[rows] = d.sum(0, dtype=log_z.dtype)
                if d_hidden is not None:
                    _add_product(d_hidden, d, weight[rows])
                if d_weight is not None:
                    torch.mm(d.t(), hidden, out=d_weight[rows])
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None, None


def _gradients(
    arithmetic: TileMath, products: Iterator[tuple[slice, Tensor]], targets: Tensor, upstream: UpstreamGradients
) -> Iterator[tuple[slice, Tensor]]:
    """Turn tiles of products into their gradient, in place."""
    for rows, product in products:
        arithmetic.gradient(product, targets - rows.start, upstream)
        yield rows, product


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to ``total`` in the dtype of ``total``, without rounding the product to that of ``a`` and ``b`` first.

    Rounding the product of each of 38 tiles of the vocabulary to bf16 gives d_hidden a relative error of 1.0e-3 to 1.6e-3 in
    place of 1e-5 to 3e-4 (``docs/log.md``, 2026-11-28), and TRL found that it biases training.
    """
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, out=total)  # not addmm_: FLOP counters know this one only
    elif total.device.type == "cuda":
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:  # no other device adds in a wider dtype; blocks, so that the weight's copy stays small
        rows = max(1, WIDENED // max(1, b.shape[1]))
        for block_a, block_b in zip(a.split(rows, dim=1), b.split(rows), strict=True):
            torch.addmm(total, block_a.to(total.dtype), block_b.to(total.dtype), out=total)


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
