"""Cut sequences of different lengths into padded batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def token_budget_slices(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices into micro-batches whose padded size (rows x longest) stays within ``budget`` tokens.

    Sorted by length, longest first, so that little is padding and memory peaks in the first micro-batch. A sequence
    longer than the budget gets a micro-batch to itself.
    """
    slices: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if slices and (len(slices[-1]) + 1) * width <= budget:
            slices[-1].append(i)
        else:
            slices.append([i])
            width = lengths[i]
    return slices
