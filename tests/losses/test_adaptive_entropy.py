"""The adaptive entropy bonus: by hand, parity with TRL step by step, and a resumed run that is the uninterrupted one."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.losses import (
    SAPO,
    AdaptiveEntropyBonus,
    CarriesState,
    ClippedSurrogate,
    EntropyBonus,
    StaleNegatives,
    TopEntropy,
)
from lit_tpgrpo.losses.base import stateful_part
from lit_tpgrpo.losses.metrics import measure
from lit_tpgrpo.losses.settings import as_loss, loss_settings
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainBatch, TrainingSequence
from tests.losses.trl_reference import our_inputs, random_step, trl_loss

LOSS = AdaptiveEntropyBonus(ClippedSurrogate(), target=1.0, coefficient=0.1, delta=0.04, minimum=0.03, maximum=0.15)


def coefficients(loss, entropies):
    """The coefficient after each step, and whether the next step applies it."""
    state, seen = loss.initial_state(), []
    for entropy in entropies:
        state = loss.next_state(state, {"entropy": entropy})
        seen.append((round(state["coefficient"], 6), state["entropy"] <= loss.target))
    return seen


def test_the_coefficient_follows_the_entropy_within_its_bounds():
    """.1 + .04 = .14, then the bound .15; above the target down by .04 to the bound .03. At the target it rises."""
    assert coefficients(LOSS, [0.5, 1.0, 1.1, 2.0, 2.0, 2.0, 0.9]) == [
        (0.14, True),
        (0.15, True),
        (0.11, False),
        (0.07, False),
        (0.03, False),
        (0.03, False),
        (0.07, True),
    ]


def test_each_step_equals_trls():
    """Five steps of falling and rising entropy: value, gradients, and the coefficient after the step."""
    state, target = LOSS.initial_state(), 0.6
    loss = AdaptiveEntropyBonus(ClippedSurrogate(kl_beta=0.04), target, 0.1, 0.04, 0.03, 0.15)
    on = 0
    for step, scale in enumerate((2.0, 1.0, 0.5, 0.5, 3.0, 1.0)):
        data = random_step(step)
        noise = torch.rand(data["mask"].shape, generator=torch.Generator().manual_seed(step)) + 0.01
        theirs, ours = ((scale * noise).requires_grad_() for _ in range(2))
        want, want_grad, metrics = trl_loss(
            data,
            "dapo",
            entropies=theirs,
            beta=0.04,
            use_bias_correction_kl=False,
            _entropy_bonus_enabled=True,
            use_adaptive_entropy=True,
            entropy_coef=state["coefficient"],
            _last_world_entropy=state["entropy"],
            entropy_target=target,
            entropy_coef_delta=0.04,
            entropy_coef_min=0.03,
            entropy_coef_max=0.15,
        )
        inputs = our_inputs(data, "token", entropy=ours, state=state)
        output = loss(inputs)
        grad, entropy_grad = torch.autograd.grad(output.loss, (inputs.logprobs, ours))
        torch.testing.assert_close(output.loss.detach(), want, rtol=0, atol=1e-6)
        torch.testing.assert_close(grad, want_grad, rtol=0, atol=1e-6)
        torch.testing.assert_close(entropy_grad, theirs.grad, rtol=0, atol=1e-7)
        measured = {name: float(value) for name, value in measure(inputs, output).values().items()}
        applied = state["coefficient"] if state["entropy"] <= target else 0.0
        assert measured["entropy_coefficient"] == pytest.approx(applied)
        on += applied > 0
        state = loss.next_state(state, measured)
        assert state["coefficient"] == pytest.approx(metrics["entropy_coef"])
    assert 0 < on < 5


def test_the_state_is_found_inside_of_other_losses_and_settings_come_back():
    nested = StaleNegatives(TopEntropy(LOSS, 0.5))
    assert stateful_part(nested) is LOSS
    assert isinstance(LOSS, CarriesState)
    assert stateful_part(EntropyBonus(SAPO())) is None
    assert as_loss(loss_settings(nested), "loss") == nested


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdaptiveEntropyBonus(SAPO(), target=0.0), "target must be above 0"),
        (lambda: AdaptiveEntropyBonus(SAPO(), delta=-1.0), "delta must be above 0"),
        (lambda: AdaptiveEntropyBonus(SAPO(), coefficient=2.0), "between minimum and maximum, got 2.0 for 0.0 and 1.0"),
        (lambda: AdaptiveEntropyBonus(SAPO(), minimum=-0.1), "minimum must not be negative"),
        (lambda: AdaptiveEntropyBonus(SAPO(), maximum=math.inf), "nor maximum infinite"),
        (lambda: AdaptiveEntropyBonus(TopEntropy(LOSS)), "one AdaptiveEntropyBonus is inside of another"),
        (lambda: AdaptiveEntropyBonus(TopEntropy(EntropyBonus(SAPO()))), "one EntropyBonus is inside"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="an entropy bonus needs the entropy"):
        LOSS(our_inputs(random_step(), "token", state=LOSS.initial_state()))
    with pytest.raises(ValueError, match="AdaptiveEntropyBonus needs its state"):
        LOSS(our_inputs(random_step(), "token", entropy=torch.ones(4, 7)))


# Always on after the first step: the entropy of random weights is about 6 nats.
ON = AdaptiveEntropyBonus(ClippedSurrogate(), target=10.0, coefficient=0.1, delta=0.05)


def fit(model, path, steps, loss=ON, ckpt=None):
    """The module after so many steps in all, and the coefficients that its steps applied."""
    generator = torch.Generator().manual_seed(0)
    sequences = tuple(
        TrainingSequence(
            torch.randint(3, 300, (4,), generator=generator),
            torch.randint(3, 300, (n,), generator=generator),
            torch.full((n,), -6.0),
            torch.randn(n, generator=generator),
        )
        for n in (1, 9)
    )
    batch = TrainBatch(sequences, temperature=1.0, round_index=0, policy_version=0)
    module = TPGRPOModule(model, loss=loss, tokens_per_microbatch=16)
    applied = []

    class Applied(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            applied.append(round(float(trainer.callback_metrics["train/entropy_coefficient"]), 6))

    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Applied()] if isinstance(stateful_part(loss), AdaptiveEntropyBonus) else [],
    )
    trainer.fit(module, DataLoader([batch] * 4, batch_size=None), ckpt_path=ckpt)  # pyright: ignore[reportArgumentType]
    trainer.save_checkpoint(path / f"{steps}.ckpt")
    return module, applied


def test_a_resumed_run_goes_on_with_the_same_coefficient(random_model, tmp_path):
    """Off in the first step, then .15, .2 and .25; weights are the uninterrupted run's bit for bit."""
    whole, applied = fit(random_model, tmp_path, 4)
    assert applied == [0.0, 0.15, 0.2, 0.25]
    half, _ = fit(random_model, tmp_path, 2)
    resumed, applied = fit(random_model, tmp_path, 4, ckpt=tmp_path / "2.ckpt")
    assert applied == [0.2, 0.25]
    assert resumed._loss_state.value == whole._loss_state.value
    assert resumed._loss_state.value != half._loss_state.value
    for a, b in zip(resumed._built_policy.parameters(), whole._built_policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_loss_has_no_state_for_it(random_model, tmp_path):
    fit(random_model, tmp_path, 1, loss=ClippedSurrogate())
    with pytest.warns(UserWarning, match="no state of this loss"):
        module, applied = fit(random_model, tmp_path, 2, ckpt=tmp_path / "1.ckpt")
    assert applied == [0.0]
    assert module._loss_state.value is not None
