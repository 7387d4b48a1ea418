"""Where the real data are: a small sample in ``tests/data/sample``, and the whole files where a checkout has them beside it.

A test that takes the fixture ``real_data`` runs on the sample everywhere and, marked slow, on the whole files where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class RealData(NamedTuple):
    """``kind`` is ``sample`` or ``whole``: the key of a test's expected numbers."""

    kind: str
    folder: Path


SAMPLE = RealData("sample", Path(__file__).parent / "data" / "sample")
WHOLE = RealData("whole", Path(__file__).parents[2] / "shared" / "data")
WHOLE_IS_THERE = all((WHOLE.folder / file.name).is_file() for file in SAMPLE.folder.iterdir())
