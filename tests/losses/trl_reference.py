"""TRL's own ``GRPOTrainer._compute_loss`` on given log-probs, and ours on the same: what the parity tests compare.

TRL's method is called unbound on a stub that hands it the per-token log-probs. TRL averages the micro-batches of an
optimizer step itself, so the parity is of one micro-batch that is the whole step.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_tpgrpo.functional.aggregation import BatchCounts, Normalisation, token_weights
from lit_tpgrpo.losses import LossInputs, TokenLoss, loss_inputs
from lit_tpgrpo.losses.metrics import measure

trl = pytest.importorskip("trl", reason="the reference implementation is a test extra")

LENGTHS = (5, 1, 3, 7)
MAX_LENGTH = 11
COUNTS = BatchCounts(sum(LENGTHS), len(LENGTHS), MAX_LENGTH)


def random_step(seed: int = 0, spread: float = 0.4) -> dict[str, Tensor]:
    """Four padded sequences, each with one advantage."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    old = -torch.rand(mask.shape, generator=g) * 3
    return {
        "logprobs": old + spread * torch.randn(mask.shape, generator=g),
        "old_logprobs": old,
        "ref_logprobs": old + spread * torch.randn(mask.shape, generator=g),
        "advantages": torch.randn(len(LENGTHS), generator=g),
        "mask": mask,
    }


def trl_loss(
    data: dict[str, Tensor],
    loss_type: str,
    importance_weights: Tensor | None = None,
    entropies: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return TRL's loss, its gradient with respect to the log-probs, and its metrics.

    ``settings`` replace attributes of the trainer, or where it has no such attribute of its ``args``.
    """
    metrics = defaultdict(list)
    logprobs = data["logprobs"].clone().requires_grad_()
    entropies = torch.zeros_like(logprobs) if entropies is None else entropies
    defaults = trl.GRPOConfig(output_dir="unused", report_to=[], bf16=False)
    args = {
        name: getattr(defaults, name)
        for name in (
            *("use_bias_correction_kl", "delta", "sapo_temperature_pos", "sapo_temperature_neg"),
            *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
        )
    }
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, entropies, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=importance_weights is not None,
        vllm_importance_sampling_correction=True,
        args=SimpleNamespace(**args, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_LENGTH,
        accelerator=SimpleNamespace(
            num_processes=1,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
            pad_across_processes=lambda x, **k: x,
            sync_gradients=True,
        ),
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        entropy_coef=0.0,
        _last_world_entropy=float("inf"),
        _entropy_window_stats=None,
        _metrics={"train": metrics},
    )
    for name, value in settings.items():
        setattr(stub if hasattr(stub, name) else stub.args, name, value)
    stub.get_off_policy_mask = trl.GRPOTrainer.get_off_policy_mask
    stub.get_gamma_weights = trl.GRPOTrainer.get_gamma_weights
    stub.get_high_entropy_mask = lambda *a: trl.GRPOTrainer.get_high_entropy_mask(stub, *a)  # pyright: ignore
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
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad, {name: values[0] for name, values in metrics.items()}


def our_inputs(data: dict[str, Tensor], normalisation: Normalisation, **optional: Tensor | None) -> LossInputs:
    """The same step as the inputs of our losses, with one row for each sequence."""
    mask = data["mask"]
    advantages = data["advantages"]
    return loss_inputs(
        data["logprobs"].clone().requires_grad_(),
        data["old_logprobs"],
        advantages.unsqueeze(1).expand_as(mask) if advantages.ndim == 1 else advantages,
        token_weights(mask, normalisation, COUNTS),
        torch.arange(len(mask)).unsqueeze(1).expand_as(mask),
        mask.sum(1),
        mask=mask,
        ref_logprobs=data["ref_logprobs"],
        **optional,
    )


def our_loss(
    loss: TokenLoss, data: dict[str, Tensor], normalisation: Normalisation, **optional: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return our loss, its gradient with respect to the log-probs, and its metrics."""
    inputs = our_inputs(data, normalisation, **optional)
    output = loss(inputs)
    (gradient,) = torch.autograd.grad(output.loss, inputs.logprobs)
    return output.loss.detach(), gradient, {n: v.item() for n, v in measure(inputs, output).values().items()}
