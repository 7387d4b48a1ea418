"""Models whose configs have dropout are scored and trained without it, as they are sampled."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.training.building import build_policy
from lit_tpgrpo.training.dropout import turn_off_dropout
from lit_tpgrpo.training.model_source import GivenModel

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5
    ),
    "opt": OPTConfig(
        **SIZES,
        ffn_dim=32,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        dropout=0.5,
        attention_dropout=0.5,
        layerdrop=0.5,
    ),
    "llama": LlamaConfig(**SIZES, attention_dropout=0.5),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, attention_dropout=0.5),
    "phi": PhiConfig(**SIZES, resid_pdrop=0.5, embd_pdrop=0.5, attention_dropout=0.5),
    "gpt_neox": GPTNeoXConfig(**SIZES, attention_dropout=0.5, hidden_dropout=0.5),
    "bloom": BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2, attention_dropout=0.5, hidden_dropout=0.5),
}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(1, 13)[None]).logits


@pytest.mark.parametrize(
    ("family", "implementation"), [(f, i) for f in CONFIGS for i in ("sdpa", "eager") if (f, i) != ("bloom", "sdpa")]
)
def test_training_mode_computes_what_evaluation_mode_does(family: str, implementation: str):
    torch.manual_seed(0)
    config: PreTrainedConfig = CONFIGS[family]
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    expected = logits(model.eval())
    model.train()
    assert not torch.equal(logits(model), expected)  # there is dropout to turn off
    before = config.to_dict()
    turn_off_dropout(model)
    assert all(torch.equal(logits(model), expected) for _ in range(3))
    assert model.training
    assert model.config.to_dict() == before


def test_scores_of_a_policy_with_dropout_are_those_of_the_engine(random_model):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"])
    expected = logits(model.eval())
    policy, _ = build_policy(
        GivenModel("given", load_tokenizer(random_model), model, None), None, gradient_checkpointing=True
    )
    assert policy.training
    assert torch.equal(logits(policy.causal_lm), expected)
