"""Truncated importance weights against hand-worked numbers, a naive reference, TRL's four modes and cut distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_tpgrpo.functional.corrections import CORRECTIONS, importance_weights, truncation_sums

LOGS = st.lists(st.tuples(st.floats(-30, 0, width=32), st.floats(-30, 0, width=32)), min_size=1, max_size=12)


def sample(*ratios: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs by the trainer and by the engine of tokens with these ratios."""
    engine = -1.0 - torch.arange(len(ratios), dtype=torch.float32)
    return engine + torch.tensor(ratios).log(), engine


@pytest.mark.parametrize(
    ("method", "cap", "floor", "expected"),
    [
        # ratios 1/2, 1, 4; geometric mean 2^(1/3) = 1.259921, product 2
        ("token_truncate", 3.0, 0.0, [0.5, 1.0, 3.0]),
        ("token_truncate", 3.0, 0.8, [0.8, 1.0, 3.0]),
        ("token_mask", 3.0, 0.0, [0.5, 1.0, 0.0]),
        ("token_mask", 5.0, 0.8, [0.0, 1.0, 4.0]),
        ("sequence_truncate", 3.0, 0.0, [1.259921] * 3),
        ("sequence_truncate", 1.1, 0.0, [1.1] * 3),
        ("sequence_mask", 3.0, 0.0, [1.259921] * 3),
        ("sequence_mask", 1.1, 0.0, [0.0] * 3),
        ("product_truncate", 3.0, 0.0, [2.0] * 3),
        ("product_truncate", 1.5, 0.0, [1.5] * 3),
        ("product_mask", 3.0, 0.0, [2.0] * 3),
        ("product_mask", 1.5, 0.0, [0.0] * 3),
    ],
)
def test_by_hand(method, cap, floor, expected):
    found = importance_weights(*sample(0.5, 1.0, 4.0), method, cap, floor)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sequence_truncate", [0.8] * 3),
        ("sequence_mask", [0.0] * 3),
        ("product_truncate", [0.8] * 3),
        ("product_mask", [0.0] * 3),
    ],
)
def test_a_sequence_under_the_floor_is_raised_or_dropped_as_a_whole(method, expected):
    # ratios 1/2, 1/4, 1: geometric mean 1/2, product 1/8
    found = importance_weights(*sample(0.5, 0.25, 1.0), method, 3.0, 0.8)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("gap", [0.001, -0.001])
@pytest.mark.parametrize("method", ["sequence_truncate", "sequence_mask"])
def test_a_sequences_weight_does_not_grow_with_its_length(method, gap):
    """The product of 8,192 ratios e^0.001 is e^8.2: dropped, and the one of e^-0.001 weighs 3e-4."""
    engine = torch.full((8192,), -1.0)
    torch.testing.assert_close(
        importance_weights(engine + gap, engine, method, 2.0), torch.full((8192,), math.exp(gap)), rtol=1e-6, atol=0
    )


def naive(pairs, method, cap, floor):
    """TRL 1.16, ``vllm_importance_sampling_mode`` (its sequence_* are our product_*) with ``clip_max`` and ``clip_min``, and
    the geometric mean, in plain Python."""
    logs = [min(a - b, 80) for a, b in pairs]
    if method.startswith("product"):
        logs = [min(sum(logs), 80)] * len(logs)
    if method.startswith("sequence"):
        logs = [sum(logs) / len(logs)] * len(logs)
    ratios = [math.exp(log) for log in logs]
    if method.endswith("truncate"):
        return [max(min(r, cap), floor) for r in ratios]
    return [r if floor <= r <= cap else 0.0 for r in ratios]


