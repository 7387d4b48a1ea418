"""Parity with TRL: its own ``GRPOTrainer._compute_loss`` on the same log-probs.

TRL's method is called unbound on a stub that hands it the per-token log-probs. TRL averages the micro-batches of an
optimizer step itself, so the parity is of one micro-batch that is the whole step.
"""

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from padded import clipped_loss

from lit_tpgrpo.functional.aggregation import BatchCounts, token_weights

trl = pytest.importorskip("trl", reason="the reference implementation is a test extra")

LENGTHS = (5, 1, 3, 7)
MAX_LENGTH = 11
# TRL's loss type, our normalisation
LOSS_TYPES = [("grpo", "sequence"), ("bnpo", "token"), ("dapo", "token"), ("dr_grpo", "constant")]


def step(seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    old = -torch.rand(mask.shape, generator=g) * 3
    return {
        "logprobs": old + 0.4 * torch.randn(mask.shape, generator=g),
        "old_logprobs": old,
        "ref_logprobs": old + 0.4 * torch.randn(mask.shape, generator=g),
        "advantages": torch.randn(len(LENGTHS), generator=g),
        "mask": mask,
    }


def trl_loss(data, loss_type, clip_low, clip_high, beta, importance_weights=None, unbiased_kl=True):
    metrics = defaultdict(list)
    logprobs = data["logprobs"].clone().requires_grad_()
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        loss_type=loss_type,
        epsilon_low=clip_low,
        epsilon_high=clip_high,
        use_vllm=importance_weights is not None,
        vllm_importance_sampling_correction=True,
        args=SimpleNamespace(use_bias_correction_kl=unbiased_kl, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_LENGTH,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _entropy_bonus_enabled=False,
        _metrics={"train": metrics},
    )
    mask = data["mask"].long()
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.int64),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": data["advantages"],
        "old_per_token_logps": data["old_logprobs"],
        "ref_per_token_logps": data["ref_logprobs"],
        "importance_sampling_ratio": importance_weights,
        "num_items_in_batch": mask.sum(),
    }
    loss = trl.GRPOTrainer._compute_loss(stub, None, inputs)  # pyright: ignore
    loss.backward()
    return loss.detach(), logprobs.grad, {name: values[0] for name, values in metrics.items()}


def our_loss(data, normalisation, clip_low, clip_high, beta, importance_weights=None, kl="k3_unbiased"):
    mask = data["mask"]
    logprobs = data["logprobs"].clone().requires_grad_()
    loss, sums = clipped_loss(
        logprobs,
        data["old_logprobs"],
        data["advantages"].unsqueeze(1).expand_as(mask),
        mask,
        token_weights(mask, normalisation, BatchCounts(sum(LENGTHS), len(LENGTHS), MAX_LENGTH)),
        settings={"clip_low": clip_low, "clip_high": clip_high, "kl_estimator": kl, "kl_beta": beta},
        ref_logprobs=data["ref_logprobs"],
        importance_weights=importance_weights,
    )
    loss.backward()
    return loss.detach(), logprobs.grad, {name: value.item() for name, value in sums.values().items()}


@pytest.mark.parametrize(("loss_type", "normalisation"), LOSS_TYPES)
@pytest.mark.parametrize(
    ("beta", "unbiased", "kl"), [(0.0, True, "k3"), (0.04, True, "k3_unbiased"), (0.04, False, "k3")]
)
@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.2, 0.28)])
def test_loss_gradient_and_metrics_equal_trls(loss_type, normalisation, beta, unbiased, kl, clips):
    data = step()
    want, want_grad, want_metrics = trl_loss(data, loss_type, *clips, beta, unbiased_kl=unbiased)
    got, got_grad, got_metrics = our_loss(data, normalisation, *clips, beta, kl=kl)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(got_grad, want_grad, rtol=0, atol=1e-6)
    assert got_metrics["clipped_low"] == pytest.approx(want_metrics["clip_ratio/low_mean"], abs=1e-6)
    assert got_metrics["clipped_high"] == pytest.approx(want_metrics["clip_ratio/high_mean"], abs=1e-6)
    assert min(got_metrics["clipped_low"], got_metrics["clipped_high"]) > 0  # or the clip went untested
    if beta:
        assert got_metrics["kl_ref"] == pytest.approx(want_metrics["kl"], abs=1e-6)


def test_what_the_texts_call_trls_defaults_are_its_defaults():
    """``functional.kl`` and ``functional.corrections`` name them."""
    defaults = {f.name: f.default for f in dataclasses.fields(trl.GRPOConfig)}
    assert defaults["use_bias_correction_kl"] is True
    assert defaults["vllm_importance_sampling_correction"] is True
    assert defaults["vllm_importance_sampling_mode"] == "sequence_mask"
    assert defaults["vllm_importance_sampling_clip_max"] == 3.0
    assert defaults["vllm_importance_sampling_clip_min"] is None


@pytest.mark.parametrize(("loss_type", "normalisation"), LOSS_TYPES)
def test_importance_weights_enter_where_trls_do(loss_type, normalisation):
    data = step()
    weights = torch.rand(data["mask"].shape, generator=torch.Generator().manual_seed(1)) * 2
    want, want_grad, _ = trl_loss(data, loss_type, 0.2, 0.28, 0.04, weights)
    got, got_grad, _ = our_loss(data, normalisation, 0.2, 0.28, 0.04, weights)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(got_grad, want_grad, rtol=0, atol=1e-6)
