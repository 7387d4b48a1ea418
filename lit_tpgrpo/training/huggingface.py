"""Write a policy as a Hugging Face folder, with a model card that says how it was trained, and upload it."""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import httpx
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.checksums import write_checksums
from lit_tpgrpo.errors import ConfigError, InputError, StorageError
from lit_tpgrpo.pretrained import saved_buffers
from lit_tpgrpo.training.adapters import adapter_layers
from lit_tpgrpo.training.folder_replacement import NotRestoredError, replace_folder
from lit_tpgrpo.training.model_card import RunCard


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
        dtype: of the written weights; None leaves them as they are, and gives merged ones the model's. Buffers keep theirs.
        overwrite: replace ``out`` if it holds something.
        write: whether this process writes.

    Raises:
        InputError: ``out`` is not empty.
        ConfigError: adapters on fused experts are not merged.
        StorageError: it cannot be written, or reads back differently; existing contents stay.
    """
    weights = _gathered(model, named_tensors, dtype, write)
    if not write:
        return out
    _refuse_unmerged(weights)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise InputError(f"{out} is not empty; give another folder, or --overwrite true to replace it")
    place = Path(os.path.realpath(out))  # where a link leads
    partial = place.with_name(place.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _plain(model, weights).save_pretrained(partial, state_dict=dict(weights))  # save_pretrained consumes the dict
        _check_written(partial, weights)
        write_checksums(partial, pattern="*.safetensors")
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card.text())
        replace_folder(partial, place)
    except NotRestoredError:  # the partial folder is complete, and what was there may be lost
        raise
    except (OSError, StorageError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"the model could not be written to {out} ({error.strerror or error}); free space or give another folder"
        ) from error
    return out


def _gathered(
    model: PreTrainedModel, named_tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None, write: bool
) -> dict[str, Tensor]:
    """Return copies of the tensors in host memory, in the dtype that is written; none on a process that does not write.

    Buffers keep theirs: what a router adds decides between experts, and transformers keeps it in float32, too.
    """
    weights: dict[str, Tensor] = {}
    buffers = {name for name, _ in saved_buffers(model)}
    merged = model.dtype if adapter_layers(model) else None
    for name, tensor in named_tensors:  # to the end on every process
        if write:
            written_as = tensor.dtype if name in buffers else dtype or merged or tensor.dtype
            weights[name] = tensor.detach().to("cpu", written_as, copy=True).contiguous()
    return weights


def _refuse_unmerged(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights beneath adapters that are on parameters of three dimensions, those of fused experts.

    Raises:
        ConfigError: there are such.
    """
    if wrapped := next((name for name in weights if ".base_layer." in name), None):
        raise ConfigError(
            f"the adapters on {wrapped.partition('.base_layer.')[0]} cannot be merged into its weights, which are not those of "
            "one linear layer; train with other target_modules in model.adapter, such as [q_proj, k_proj, v_proj, o_proj]"
        )


def _check_written(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Read the weights back and compare them; of those that an architecture writes in other forms only numbers are counted.

    Raises:
        OSError: one differs.
        StorageError: some are missing.
    """
    written = 0
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                written += sum(math.prod(file.get_slice(n).get_shape()) for n in names)
                if wrong := [n for n in names if n in weights and not _same(file.get_tensor(n), weights[n])]:
                    raise OSError(f"{path.name} reads back otherwise than it was written: {wrong[0]}")
    except SafetensorError as error:
        raise OSError(f"what was written cannot be read back: {error}") from error
    if written != (expected := sum(tensor.numel() for tensor in weights.values())):
        raise StorageError(
            f"the model was not written: its files would hold {written:,} of {expected:,} numbers, since transformers "
            f"{version('transformers')} writes this architecture in another form; take another version of transformers"
        )


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
