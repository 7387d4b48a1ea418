"""Seeds that depend on what they are for, and on nothing else: not on the process, the order or the machine."""

from __future__ import annotations

import random


def derived_seed(*parts: object) -> int:
    """A 31-bit seed that depends on all parts and on nothing else."""
    return random.Random("/".join(map(str, parts))).getrandbits(31)
