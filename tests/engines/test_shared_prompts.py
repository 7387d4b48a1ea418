"""The keys and values of a prompt are computed once for all its samples; that samples stay the same: ``test_live_rows``."""

from __future__ import annotations

import pytest
import torch

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.row_cache import RowCache
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer

LONG, SHORT = [5, 6, 7, 8, 9, 10], [11, 12]


@pytest.mark.parametrize(
    ("prompts", "n", "expected"),
    [
        ([LONG], 4, [(1, 5), (4, 1), (4, 1)]),  # all but its last token once
        ([LONG, SHORT], 3, [(2, 5), (6, 1), (6, 1)]),
        ([LONG, SHORT, LONG], 1, [(2, 5), (3, 1), (3, 1)]),  # equal prompts count as one
        ([LONG, SHORT], 1, [(2, 6), (2, 1)]),  # nothing occurs twice
        ([[5]], 4, [(4, 1), (4, 1)]),  # nothing before the last token
    ],
    ids=str,
)
def test_each_prompt_is_forwarded_once(random_model: str, prompts, n, expected):
    model = load_causal_lm(random_model, False, torch.float32, "sdpa").eval()
    shapes: list[tuple[int, ...]] = []
    model.register_forward_hook(
        lambda m, args, kwargs, out: shapes.append((*kwargs["input_ids"].shape,)), with_kwargs=True
    )
    engine = HFEngine()
    engine.load_weights(LoadedModel(model, load_tokenizer(random_model)))
    list(engine.sample(prompts, n, SamplingParams(max_new_tokens=2, temperature=0.0), range(len(prompts))))
    assert shapes == expected


def test_a_cache_of_another_kind_is_left_alone(random_model: str, monkeypatch: pytest.MonkeyPatch):
    """A layer whose state is no keys and values cannot be filled token by token before its padding is known."""
    model = load_causal_lm(random_model, False, torch.float32, "sdpa").eval()
    monkeypatch.setattr("lit_tpgrpo.engines.shared_prompts.DynamicLayer", RowCache)  # so that no layer is one
    shapes: list[tuple[int, ...]] = []
    model.register_forward_hook(
        lambda m, args, kwargs, out: shapes.append((*kwargs["input_ids"].shape,)), with_kwargs=True
    )
    engine = HFEngine()
    engine.load_weights(LoadedModel(model, load_tokenizer(random_model)))
    list(engine.sample([LONG], 2, SamplingParams(max_new_tokens=2, temperature=0.0), [0]))
    assert shapes == [(2, 6), (2, 1)]
