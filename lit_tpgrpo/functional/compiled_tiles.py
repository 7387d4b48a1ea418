"""Arithmetic on one tile of logits as pure functions that ``torch.compile`` fuses.

The product is read in its own dtype, and its copy in fp32 exists in registers only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_tpgrpo.functional.compilation import compiled
from lit_tpgrpo.functional.logprob_tiles import TileMath, TileSums, UpstreamGradients, locate, wide


class CompiledTiles(TileMath):
    """Three pure functions that ``torch.compile`` fuses; of a single tile the product is kept.

    Each is compiled when it is first called with its dtype and device, then serves every width and number of tokens above one.
    """

    def __init__(self, temperature: float) -> None:
        self._value = temperature
        self._temperature: Tensor | None = None

    def sums(self, product: Tensor, local: Tensor, chosen: Tensor) -> TileSums:
        return TileSums(*compiled(tile_sums)(product, self._divisor(product), local, chosen))

    def kept(self, product: Tensor, sums: TileSums) -> tuple[Tensor, ...]:
        return (product,)

    def gradient(self, product: Tensor, local: Tensor, upstream: UpstreamGradients) -> None:
        of_logprobs = (product, self._divisor(product), local, upstream.log_z, upstream.grad)
        if upstream.grad_entropy is None:
            compiled(to_gradient)(*of_logprobs)
        else:
            compiled(to_gradient_with_entropy)(*of_logprobs, upstream.entropy, upstream.grad_entropy)

    def gradient_of_kept(
        self, kept: tuple[Tensor, ...], local: Tensor, upstream: UpstreamGradients, dtype: torch.dtype
    ) -> Tensor:
        # A copy, for the graph may be kept for another backward pass; a view of its memory, like all products, for Dynamo
        # compiles once more for a tensor that is none.
        product = kept[0].flatten().clone().view_as(kept[0])
        self.gradient(product, local, upstream)
        return product

    def _divisor(self, product: Tensor) -> Tensor:
        """Return the temperature as a tensor without dimensions: a number would be compiled into the function."""
        if self._temperature is None:
            self._temperature = torch.full((), self._value, dtype=wide(product.dtype), device=product.device)
        return self._temperature


def tile_sums(
    product: Tensor, temperature: Tensor, local: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the fields of ``TileSums``; ``temperature``: no dimensions, in the wide dtype."""
    z = product.to(temperature.dtype) / temperature
    top = z.amax(1)
    u = z - top.unsqueeze(1)
    e = u.exp()
    column, inside = locate(local, product.shape[1])
    # Gathered from the product, so that z need not be stored.
    target = product.gather(1, column).squeeze(1).to(temperature.dtype) / temperature
    return top, e.sum(1), (e * u).sum(1), torch.where(inside, target, chosen)


def to_gradient(product: Tensor, temperature: Tensor, local: Tensor, log_z: Tensor, grad: Tensor) -> None:
    """Overwrite ``product`` with grad (1[target] - p): see ``TileMath.gradient``."""
    log_p = product.to(temperature.dtype) / temperature - log_z.unsqueeze(1)
    product.copy_(grad.unsqueeze(1) * (_at_target(log_p, local) - log_p.exp()))


def to_gradient_with_entropy(
    product: Tensor,
    temperature: Tensor,
    local: Tensor,
    log_z: Tensor,
    grad: Tensor,
    entropy: Tensor,
    grad_entropy: Tensor,
) -> None:
    """Overwrite ``product`` with grad (1[target] - p) - grad_entropy p (log p + H)."""
    log_p = product.to(temperature.dtype) / temperature - log_z.unsqueeze(1)
    of_entropy = grad_entropy.unsqueeze(1) * log_p.exp() * (log_p + entropy.unsqueeze(1))
    product.copy_(grad.unsqueeze(1) * (_at_target(log_p, local) - log_p.exp()) - of_entropy)


def _at_target(tile: Tensor, local: Tensor) -> Tensor:
    """Return 1[target] as a tile."""
    columns = torch.arange(tile.shape[1], device=tile.device)
    return (columns == local.unsqueeze(1)).to(tile.dtype)
