"""Losses around another loss: by hand, parity with TRL, and in the module, where the quantile is the whole step's."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.aggregation import step_quantile
from lit_tpgrpo.losses import (
    GSPO,
    SAPO,
    VESPO,
    AdaptiveEntropyBonus,
    ClippedSurrogate,
    EntropyBonus,
    GSPOToken,
    MaskedLoss,
    StaleNegatives,
    TokenLoss,
    TopEntropy,
    WrappedLoss,
    loss_inputs,
)
from lit_tpgrpo.losses.base import entropy_quantile
from lit_tpgrpo.losses.metrics import measure
from lit_tpgrpo.losses.settings import as_loss, loss_settings
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import TrainBatch, TrainingSequence
from lit_tpgrpo.training import optimizer_step
from lit_tpgrpo.training.microbatches import dummy_microbatch
from lit_tpgrpo.training.padding import Padded
from tests.losses.trl_reference import our_inputs, our_loss, random_step, trl, trl_loss

INNER = [
    pytest.param(ClippedSurrogate(0.2, 0.2, 0.04), "dapo", "token", id="clipped"),
    pytest.param(SAPO(kl_beta=0.04), "sapo", "sequence", id="sapo"),
    pytest.param(VESPO(kl_beta=0.04), "vespo", "token", id="vespo"),
]
KL = {"beta": 0.04, "use_bias_correction_kl": False}


def entropies_of(seed: int = 7) -> torch.Tensor:
    return torch.rand(random_step()["mask"].shape, generator=torch.Generator().manual_seed(seed)) + 0.01


@pytest.mark.parametrize(("loss", "kind", "normalisation"), INNER)
@pytest.mark.parametrize("threshold", [0.01, 0.1])
def test_stale_negatives_equal_trls(loss, kind, normalisation, threshold):
    data = random_step(5)
    data["advantages"] = torch.tensor([1.0, -0.5, -1.0, -2.0])
    data["logprobs"] = data["logprobs"] - torch.tensor([[0.3], [0.05], [0.3], [-0.3]])
    want, want_grad, _ = trl_loss(data, kind, off_policy_mask_threshold=threshold, **KL)
    got, got_grad, metrics = our_loss(StaleNegatives(loss, threshold), data, normalisation)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-6, atol=1e-6)
    assert 0 < metrics["stale"] < 1
    assert not torch.allclose(got_grad, our_loss(loss, data, normalisation)[1], atol=1e-4)


def test_stale_negatives_by_hand():
    """The first solution fell by (0.2 + 0.6) / 2 = 0.4 a token: of it what is pushed down is left out; the second by 0.1."""
    fall = torch.tensor([0.2, 0.6, 0.1])
    old, ones = torch.full((3,), -1.0), torch.ones(3)
    row, lengths = torch.tensor([0, 0, 1]), torch.tensor([2, 1])
    for threshold, slopes in (
        (0.3, [0.0, -math.exp(-0.6), math.exp(-0.1)]),
        (0.5, [math.exp(-0.2), -math.exp(-0.6), math.exp(-0.1)]),
    ):
        logprobs = (old - fall).requires_grad_()
        inputs = loss_inputs(logprobs, old, torch.tensor([-1.0, 1.0, -1.0]), ones, row, lengths)
        output = StaleNegatives(ClippedSurrogate(0.5, 0.5), threshold)(inputs)
        assert torch.autograd.grad(output.loss, logprobs)[0].tolist() == pytest.approx(slopes)
        assert output.token_values["stale"].tolist() == [threshold == 0.3, False, False]
        assert measure(inputs, output).values()["advantage"].item() == pytest.approx(-1 / 3)  # of the step as it came


@pytest.mark.parametrize(("loss", "kind", "normalisation"), INNER)
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_top_entropy_equals_trls(loss, kind, normalisation, share):
    data, entropies = random_step(6), entropies_of()
    want, want_grad, _ = trl_loss(data, kind, entropies=entropies, top_entropy_quantile=share, **KL)
    top = TopEntropy(loss, share)
    threshold = step_quantile(entropies[data["mask"]], 1 - share)
    got, got_grad, metrics = our_loss(top, data, normalisation, entropy=entropies, entropy_threshold=threshold)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-6, atol=1e-6)
    assert 1 - metrics["low_entropy"] == pytest.approx(math.floor(share * 15 + 1) / 16)


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=40), st.sampled_from([0.05, 0.2, 0.5, 0.75, 0.8, 0.9]))
def test_step_quantile_keeps_what_an_interpolated_quantile_keeps(values, quantile):
    tensor = torch.tensor(values, dtype=torch.float64)
    result = step_quantile(tensor, quantile)
    position, kept = round(quantile * (len(values) - 1), 9), tensor >= result
    assert torch.equal(kept, tensor >= tensor.sort().values[math.ceil(position)])
    if not position.is_integer():  # else rounding may put torch's a little above a value
        assert torch.equal(kept, tensor >= torch.quantile(tensor, quantile))


def test_the_entropy_bonus_equals_trls():
    """Value and both gradients."""
    data, entropies = random_step(8), entropies_of()
    theirs = entropies.clone().requires_grad_()
    want, want_grad, _ = trl_loss(data, "dapo", entropies=theirs, _entropy_bonus_enabled=True, entropy_coef=0.03, **KL)
    ours = entropies.clone().requires_grad_()
    inputs = our_inputs(data, "token", entropy=ours)
    output = EntropyBonus(ClippedSurrogate(kl_beta=0.04), 0.03)(inputs)
    grad, entropy_grad = torch.autograd.grad(output.loss, (inputs.logprobs, ours))
    torch.testing.assert_close(output.loss.detach(), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(grad, want_grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy_grad, theirs.grad, rtol=0, atol=1e-7)
    assert entropy_grad[data["mask"]].tolist() == pytest.approx([-0.03 / 16] * 16)
    terms = {name: term.item() for name, term in output.terms.items()}
    assert terms["entropy_loss"] == pytest.approx(-0.03 * entropies[data["mask"]].mean().item())
    assert sum(terms.values()) == pytest.approx(output.loss.item(), abs=1e-6)


def test_a_loss_that_uses_no_gradient_of_the_entropy_gets_none():
    inputs = our_inputs(random_step(), "token", entropy=entropies_of().requires_grad_())
    assert not inputs.entropy.requires_grad
    assert inputs.differentiable_entropy is not None
    assert inputs.differentiable_entropy.requires_grad


NESTED = StaleNegatives(TopEntropy(EntropyBonus(GSPOToken(kl_beta=0.1), 0.01), 0.3), 0.2)


def test_wrapped_losses_pass_on_what_is_needed_and_come_back_from_a_checkpoint():
    assert NESTED.needs_reference()
    assert entropy_quantile(NESTED) == pytest.approx(0.7)
    assert entropy_quantile(EntropyBonus(SAPO())) is entropy_quantile(SAPO()) is None
    assert not EntropyBonus(SAPO()).needs_reference()
    settings = loss_settings(NESTED)
    assert settings["init_args"]["loss"]["init_args"]["loss"]["class_path"].endswith(".EntropyBonus")
    assert as_loss(settings, "loss") == NESTED


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopEntropy(SAPO(), 1.0), "share must lie between 0 and 1, got 1.0"),
        (lambda: TopEntropy(EntropyBonus(TopEntropy(SAPO()))), "one TopEntropy is inside of another"),
        (
            lambda: TopEntropy(EntropyBonus(GSPO())),
            "GSPO at the sequence level needs one advantage .*wrap lit_tpgrpo.GSPOToken",
        ),
        (lambda: EntropyBonus(TopEntropy(EntropyBonus(SAPO()))), "one EntropyBonus is inside of another: keep one"),
        (
            lambda: EntropyBonus(StaleNegatives(AdaptiveEntropyBonus(SAPO()))),
            "one AdaptiveEntropyBonus is inside of EntropyBonus: keep one of them",
        ),
        (lambda: StaleNegatives(StaleNegatives(SAPO()), 0.1), "one StaleNegatives is inside of another: keep one"),
        (lambda: EntropyBonus(SAPO(), 0.0), "coefficient must be above 0"),
        (lambda: StaleNegatives(SAPO(), -1.0), "threshold must be above 0"),
        (lambda: StaleNegatives(SAPO), "give an object: SAPO"),  # pyright: ignore
    ],
)
def test_settings_out_of_range_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@dataclass(frozen=True)
class NoPush(MaskedLoss):
    """Leave all tokens out, under a name that may be taken."""

    name: str = "stale"

    def left_out(self, inputs):
        return self.name, torch.ones_like(inputs.mask)


@pytest.mark.parametrize(("inner", "name"), [(StaleNegatives(SAPO()), "stale"), (EntropyBonus(SAPO()), "entropy_loss")])
def test_a_name_that_the_loss_inside_logs_is_not_overwritten(inner, name):
    inputs = our_inputs(random_step(), "token", entropy=entropies_of())
    assert {"free"} == NoPush(inner, "free")(inputs).token_values.keys() - inner(inputs).token_values.keys()
    with pytest.raises(ConfigError, match=f"NoPush logs {name}, and so does the loss inside: keep one of them"):
        NoPush(inner, name)(inputs)


@dataclass(frozen=True)
class LogsAsWell(WrappedLoss):
    """Log a term or a value of tokens under a name of the entropy bonuses."""

    term: str = ""
    value: str = ""

    def __call__(self, inputs):
        output = self.loss(inputs)
        terms = {self.term: torch.zeros(())} if self.term else {}
        return replace(output, terms=terms, token_values={self.value: inputs.mask} if self.value else {})


@pytest.mark.parametrize(
    ("outer", "names", "taken"),
    [
        (EntropyBonus, {"term": "entropy_loss"}, "entropy_loss"),
        (EntropyBonus, {"value": "entropy_loss"}, "entropy_loss"),
        (AdaptiveEntropyBonus, {"term": "entropy_loss"}, "entropy_loss"),
        (AdaptiveEntropyBonus, {"value": "entropy_coefficient"}, "entropy_coefficient"),
    ],
)
def test_an_entropy_bonus_overwrites_nothing_of_a_loss_of_the_users(outer, names, taken):
    inputs = our_inputs(random_step(), "token", entropy=entropies_of(), state={"coefficient": 0.5, "entropy": 0.1})
    with pytest.raises(ConfigError, match=f"{outer.__name__} logs {taken}, and so does the loss inside: keep one"):
        outer(LogsAsWell(SAPO(), **names))(inputs)


WRAPPERS = (EntropyBonus, AdaptiveEntropyBonus, TopEntropy, StaleNegatives)
ONE_ONLY = (
    {EntropyBonus, AdaptiveEntropyBonus},
    {EntropyBonus},
    {AdaptiveEntropyBonus},
    {TopEntropy},
    {StaleNegatives},
)


@pytest.mark.parametrize("between", [None, *WRAPPERS])
@pytest.mark.parametrize("inner", WRAPPERS)
@pytest.mark.parametrize("outer", WRAPPERS)
def test_any_wrappers_are_refused_or_their_terms_add_up_to_the_loss(outer, between, inner):
    """The six pairs of one kind are refused at any depth; of all others what is logged is what is trained on."""
    kinds = [kind for kind in (outer, between, inner) if kind is not None]
    refused = any({a, b} in ONE_ONLY for a, b in itertools.combinations(kinds, 2))

    def build():
        loss = ClippedSurrogate(kl_beta=0.04)
        for kind in reversed(kinds):
            loss = kind(loss)
        return loss

    if refused:
        with pytest.raises(ConfigError, match="keep one of them") as error:
            build()
        assert "\n" not in str(error.value)
        return
    inputs = our_inputs(
        random_step(),
        "token",
        entropy=entropies_of(),
        entropy_threshold=torch.tensor(0.5),
        state={"coefficient": 0.5, "entropy": 0.1},
    )
    output = build()(inputs)
    assert sum(term.item() for term in output.terms.values()) == pytest.approx(output.loss.item(), abs=1e-6)


def test_inputs_that_are_missing_are_named():
    inputs = our_inputs(random_step(), "token")
    with pytest.raises(ValueError, match="TopEntropy needs entropy_threshold"):
        TopEntropy(SAPO())(inputs)
    with pytest.raises(ValueError, match="an entropy bonus needs the entropy"):
        EntropyBonus(SAPO())(inputs)


def trained(
    loss: TokenLoss, model: str, budget: int, path, change=lambda sequence: sequence
) -> tuple[dict[str, float], torch.Tensor]:
    """One optimizer step on four sequences; what was logged, and the changed weights."""
    generator = torch.Generator().manual_seed(0)
    sequences = tuple(
        TrainingSequence(
            torch.randint(3, 300, (4,), generator=generator),
            torch.randint(3, 300, (n,), generator=generator),
            torch.full((n,), -6.0),
            torch.randn(n, generator=generator),
        )
        for n in (3, 5, 2, 6)
    )
    batch = TrainBatch(tuple(map(change, sequences)), temperature=1.0, round_index=0, policy_version=0)
    module = TPGRPOModule(
        model, loss=loss, tokens_per_microbatch=budget, optimizer=lambda p: torch.optim.SGD(p, lr=1.0)
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_steps=1, default_root_dir=path, **quiet)
    trainer.fit(module, DataLoader([batch], batch_size=None))  # pyright: ignore[reportArgumentType]
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return logged, torch.cat([p.detach().flatten() for p in module._built_policy.parameters()])


def test_in_the_module_cutting_changes_nothing_and_every_part_acts(random_model, tmp_path):
    """One micro-batch, or one for each sequence: the threshold is of the whole step."""
    loss = TopEntropy(EntropyBonus(ClippedSurrogate(), 0.5), 0.25)
    whole, weights = trained(loss, random_model, 4096, tmp_path)
    cut, cut_weights = trained(loss, random_model, 1, tmp_path)
    torch.testing.assert_close(cut_weights, weights, rtol=0, atol=1e-6)
    for name in ("train/loss", "train/entropy_loss", "train/low_entropy", "train/policy_loss", "train/grad_norm"):
        assert cut[name] == pytest.approx(whole[name], abs=1e-6)
    assert whole["train/low_entropy"] == pytest.approx(12 / 16)
    assert whole["train/entropy_loss"] == pytest.approx(-0.5 * whole["train/entropy"], abs=1e-6)
    _, without = trained(TopEntropy(ClippedSurrogate(), 0.25), random_model, 4096, tmp_path)
    assert (without - weights).abs().max() > 1e-6  # the bonus has a gradient


def without_first_token(sequence: TrainingSequence) -> TrainingSequence:
    return replace(sequence, loss_mask=torch.arange(len(sequence.completion_ids)) > 0)


def first_advantage_zero(sequence: TrainingSequence) -> TrainingSequence:
    return replace(sequence, advantages=sequence.advantages * (torch.arange(len(sequence.completion_ids)) > 0))


def test_a_loss_mask_keeps_the_count_of_all_tokens(random_model, tmp_path):
    """Without a KL term it is an advantage of 0, so the weights divide by all 16 tokens; of 12 means are taken."""
    masked, weights = trained(ClippedSurrogate(), random_model, 4096, tmp_path, without_first_token)
    zero, expected = trained(ClippedSurrogate(), random_model, 4096, tmp_path, first_advantage_zero)
    assert torch.equal(weights, expected)
    assert masked["train/loss"] == zero["train/loss"]
    assert (masked["train/tokens"], zero["train/tokens"]) == (12, 16)
    top, _ = trained(TopEntropy(ClippedSurrogate(), 0.25), random_model, 1, tmp_path, without_first_token)
    assert top["train/low_entropy"] == pytest.approx(9 / 12)  # masked tokens are in no quantile


def test_the_threshold_is_of_all_ranks_and_of_no_dummy(monkeypatch):
    """This rank has entropies 1 and 2 and a dummy's 9; the other rank has 3, 4 and 5."""
    seen = []

    def gather(local):
        seen.extend(t.tolist() for t in local)
        return [local, [torch.tensor([3.0, 4.0, 5.0])]]

    monkeypatch.setattr(optimizer_step, "gather", gather)
    real, dummy = dummy_microbatch(Padded(0), torch.device("cpu")), dummy_microbatch(Padded(0), torch.device("cpu"))
    values = {id(real): torch.tensor([1.0, 2.0]), id(dummy): torch.tensor([9.0])}

    def policy(batch, temperature):
        return None, values[id(batch)]

    arguments = ([real, None], [real, dummy], 1.0)
    assert optimizer_step.entropy_threshold(policy, TopEntropy(SAPO(), 0.5), *arguments) == 3.0  # pyright: ignore
    assert seen == [[1.0, 2.0]]
    assert optimizer_step.entropy_threshold(policy, SAPO(), *arguments) is None  # pyright: ignore


def test_trl_has_no_default_threshold():
    """What StaleNegatives calls unpublished."""
    assert trl.GRPOConfig(output_dir="unused", report_to=[], bf16=False).off_policy_mask_threshold is None
