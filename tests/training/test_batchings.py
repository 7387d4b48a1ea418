"""Packed, padded, masked and one-by-one passes have the same log-probs and gradients, and a model gets what is right for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.training.batching_choice import BatchingName, choose_batching, is_causal, keeps_apart
from lit_tpgrpo.training.microbatches import MicroBatching
from lit_tpgrpo.training.packing import Packed, PackedByPositions
from lit_tpgrpo.training.padding import Masked, Padded
from lit_tpgrpo.training.policy import PolicyModel
from tests.test_module import fit, make_batch, sgd, weights

CPU = torch.device("cpu")
SIZE: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}


def qwen2(attention: str = "sdpa", **settings) -> PolicyModel:
    config = Qwen2Config(**SIZE, intermediate_size=24, num_key_value_heads=2, initializer_range=0.3, **settings)
    return policy_of(Qwen2ForCausalLM, config, attention)


def gpt2(attention: str = "sdpa") -> PolicyModel:
    """Its positions are learnt, not rotations that a shift leaves as they are; and it computes nothing in float32 by itself."""
    config = GPT2Config(vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3)
    return policy_of(GPT2LMHeadModel, config, attention)


def neox() -> PolicyModel:
    """Rotations, and nothing in float32 either."""
    return policy_of(GPTNeoXForCausalLM, GPTNeoXConfig(**SIZE, intermediate_size=24, initializer_range=0.3))


def bert() -> PolicyModel:
    """It reads in both directions: padding is seen by what is on its left."""
    return policy_of(BertLMHeadModel, BertConfig(**SIZE, intermediate_size=24, initializer_range=0.3, is_decoder=False))


def policy_of(model: type[PreTrainedModel], config, attention: str = "sdpa") -> PolicyModel:
    torch.manual_seed(0)
    return PolicyModel(model._from_config(config, attn_implementation=attention)).eval()


def sequences_of(dtype: torch.dtype) -> list[TrainingSequence]:
    """Two groups with their prompts, one of three solutions, and a solution of its own; lengths from 1."""
    generator = torch.Generator().manual_seed(1)

    def tokens(n: int) -> torch.Tensor:
        return torch.randint(0, 40, (n,), generator=generator)

    prompts = [tokens(5), tokens(1), tokens(3)]
    shapes = [(0, 7), (0, 1), (1, 4), (0, 11), (2, 6), (1, 9)]
    return [
        TrainingSequence(
            prompts[p], tokens(n), torch.zeros(n, dtype=dtype), torch.randn(n, dtype=dtype, generator=generator)
        )
        for p, n in shapes
    ]


def passes(policy: PolicyModel, batching: MicroBatching, sequences: Sequence[TrainingSequence], budget: int):
    """Return each sequence's log-probs, and the gradient of their sum weighted by advantages."""
    policy.zero_grad()
    found = {}
    with batching.ready([policy.causal_lm]):
        for rows in batching.slices(sequences, budget):
            micro = batching.collate([sequences[i] for i in rows])
            logprobs, _ = policy(micro, 0.9)
            (logprobs * micro.advantages).sum().backward()
            found |= zip(rows, logprobs.detach().split(micro.lengths.tolist()), strict=True)
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return torch.cat([found[i] for i in range(len(sequences))]), gradient


def plain_autograd(policy: PolicyModel, sequences: Sequence[TrainingSequence]):
    """One sequence at a time, through the model's own logits."""
    policy.zero_grad()
    found = []
    for s in sequences:
        logits = policy.causal_lm(torch.cat((s.prompt_ids, s.completion_ids))[None]).logits[
            0, len(s.prompt_ids) - 1 : -1
        ]
        found.append((logits / 0.9).log_softmax(-1).gather(1, s.completion_ids[:, None])[:, 0])
        (found[-1] * s.advantages).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return torch.cat(found).detach(), gradient


ALL = {"padded": Padded(0), "masked": Masked(0), "packed": Packed(), "positions": PackedByPositions()}


@pytest.mark.parametrize("budget", [1, 24, 1000])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("make", "dtype", "tolerance"),
    [
        (qwen2, torch.float32, 1e-6),
        (lambda: qwen2("eager"), torch.float32, 1e-6),
        (gpt2, torch.float64, 1e-12),
        (lambda: gpt2("eager"), torch.float64, 1e-12),
        (neox, torch.float64, 1e-12),
    ],
    ids=["qwen2", "qwen2-eager", "gpt2", "gpt2-eager", "neox"],
)
def test_all_batchings_have_the_logprobs_and_gradients_of_one_sequence_at_a_time(make, dtype, tolerance, name, budget):
    batching = ALL[name]
    policy, sequences = make().to(dtype), sequences_of(dtype)
    expected, expected_gradient = plain_autograd(policy, sequences)
    found, gradient = passes(policy, batching, sequences, budget)
    scale = float(expected.abs().max())
    assert scale > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
    assert float((gradient - expected_gradient).norm()) < tolerance * float(expected_gradient.norm())


