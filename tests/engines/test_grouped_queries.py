"""Attention without copied keys gives the bits of transformers' own, where and only where it is used."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lit_tpgrpo.engines.grouped_queries import NAME, grouped_query_attention, shared_key_heads


def small_model(key_heads: int = 2, attention: str = "sdpa") -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        intermediate_size=64,
        attn_implementation=attention,
    )
    return Qwen2ForCausalLM(config).eval()


class Layer(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_the_same_bits_as_transformers(queries: int, masked: bool):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 6, queries, 32, generator=generator)
    key, value = (torch.randn(2, 2, 7, 32, generator=generator) for _ in range(2))
    mask = torch.ones(2, 1, queries, 7, dtype=torch.bool).tril(7 - queries) if masked else None
    if mask is not None:
        mask[1, :, :, :2] = False
        mask[1, :, :2, 0] = True  # a row of a padding token attends to itself at least
    expected, _ = sdpa_attention_forward(Layer(), query, key, value, mask, scaling=0.2)
    got, weights = grouped_query_attention(Layer(), query, key, value, mask, scaling=0.2)
    assert weights is None
    assert torch.equal(got, expected)


def test_sampling_with_padding_gives_the_same_tokens_and_restores_the_model():
    model = small_model()
    ids = torch.randint(1, 64, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0

    def logits() -> tuple[torch.Tensor, ...]:
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return out.logits

    before = logits()
    with shared_key_heads(model):
        assert model.config._attn_implementation == NAME
        within = logits()
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(a, b) for a, b in zip(before, within, strict=True))


def test_an_error_restores_the_model():
    model = small_model()
    with pytest.raises(RuntimeError, match="interrupted"), shared_key_heads(model):
        raise RuntimeError("interrupted")
    assert model.config._attn_implementation == "sdpa"


def test_other_attention_stays():
    model = small_model(attention="eager")
    with shared_key_heads(model):
        assert model.config._attn_implementation == "eager"
