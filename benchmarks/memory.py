"""Resident memory of this process and its peak (Linux)."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def resident_bytes(which: str) -> int:
    """Return this process's resident set, ``VmRSS`` or its largest, ``VmHWM`` (``ru_maxrss`` begins with the parent's)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith(which))


def restart_peak() -> int:
    """Give freed memory back, let the largest resident set begin again; return what is resident now, in bytes.

    Otherwise new memory may lie in what was freed before, and the set does not rise.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    held = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return held
