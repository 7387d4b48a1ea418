"""Write a policy as a Hugging Face folder, with a model card that says how it was trained, and upload it."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import httpx
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.checksums import write_checksums
from lit_tpgrpo.errors import InputError, StorageError
from lit_tpgrpo.training.adapters import adapter_layers

_PACKAGES = ("torch", "transformers", "lightning", "peft")


@dataclass(frozen=True)
class RunCard:
    """Contents of a run's model card; paths of this machine are left out.

    Args:
        base_model: what was trained.
        steps: optimizer steps taken.
        settings: of the module, by name; plain and public ones are shown.
        run: the run's whole configuration as YAML, or nothing.
        metrics: by name.
    """

    base_model: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """Render the card as the folder's README.md."""
        on_hub = not _is_path(self.base_model)
        data = ModelCardData(
            library_name="transformers",
            pipeline_tag="text-generation",
            base_model=self.base_model if on_hub else None,
            tags=["tp-grpo", "grpo", "process-reward", "reinforcement-learning"],
        )
        settings = _flattened(self.settings).items()
        rows = [f"| {name} | {value} |" for name, value in settings if _is_shown(name, value)]
        parts = [
            f"---\n{data.to_yaml()}\n---",
            "# A policy trained with TP-GRPO",
            f"{'`' + self.base_model + '`' if on_hub else 'A local model'}, trained by "
            f"[TP-GRPO](https://arxiv.org/abs/2507.23317) with lit-tpgrpo for {self.steps} optimizer steps.",
            "## Settings\n\n| setting | value |\n|---|---|\n" + "\n".join(rows),
        ]
        if self.metrics:
            metric_rows = [f"| {name} | {value:.4f} |" for name, value in sorted(self.metrics.items())]
            parts.append("## Metrics\n\n| metric | value |\n|---|---|\n" + "\n".join(metric_rows))
        if self.run:
            shown = "\n".join(line for line in self.run.splitlines() if not _is_path(line.partition(": ")[2]))
            parts.append(f"## The run's configuration\n\n```yaml\n{shown}\n```")
        parts.append("Made with " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + ".")
        return "\n\n".join(parts) + "\n"


def _flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name the class of a part and its arguments beside the other settings: ``loss``, ``loss.clip_low``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and "class_path" in value:
            flat[name] = str(value["class_path"]).rpartition(".")[2]
            flat |= {f"{name}.{argument}": v for argument, v in (value.get("init_args") or {}).items()}
        else:
            flat[name] = value
    return flat


def _is_shown(name: str, value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) and not name.startswith("_") and not _is_path(value)


def _is_path(value: Any) -> bool:
    """Tell whether it names a file or folder of this machine: a hub name has one slash and nothing before its owner."""
    text = str(value).strip("'\" -")
    there = "/" in text and os.path.exists(text)
    return there or text.startswith(("/", "~", ".", "embedded:", "in-memory:")) or text.count("/") > 1


def write_folder(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    named_tensors: Iterable[tuple[str, Tensor]],
    card: RunCard,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    write: bool = True,
) -> Path:
    """Write weights (safetensors), config, generation config, tokenizer and model card atomically.

    Args:
        out: the folder.
        model: gives the architecture and the config; its weights are not read.
        named_tensors: all weights by their Hugging Face names, see ``Policy.named_tensors``. Collective where they are
            sharded: all processes call this and one of them writes.
        card: for README.md.
        dtype: of the written weights; None leaves them as they are, and gives merged ones the model's.
        overwrite: replace ``out`` if it holds something.
        write: whether this process writes.

    Raises:
        InputError: ``out`` is not empty.
        StorageError: it cannot be written, or reads back differently; existing contents stay.
    """
    weights: dict[str, Tensor] = {}
    merged = model.dtype if adapter_layers(model) else None
    for name, tensor in named_tensors:  # to the end on every process
        if write:
            weights[name] = tensor.detach().to("cpu", dtype or merged or tensor.dtype, copy=True).contiguous()
    if not write:
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise InputError(f"{out} is not empty; give another folder, or --overwrite true to replace it")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _plain(model, weights).save_pretrained(partial, state_dict=dict(weights))  # save_pretrained consumes the dict
        _check_written(partial, weights)
        write_checksums(partial, pattern="*.safetensors")
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card.text())
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"the model could not be written to {out} ({error.strerror or error}); free space or give another folder"
        ) from error
    return out


def _check_written(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Read the weights back and compare them; those that an architecture writes under other names are only counted.

    Raises:
        OSError: one differs.
    """
    written = 0
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                written += len(names)
                if wrong := [n for n in names if n in weights and not _same(file.get_tensor(n), weights[n])]:
                    raise OSError(f"{path.name} reads back otherwise than it was written: {wrong[0]}")
    except SafetensorError as error:
        raise OSError(f"what was written cannot be read back: {error}") from error
    if written != len(weights):
        raise OSError(f"{written} of {len(weights)} tensors were written")


def _same(a: Tensor, b: Tensor) -> bool:
    """Compare bit for bit, NaN too."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*(x.flatten().view(torch.uint8) for x in (a, b)))


def _plain(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """Build the architecture of the written weights, without weights, adapters, shards or quantisation."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        object.__delattr__(config, "quantization_config")
    first = next(iter(weights.values()))
    kind = next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))
    with torch.device("meta"):
        plain = kind(config).to(first.dtype)
    plain.generation_config = copy.deepcopy(model.generation_config)
    # The tied head is the embedding under another name: it is not among the parameters, and from_pretrained ties it again.
    return plain


def push_folder(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a folder as the logged-in user (``hf auth login`` or HF_TOKEN) and return its address.

    Raises:
        InputError: there is no such user, no right to write there, no network, or the name is invalid.
    """
    try:
        api = HfApi()
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id, folder_path=folder, commit_message="Upload policy trained with lit-tpgrpo"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError, OSError) as error:
        raise InputError(
            f"{repo_id} could not be uploaded: {' '.join(str(error).split())[:300]}; log in with a token that may write "
            "(hf auth login, or HF_TOKEN), check the name and the network. The folder is complete and can be uploaded later"
        ) from error
    return str(repo)
