"""The policy network: a causal language model that returns log-probs of given tokens, never whole logits."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.logprobs import selected_logprobs
from lit_tpgrpo.rollout.batching import MicroBatch

EMBEDDED = "embedded:"
_EMBEDDED_ROOT = Path(__file__).parent / "datamodules" / "arithmetic" / "assets"
# Architectures that rescale logits after the head: our log-probs would silently differ from their generate().
_RESCALING = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def resolve_model(name: str) -> str:
    """``embedded:tiny-qwen2`` -> the folder that ships with the package; anything else must be a folder or a hub name.

    Raises:
        ConfigError: the name looks like a path and nothing is there, or no such embedded model ships.
    """
    if name.startswith(EMBEDDED):
        folder = _EMBEDDED_ROOT / name.removeprefix(EMBEDDED)
        if not folder.is_dir():
            shipped = sorted(EMBEDDED + p.name for p in _EMBEDDED_ROOT.glob("*") if p.is_dir())
            raise ConfigError(f"no embedded model {name!r}; shipped with this package: {', '.join(shipped) or 'none'}")
        return str(folder)
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
    return name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, checked for what sampling needs.

    Raises:
        ConfigError: it cannot be loaded, or has no EOS. A missing pad token falls back to EOS: padding is masked.
    """
    resolved = resolve_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no tokenizer could be loaded from {name!r}: {error}; give a folder that holds one, or a hub name and a "
            "network"
        ) from error
    return check_tokenizer(tokenizer, name)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Refuse a tokenizer without EOS; give one without pad its EOS as pad."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of {name!r} has no EOS token, so no solution would ever end before the token limit; set "
            "eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(name: str, random_init: bool, dtype: torch.dtype | None, attention: str) -> PreTrainedModel:
    """The causal language model, with its weights or (``random_init``) its architecture alone.

    Raises:
        ConfigError: it cannot be loaded, or its logits are rescaled after the head.
    """
    resolved = resolve_model(name)
    try:
        config = AutoConfig.from_pretrained(resolved)
        if random_init:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        else:
            model = AutoModelForCausalLM.from_pretrained(resolved, dtype=dtype, attn_implementation=attention)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no causal language model could be loaded from {name!r}: {error}; give a model folder, or a hub name and "
            "a network"
        ) from error
    for key in _RESCALING:
        if getattr(config.get_text_config(), key, None) not in (None, 1, 1.0):
            raise ConfigError(f"{name!r} rescales its logits ({key}), which is not supported; choose another model")
    return cast(PreTrainedModel, model)


class PolicyModel(nn.Module):
    """Log-probs of the completion tokens of a micro-batch.

    The head runs inside ``forward`` on completion positions only and in tiles, so that the (tokens, vocabulary) logits
    never exist, and so that a sharded root gathers the head's weight with its other parameters.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        self.causal_lm = causal_lm

    def forward(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Return ``(logprobs, entropy)`` of ``batch.targets``, each (N,), float32.

        ``logprobs`` is that of softmax(logits / temperature); the entropy carries no gradient.
        """
        hidden = self.causal_lm.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        head = self.causal_lm.get_output_embeddings()
        return selected_logprobs(
            hidden[batch.row, batch.position],
            cast(Tensor, head.weight),
            batch.targets,
            temperature=temperature,
            bias=cast(Tensor | None, getattr(head, "bias", None)),
        )
