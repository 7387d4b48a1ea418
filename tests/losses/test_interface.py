"""The loss interface: other losses fit behind ``TokenLoss``, and a checkpoint brings back the one it was trained with."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from examples.parts.loss import CappedReinforce
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses import ClippedSurrogate, LossInputs, LossOutput, loss_inputs
from lit_tpgrpo.losses.metrics import RESERVED_NAMES, measure
from lit_tpgrpo.losses.settings import loss_settings
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainBatch, TrainingSequence


def inputs_of(ratios: list[list[float]], advantage: float = 1.0, **optional: torch.Tensor) -> LossInputs:
    """Sequences of tokens of weight 1 with these ratios of the new to the old policy."""
    lengths = torch.tensor([len(r) for r in ratios])
    ratio = torch.tensor([r for sequence in ratios for r in sequence])
    old = torch.full_like(ratio, -1.0)
    row = torch.arange(len(ratios)).repeat_interleave(lengths)
    ones = torch.ones_like(ratio)
    logprobs = (old + ratio.log()).requires_grad_()
    return loss_inputs(logprobs, old, advantage * ones, ones, row, lengths, **optional)


@dataclass(frozen=True)
class SequenceRatio:
    """Clip the geometric mean ratio of a whole solution (GSPO, arXiv 2507.18071)."""

    clip: float = 0.2

    def needs_reference(self) -> bool:
        return False

    def __call__(self, inputs: LossInputs) -> LossOutput:
        ratio = inputs.sequence_mean(inputs.logprobs - inputs.old_logprobs).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        surrogate = torch.minimum(ratio * inputs.advantages, clipped * inputs.advantages)
        return LossOutput(-(inputs.weights * surrogate).sum(), token_values={"sequence_ratio": ratio})


class ToReference:
    """Nothing but k1 of the reference, to see that its log-probs arrive."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def needs_reference(self) -> bool:
        return True

    def __call__(self, inputs: LossInputs) -> LossOutput:
        assert inputs.ref_logprobs is not None
        kl = inputs.logprobs - inputs.ref_logprobs
        return LossOutput(self.scale * (inputs.weights * kl).sum(), token_values={"distance": kl.abs()})


class Unrecorded(ToReference):
    """Keeps its argument under another name."""

    def __init__(self, factor: float) -> None:
        super().__init__(factor)


def test_a_sequence_level_ratio_is_the_geometric_mean_of_its_tokens():
    """sqrt(1.2 * 0.9) = 1.0392, sqrt(4 * 0.25) = 1; each token carries its sequence's."""
    inputs = inputs_of([[1.2, 0.9], [4.0, 0.25]])
    output = SequenceRatio()(inputs)
    expected = torch.tensor([1.0392, 1.0392, 1.0, 1.0])
    torch.testing.assert_close(output.token_values["sequence_ratio"].detach(), expected, atol=5e-5, rtol=0)
    (gradient,) = torch.autograd.grad(output.loss, inputs.logprobs)
    torch.testing.assert_close(gradient, -expected, atol=5e-5, rtol=0)


def test_sequence_sums_leave_masked_tokens_out():
    mask = torch.tensor([True, False, True, True, False])
    inputs = inputs_of([[1.0, 1.0, 1.0], [1.0], [1.0]], mask=mask)
    values = torch.tensor([1.0, 10.0, 3.0, 5.0, 7.0])
    assert inputs.sequence_sum(values).tolist() == [4.0, 4.0, 4.0, 5.0, 0.0]
    assert inputs.sequence_mean(values).tolist() == [2.0, 2.0, 2.0, 5.0, 0.0]


@pytest.mark.parametrize(("ratio", "weight", "capped"), [(0.5, 0.5, 0.0), (1.5, 1.5, 0.0), (6.0, 5.0, 1.0)])
def test_the_example_weighs_a_token_by_its_capped_ratio(ratio: float, weight: float, capped: float):
    inputs = inputs_of([[ratio]], advantage=-1.0)
    output = CappedReinforce()(inputs)
    (gradient,) = torch.autograd.grad(output.loss, inputs.logprobs)
    assert gradient.item() == pytest.approx(weight)
    assert measure(inputs, output).values()["capped"].item() == capped


def test_names_that_differ_between_micro_batches_are_refused():
    inputs = inputs_of([[1.0]])
    one, other = (LossOutput(inputs.logprobs.sum(), token_values={name: inputs.weights}) for name in ("a", "b"))
    with pytest.raises(ValueError, match="must log the same names in all micro-batches"):
        measure(inputs, one) + measure(inputs, other)


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
@pytest.mark.parametrize("part", ["terms", "token_values"])
def test_a_loss_may_not_replace_what_every_step_logs(part: str, name: str):
    """A finite term named ``loss`` would hide a NaN loss from the check that stops the run."""
    inputs = inputs_of([[1.0]])
    values = inputs.weights if part == "token_values" else inputs.weights.sum()
    output = LossOutput(inputs.logprobs.sum() * float("nan"), **{part: {name: values, "other": values}})
    with pytest.raises(ConfigError, match=f"the loss logs {name}, reserved for what every step logs under train/"):
        measure(inputs, output)


