"""Truncated importance weights against hand-worked numbers, a naive reference and TRL's four modes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional.corrections import CORRECTIONS, importance_weights

LOGS = st.lists(st.tuples(st.floats(-30, 0, width=32), st.floats(-30, 0, width=32)), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # ratios 1/2, 1, 4; product 2
        ("token_truncate", [0.5, 1.0, 3.0]),
        ("token_mask", [0.5, 1.0, 0.0]),
        ("sequence_truncate", [2.0, 2.0, 2.0]),
        ("sequence_mask", [2.0, 2.0, 2.0]),
    ],
)
def test_by_hand(method, expected):
    engine = torch.tensor([-1.0, -2.0, -3.0])
    trainer = engine + torch.tensor([0.5, 1.0, 4.0]).log()
    torch.testing.assert_close(importance_weights(trainer, engine, method, 3.0), torch.tensor(expected))


@pytest.mark.parametrize(("method", "expected"), [("sequence_truncate", 1.5), ("sequence_mask", 0.0)])
def test_a_sequence_over_the_cap_is_cut_or_dropped_as_a_whole(method, expected):
    engine = torch.tensor([-1.0, -2.0, -3.0])
    trainer = engine + torch.tensor([0.5, 1.0, 4.0]).log()
    torch.testing.assert_close(importance_weights(trainer, engine, method, 1.5), torch.full((3,), expected))


def naive(pairs, method, cap):
    """TRL 1.16, ``vllm_importance_sampling_mode`` with ``clip_max``, in plain Python."""
    ratios = [math.exp(min(a - b, 80)) for a, b in pairs]
    if method.startswith("sequence"):
        ratios = [math.exp(min(sum(a - b for a, b in pairs), 80))] * len(pairs)
    return [min(r, cap) if method.endswith("truncate") else (r if r <= cap else 0.0) for r in ratios]


@pytest.mark.parametrize("method", CORRECTIONS)
@given(pairs=LOGS, cap=st.floats(1, 10))
def test_against_the_definition(method, pairs, cap):
    trainer, engine = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = importance_weights(trainer, engine, method, cap)
    expected = torch.tensor(naive(pairs, method, cap))
    free = torch.tensor(naive(pairs, method.replace("mask", "truncate"), math.inf))
    at_the_cap = (free - cap).abs() < 1e-3 * cap  # where rounding decides which side of a mask it is
    torch.testing.assert_close(found[~at_the_cap], expected[~at_the_cap], rtol=1e-3, atol=1e-5)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert (found <= cap * (1 + 1e-6)).all()


@pytest.mark.parametrize("method", CORRECTIONS)
def test_an_exact_engine_weighs_1_and_no_gradient_flows(method):
    logprobs = torch.tensor([-1.0, -0.5], requires_grad=True)
    weights = importance_weights(logprobs, logprobs.detach(), method, 2.0)
    assert weights.tolist() == [1.0, 1.0]
    assert not weights.requires_grad


def test_an_impossible_token_of_the_trainers_weighs_nothing():
    assert importance_weights(torch.tensor([-torch.inf]), torch.tensor([-1.0]), "token_truncate", 2.0).item() == 0.0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(T,\) each, got \(2,\) and \(3,\)"):
        importance_weights(torch.zeros(2), torch.zeros(3), "token_mask", 2.0)
