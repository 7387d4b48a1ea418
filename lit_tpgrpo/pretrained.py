"""Models and tokenizers by name: a folder, a hub name, or one that ships with the package."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import constants, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, http_backoff, httpx, validate_repo_id
from lightning.pytorch.utilities import rank_zero_warn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lit_tpgrpo.checksums import CHECKSUMS, checksum_fault
from lit_tpgrpo.errors import ConfigError

EMBEDDED = "embedded:"
IN_MEMORY = "in-memory:"
"""Begins what a checkpoint calls a model that was given as an object and has no name."""
_EMBEDDED_ROOT = Path(__file__).parent / "datamodules" / "arithmetic" / "assets"
# Architectures that rescale logits after the head: our log-probs would silently differ from their generate().
_RESCALING = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def embedded_folder(name: str) -> Path:
    """``embedded:tiny-qwen2`` -> the folder that ships with the package.

    Raises:
        ConfigError: nothing of that name ships.
    """
    folder = _EMBEDDED_ROOT / name.removeprefix(EMBEDDED)
    if not folder.is_dir():
        shipped = sorted(EMBEDDED + p.name for p in _EMBEDDED_ROOT.glob("*") if p.is_dir())
        raise ConfigError(
            f"nothing embedded is called {name!r}; shipped with this package: {', '.join(shipped) or 'none'}"
        )
    return folder


def resolve_model(name: str) -> str:
    """``embedded:tiny-qwen2`` -> the folder that ships with the package; anything else must be a folder or a hub name.

    Raises:
        ConfigError: the name looks like a path or cannot be a hub name and nothing is there, or no such embedded model
            ships.
    """
    if name.startswith(EMBEDDED):
        return str(embedded_folder(name))
    if name.startswith(IN_MEMORY):
        raise ConfigError(
            f"the checkpoint's model, a {name.removeprefix(IN_MEMORY)}, was given as an object and has no name to load it by; "
            "save the model and its tokenizer with save_pretrained, and name that folder (--model of lit_tpgrpo.export, model= "
            "in Python, where the object itself will do, too)"
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


def _reach_hub(name: str) -> None:
    """Ask the hub twice whether it is there: transformers would ask for most of a minute.

    Nothing is asked for what lies here, nor where the hub is switched off. Any answer will do, transformers reads it.

    Raises:
        ConnectionError: there is no way to it.
    """
    if Path(name).is_dir() or is_offline_mode() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    url = hf_hub_url(name, "config.json")
    try:
        http_backoff("HEAD", url, max_retries=1, retry_on_status_codes=(), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise ConnectionError(f"no connection to {constants.ENDPOINT}: {error}") from error
    except httpx.HTTPError:  # a hub that is slow or hangs up is worth transformers' longer patience
        return


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    # What is no message of its own says more with its kind: KeyError 'weight_map'.
    return text if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: {text}"


def _check_sums(name: str, resolved: str) -> None:
    """Compare the weights of a folder that we exported with its checksums.

    Raises:
        ConfigError: they differ.
    """
    folder = Path(resolved)
    if (folder / CHECKSUMS).is_file() and (fault := checksum_fault(folder)):
        raise ConfigError(
            f"the weights in the folder {name!r} are damaged ({fault}): they are not loaded; export them again, or remove "
            f"{CHECKSUMS} if they were changed on purpose"
        )


def _not_loaded(what: str, name: str, resolved: str, error: Exception) -> ConfigError:
    """What to say, in one line, when neither a folder nor the hub gave ``what``."""
    if Path(resolved).is_dir():
        return ConfigError(
            f"no {what} could be loaded from the folder {name!r}: {_reason(error)}; give a folder that holds one, or a "
            "hub name"
        )
    return ConfigError(
        f"no {what} could be loaded from {name!r}: the folder {Path(name).absolute()} does not exist, and no hub model of "
        f"that name could be reached and read either: {_reason(error)}; correct the path or the name, and mind that the "
        "hub needs a network"
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, checked for what sampling needs.

    Raises:
        ConfigError: it cannot be loaded, or has no EOS. A missing pad token falls back to EOS: padding is masked.
    """
    resolved = resolve_model(name)
    try:
        _reach_hub(resolved)
        tokenizer = AutoTokenizer.from_pretrained(resolved, trust_remote_code=False)
    except Exception as error:  # files that somebody edited or cut raise anything
        raise _not_loaded("tokenizer", name, resolved, error) from error
    return check_tokenizer(tokenizer, name)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Refuse a tokenizer without EOS; give one without pad its EOS as pad, and say so."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of {name!r} has no EOS token, so no solution would ever end before the token limit; set "
            "eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        rank_zero_warn(
            f"the tokenizer of {name!r} has no pad token: its EOS {tokenizer.eos_token!r} pads instead. Padding is masked, "
            "so nothing is learnt from it; set pad_token in its tokenizer_config.json to pad with another token"
        )
    return tokenizer


def load_causal_lm(
    name: str,
    random_init: bool,
    dtype: torch.dtype | None,
    attention: str,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """The causal language model, with its weights or (``random_init``) its architecture alone.

    Code that comes with a model is not run: transformers would ask whether to, and run it for a "y".

    Raises:
        ConfigError: it cannot be loaded, or ``attention`` cannot be used here.
    """
    resolved = resolve_model(name)
    if not random_init:
        _check_sums(name, resolved)
    try:
        _reach_hub(resolved)
        config = AutoConfig.from_pretrained(resolved, trust_remote_code=False)
        if random_init:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        else:
            # On the CPU first, wherever the trainer will put it: transformers would take a GPU that is not to be used.
            extra = {} if quantization is None else {"quantization_config": quantization, "device_map": {"": "cpu"}}
            model = AutoModelForCausalLM.from_pretrained(
                resolved, dtype=dtype, attn_implementation=attention, trust_remote_code=False, **extra
            )
    except ImportError as error:
        raise ConfigError(
            f"{name!r} cannot be loaded with attention {attention!r}: {_reason(error)}; install what is missing, or set "
            "attention to sdpa or eager"
        ) from error
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"the weights of {name!r} hold more than tensors, which could run code when loaded, or are damaged: they are not "
            "loaded. Give a model whose weights are in safetensors"
        ) from error
    except Exception as error:  # files that somebody edited or cut raise anything
        raise _not_loaded("causal language model", name, resolved, error) from error
    return cast(PreTrainedModel, model)


def refuse_rescaled_logits(model: PreTrainedModel, name: str) -> None:
    """A policy's log-probs are computed from its head alone.

    Raises:
        ConfigError: the model rescales its logits after the head.
    """
    for key in _RESCALING:
        if getattr(model.config.get_text_config(), key, None) not in (None, 1, 1.0):
            raise ConfigError(f"{name!r} rescales its logits ({key}), which is not supported; choose another model")
