"""Parity with TRL 1.16 of the losses that are not the clipped surrogate: value, gradient, metrics, on the same log-probs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lit_tpgrpo.losses import CISPO, GSPO, SAPO, VESPO, DualClip, TokenLoss
from tests.losses.trl_reference import our_loss, random_step, trl_loss

SEQUENCE = {"importance_sampling_level": "sequence"}
CASES: list[Any] = [
    pytest.param(DualClip(0.2, 0.28, 1.5), kind, norm, {"delta": 1.5, "epsilon_high": 0.28}, id=f"delta-{kind}")
    for kind, norm in (
        ("grpo", "sequence"),
        ("bnpo", "token"),
        ("dapo", "token"),
        ("dr_grpo", "constant"),
        ("luspo", "sequence_sum"),
    )
]
CASES += [
    pytest.param(GSPO(0.1, 0.15), kind, norm, SEQUENCE | {"epsilon_low": 0.1, "epsilon_high": 0.15}, id=f"gspo-{kind}")
    for kind, norm in (
        ("grpo", "sequence"),
        ("bnpo", "token"),
        ("dapo", "token"),
        ("dr_grpo", "constant"),
        ("luspo", "sequence_sum"),
    )
]
CASES += [
    pytest.param(CISPO(cap=1.3), "cispo", "token", {"epsilon_high": 1.3}, id="cispo"),
    pytest.param(SAPO(), "sapo", "sequence", {}, id="sapo"),
    pytest.param(
        SAPO(0.5, 2.0), "sapo", "sequence", {"sapo_temperature_pos": 0.5, "sapo_temperature_neg": 2.0}, id="sapo2"
    ),
    pytest.param(VESPO(), "vespo", "token", {}, id="vespo"),
    pytest.param(
        VESPO(1.0, 0.5, 2.0, 3.0),
        "vespo",
        "token",
        dict(
            zip(
                ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
                (1.0, 0.5, 2.0, 3.0),
                strict=True,
            )
        ),
        id="vespo2",
    ),
]


def with_kl(loss: TokenLoss, beta: float, estimator: str) -> TokenLoss:
    return replace(loss, kl_beta=beta, kl_estimator=estimator)  # pyright: ignore


def assert_equal(got: Any, want: Any) -> None:
    torch.testing.assert_close(got[0], want[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got[1], want[1], rtol=1e-6, atol=1e-6)
    assert want[1].abs().max() > 1e-3


@pytest.mark.parametrize(("loss", "kind", "normalisation", "settings"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_equal_trls(loss, kind, normalisation, settings, seed):
    data = random_step(seed)
    assert_equal(our_loss(loss, data, normalisation), trl_loss(data, kind, **settings))


@pytest.mark.parametrize(("loss", "kind", "normalisation", "settings"), CASES)
def test_with_kl_and_importance_weights(loss, kind, normalisation, settings):
    data = random_step(2)
    weights = torch.where(
        data["mask"], torch.rand(data["mask"].shape, generator=torch.Generator().manual_seed(1)) * 2, 1.0
    )
    # At the sequence level TRL's unbiased KL is multiplied by the sequence's ratio: compared without.
    unbiased = "importance_sampling_level" not in settings
    ours = with_kl(loss, 0.04, "k3_unbiased" if unbiased else "k3")
    got = our_loss(ours, data, normalisation, importance_weights=weights)
    want = trl_loss(data, kind, weights, beta=0.04, use_bias_correction_kl=unbiased, **settings)
    assert_equal(got, want)
    assert got[2]["kl_ref"] == pytest.approx(want[2]["kl"], abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "kind", "normalisation", "settings"),
    [
        (with_kl(GSPO(0.1, 0.15), 0.04, "k3_unbiased"), "grpo", "sequence", {"epsilon_low": 0.1, "epsilon_high": 0.15}),
        (SAPO(), "sapo", "sequence", {}),
        (CISPO(cap=1.3), "cispo", "token", {"epsilon_high": 1.3}),
        (DualClip(0.2, 0.28, 1.5), "grpo", "sequence", {"delta": 1.5, "epsilon_high": 0.28}),
    ],
    ids=["gspo-unbiased", "sapo", "cispo", "delta"],
)
def test_what_the_docs_say_is_not_equal_at_the_sequence_level(loss, kind, normalisation, settings):
    """docs/losses.md, Parity. TRL's unbiased KL has the sequence's ratio there; the others have no form of ours."""
    data = random_step(0)
    beta = {"beta": 0.04} if loss.kl_beta else {}
    got, want = our_loss(loss, data, normalisation), trl_loss(data, kind, **SEQUENCE, **settings, **beta)
    assert (got[1] - want[1]).abs().max() > 5e-4


def test_vespos_policy_term_does_not_read_the_level():
    data = random_step(0)
    assert_equal(our_loss(VESPO(), data, "token"), trl_loss(data, "vespo", **SEQUENCE))


def test_a_masked_token_drops_its_sequence_from_vespo_as_in_trl():
    data = random_step(4)
    weights = torch.ones(data["mask"].shape)
    weights[0, 2] = 0.0
    got, want = our_loss(VESPO(), data, "token", importance_weights=weights), trl_loss(data, "vespo", weights)
    assert_equal(got, want)
    assert got[1][0].abs().max() < 1e-9
    assert got[1][1].abs().max() > 1e-3


def test_marks_equal_trls():
    data = random_step(1)
    got, want = our_loss(CISPO(cap=1.3), data, "token")[2], trl_loss(data, "cispo", epsilon_high=1.3)[2]
    up = data["advantages"].unsqueeze(1) > 0  # TRL counts tokens with a positive advantage alone, but caps all
    share = (((data["logprobs"] - data["old_logprobs"]).exp() > 1.3) & up & data["mask"]).sum() / data["mask"].sum()
    assert want["cispo_clip_ratio"] == pytest.approx(share.item())
    assert got["capped"] >= want["cispo_clip_ratio"] > 0
    got, want = our_loss(DualClip(0.2, 0.28, 1.5), data, "token"), trl_loss(data, "dapo", delta=1.5, epsilon_high=0.28)
    assert got[2]["clipped_low"] == pytest.approx(want[2]["clip_ratio/low_mean"])
    assert got[2]["clipped_high"] == pytest.approx(want[2]["clip_ratio/high_mean"])
    assert got[2]["clipped_dual"] > 0
