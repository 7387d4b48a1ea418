"""Worked numbers of every loss and correction: single tokens with a given ratio and advantage, and short sequences."""

from __future__ import annotations

import math

import pytest
import torch

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.aggregation import NORMALISATIONS, BatchCounts, sequence_weights
from lit_tpgrpo.functional.corrections import importance_weights
from lit_tpgrpo.losses import (
    CISPO,
    GSPO,
    SAPO,
    VESPO,
    ClippedSurrogate,
    DPPOTotalVariation,
    DualClip,
    GSPOToken,
    LossInputs,
    MiniRL,
    TokenLoss,
    loss_inputs,
)

NAN = math.nan
# advantage, kappa; then of a token with weight 1: the loss of PPO's clip (0.2, 0.2) and of SAPO; what log pi's gradient is
# multiplied by, over A, in CISPO (cap 5), VESPO, MiniRL (0.2, 0.27, before its cap); and IcePop (0.5 to 5), TIS and MIS (3) of
# a token whose ratio of trainer to engine it is.
TABLE = [
    (+1, 0.5, -0.5, -1.5102, 0.5, 1.1204, 0.5, 0.5, 0.5, 0.5),
    (+1, 1.5, -1.2, -2.4898, 1.5, 0.5020, 0.0, 1.5, 1.5, 1.5),
    (+1, 6.0, -1.2, -3.9732, 5.0, 0.0000, 0.0, 0.0, 3.0, 0.0),
    (-1, 0.5, 0.8, 1.4159, 0.5, 0.3398, 0.0, 0.5, 0.5, 0.5),
    (-1, 1.5, 1.5, 2.3936, 1.5, 1.2416, 1.5, 1.5, 1.5, 1.5),
    (-1, 6.0, 6.0, 3.7896, 5.0, 0.0098, 6.0, 0.0, 3.0, 0.0),
]


def tokens(*sequences: list[tuple[float, float]], old: float = -1.0, **optional: torch.Tensor) -> LossInputs:
    """Sequences of (kappa, advantage), each token with weight 1."""
    lengths = torch.tensor([len(s) for s in sequences])
    kappa, advantages = torch.tensor([t for s in sequences for t in s]).unbind(1)
    old_logprobs = torch.full_like(kappa, old)
    row = torch.arange(len(sequences)).repeat_interleave(lengths)
    logprobs = (old_logprobs + kappa.log()).requires_grad_()
    return loss_inputs(logprobs, old_logprobs, advantages, torch.ones_like(kappa), row, lengths, **optional)


def gradient(loss: TokenLoss, inputs: LossInputs) -> list[float]:
    return torch.autograd.grad(loss(inputs).loss, inputs.logprobs)[0].tolist()


def near(values: object) -> object:
    return pytest.approx(values, abs=5e-5)


@pytest.mark.parametrize(
    ("advantage", "kappa", "clip", "sapo", "cispo", "vespo", "minirl", "icepop", "tis", "mis"), TABLE
)
def test_the_worked_table(advantage, kappa, clip, sapo, cispo, vespo, minirl, icepop, tis, mis):
    inputs = tokens([(kappa, advantage)])
    assert ClippedSurrogate()(inputs).loss.item() == near(clip)
    assert SAPO()(inputs).loss.item() == near(sapo)
    for loss, weight in ((CISPO(cap=5.0), cispo), (VESPO(), vespo), (MiniRL(0.2, 0.27, cap=100.0), minirl)):
        assert gradient(loss, inputs) == near([-weight * advantage])
    engine = torch.tensor([-1.0])
    for method, cap, floor, weight in (
        ("token_mask", 5.0, 0.5, icepop),
        ("token_truncate", 3.0, 0.0, tis),
        ("token_mask", 3.0, 0.0, mis),
    ):
        assert importance_weights(engine + math.log(kappa), engine, method, cap, floor).item() == near(weight)


