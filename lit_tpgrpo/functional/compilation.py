"""Compile functions for a GPU where that can work: it needs Triton, a GPU that Triton knows, a C compiler, Python's headers."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

OFF = "TORCH_COMPILE_DISABLE"
"""torch's own environment variable: with 1, nothing in the process is compiled."""
OLDEST_GPU = (7, 0)
"""Compute capability that Triton needs on NVIDIA GPUs."""


def can_compile(device: torch.device) -> bool:
    """Return whether functions on a CUDA device are to be compiled; warn once per process of what is missing for it.

    False without a warning if ``TORCH_COMPILE_DISABLE=1``. The check itself runs at most once per device.
    """
    if os.environ.get(OFF) == "1":
        return False
    index = torch.cuda.current_device() if device.index is None else device.index
    missing = _missing_for(index)
    if missing is not None:
        _warn_once(missing)
    return missing is None


@functools.cache
def _missing_for(index: int) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip is None and capability < OLDEST_GPU:
        name = torch.cuda.get_device_name(index)
        return f"{name} has compute capability {capability[0]}.{capability[1]}, and Triton needs 7.0"
    return missing_compiler()


def missing_compiler() -> str | None:
    """Return what is missing to build Triton's launchers in C: a compiler or Python's headers; None if nothing is.

    The compiler is the one that Triton takes: ``CC``, else clang, else gcc. It is not tried out, for that takes a process.
    """
    if os.name == "nt":
        return None  # Triton brings a compiler there
    asked = os.environ.get("CC")
    names = (asked,) if asked else ("clang", "gcc")
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        return f"there is no C compiler ({' or '.join(names)}; install gcc, or set CC)"
    folders = [sysconfig.get_path("include"), *os.environ.get("CPATH", "").split(os.pathsep)]
    if not any((Path(folder) / "Python.h").is_file() for folder in folders if folder):
        return f"Python.h is not in {folders[0]} (install Python's headers, such as python3-dev)"
    return None


@functools.cache
def _warn_once(missing: str) -> None:
    warnings.warn(
        f"Log-probs are computed without torch.compile: {missing}. The values are the same, but each tile of logits is read "
        f"several times and copied to fp32, which costs time and memory on a GPU. {OFF}=1 disables compilation and this "
        "warning.",
        stacklevel=2,
    )


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.compile(function)`` with symbolic sizes, the same object each time; it compiles when first called.

    Not with ``fullgraph``: where Dynamo does not compile (its limit of variants is reached, or a dispatch mode such as a FLOP
    counter is on), the function then runs as it is, with the same values, and a long run goes on.
    """
    return torch.compile(function, dynamic=True)
