"""The optimizer step: cutting changes nothing, it equals plain autograd, and what must stop it stops it."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.losses import GSPO, VESPO, ClippedSurrogate, EntropyBonus, GSPOToken
from lit_tpgrpo.losses.vespo import check_correction
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainBatch, TrainingSequence
from lit_tpgrpo.rollout.correction import Correction
from lit_tpgrpo.training.optimizer_step import check_advantages
from lit_tpgrpo.training.padding import Padded
from lit_tpgrpo.training.policy import PolicyModel

SHAPES = [(3, 9), (8, 2), (1, 14), (5, 5), (2, 11)]


def make_batch(seed: int = 0, advantages: list[float] | None = None, version: int = 0) -> TrainBatch:
    generator = torch.Generator().manual_seed(seed)
    given = advantages if advantages is not None else [1.0, -0.5, 0.25, -1.0, 2.0]
    sequences = tuple(
        TrainingSequence(
            torch.randint(3, 300, (p,), generator=generator),
            torch.randint(3, 300, (c,), generator=generator),
            -5.9 + 0.1 * torch.randn(c, generator=generator),
            torch.full((c,), a),
        )
        for (p, c), a in zip(SHAPES, given, strict=True)
    )
    return TrainBatch(sequences, temperature=0.8, round_index=0, policy_version=version)


def fit(module: TPGRPOModule, batches: list[TrainBatch], tmp_path: Path, **kwargs) -> L.Trainer:
    loader = DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    settings = {"logger": False, "enable_checkpointing": False, "max_epochs": 1} | kwargs
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **settings,
    )
    trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def weights(module: TPGRPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.policy_model.parameters()])


@pytest.fixture(scope="module")
def initial(random_model: str) -> torch.Tensor:
    module = TPGRPOModule(random_model)
    module.configure_model()
    return weights(module)


@pytest.mark.parametrize(
    ("normalisation", "length"), [("token", None), ("sequence", None), ("constant", 20)], ids=lambda v: str(v)
)
def test_a_step_equals_plain_autograd_however_it_is_cut(random_model, initial, tmp_path, normalisation, length):
    """Reference: one unpadded sequence at a time through the model's own logits, summed by hand."""
    batch = make_batch()
    reference = TPGRPOModule(random_model)
    reference.configure_model()
    total = sum(c for _, c in SHAPES)
    loss = torch.zeros(())
    for s in batch.sequences:
        ids = torch.cat((s.prompt_ids, s.completion_ids))
        logits = reference.policy_model(ids[None]).logits[0, len(s.prompt_ids) - 1 : -1] / batch.temperature
        logprobs = logits.log_softmax(-1).gather(-1, s.completion_ids[:, None])[:, 0]
        ratio = (logprobs - s.old_logprobs).exp()
        surrogate = torch.minimum(ratio * s.advantages, ratio.clamp(0.8, 1.3) * s.advantages)
        n = len(s.completion_ids)
        weight = {"token": 1 / total, "sequence": 1 / (5 * n), "constant": 1 / (5 * 20)}[normalisation]
        loss = loss - weight * surrogate.sum()
    loss.backward()
    expected = torch.cat(
        [(p - 0.5 * p.grad).detach().flatten() for p in reference.policy_model.parameters() if p.grad is not None]
    )
    for budget in (1, 24, 10_000):
        module = TPGRPOModule(
            random_model,
            optimizer=sgd,
            loss=ClippedSurrogate(clip_high=0.3),
            normalisation=normalisation,
            norm_length=length,
            tokens_per_microbatch=budget,
            max_grad_norm=None,
        )
        trainer = fit(module, [batch], tmp_path)
        torch.testing.assert_close(weights(module), expected, atol=2e-6, rtol=1e-5)
        assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(loss.item(), abs=1e-6)
        assert float(trainer.callback_metrics["train/tokens"]) == total
    assert float((expected - initial).abs().max()) > 1e-3


def test_clipping_scales_the_gradient(random_model, initial, tmp_path):
    free = TPGRPOModule(random_model, optimizer=sgd, max_grad_norm=None)
    norm = float(fit(free, [make_batch()], tmp_path).callback_metrics["train/grad_norm"])
    clipped = TPGRPOModule(random_model, optimizer=sgd, max_grad_norm=norm / 4)
    fit(clipped, [make_batch()], tmp_path)
    torch.testing.assert_close(weights(clipped) - initial, (weights(free) - initial) / 4, atol=1e-6, rtol=1e-3)


