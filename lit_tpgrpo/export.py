"""Export a checkpoint as a Hugging Face folder: ``python -m lit_tpgrpo.export CHECKPOINT OUT [--push_to_hub owner/name]``."""

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
from lit_tpgrpo.training.huggingface import push_folder, write_folder
from lit_tpgrpo.training.model_card import RunCard
from lit_tpgrpo.training.sharding import torch_dtype
from lit_tpgrpo.user_errors import one_line_errors

# The settings on which the weights' shapes and names depend, or where they come from; the others concern training only.
_MODEL_SETTINGS = ("model", "tokenizer", "dtype", "attention", "quantization", "revision", "random_init")


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    dtype: str | None = None,
    model: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Path:
    """Write the policy of a checkpoint (a file, a sharded folder, or a run's folder) as a Hugging Face folder.

    Args:
        checkpoint: see ``usable_checkpoint``; a damaged one is refused, also ``last``.
        out: the folder to write; it appears once it is complete.
        dtype: dtype of the written weights; by default the one they were trained in.
        model: the model that was trained, if it was moved from where the checkpoint says.
        overwrite: replace ``out`` if it is not empty.
        trust_remote_code: run Python code that comes with the model, with your rights. No checkpoint turns it on. The code's
            files are written beside the weights.

    Returns:
        The written folder.

    Raises:
        InputError: there is no complete checkpoint, it is not one of TPGRPOModule, or ``out`` is not empty.
        ConfigError: its model cannot be loaded.
    """
    path = usable_checkpoint(checkpoint, exact=True)
    contents = load_checkpoint(path)
    settings = contents.get("hyper_parameters")
    state, step = contents.get("state_dict"), contents.get("global_step")
    has_weights = isinstance(state, Mapping) and any(isinstance(t, torch.Tensor) for t in state.values())
    if not isinstance(settings, Mapping) or "model" not in settings or not has_weights or not isinstance(step, int):
        raise InputError(
            f"{path} is not a checkpoint of TPGRPOModule: it lacks hyper_parameters.model, state_dict or global_step"
        )
    module = rebuild(contents, model, trust_remote_code)
    card = RunCard(
        base_model=str(model or settings["model"]),
        steps=step,
        settings=settings,
        run=_run_settings(path),
    )
    return write_folder(
        out, module.policy_model, module.tokenizer, module.named_tensors(), card, torch_dtype(dtype), overwrite
    )


def rebuild(contents: Mapping[str, Any], model: str | None, trust_remote_code: bool = False) -> TPGRPOModule:
    """Build the module with a checkpoint's weights, without a Trainer."""
    settings: dict[str, Any] = {name: contents["hyper_parameters"].get(name) for name in _MODEL_SETTINGS}
    settings = {name: value for name, value in settings.items() if value is not None}
    adapter = contents.get(ADAPTER)
    if adapter is None and "dtype" not in settings:
        settings["dtype"] = _dtype_of(contents["state_dict"])
    lora = None if adapter is None else LoRA(adapter["rank"], adapter["alpha"], adapter["target_modules"])
    if model is not None:
        settings["model"] = model
        settings.pop("tokenizer", None)  # use the one in the model's folder
        settings.pop("revision", None)
    module = TPGRPOModule(**settings, adapter=lora, trust_remote_code=trust_remote_code)
    module.configure_model()
    state = dict(contents) | {"state_dict": dict(contents["state_dict"])}
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"], strict=module.strict_loading)
    return module


def _dtype_of(state: Mapping[str, Any]) -> str:
    """Return the name of the weights' dtype: that of the first floating-point tensor, as in transformers."""
    return next(str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point())


def _run_settings(checkpoint: Path) -> str:
    """Return the text of the run's config.yaml, which Lightning's CLI writes up to two folders above; "" if there is none."""
    for folder in list(checkpoint.absolute().parents)[:2]:
        if (folder / "config.yaml").is_file():
            return (folder / "config.yaml").read_text(errors="replace")
    return ""


def main(args: list[str] | None = None) -> None:
    """Run the command; a user error ends it with one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = ArgumentParser(prog="python -m lit_tpgrpo.export", description=__doc__)
    parser.add_argument("checkpoint", type=str, help="checkpoint file, sharded folder, or a run's folder")
    parser.add_argument("out", type=str | None, nargs="?", help="folder to write; may be left out with --push_to_hub")
    parser.add_argument("--dtype", type=str | None, help="dtype of the weights, e.g. bfloat16 (default: as trained)")
    parser.add_argument("--model", type=str | None, help="the model that was trained, if it was moved")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace OUT if it is not empty")
    parser.add_argument(
        "--trust_remote_code",
        type=bool,
        default=False,
        help="run Python code that comes with the model, with your rights",
    )
    parser.add_argument("--push_to_hub", type=str | None, help="owner/name of the hub repository to upload to")
    parser.add_argument("--private", type=bool, default=True, help="whether a new repository is private")
    options = parser.parse_args(args)
    with one_line_errors():
        if options.out is None and options.push_to_hub is None:
            raise InputError("give a folder to write, --push_to_hub owner/name, or both")
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(options.out or Path(scratch) / "model")
            export_checkpoint(
                Path(options.checkpoint),
                out,
                options.dtype,
                options.model,
                options.overwrite,
                options.trust_remote_code,
            )
            if options.out is not None:
                print(f"written: {out}")
            if options.push_to_hub is not None:
                print(f"uploaded: {push_folder(out, options.push_to_hub, options.private)}")


if __name__ == "__main__":
    main()