def test_the_worked_example_of_corrections():
    """Token ratios 2, 1/2 and 4; their product is 4, their geometric mean 4^(1/3)."""
    engine = torch.full((3,), -1.0)
    trainer = engine + torch.tensor([2.0, 0.5, 4.0]).log()
    for method, expected in (
        ("token_truncate", [2.0, 0.5, 3.0]),
        ("product_truncate", [3.0] * 3),
        ("product_mask", [0.0] * 3),
        ("sequence_mask", [1.5874] * 3),
    ):
        assert importance_weights(trainer, engine, method, 3.0).tolist() == near(expected)


def test_the_worked_example_of_averages():
    """Token losses 1, 1 and 2, 2, 2, 2."""
    lengths, losses = torch.tensor([2, 4]), torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    counts = BatchCounts(tokens=6, sequences=2, max_length=8)
    expected = {"token": 1.6667, "sequence": 1.5, "sequence_sum": 5.0, "constant": 0.625}
    assert expected.keys() == NORMALISATIONS.keys()
    for name, value in expected.items():
        weights = sequence_weights(lengths, name, counts).repeat_interleave(lengths)  # pyright: ignore
        assert (weights * losses).sum().item() == near(value)


def test_dual_clip_by_hand():
    """Clip 0.2, delta 3: with A = -2 a ratio of 4 costs 6 and has no gradient; A = 2 is clipped as ever."""
    loss = DualClip(0.2, 0.2, 3.0)
    for kappa, advantage, value, slope in (
        (4.0, -2.0, 6.0, 0.0),
        (2.0, -2.0, 4.0, 4.0),
        (0.5, -2.0, 1.6, 0.0),
        (4.0, 2.0, -2.4, 0.0),
        (1.1, 2.0, -2.2, -2.2),
    ):
        inputs = tokens([(kappa, advantage)])
        output = loss(inputs)
        assert output.loss.item() == near(value)
        assert gradient(loss, inputs) == near([slope])
        assert output.token_values["clipped_dual"].item() == (kappa > 3 and advantage < 0)


def test_gspo_by_hand():
    """Ratios 1.2 and 0.9 have the geometric mean 1.0392; A = 2 on both. Half of the two tokens' gradient goes to each."""
    s = math.sqrt(1.08)
    inputs = tokens([(1.2, 2.0), (0.9, 2.0)])
    assert GSPO(0.2, 0.2)(inputs).loss.item() == near(-2 * 2 * s)
    assert gradient(GSPO(0.2, 0.2), inputs) == near([-2 * s] * 2)
    assert gradient(GSPO(0.2, 0.03), inputs) == near([0.0] * 2)
    assert GSPO()(inputs).loss.item() == near(-2 * 2 * 1.0004)


def test_gspo_token_by_hand():
    """s = 1.0392 clipped at 1.03: the token that is pushed up has no gradient, the one that is pushed down keeps its own."""
    s = math.sqrt(1.08)
    inputs = tokens([(1.2, 2.0), (0.9, -1.0)])
    assert gradient(GSPOToken(0.2, 0.2), inputs) == near([-2 * s, s])
    output = GSPOToken(0.2, 0.03)(inputs)
    assert output.loss.item() == near(-2 * 1.03 + s)
    assert gradient(GSPOToken(0.2, 0.03), inputs) == near([0.0, s])
    assert output.token_values["clipped_high"].tolist() == [True, False]


def test_gspo_refuses_advantages_of_tokens():
    constant = tokens([(1.2, 2.0), (0.9, 2.0)], [(1.0, -1.0)])
    assert GSPO()(constant).loss.isfinite()
    message = r"takes one advantage per solution, and this one's tokens have -1 to 2: use lit_tpgrpo.GSPOToken"
    with pytest.raises(ConfigError, match=message):
        GSPO()(tokens([(1.0, 1.0)], [(1.2, 2.0), (0.9, -1.0)]))
    mask = torch.tensor([True, True, False])  # nothing is read outside of the mask
    assert GSPO()(tokens([(1.0, 1.0)], [(1.2, 2.0), (0.9, -1.0)], mask=mask)).loss.isfinite()


