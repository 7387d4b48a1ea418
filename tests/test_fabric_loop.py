"""The loop of one's own with Fabric takes the steps that TPGRPOModule takes."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from examples.fabric_loop import StepLoss, optimizer_step
from lit_tpgrpo.losses import ClippedSurrogate
from lit_tpgrpo.module import TPGRPOModule
from tests.test_module import fit, make_batch, sgd, weights


def test_fabric_takes_the_steps_of_the_module(random_model, tmp_path):
    batches = [make_batch(0), make_batch(1)]
    trained = TPGRPOModule(random_model, optimizer=sgd)
    metrics = fit(trained, batches, tmp_path).callback_metrics
    other = TPGRPOModule(random_model)
    other.configure_model()
    assert other.policy is not None
    fabric = Fabric(accelerator="cpu", devices=1)
    step_loss, optimizer = fabric.setup(module := StepLoss(other.policy, ClippedSurrogate()), sgd(module.parameters()))
    losses = [optimizer_step(fabric, step_loss, optimizer, b.sequences, b.temperature, 0) for b in batches]
    torch.testing.assert_close(losses[-1], float(metrics["train/loss"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights(other), weights(trained), atol=1e-6, rtol=0)
