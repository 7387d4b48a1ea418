"""Parity of the clipped surrogate with TRL, and what our texts say of TRL's defaults."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from lit_tpgrpo.losses import ClippedSurrogate
from tests.losses.trl_reference import our_loss, random_step, trl, trl_loss

ROOT = Path(__file__).parents[2]
# TRL's loss type, our normalisation
LOSS_TYPES = [
    ("grpo", "sequence"),
    ("bnpo", "token"),
    ("dapo", "token"),
    ("dr_grpo", "constant"),
    ("luspo", "sequence_sum"),
]


@pytest.mark.parametrize(("loss_type", "normalisation"), LOSS_TYPES)
@pytest.mark.parametrize(
    ("beta", "unbiased", "kl"), [(0.0, True, "k3"), (0.04, True, "k3_unbiased"), (0.04, False, "k3")]
)
@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.2, 0.28)])
def test_loss_gradient_and_metrics_equal_trls(loss_type, normalisation, beta, unbiased, kl, clips):
    data = random_step()
    low, high = clips
    settings = {"beta": beta, "epsilon_low": low, "epsilon_high": high, "use_bias_correction_kl": unbiased}
    want, want_grad, want_metrics = trl_loss(data, loss_type, **settings)
    got, got_grad, got_metrics = our_loss(ClippedSurrogate(low, high, beta, kl), data, normalisation)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(got_grad, want_grad, rtol=0, atol=1e-6)
    assert got_metrics["clipped_low"] == pytest.approx(want_metrics["clip_ratio/low_mean"], abs=1e-6)
    assert got_metrics["clipped_high"] == pytest.approx(want_metrics["clip_ratio/high_mean"], abs=1e-6)
    assert min(got_metrics["clipped_low"], got_metrics["clipped_high"]) > 0  # or the clip went untested
    if beta:
        assert got_metrics["kl_ref"] == pytest.approx(want_metrics["kl"], abs=1e-6)


def test_what_the_texts_call_trls_defaults_are_its_defaults():
    """``functional.kl``, ``functional.corrections`` and the losses name them."""
    defaults = {f.name: f.default for f in dataclasses.fields(trl.GRPOConfig)}
    assert defaults["use_bias_correction_kl"] is True
    assert defaults["vllm_importance_sampling_correction"] is True
    assert defaults["vllm_importance_sampling_mode"] == "sequence_mask"
    assert defaults["vllm_importance_sampling_clip_max"] == 3.0
    assert defaults["vllm_importance_sampling_clip_min"] is None
    mis = yaml.safe_load((ROOT / "configs" / "loss" / "mis.yaml").read_text())["data"]["init_args"]["correction"]
    cap = defaults["vllm_importance_sampling_clip_max"]
    assert mis == {"method": "product_mask", "cap": cap}  # TRL's "sequence" is the product
    assert defaults["delta"] is None
    assert (defaults["sapo_temperature_pos"], defaults["sapo_temperature_neg"]) == (1.0, 1.05)
    vespo = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
    assert [defaults[name] for name in vespo] == [2.0, 3.0, 3.0, 2.0]


@pytest.mark.parametrize(("loss_type", "normalisation"), LOSS_TYPES)
def test_importance_weights_enter_where_trls_do(loss_type, normalisation):
    data = random_step()
    weights = torch.rand(data["mask"].shape, generator=torch.Generator().manual_seed(1)) * 2
    want, want_grad, _ = trl_loss(data, loss_type, weights, beta=0.04, epsilon_high=0.28)
    loss = ClippedSurrogate(0.2, 0.28, 0.04, "k3_unbiased")
    got, got_grad, _ = our_loss(loss, data, normalisation, importance_weights=weights)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(got_grad, want_grad, rtol=0, atol=1e-6)
