"""16-bit mixed precision with a real gradient scaler: clipped after unscaling, skipped where it overflows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from lit_tpgrpo.errors import NonFiniteLossError
from lit_tpgrpo.losses import AdaptiveEntropyBonus, ClippedSurrogate
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.gradients import clip_gradients
from tests.test_module import fit, make_batch, sgd, weights


def scaled(scale: float) -> MixedPrecision:
    """What the Trainer builds of ``precision: 16-mixed`` on a GPU; on a CPU it would take bfloat16 instead."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


class Record(L.Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        trainer.callback_metrics.pop("train/grad_norm", None)


def halve(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def test_gradients_are_clipped_as_they_are_and_not_as_they_were_scaled(random_model, tmp_path):
    """The same norm and the same step whatever the scale, and nearly those of float32."""
    norms, ends = [], []
    for plugins in (None, [scaled(2.0**4)], [scaled(2.0**12)]):
        module = TPGRPOModule(random_model, optimizer=sgd, max_grad_norm=0.05)
        metrics = fit(module, [make_batch()], tmp_path, plugins=plugins).callback_metrics
        norms.append(float(metrics["train/grad_norm"]))
        ends.append(weights(module))
    start = TPGRPOModule(random_model)
    start.configure_model()
    assert min(norms) > 0.1  # clipped to half of it or less
    assert norms[1] == pytest.approx(norms[0], rel=0.02)
    assert norms[2] == pytest.approx(norms[1], rel=0.01)
    for end in ends:
        assert float((end - weights(start)).norm()) == pytest.approx(0.5 * 0.05, rel=0.01)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.slow
def test_a_step_that_overflows_is_skipped_and_the_scale_halved(random_model, tmp_path, fused):
    """2^20 is too much for this gradient in float16 on the first steps; after some halvings it is taken."""
    record = Record()

    def adamw(parameters):
        return torch.optim.AdamW(parameters, lr=1e-3, fused=fused)

    module = TPGRPOModule(random_model, optimizer=adamw, lr_scheduler=halve)
    plugins = [scaled(2.0**24)]
    trainer = fit(module, [make_batch(i) for i in range(12)], tmp_path, plugins=plugins, callbacks=[record])
    skipped = [step["train/step_skipped"] for step in record.steps]
    count = int(sum(skipped))
    assert 0 < count < 12
    assert skipped == [1.0] * count + [0.0] * (12 - count)
    assert [step["train/loss_scale"] for step in record.steps] == [2.0 ** (24 - min(i + 1, count)) for i in range(12)]
    assert ["train/grad_norm" in step for step in record.steps] == [not s for s in skipped]
    # Batches are used up and counted, the schedule waits for steps that were taken.
    assert trainer.global_step == module.policy_version == 12
    rates = [1e-3 * 0.5 ** max(0, i - count) for i in range(12)]
    assert [step["train/lr"] for step in record.steps] == pytest.approx(rates)
    assert bool(torch.isfinite(weights(module)).all())
    start = TPGRPOModule(random_model)
    start.configure_model()
    assert not torch.equal(weights(module), weights(start))


def test_skipped_steps_leave_the_weights_alone(random_model, tmp_path):
    module = TPGRPOModule(random_model, optimizer=sgd)
    fit(module, [make_batch(0)], tmp_path, plugins=[scaled(2.0**30)])
    start = TPGRPOModule(random_model)
    start.configure_model()
    assert torch.equal(weights(module), weights(start))


def test_a_skipped_step_counts_for_the_adaptive_entropy_bonus(random_model, tmp_path):
    """As in TRL 1.16, whose coefficient follows the entropy of a step before the optimizer takes or skips it."""
    record = Record()
    loss = AdaptiveEntropyBonus(ClippedSurrogate(), target=10.0, coefficient=0.1, delta=0.05)
    module = TPGRPOModule(random_model, optimizer=sgd, loss=loss)
    fit(module, [make_batch(i) for i in range(3)], tmp_path, plugins=[scaled(2.0**30)], callbacks=[record])
    assert [step["train/step_skipped"] for step in record.steps] == [1.0] * 3
    assert [step["train/entropy_coefficient"] for step in record.steps] == pytest.approx([0.0, 0.15, 0.2])


def test_a_loss_that_is_not_finite_stops_whatever_the_scale(random_model, tmp_path):
    module = TPGRPOModule(random_model, optimizer=sgd)
    bad = make_batch(0, advantages=[1.0, float("nan"), 1.0, 1.0, 1.0])
    with pytest.raises(NonFiniteLossError, match="the loss is nan at optimizer step 1"):
        fit(module, [bad], tmp_path, plugins=[scaled(2.0**10)])


def test_gradients_that_overflow_without_being_scaled_up_stop(random_model, tmp_path):
    """They are not finite on any scale: skipping would never end."""
    module = TPGRPOModule(random_model, optimizer=sgd)
    huge = make_batch(0, advantages=[1e30] * 5)
    with pytest.raises(NonFiniteLossError, match=r"the gradient norm is (nan|inf) at optimizer step 3"):
        fit(module, [huge] * 5, tmp_path, plugins=[scaled(2.0)])


def test_a_norm_of_finite_gradients_that_is_infinite_is_no_overflow():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 1e30)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert not clip_gradients(torch.optim.SGD([parameter]), [parameter], 1.0, scaler).overflowed
    parameter.grad = torch.full((4,), float("inf"))
    assert clip_gradients(torch.optim.SGD([parameter]), [parameter], 1.0, scaler).overflowed


def test_the_norm_by_hand():
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    untouched = torch.nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = clip_gradients(torch.optim.SGD([a, b]), [a, b, untouched], 2.5)
    assert float(norm.value) == 5.0
    torch.testing.assert_close(a.grad, torch.tensor([1.5, 0.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(b.grad, torch.tensor([2.0]), rtol=1e-5, atol=0)
    assert untouched.grad is None
    clip_gradients(torch.optim.SGD([a, b]), [a, b], None)
    torch.testing.assert_close(b.grad, torch.tensor([2.0]), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_processes_skip_together_when_one_shard_overflows(tmp_path):
    """Then they take the next step together: a gradient of (0, 0, 32, 24) at scale 8 has norm 5 and is clipped to half."""
    program = Path(__file__).parent / "sharded_overflow.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    root = str(Path(__file__).parent.parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == [True, float("inf"), 8.0, [1.0, 1.0]]
    assert first[1] == [False, 5.0, 8.0, [1.0, 1.0]]
    assert second[1][:3] == [False, 5.0, 8.0]
    assert second[1][3] == pytest.approx([1 - 0.5 * 2.0, 1 - 0.5 * 1.5], abs=1e-6)
