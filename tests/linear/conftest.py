from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def deep():
    """The counting matcher calls itself for each repeat of a group."""
    earlier = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    yield
    sys.setrecursionlimit(earlier)
