"""Finished rows leave the batch: what is sampled stays the same, and each step is computed for the rows that need it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.cache_utils import DynamicLayer

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.row_cache import SPARE, GrowingLayer, RowCache
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import StopReason

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"note": {"type": "string", "maxLength": 30}},
        "required": ["note"],
        "additionalProperties": False,
    }
)


class Countdown:
    """A model after whose token n comes n - 1, so that a prompt that ends with n gets n tokens with 0 as the end.

    ``forwards`` holds the number of rows of each forward pass.
    """

    def __init__(self, folder: str) -> None:
        self.forwards: list[int] = []
        tokenizer = load_tokenizer(folder)
        self.model = load_causal_lm(folder, False, torch.float32, "sdpa").eval()
        self.model.generation_config.eos_token_id = None
        self.model.register_forward_hook(self._count, with_kwargs=True)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
        self.engine = HFEngine()
        self.engine.load_weights(LoadedModel(self.model, tokenizer))

    def _count(self, module: object, args: object, kwargs: dict, output):
        ids = kwargs["input_ids"][:, -1:]
        self.forwards.append(len(ids))
        output.logits = torch.zeros_like(output.logits[:, -1]).scatter(1, (ids - 1).clamp(min=0), 1000.0).unsqueeze(1)
        return output

    def sample(self, prompts: Sequence[Sequence[int]], max_new_tokens: int = 20) -> list[Completion]:
        self.forwards.clear()
        done = dict(self.engine.sample(prompts, 1, SamplingParams(max_new_tokens), range(len(prompts))))
        return [done[i][0] for i in range(len(prompts))]


@pytest.fixture(scope="module")
def countdown(random_model: str) -> Countdown:
    return Countdown(random_model)


@pytest.fixture(scope="module")
def exact(random_model: str) -> LoadedModel:
    """A policy in float64, whose tokens do not depend on rounding."""
    return LoadedModel(load_causal_lm(random_model, False, torch.float64, "sdpa").eval(), load_tokenizer(random_model))


@pytest.mark.parametrize(
    ("lengths", "forwards"),
    [
        ([3], [1, 1, 1]),
        ([2, 2, 2, 2], [4, 4]),  # all at once
        ([1, 3, 3, 3], [4, 3, 3]),  # the first one first
        ([3, 3, 3, 1], [4, 3, 3]),  # the last one first
        ([2, 2, 6, 2], [4, 4, 1, 1, 1, 1]),  # one is long
        ([1, 2, 2, 2, 2, 2, 2, 5], [8, 8, 1, 1, 1]),  # one of eight is too few to copy the cache of seven
        ([1, 2, 3, 4, 5], [5, 5, 3, 2, 1]),  # two of five, then one of three, then one of two
    ],
    ids=str,
)
def test_a_step_is_computed_for_the_rows_that_need_it(countdown: Countdown, lengths, forwards):
    completions = countdown.sample([[n] for n in lengths])
    assert [tuple(c.token_ids) for c in completions] == [tuple(range(n - 1, -1, -1)) for n in lengths]
    assert all(
        c.stop is StopReason.EOS and tuple(c.logprobs) == (0.0,) * n for c, n in zip(completions, lengths, strict=True)
    )
    assert countdown.forwards == forwards


def test_rows_that_reach_the_most_tokens_end_together(countdown: Countdown):
    completions = countdown.sample([[9], [1], [4], [2, 7]], max_new_tokens=4)
    assert [tuple(c.token_ids) for c in completions] == [(8, 7, 6, 5), (0,), (3, 2, 1, 0), (6, 5, 4, 3)]
    assert [c.stop.name for c in completions] == ["LENGTH", "EOS", "EOS", "LENGTH"]
    assert countdown.forwards == [4, 3, 3, 3]


def test_without_prompts_nothing_is_computed(countdown: Countdown):
    assert countdown.sample([]) == []
    assert countdown.forwards == []


def rows(policy: LoadedModel, prompts, n: int, params: SamplingParams, batch_size: int = 128):
    engine = HFEngine(batch_size)
    engine.load_weights(policy)
    return dict(engine.sample(prompts, n, params, [100 * i for i in range(len(prompts))]))


def agree(one, other, tolerance: float = 1e-6) -> None:
    """Tokens and stop reasons are the same, and log-probs up to the tolerance: they are taken in float32, also of float64."""
    assert one.keys() == other.keys()
    for i in one:
        for a, b in zip(one[i], other[i], strict=True):
            assert (a.token_ids.tolist(), a.stop) == (b.token_ids.tolist(), b.stop)
            assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


@settings(max_examples=12)
@given(data=st.data())
def test_a_row_is_sampled_as_if_it_were_alone(exact: LoadedModel, data: st.DataObject):
    prompts = data.draw(st.lists(st.lists(st.integers(5, 60), min_size=1, max_size=9), min_size=1, max_size=5))
    params = SamplingParams(
        max_new_tokens=data.draw(st.integers(1, 25)),
        temperature=data.draw(st.sampled_from([0.0, 0.7, 1.0])),
        top_p=data.draw(st.sampled_from([0.9, 1.0])),
        # From rows that hardly end to rows that end after three tokens.
        stop_ids=tuple(range(5, 5 + data.draw(st.sampled_from([0, 20, 60, 150])))),
        stop=data.draw(st.sampled_from([(), ("1",), ("12", "e")])),
    )
    agree(rows(exact, prompts, 3, params), rows(exact, prompts, 3, params, batch_size=1))


@pytest.mark.parametrize("params", [SamplingParams(60, json_schema=SCHEMA), SamplingParams(90, stop=("7",))], ids=str)
def test_rows_with_a_schema_or_stop_strings_leave_too(
    exact: LoadedModel, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
):
    prompts = [[5, 6, 7], [8, 9, 10, 11], [3]]
    left = rows(exact, prompts, 4, params)
    assert len({len(c.token_ids) for completions in left.values() for c in completions}) > 3
    monkeypatch.setattr(RowCache, "of", lambda model: None)
    agree(left, rows(exact, prompts, 4, params))


SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "eos_token_id": None,
}
MODELS = {
    "eager": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")),
    "sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
    "sliding and full": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "without keys": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=8, eos_token_id=None)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_with_other_attention_and_other_caches(kind: str, random_model: str):
    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[kind]().eval()
    policy = LoadedModel(model, load_tokenizer(random_model))
    params = SamplingParams(30, stop_ids=tuple(range(30)))
    prompts = [[35, 36, 37], [38, 39, 40, 41, 42, 43, 44, 45, 46], [33]]
    if (
        kind == "without keys"
    ):  # it does not mask the padding, so that only prompts of one length do not disturb each other
        prompts = [prompt[:1] for prompt in prompts]
    agree(rows(policy, prompts, 4, params), rows(policy, prompts, 4, params, batch_size=1), tolerance=2e-5)


@settings(max_examples=25)
@given(steps=st.lists(st.one_of(st.integers(1, SPARE + 9), st.lists(st.integers(0, 2), min_size=1, max_size=3))))
def test_a_growing_layer_holds_what_transformers_holds(steps: list[int | list[int]]):
    """A number appends that many columns, a list keeps these rows."""
    ours, theirs, count = GrowingLayer(), DynamicLayer(), 3
    generator = torch.Generator().manual_seed(0)
    for step in steps:
        if isinstance(step, int):
            new = [torch.randn(count, 2, step, 4, generator=generator) for _ in range(2)]
            for got, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
                assert torch.equal(got, expected)
        elif theirs.get_seq_length():
            kept = cast(torch.LongTensor, torch.tensor([row % count for row in step]))
            count = len(kept)
            ours.reorder_cache(kept)
            theirs.reorder_cache(kept)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_growing_layer_copies_once_in_many_tokens():
    layer = GrowingLayer()
    state = torch.zeros(2, 1, 1, 4)
    keys = [layer.update(state, state)[0] for _ in range(3 * SPARE)]  # all held, so that no memory is used again
    assert len({k.data_ptr() for k in keys}) == 3