def test_no_mask_reaches_the_attention_of_padded_and_packed_batches(monkeypatch):
    """A mask would keep torch from its causal kernel."""
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def recording(*args, attn_mask=None, is_causal=False, **kwargs):
        seen.append((attn_mask is None, is_causal))
        return real(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recording)
    monkeypatch.setattr("lit_tpgrpo.training.packed_attention.scaled_dot_product_attention", recording)
    policy, sequences = qwen2(), sequences_of(torch.float32)
    for batching, free in ((Padded(0), True), (Packed(), True), (Masked(0), False)):
        seen.clear()
        passes(policy, batching, sequences, 1000)
        assert set(seen) == {(free, free)}


def test_packing_is_undone_after_its_passes():
    policy = qwen2()
    with Packed().ready([policy.causal_lm]):
        assert policy.causal_lm.config._attn_implementation == "packed_sdpa"
    assert policy.causal_lm.config._attn_implementation == "sdpa"


def choose(policy: PolicyModel, name: BatchingName = "auto") -> MicroBatching:
    return choose_batching(name, policy, 7, CPU, lambda count: count)


def test_a_model_gets_a_mask_only_if_it_needs_one():
    assert choose(qwen2(), "padded") == choose(gpt2(), "padded") == Padded(7)
    assert choose(bert(), "padded") == choose(qwen2(), "masked") == choose(bert()) == Masked(7)
    assert type(choose(qwen2())) is Padded
    # What one rank finds is true of all.
    assert choose_batching("padded", qwen2(), 7, CPU, lambda _: 1) == Masked(7)


def test_the_trial_of_a_model_leaves_it_as_it_was():
    policy = qwen2(attention_dropout=0.5).train()
    before = torch.random.get_rng_state()
    assert is_causal(policy, CPU)
    assert keeps_apart(policy, Packed(), CPU)
    assert policy.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in policy.parameters())


def test_packing_takes_the_class_for_the_attention():
    assert choose(qwen2(), "packed") == choose(gpt2(), "packed") == Packed()
    assert choose(qwen2("eager"), "packed") == PackedByPositions()


def test_models_that_cannot_be_packed_are_refused():
    window = MistralConfig(**SIZE, intermediate_size=24, num_key_value_heads=2, sliding_window=8)
    with pytest.raises(ConfigError, match=r"MistralForCausalLM cannot be packed: .*window.* set it to padded"):
        choose(policy_of(MistralForCausalLM, window), "packed")
    mixed = qwen2(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ConfigError, match="layers of the kind sliding_attention"):
        choose(mixed, "packed")
    assert choose(mixed, "padded") == Padded(7)
    with pytest.raises(ConfigError, match="depend on what follows"):
        choose(bert(), "packed")


def test_a_model_whose_attention_does_not_heed_positions_is_refused():
    """transformers builds no mask for an attention that it does not know, and this one sees all that is on the left."""
    AttentionInterface.register("left_of_me", sdpa_attention_forward)
    policy = qwen2("left_of_me")
    assert is_causal(policy, CPU)
    with pytest.raises(ConfigError, match="what one sequence of a row says changes the log-probs of another"):
        choose(policy, "packed")


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}], ids=["plain", "recomputed"])
@pytest.mark.parametrize("batching", ["packed", "masked"])
def test_a_step_is_the_same_with_any_batching(random_model, tmp_path, batching, settings):
    """Two of the five solutions have a common prompt here."""
    batch = make_batch()
    first, second, *rest = batch.sequences
    batch = replace(batch, sequences=(first, replace(second, prompt_ids=first.prompt_ids), *rest))
    modules = [
        TPGRPOModule(random_model, optimizer=sgd, batching=name, max_grad_norm=None, **settings)
        for name in ("padded", batching)
    ]
    for module in modules:
        fit(module, [copy.deepcopy(batch)], tmp_path)
    torch.testing.assert_close(weights(modules[1]), weights(modules[0]), rtol=0, atol=2e-6)
    assert modules[1].policy_model.config._attn_implementation == "sdpa"
