"""Which weights sampled a round: a step number alone does not say, for every run has a step 0."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor

SAMPLED = 256
"""Elements of each tensor that are looked at: an optimizer step changes nearly all of them."""


def fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of evenly spaced elements of each tensor, equal for equal weights on any device, in any process."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named_tensors:
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED)]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def settings_of(part: Any) -> dict[str, Any]:
    """The class of a part and what it was configured with: its ``settings``, or else its plain public attributes."""
    told = getattr(part, "settings", None)
    if told is not None:
        return {"class": f"{type(part).__module__}.{type(part).__qualname__}"} | dict(told)
    plain = {k: v for k, v in vars(part).items() if not k.startswith("_") and isinstance(v, (bool, int, float, str))}
    return {"class": f"{type(part).__module__}.{type(part).__qualname__}"} | plain
