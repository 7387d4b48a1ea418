"""How the time of a reader grows with its text, measured so that neither the machine nor its other programs matter."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def _seconds(read: Callable[[str], object], text: str) -> float:
    """The least processor time of three readings."""
    times = []
    for _ in range(3):
        began = time.process_time()
        read(text)
        times.append(time.process_time() - began)
    return min(times)


@pytest.fixture(scope="session")
def check_growth() -> Callable[[Callable[[str], object], Callable[[int], str]], None]:
    """Fails where four times the text takes more than eight times the time: 4 is linear, 16 quadratic."""

    def check(read: Callable[[str], object], make_text: Callable[[int], str]) -> None:
        n = 500
        while (small := _seconds(read, make_text(n))) < 0.02 and n < 20_000:
            n *= 2
        assert _seconds(read, make_text(4 * n)) <= 8 * max(small, 0.02), f"from {n} to {4 * n} pieces"

    return check
