"""The tiny Qwen2 policy: its architecture, and the path of the warm-started weights in the package."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

MAX_LENGTH = 4096


def tiny_policy_path() -> Path:
    """Return the folder of the packaged warm-started model and tokenizer, for ``from_pretrained``."""
    return Path(__file__).parent / "assets" / "tiny-qwen2"


def erring_policy_path() -> Path:
    """Return the folder of the packaged policy that errs and corrects itself (``erring_warmstart``)."""
    return Path(__file__).parent / "assets" / "tiny-erring"


def tiny_config(
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 4,
    key_value_heads: int = 2,
    intermediate_size: int = 320,
) -> Qwen2Config:
    """Return the config of the packaged model. Heads of 32 channels are the smallest that all vLLM backends support."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        eos_token_id=cast(int, tokenizer.eos_token_id),
        pad_token_id=cast(int, tokenizer.pad_token_id),
        bos_token_id=None,
        dtype=torch.float32,
    )


def random_policy(config: Qwen2Config, seed: int) -> Qwen2ForCausalLM:
    """Build the model with random weights; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)
