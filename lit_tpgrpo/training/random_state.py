"""State of all random generators of a process, as tensors and plain values for checkpoints."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

log = logging.getLogger(__name__)

RANDOM_STATES = "random_states"
"""Key of a checkpoint: one state for each process, by rank."""


def random_state() -> dict[str, Any]:
    """Return the states of Python, NumPy and torch, on the CPU and this rank's GPU; they load with ``weights_only=True``."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(tuple[str, Any, int, int, float], np.random.get_state(legacy=True))
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> None:
    """Restore this rank's random state; if the number of ranks changed, log a warning and keep the seeds.

    Training and sampling use explicit seeds: the state matters to a user's callbacks only.
    """
    if len(states) != world_size:
        log.warning(
            "the checkpoint has random states of %d processes and there are %d now: they stay as seeded",
            *(len(states), world_size),
        )
        return
    state = states[rank]
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