def test_vespo_by_hand():
    """w = 1.2 * 0.9 = 1.08; with weights c = 2 and 1/2 it is the same, with 2 and 1 it is 2.16. Each sign has its own phi."""
    up, down = [math.exp(lam) * 1.08**k * math.exp(-1.08 * lam) for k, lam in ((2, 3), (3, 2))]
    assert gradient(VESPO(), tokens([(1.2, 2.0), (0.9, -1.0)])) == near([-2 * up, down])
    balanced = tokens([(1.2, 2.0), (0.9, -1.0)], importance_weights=torch.tensor([2.0, 0.5]))
    assert gradient(VESPO(), balanced) == near([-2 * up, down])
    corrected = tokens([(1.2, 2.0), (0.9, 2.0)], importance_weights=torch.tensor([2.0, 1.0]))
    assert gradient(VESPO(), corrected) == near([-2 * math.exp(3) * 2.16**2 * math.exp(-3 * 2.16)] * 2)


@pytest.mark.parametrize(
    ("old", "new", "advantage", "weight", "dropped"),
    [
        (0.5, 0.7, 1.0, 0.0, True),  # rose by 0.2 of at most 0.15, and is pushed up
        (0.5, 0.7, -1.0, 1.4, False),
        (0.5, 0.3, -1.0, 0.0, True),
        (0.5, 0.3, 1.0, 0.6, False),
        (0.01, 0.05, 1.0, 5.0, False),  # a clip of the ratio at 1.2 would drop it
        (0.001, 0.05, 1.0, 20.0, False),  # 50, capped
    ],
)
def test_dppo_by_hand(old, new, advantage, weight, dropped):
    inputs = tokens([(new / old, advantage)], old=math.log(old))
    assert gradient(DPPOTotalVariation(), inputs) == near([-weight * advantage])
    assert DPPOTotalVariation()(inputs).token_values["dropped"].item() is dropped


def test_minirl_weighs_by_the_whole_ratio_and_masks_by_the_trainers():
    """kappa = 1.2 is inside of 1.27 although kappa * c = 2.4 is not; the product is capped at 5."""
    inputs = tokens([(1.2, 1.0), (1.2, 1.0), (1.3, 1.0)], importance_weights=torch.tensor([2.0, 10.0, 0.5]))
    output = MiniRL()(inputs)
    assert gradient(MiniRL(), inputs) == near([-2.4, -5.0, 0.0])
    assert output.token_values["capped"].tolist() == [False, True, False]
    assert output.token_values["clipped_high"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DualClip(delta=1.2), "delta must be above 1 \\+ clip_high, 1.2"),
        (lambda: DualClip(clip_low=1.0), "clip_low must lie in"),
        (lambda: GSPO(clip_high=-1.0), "clip_high be at least 0"),
        (lambda: GSPOToken(kl_beta=-1.0), "kl_beta must be 0"),
        (lambda: GSPO(clip_high=NAN), "clip_high be at least 0, got 0.0003 and nan"),
        (lambda: MiniRL(clip_low=NAN), "clip_low must lie in"),
        (lambda: SAPO(kl_beta=NAN), "kl_beta must be 0 .* and finite, got nan"),
        (lambda: ClippedSurrogate(clip_high=NAN), "clip_high be at least 0"),
        (lambda: ClippedSurrogate(kl_beta=NAN), "kl_beta must be 0"),
        (lambda: ClippedSurrogate(kl_beta=float("inf")), "kl_beta must be 0"),
        (lambda: CISPO(cap=NAN), "cap be at least 1"),
        (lambda: CISPO(cap=0.5), "cap be at least 1"),
        (lambda: SAPO(tau_negative=0.0), "tau_negative must be above 0"),
        (lambda: VESPO(k_positive=-1.0), "k_positive must be above 0"),
        (lambda: DPPOTotalVariation(tv_high=0.0), "tv_high must be above 0"),
        (lambda: MiniRL(cap=0.0), "cap must be above 0"),
        (lambda: SAPO(tau_negative="much"), "SAPO: tau_negative: expected a number"),  # pyright: ignore
        (lambda: SAPO(kl_estimator="k4"), "SAPO: kl_estimator: expected"),  # pyright: ignore
        (lambda: CISPO(caps=1.0), "CISPO has no argument 'caps'; did you mean cap?"),  # pyright: ignore
    ],
)
def test_settings_out_of_range_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