@pytest.mark.parametrize("method", CORRECTIONS)
@given(pairs=LOGS, cap=st.floats(1, 10), floor=st.floats(0, 1))
def test_against_the_definition(method, pairs, cap, floor):
    trainer, engine = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = importance_weights(trainer, engine, method, cap, floor)
    expected = torch.tensor(naive(pairs, method, cap, floor))
    free = torch.tensor(naive(pairs, method.replace("mask", "truncate"), math.inf, 0.0))
    # Where rounding decides on which side of a mask's bounds it is.
    at_a_bound = ((free - cap).abs() < 1e-3 * cap) | ((free - floor).abs() < 1e-3)
    torch.testing.assert_close(found[~at_a_bound], expected[~at_a_bound], rtol=1e-3, atol=1e-5)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert (found <= cap * (1 + 1e-6)).all()


# --- top_p and top_k -------------------------------------------------------------------------------------------------


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The distribution that ``top_p`` leaves: the fewest likeliest tokens that reach it."""
    p = logits.softmax(0)
    order = p.argsort(descending=True)
    kept = order[: int((p[order].cumsum(0) < top_p).sum()) + 1]
    cut = torch.zeros_like(p)
    cut[kept] = p[kept] / p[kept].sum()
    return cut


def test_the_kept_mass_of_top_p_is_no_weight():
    """Of four tokens top_p 0.9 keeps three with 0.95 of the mass; in another place, where one has 0.97, that one."""
    flat, peaked = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    assert nucleus(flat, 0.9).tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0])
    tokens = [0, 2, 0]  # drawn in the first place twice, in the other once
    trainer = torch.stack([flat[0], flat[2], peaked[0]])
    engine = torch.stack([nucleus(x, 0.9)[t].log() for x, t in zip((flat, flat, peaked), tokens, strict=True)])
    raw = importance_weights(trainer, engine, "token_truncate", 2.0)
    torch.testing.assert_close(raw, torch.tensor([0.95, 0.95, 0.97]))  # all gradients shrink
    total, count = truncation_sums(trainer, engine, 2.0)
    assert (total, count) == (pytest.approx(2.87), 3)
    mass = total / count
    weights = importance_weights(trainer, engine, "token_truncate", 2.0, kept_mass=mass)
    torch.testing.assert_close(weights, torch.tensor([2.85 / 2.87, 2.85 / 2.87, 2.91 / 2.87]))
    assert weights.mean().item() == pytest.approx(1.0)
    sequence = importance_weights(trainer, engine, "sequence_mask", 2.0, kept_mass=mass)
    torch.testing.assert_close(sequence, torch.full((3,), (0.95 * 0.95 * 0.97) ** (1 / 3) / mass))


def test_with_top_p_the_gradient_is_the_one_of_what_was_sampled_from():
    """Exact expectation over the four tokens: reward 1 for the second one."""
    theta = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().requires_grad_()
    mu, reward = nucleus(theta.detach(), 0.9), torch.tensor([0.0, 1.0, 0.0, 0.0])
    kept = mu > 0
    trainer, engine = theta.detach().log_softmax(0)[kept], mu[kept].log()

    def gradient(weights: torch.Tensor) -> torch.Tensor:
        expected = (mu[kept] * weights * (reward - (mu * reward).sum())[kept] * theta.log_softmax(0)[kept]).sum()
        return torch.autograd.grad(expected, theta)[0]

    total, count = truncation_sums(trainer, engine, 2.0)
    normalised = importance_weights(trainer, engine, "token_truncate", 2.0, kept_mass=total / count)
    torch.testing.assert_close(gradient(normalised), gradient(torch.ones(3)))
    shrunk = gradient(importance_weights(trainer, engine, "token_truncate", 2.0))
    torch.testing.assert_close(shrunk, 0.95 * gradient(torch.ones(3)))


def test_one_ratio_without_bound_does_not_push_down_all_others():
    trainer, engine = sample(1.0, 1.0, 1e20)
    assert truncation_sums(trainer, engine, 2.0) == (pytest.approx(4.0), 3)
    assert truncation_sums(torch.tensor([-torch.inf]), torch.tensor([-1.0]), 2.0) == (0.0, 1)


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
