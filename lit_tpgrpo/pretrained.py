"""Load models and tokenizers by name: a folder, a hub name, or an embedded model that ships with the package."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import constants, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, http_backoff, httpx, validate_repo_id
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lit_tpgrpo.checkout import subpackage_folder
from lit_tpgrpo.checksums import CHECKSUMS, checksum_fault
from lit_tpgrpo.errors import ConfigError

EMBEDDED = "embedded:"
IN_MEMORY = "in-memory:"
"""Prefix of the name that a checkpoint stores for a model that was passed as an object."""
_EMBEDDED_ROOT = subpackage_folder("datamodules") / "arithmetic" / "assets"
# Config keys of architectures that rescale logits after the head: our log-probs would silently differ from generate()'s.
_RESCALING = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded model such as ``embedded:tiny-qwen2``.

    Raises:
        ConfigError: the package ships nothing of that name.
    """
    folder = _EMBEDDED_ROOT / name.removeprefix(EMBEDDED)
    if not folder.is_dir():
        shipped = sorted(EMBEDDED + p.name for p in _EMBEDDED_ROOT.glob("*") if p.is_dir())
        raise ConfigError(
            f"nothing embedded is called {name!r}; shipped with this package: {', '.join(shipped) or 'none'}"
        )
    return folder


def resolve_model(name: str) -> str:
    """Return the folder or hub name for a model's name; ``embedded:tiny-qwen2`` is a folder of the package.

    Raises:
        ConfigError: the name is neither an existing folder nor possible as a hub name, or the package ships no embedded
            model of that name.
    """
    if name.startswith(EMBEDDED):
        return str(embedded_folder(name))
    if name.startswith(IN_MEMORY):
        raise ConfigError(
            f"the checkpoint's model, a {name.removeprefix(IN_MEMORY)}, was given as an object and has no name to load it by; "
            "save the model and its tokenizer with save_pretrained, and give that folder (--model of lit_tpgrpo.export, or "
            "model= in Python, which also takes the object itself)"
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"model folder {name!r} has no config.json; expected a Hugging Face model folder")
        return str(path)
    if looks_like_path or path.exists():
        raise ConfigError(
            f"model path {name!r} is not a folder (looked at {path.absolute()}); give a Hugging Face model folder, a "
            f"hub name such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B, or embedded:tiny-qwen2"
        )
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            f"the model folder {path.absolute()} does not exist, and {name!r} cannot be a hub name either; give a "
            "Hugging Face model folder, a hub name such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B, or "
            "embedded:tiny-qwen2"
        ) from error
    return name


@dataclass(frozen=True)
class HubOptions:
    """Which version of a repository is loaded, and whether code in it may run.

    Args:
        revision: branch, tag or commit on the hub; None is its main branch.
        trust_remote_code: run the Python code that comes with the model, with the user's rights.
    """

    revision: str | None = None
    trust_remote_code: bool = False

    def check(self, name: str, resolved: str) -> None:
        """Refuse a revision of a folder, and say that code will be run.

        Raises:
            ConfigError: the name is a folder.
        """
        if self.revision is not None and Path(resolved).is_dir():
            raise ConfigError(
                f"{name!r} is a folder and has no revision {self.revision!r}; leave model.revision out, or give a hub name"
            )
        if self.trust_remote_code:
            which = "" if Path(resolved).is_dir() or self.revision is not None else "; pin it with model.revision"
            rank_zero_warn(f"trust_remote_code is on: code that comes with {name!r} runs with your rights{which}")


