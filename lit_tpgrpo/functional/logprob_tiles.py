"""Arithmetic on one tile of logits for ``selected_logprobs``: the interface ``TileMath``, and the eager implementation.

``EagerTiles`` runs one operation after another in reused buffers: fastest on CPUs, whose caches hold a tile. On a GPU each
operation is a pass over the tile in memory, so ``compiled_tiles.CompiledTiles`` has ``torch.compile`` fuse them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TileSums:
    """Statistics of a tile per token, (N,) each in fp32 (fp64 for fp64 products), with z = product / temperature.

    Args:
        top: m, the largest z.
        total: sum of e = exp(u), u = z - m.
        weighted: sum of e * u.
        chosen: z of the target where it is in the tile; elsewhere what was passed in.
    """

    top: Tensor
    total: Tensor
    weighted: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class UpstreamGradients:
    """What the gradient of a tile depends on besides the tile, (N,) each in fp32 (fp64 for fp64 products).

    Args:
        log_z: log sum exp z over the whole vocabulary.
        entropy: H, of the whole softmax.
        grad: gradient of the loss in the log-probs, divided by the temperature.
        grad_entropy: gradient in the entropies, divided by the temperature; None if the loss does not use them.
    """

    log_z: Tensor
    entropy: Tensor
    grad: Tensor
    grad_entropy: Tensor | None


class TileMath(ABC):
    """The arithmetic of one forward or one backward pass; an instance may keep buffers from tile to tile.

    ``product`` is (N, width) contiguous: the tile of hidden @ weight.T + bias in its dtype; the first of a pass is the widest.
    ``local`` is (N,) int64: the targets' columns in the tile, outside [0, width) for targets of other tiles.

    Args:
        temperature: > 0.
    """

    @abstractmethod
    def __init__(self, temperature: float) -> None: ...

    @abstractmethod
    def sums(self, product: Tensor, local: Tensor, chosen: Tensor) -> TileSums:
        """Reduce a tile; ``product`` may be overwritten. ``chosen``: (N,), see ``TileSums``."""

    @abstractmethod
    def kept(self, product: Tensor, sums: TileSums) -> tuple[Tensor, ...]:
        """Return what to save of the only tile for ``gradient_of_kept``, directly after its ``sums``."""

    @abstractmethod
    def gradient(self, product: Tensor, local: Tensor, upstream: UpstreamGradients) -> None:
        """Overwrite a tile of products with their gradient.

        d log p[target] / dz = 1[target] - p;  dH / dz = -p (log p + H);  dz / d product = 1 / temperature
        """

    @abstractmethod
    def gradient_of_kept(
        self, kept: tuple[Tensor, ...], local: Tensor, upstream: UpstreamGradients, dtype: torch.dtype
    ) -> Tensor:
        """Return what ``gradient`` would make of the only tile, in ``dtype``; ``kept`` stays as it is."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of reductions: fp32, or fp64 for fp64 inputs (for gradcheck)."""
    return torch.promote_types(dtype, torch.float32)


def locate(local: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return (N, 1) columns clamped to the tile, and (N,) bool, whether the target is in the tile."""
    return local.clamp(0, width - 1).unsqueeze(1), (local >= 0) & (local < width)


class EagerTiles(TileMath):
    """One operation after another, in place, in two buffers that are reused for all tiles.

    New buffers per tile are slower, and on CPU fragment the heap until it takes several times the tile's size. For products in
    fp32 or fp64 the first buffer is the product itself. Of a single tile its e is kept: no exp in the backward pass.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._logits: Tensor | None = None
        self._scratch: Tensor | None = None

    def sums(self, product: Tensor, local: Tensor, chosen: Tensor) -> TileSums:
        z = self._scaled(product)
        column, inside = locate(local, z.shape[1])
        chosen = torch.where(inside, z.gather(1, column).squeeze(1), chosen)
        top = z.amax(1)
        e = torch.exp(z.sub_(top.unsqueeze(1)), out=self._scratch_like(z))
        return TileSums(top, e.sum(1), z.mul_(e).sum(1), chosen)

    def kept(self, product: Tensor, sums: TileSums) -> tuple[Tensor, ...]:
        return self._scratch_like(product), sums.total

    def gradient(self, product: Tensor, local: Tensor, upstream: UpstreamGradients) -> None:
        d, grad = self._scaled(product), upstream.grad.unsqueeze(1)
        d.sub_(upstream.log_z.unsqueeze(1))
        if upstream.grad_entropy is None:
            d.exp_().mul_(-grad)
        else:
            factor = torch.add(d, upstream.entropy.unsqueeze(1), out=self._scratch_like(d))
            d.exp_().mul_(factor.mul_(upstream.grad_entropy.unsqueeze(1)).add_(grad).neg_())
        _add_at_targets(d, local, grad)
        if d.dtype != product.dtype:
            product.copy_(d)

    def gradient_of_kept(
        self, kept: tuple[Tensor, ...], local: Tensor, upstream: UpstreamGradients, dtype: torch.dtype
    ) -> Tensor:
        e, total = kept
        grad = upstream.grad.unsqueeze(1)
        if upstream.grad_entropy is None:
            d = e * (-grad / total.unsqueeze(1))
        else:
            p, rate = e / total.unsqueeze(1), upstream.grad_entropy.unsqueeze(1)
            # Where e underflows to 0, p log p is 0: the clamped log is finite. (torch.xlogy is slower.)
            log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log_()
            d = p.mul_(log_p.add_(upstream.entropy.unsqueeze(1)).mul_(rate).add_(grad).neg_())
        _add_at_targets(d, local, grad)
        return d.to(dtype)

    def _scaled(self, product: Tensor) -> Tensor:
        """Return product / temperature in the wide dtype, in the first buffer."""
        z = product
        if wide(product.dtype) != product.dtype:
            if self._logits is None:
                self._logits = torch.empty(product.numel(), dtype=wide(product.dtype), device=product.device)
            z = self._logits[: product.numel()].view_as(product).copy_(product)
        return z if self._temperature == 1.0 else z.div_(self._temperature)

    def _scratch_like(self, tile: Tensor) -> Tensor:
        if self._scratch is None:
            self._scratch = torch.empty(tile.numel(), dtype=wide(tile.dtype), device=tile.device)
        return self._scratch[: tile.numel()].view_as(tile)


def _add_at_targets(d: Tensor, local: Tensor, grad: Tensor) -> None:
    """Add ``grad`` (N, 1) to each row of ``d`` at its target, if that is in the tile."""
    column, inside = locate(local, d.shape[1])
    # Not scatter_add_: it has no deterministic CUDA kernel, and with one index per row it is not needed.
    d.scatter_(1, column, d.gather(1, column) + torch.where(inside.unsqueeze(1), grad, torch.zeros_like(grad)))