def test_a_name_is_a_term_or_a_token_value():
    inputs = inputs_of([[1.0]])
    terms, values = {"bonus": inputs.weights.sum()}, {"bonus": inputs.weights}
    with pytest.raises(ConfigError, match="the loss names bonus both in terms and in token_values"):
        measure(inputs, LossOutput(inputs.logprobs.sum(), terms, values))


def one_step(module: TPGRPOModule, tmp_path: Path) -> L.Trainer:
    """Two sequences, each a micro-batch of its own where the budget is small."""
    generator = torch.Generator().manual_seed(0)
    sequences = tuple(
        TrainingSequence(
            torch.randint(3, 300, (4,), generator=generator),
            torch.randint(3, 300, (n,), generator=generator),
            torch.full((n,), -6.0),
            torch.full((n,), a),
        )
        for n, a in ((3, 1.0), (5, -1.0))
    )
    batch = TrainBatch(sequences, temperature=1.0, round_index=0, policy_version=0)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader([batch], batch_size=None))  # pyright: ignore[reportArgumentType]
    return trainer


def test_a_loss_of_the_users_trains_is_logged_and_comes_back_with_the_checkpoint(random_model, tmp_path):
    module = TPGRPOModule(random_model, loss=CappedReinforce(cap=0.9), tokens_per_microbatch=9)
    trainer = one_step(module, tmp_path)
    logged = trainer.callback_metrics
    assert 0 < float(logged["train/capped"]) <= 1
    assert {"train/loss", "train/ratio", "train/advantage", "train/kl_old", "train/entropy", "loss"} <= logged.keys()
    assert "train/kl_ref" not in logged
    own = {name.removeprefix("train/") for name in logged if name.startswith("train/")} - {"capped"}
    assert own == RESERVED_NAMES - {"step_skipped", "loss_scale"}  # of the gradient scaler, in 16-mixed
    assert module._reference is None
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert TPGRPOModule.load_from_checkpoint(tmp_path / "a.ckpt").token_loss == CappedReinforce(cap=0.9)
    given = TPGRPOModule.load_from_checkpoint(tmp_path / "a.ckpt", loss=ClippedSurrogate(0.1))
    assert given.token_loss == ClippedSurrogate(0.1)


def test_without_a_reference_no_kl_to_it_is_logged(random_model, tmp_path):
    """A constant 0 would say that the policy has not moved."""
    logged = one_step(TPGRPOModule(random_model, tokens_per_microbatch=9), tmp_path).callback_metrics
    assert "train/kl_ref" not in logged
    assert float(logged["train/kl_loss"]) == 0.0


def test_the_clipped_surrogate_comes_back_with_its_settings(random_model, tmp_path):
    loss = ClippedSurrogate(0.1, 0.3, 0.05, "k2")
    trainer = one_step(TPGRPOModule(random_model, loss=loss), tmp_path)
    assert {"train/policy_loss", "train/kl_loss", "train/kl_ref", "train/clipped_low", "train/clipped_high"} <= (
        trainer.callback_metrics.keys()
    )
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    restored = TPGRPOModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert restored.token_loss == loss
    assert restored.hparams["loss"] == loss_settings(loss)


def test_a_loss_that_asks_for_the_reference_gets_its_logprobs(random_model, tmp_path):
    module = TPGRPOModule(random_model, loss=ToReference(1.0))
    logged = one_step(module, tmp_path).callback_metrics
    assert float(logged["train/distance"]) == 0.0  # before the first step the policy is the reference
    assert module._reference is not None


@pytest.mark.parametrize(
    ("loss", "forget", "reason"),
    [
        (Unrecorded(1.0), False, "its arguments were not recorded"),
        (CappedReinforce(), True, "no loss of this name is imported"),
    ],
    ids=["unrecorded", "not imported"],
)
def test_a_loss_that_cannot_come_back_is_named(random_model, tmp_path, monkeypatch, loss, forget, reason):
    """A checkpoint is data: it must not decide what is imported."""
    trainer = one_step(TPGRPOModule(random_model, loss=loss), tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    if forget:
        monkeypatch.delitem(sys.modules, "examples.parts.loss")
    name = type(loss).__name__
    with pytest.raises(ConfigError, match=rf"the loss \S+{name} cannot be built, for {reason}; .* loss={name}\("):
        TPGRPOModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert TPGRPOModule.load_from_checkpoint(tmp_path / "a.ckpt", loss=loss).token_loss is loss


def test_a_checkpoint_with_the_loss_s_settings_beside_the_model_s_is_refused_by_name(random_model, tmp_path):
    """As they were before there was ``model.loss``: to load it with the default loss would be another run."""
    trainer = one_step(TPGRPOModule(random_model), tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["hyper_parameters"]["loss"]
    content["hyper_parameters"]["kl_beta"] = 0.1
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ConfigError, match=r"no argument 'kl_beta'; it is now one of its loss: loss=ClippedSurrogate"):
        TPGRPOModule.load_from_checkpoint(tmp_path / "old.ckpt")
