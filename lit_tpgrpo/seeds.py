"""Derive seeds from their purpose only: not from the process, the order of calls or the machine."""

from __future__ import annotations

import random


def derived_seed(*parts: object) -> int:
    """Return a 31-bit seed that depends on all parts (e.g. a base seed, a purpose, an index) and on nothing else."""
    return random.Random("/".join(map(str, parts))).getrandbits(31)