def _check_hub_reachable(name: str, revision: str | None = None) -> None:
    """Try to reach the hub, with one retry: transformers would retry for most of a minute.

    Nothing is requested for local or cached files, nor in offline mode. Any response counts; transformers interprets it.

    Raises:
        ConnectionError: the hub cannot be reached.
    """
    if (
        Path(name).is_dir()
        or is_offline_mode()
        or isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
    ):
        return
    url = hf_hub_url(name, "config.json", revision=revision)
    try:
        http_backoff("HEAD", url, max_retries=1, retry_on_status_codes=(), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise ConnectionError(f"no connection to {constants.ENDPOINT}: {error}") from error
    except httpx.HTTPError:  # slow, or the connection was dropped: leave it to transformers' longer retries
        return


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    # Other errors' texts are unclear without their type: KeyError 'weight_map'.
    return text if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: {text}"


def _check_sums(name: str, resolved: str) -> None:
    """Compare the weights of a folder written by ``lit_tpgrpo.export`` with its checksums.

    Raises:
        ConfigError: a file is damaged.
    """
    folder = Path(resolved)
    if (folder / CHECKSUMS).is_file() and (fault := checksum_fault(folder)):
        raise ConfigError(
            f"the weights in the folder {name!r} are damaged ({fault}): they are not loaded; export them again, or remove "
            f"{CHECKSUMS} if they were changed on purpose"
        )


def _load_error(what: str, name: str, resolved: str, error: Exception) -> ConfigError:
    """Return a one-line error: ``what`` (model or tokenizer) could be loaded from neither a folder nor the hub."""
    if Path(resolved).is_dir():
        return ConfigError(
            f"no {what} could be loaded from the folder {name!r}: {_reason(error)}; give a folder that holds one, or a "
            "hub name"
        )
    return ConfigError(
        f"no {what} could be loaded from {name!r}: the folder {Path(name).absolute()} does not exist, and no hub model of "
        f"that name could be reached and read either: {_reason(error)}; correct the path or the name, and note that the "
        "hub needs a network connection"
    )


def load_tokenizer(name: str, options: HubOptions = HubOptions()) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer and check that it has what sampling needs.

    A missing pad token falls back to EOS, since padding is masked.

    Raises:
        ConfigError: it cannot be loaded, or has no EOS token.
    """
    resolved = resolve_model(name)
    options.check(name, resolved)
    try:
        _check_hub_reachable(resolved, options.revision)
        tokenizer = AutoTokenizer.from_pretrained(
            resolved, revision=options.revision or "main", trust_remote_code=options.trust_remote_code
        )
    except Exception as error:  # edited or truncated files can raise any error
        raise _load_error("tokenizer", name, resolved, error) from error
    return check_tokenizer(tokenizer, name)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Check that a tokenizer has an EOS token; if it has no pad token, use EOS and warn.

    Raises:
        ConfigError: there is no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of {name!r} has no EOS token, so no solution would ever end before the token limit; set "
            "eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        rank_zero_warn(
            f"the tokenizer of {name!r} has no pad token: its EOS {tokenizer.eos_token!r} is used instead. Padding is masked, "
            "so it does not affect training; set pad_token in its tokenizer_config.json to use another token"
        )
    return tokenizer


def load_causal_lm(
    name: str,
    random_init: bool,
    dtype: torch.dtype | None,
    attention: str,
    quantization: BitsAndBytesConfig | None = None,
    options: HubOptions = HubOptions(),
) -> PreTrainedModel:
    """Load a causal language model: its weights, or with ``random_init`` its architecture only.

    Code that comes with a model is not run unless ``options`` ask for it: by default transformers asks whether to, and runs it
    after a "y".

    Args:
        name: a folder, a hub name or an embedded model.
        random_init: initialise the weights randomly instead of loading them.
        dtype: dtype of the weights; None for transformers' default.
        attention: transformers' ``attn_implementation``, e.g. ``sdpa``.
        quantization: bitsandbytes' settings; None for no quantization.
        options: revision, and whether code in the repository may run.

    Raises:
        ConfigError: it cannot be loaded, or ``attention`` is not available on this machine.
    """
    resolved = resolve_model(name)
    if not random_init:
        _check_sums(name, resolved)
    try:
        _check_hub_reachable(resolved, options.revision)
        trusted, revision = options.trust_remote_code, options.revision or "main"
        config = AutoConfig.from_pretrained(resolved, trust_remote_code=trusted, revision=revision)
        if random_init:
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=trusted
            )
        else:
            # Load on the CPU; the trainer moves the model: transformers might choose a GPU that this process must not use.
            extra = {} if quantization is None else {"quantization_config": quantization, "device_map": {"": "cpu"}}
            model = AutoModelForCausalLM.from_pretrained(
                resolved,
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=trusted,
                revision=revision,
                **extra,
            )
    except ImportError as error:
        raise ConfigError(
            f"{name!r} cannot be loaded with attention {attention!r}: {_reason(error)}; install the missing package, or set "
            "attention to sdpa or eager"
        ) from error
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"the weights of {name!r} are damaged, or contain objects other than tensors, which could run code when loaded: "
            "they are not loaded. Give a model whose weights are in safetensors"
        ) from error
    except Exception as error:  # edited or truncated files can raise any error
        raise _load_error("causal language model", name, resolved, error) from error
    return cast(PreTrainedModel, model)


def refuse_rescaled_logits(model: PreTrainedModel, name: str) -> None:
    """Refuse a model that rescales its logits after the head, since log-probs are computed from the head's output.

    Raises:
        ConfigError: the model rescales its logits.
    """
    for key in _RESCALING:
        if getattr(model.config.get_text_config(), key, None) not in (None, 1, 1.0):
            raise ConfigError(f"{name!r} rescales its logits ({key}), which is not supported; choose another model")


def saved_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point buffers that files hold beside the weights, such as what a router adds; most have none."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            own = name.rpartition(".")[2]
            if own not in module._non_persistent_buffers_set and buffer.is_floating_point():
                yield name, buffer


def head_of(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Return weight (V, H) and bias (V,) of the language model's head; None for a head without a bias."""
    head = cast(nn.Module, model.get_output_embeddings())
    return cast(Tensor, head.weight), cast(Tensor | None, getattr(head, "bias", None))
