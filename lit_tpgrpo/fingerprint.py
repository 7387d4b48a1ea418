"""Identify the weights that sampled a round, and the settings of a component.

A step number alone does not identify weights, because every run has a step 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor

SAMPLED = 256
"""Elements of each tensor that are hashed; an optimizer step changes nearly all elements."""


def fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of evenly spaced elements of each tensor, equal for equal weights on any device and in any process."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named_tensors:
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED)]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def settings_of(component: Any) -> dict[str, Any]:
    """Return the class and settings of a component (a judge, a verifier, ...), as stored with a round.

    The settings are its attribute ``settings``, or else its public attributes that are bool, int, float or str.
    """
    settings = getattr(component, "settings", None)
    if settings is None:
        public = {name: value for name, value in vars(component).items() if not name.startswith("_")}
        settings = {name: value for name, value in public.items() if isinstance(value, (bool, int, float, str))}
    return {"class": f"{type(component).__module__}.{type(component).__qualname__}"} | dict(settings)