def test_gradient_checkpointing_changes_nothing(random_model, tmp_path):
    plain, saving = (TPGRPOModule(random_model, optimizer=sgd, gradient_checkpointing=flag) for flag in (False, True))
    for module in (plain, saving):
        fit(module, [make_batch()], tmp_path)
    torch.testing.assert_close(weights(plain), weights(saving))


def test_the_reference_is_frozen_and_neither_trained_nor_saved(random_model, tmp_path):
    module = TPGRPOModule(random_model, optimizer=sgd, loss=ClippedSurrogate(kl_beta=0.1))
    trainer = fit(module, [make_batch(0), make_batch(1)], tmp_path)
    reference = module._reference.model
    start = TPGRPOModule(random_model)
    start.configure_model()
    for a, b in zip(reference.parameters(), start.policy_model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert len(list(module.parameters())) == len(list(module.policy_model.parameters()))
    assert not any("reference" in key for key in module.state_dict())
    # The first step starts at the reference (no KL yet), the second has moved.
    assert float(trainer.callback_metrics["train/kl_ref"]) > 0
    assert float(trainer.callback_metrics["train/kl_loss"]) > 0
    without = TPGRPOModule(random_model, optimizer=sgd)
    fit(without, [make_batch(0), make_batch(1)], tmp_path)
    assert without._reference is None
    assert float((weights(without) - weights(module)).abs().max()) > 1e-5


def test_mismatch_is_logged_only_where_the_same_weights_sampled(random_model, tmp_path):
    metrics = fit(TPGRPOModule(random_model), [make_batch(version=0)], tmp_path).callback_metrics
    assert float(metrics["mismatch/logprob_max"]) > float(metrics["mismatch/logprob_mean"]) > 0
    metrics = fit(TPGRPOModule(random_model), [make_batch(version=-1)], tmp_path).callback_metrics
    assert not [k for k in metrics if k.startswith("mismatch/")]


def test_a_sampler_of_other_weights_is_warned_of_once_a_round(random_model, tmp_path):
    """Old log-probs that are 0.5 off are 0.5 - 1 + e^-0.5 = 0.107 nats a token away; exact ones raise no alarm."""
    module = TPGRPOModule(random_model)
    module.configure_model()
    batch = make_batch()
    assert module.policy is not None
    exact = [module.policy(Padded(0).collate([s]), batch.temperature)[0].detach() for s in batch.sequences]

    def shifted(by: float, version: int) -> TrainBatch:
        moved = [replace(s, old_logprobs=e - by) for s, e in zip(batch.sequences, exact, strict=True)]
        return replace(batch, sequences=tuple(moved), policy_version=version)

    def alarms(*batches: TrainBatch) -> list[str]:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            fit(TPGRPOModule(random_model, optimizer=sgd), list(batches), tmp_path)
        return [str(w.message) for w in heard if "mismatch/kl" in str(w.message)]

    assert alarms(shifted(0.0, 0)) == []
    (alarm,) = alarms(shifted(-0.5, 0), shifted(-0.5, 0))
    assert "round 0 was sampled from other weights" in alarm
    assert "mismatch/kl is 0.11 nats a token" in alarm


def test_the_scheduler_steps_once_per_optimizer_step(random_model, tmp_path):
    def halve(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    module = TPGRPOModule(random_model, optimizer=sgd, lr_scheduler=halve, tokens_per_microbatch=16)
    trainer = fit(module, [make_batch(i) for i in range(3)], tmp_path)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 0.5**3)
    assert trainer.global_step == module.policy_version == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_a_good_checkpoint(random_model, tmp_path, bad):
    module = TPGRPOModule(random_model, optimizer=sgd)
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True, save_on_exception=True)
    batches = [make_batch(0), make_batch(1), make_batch(2, advantages=[1.0, bad, 1.0, 1.0, 1.0])]
    good = TPGRPOModule(random_model, optimizer=sgd)
    fit(good, batches[:2], tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"loss is (nan|-?inf) at optimizer step 3, round 0.*--ckpt_path"):
        fit(module, batches, tmp_path, callbacks=[checkpoint], enable_checkpointing=True)
    saved = torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["solutions_trained"]) == (2, 10)  # a resumed run takes the third batch again
    restored = TPGRPOModule.load_from_checkpoint(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert bool(torch.isfinite(weights(restored)).all())
    torch.testing.assert_close(weights(restored), weights(good))


GSPO_NEEDS = "takes one advantage per solution .GSPO at the sequence level.*use lit_tpgrpo.GSPOToken"


@pytest.mark.parametrize("loss", [GSPO(), EntropyBonus(GSPO())], ids=["gspo", "wrapped"])
def test_token_advantages_are_refused_before_a_step_that_needs_one_per_solution(
    random_model, tmp_path, monkeypatch, loss
):
    batch = make_batch()
    fit(TPGRPOModule(random_model, loss=loss), [batch], tmp_path)
    first, *rest = batch.sequences
    n = len(first.advantages)
    changed = replace(first, advantages=torch.arange(n).float())
    masked = replace(changed, loss_mask=torch.arange(n) == 0)
    fit(TPGRPOModule(random_model, loss=loss), [replace(batch, sequences=(masked, *rest))], tmp_path)
    monkeypatch.setattr(PolicyModel, "forward", lambda *_: pytest.fail("a forward pass"))
    with pytest.raises(ConfigError, match=GSPO_NEEDS):
        fit(TPGRPOModule(random_model, loss=loss), [replace(batch, sequences=(changed, *rest))], tmp_path)


def test_token_advantages_of_another_rank_stop_this_one_too():
    """The others' batch is seen by the maximum alone; a loss that takes token advantages asks for none."""
    with pytest.raises(ConfigError, match=GSPO_NEEDS):
        check_advantages(GSPO(), make_batch(), lambda _: 1)
    check_advantages(GSPO(), make_batch(), lambda differ: differ)
    check_advantages(GSPOToken(), make_batch(), lambda _: pytest.fail("asked"))


class Corrected(L.LightningDataModule):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.correction = Correction(method)  # pyright: ignore[reportArgumentType]

    def train_dataloader(self):
        return DataLoader([make_batch()], batch_size=None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("loss", [VESPO(), EntropyBonus(VESPO())], ids=["vespo", "wrapped"])
def test_vespo_refuses_weights_of_whole_solutions_before_anything_starts(random_model, tmp_path, loss):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    with pytest.raises(
        ConfigError, match=r"VESPO multiplies .* product_mask .*use a token_\* method, or sequence_mask"
    ):
        trainer.fit(TPGRPOModule(random_model, loss=loss), datamodule=Corrected("product_mask"))
    check_correction(loss, Correction("sequence_mask"))
    check_correction(loss, None)
    check_correction(EntropyBonus(GSPO()), Correction("product_mask"))


def test_a_gradient_that_is_not_finite_stops_too(random_model, tmp_path):
    module = TPGRPOModule(random_model, optimizer=sgd)
    batch = make_batch(0, advantages=[1e38, 1e38, 1e38, 1e38, 1e38])
    with pytest.raises(NonFiniteLossError, match="optimizer step 1"):
        fit(module, [batch], tmp_path)


@pytest.mark.parametrize(
    "setting",
    [{"gradient_clip_val": 1.0}, {"gradient_clip_algorithm": "value"}, {"accumulate_grad_batches": 2}],
)
def test_trainer_options_without_effect_are_refused(random_model, tmp_path, setting):
    with pytest.raises(ConfigError, match=r"use model\.max_grad_norm"):
        fit(TPGRPOModule(random_model), [make_batch()], tmp_path, **setting)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"normalisation": "constant"}, "norm_length belongs to normalisation 'constant'"),
        ({"norm_length": 5}, "norm_length belongs to normalisation 'constant'"),
        ({"tokens_per_microbatch": 0}, "tokens_per_microbatch must be at least 1"),
        ({"dtype": "float31"}, "name of a torch dtype"),
    ],
)
def test_bad_settings_are_named(random_model, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        TPGRPOModule(random_model, **kwargs)


@pytest.mark.parametrize("name", ["./nothing-here", "/nothing/here", "embedded:nothing"])
def test_a_model_that_does_not_exist_is_named(name: str):
    with pytest.raises(ConfigError, match="nothing") as error:
        TPGRPOModule(name)
    assert "embedded:tiny-qwen2" in str(error.value)


def test_a_hub_name_without_network_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="some-org/no-such-model"):
        TPGRPOModule("some-org/no-such-model")


def test_a_tokenizer_without_eos_is_refused_and_one_without_pad_takes_eos(random_model):
    from transformers import AutoTokenizer

    from lit_tpgrpo.pretrained import check_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model)
    tokenizer.pad_token = None
    assert check_tokenizer(tokenizer, "x").pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="'x' has no EOS token"):
        check_tokenizer(tokenizer, "x")


def test_entropy_of_near_uniform_outputs(random_model, tmp_path):
    metrics = fit(TPGRPOModule(random_model), [make_batch()], tmp_path).callback_metrics
    vocabulary = 400
    assert 0.9 * math.log(vocabulary) < float(metrics["train/entropy"]) <= math.log(vocabulary)
