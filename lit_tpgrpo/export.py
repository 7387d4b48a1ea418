"""A Hugging Face folder from any checkpoint: ``python -m lit_tpgrpo.export CHECKPOINT OUT [--push_to_hub owner/name]``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapters import ADAPTER, LoRA
from lit_tpgrpo.training.checkpoints import load_checkpoint, usable_checkpoint
from lit_tpgrpo.training.huggingface import RunCard, push_folder, write_folder
from lit_tpgrpo.training.sharding import torch_dtype
from lit_tpgrpo.user_errors import one_line_errors

# What the weights' shapes and names depend on; the others say how they were trained.
_MODEL_SETTINGS = ("model", "tokenizer", "dtype", "attention", "quantization")


def export_checkpoint(
    checkpoint: Path, out: Path, dtype: str | None = None, model: str | None = None, overwrite: bool = False
) -> Path:
    """Write the policy of a checkpoint (a file, a sharded folder, or a run's folder) as a Hugging Face folder.

    Args:
        checkpoint: see ``usable_checkpoint``; one that is named and damaged is refused, ``last`` too.
        out: the folder to write; it appears when it is whole.
        dtype: of the written weights; by default as they were trained.
        model: the model that was trained, where it is no longer where the checkpoint says.
        overwrite: replace ``out`` if it holds something.

    Raises:
        InputError: no whole checkpoint is there, it is not one of ours, or ``out`` is not empty.
        ConfigError: its model cannot be loaded.
    """
    found = usable_checkpoint(checkpoint, exact=True)
    held = load_checkpoint(found)
    settings = held.get("hyper_parameters")
    state, step = held.get("state_dict"), held.get("global_step")
    weights = isinstance(state, Mapping) and any(isinstance(t, torch.Tensor) for t in state.values())
    if not isinstance(settings, Mapping) or "model" not in settings or not weights or not isinstance(step, int):
        raise InputError(
            f"{found} is not a checkpoint of TPGRPOModule: it holds no hyper_parameters.model, state_dict and global_step"
        )
    module = rebuild(held, model)
    card = RunCard(
        base_model=str(model or settings["model"]),
        steps=step,
        settings=settings,
        run=_run_settings(found),
    )
    return write_folder(
        out, module.policy_model, module.tokenizer, module.named_tensors(), card, torch_dtype(dtype), overwrite
    )


def rebuild(held: Mapping[str, Any], model: str | None) -> TPGRPOModule:
    """The module with the checkpoint's weights, outside of any Trainer."""
    given: dict[str, Any] = {name: held["hyper_parameters"].get(name) for name in _MODEL_SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    adapter = held.get(ADAPTER)
    if adapter is None and "dtype" not in given:
        given["dtype"] = _dtype_of(held["state_dict"])
    lora = None if adapter is None else LoRA(adapter["rank"], adapter["alpha"], adapter["target_modules"])
    if model is not None:
        given["model"] = model
        given.pop("tokenizer", None)  # the folder's own
    module = TPGRPOModule(**given, adapter=lora)
    module.configure_model()
    state = dict(held) | {"state_dict": dict(held["state_dict"])}
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"], strict=module.strict_loading)
    return module


def _dtype_of(state: Mapping[str, Any]) -> str:
    """The weights' dtype by name: that of the first, as in transformers."""
    return next(str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point())


def _run_settings(checkpoint: Path) -> str:
    """The run's config.yaml, which Lightning's CLI leaves two folders up; empty where there is none."""
    for folder in list(checkpoint.absolute().parents)[:2]:
        if (folder / "config.yaml").is_file():
            return (folder / "config.yaml").read_text(errors="replace")
    return ""


def main(args: list[str] | None = None) -> None:
    """The command. A user's mistake ends in one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = ArgumentParser(prog="python -m lit_tpgrpo.export", description=__doc__)
    parser.add_argument("checkpoint", type=str, help="checkpoint file, sharded folder, or a run's folder")
    parser.add_argument("out", type=str | None, nargs="?", help="folder to write; may be left out with --push_to_hub")
    parser.add_argument("--dtype", type=str | None, help="of the written weights, e.g. bfloat16 (default: as trained)")
    parser.add_argument("--model", type=str | None, help="the trained model, where it was moved")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace OUT if it is not empty")
    parser.add_argument("--push_to_hub", type=str | None, help="owner/name of the hub repository to upload to")
    parser.add_argument("--private", type=bool, default=True, help="whether a new repository is private")
    given = parser.parse_args(args)
    with one_line_errors():
        if given.out is None and given.push_to_hub is None:
            raise InputError("give a folder to write, --push_to_hub owner/name, or both")
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(given.out or Path(scratch) / "model")
            export_checkpoint(Path(given.checkpoint), out, given.dtype, given.model, given.overwrite)
            if given.out is not None:
                print(f"written: {out}")
            if given.push_to_hub is not None:
                print(f"uploaded: {push_folder(out, given.push_to_hub, given.private)}")


if __name__ == "__main__":
    main()
