"""The loss by literals, its gradient, and that cutting and padding change nothing."""

import math

import pytest
import torch

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.aggregation import NORMALISATIONS, BatchCounts, sequence_weights, token_weights
from lit_tpgrpo.functional.kl import KL_ESTIMATORS, kl_k1, kl_k2, kl_k3
from lit_tpgrpo.losses import ClippedSurrogate
from tests.losses.padded import clipped_loss

LENGTHS = (5, 1, 3, 7, 2, 4)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


def one_token(log_ratio, advantage, **settings):
    """Loss and gradient of a single token of weight 1 with the given log-ratio."""
    logprobs = torch.tensor([log_ratio - 1.0], requires_grad=True)
    ones = torch.ones(1)
    loss, sums = clipped_loss(logprobs, -ones, torch.tensor([advantage]), torch.tensor([True]), ones, settings=settings)
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad.item(), sums


def random_step(width=7, seed=0, dtype=torch.float64):
    """A padded step of sequences of LENGTHS: the inputs of a loss but for weights, NaN on the padding."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(width) < torch.tensor(LENGTHS).unsqueeze(1)

    def draw(scale, shift=0.0):
        values = torch.full(mask.shape, torch.nan, dtype=dtype)
        values[mask] = shift + scale * torch.randn(sum(LENGTHS), generator=g, dtype=dtype)
        return values

    old = draw(0.5, -1.0)
    return {
        "logprobs": old + draw(0.3),
        "old_logprobs": old,
        "advantages": draw(1.0),
        "mask": mask,
        "ref_logprobs": old + draw(0.3),
        "importance_weights": draw(0.1, 1.0),
    }


COUNTS = BatchCounts(tokens=sum(LENGTHS), sequences=len(LENGTHS), max_length=10)
SETTINGS = {"clip_low": 0.2, "clip_high": 0.28, "kl_estimator": "k3", "kl_beta": 0.1}


# --- weights -------------------------------------------------------------------------------------------------------


def test_token_weights_literals():
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    counts = BatchCounts(tokens=20, sequences=5, max_length=10)  # of the step; this piece has 3 of the tokens
    close(token_weights(mask, "token", counts), [[0.05, 0.05, 0], [0.05, 0, 0], [0, 0, 0]])
    close(token_weights(mask, "sequence", counts), [[0.1, 0.1, 0], [0.2, 0, 0], [0, 0, 0]])
    close(token_weights(mask, "sequence_sum", counts), [[0.2, 0.2, 0], [0.2, 0, 0], [0, 0, 0]])
    close(token_weights(mask, "constant", counts), [[0.02, 0.02, 0], [0.02, 0, 0], [0, 0, 0]])


def test_packed_weights_are_the_padded_ones():
    mask = random_step()["mask"]
    for name in NORMALISATIONS:
        lengths = torch.tensor(LENGTHS)
        packed = sequence_weights(lengths, name, COUNTS).repeat_interleave(lengths)
        assert torch.equal(packed, token_weights(mask, name, COUNTS)[mask])


def test_weights_refuse():
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"one of .'constant', 'sequence', 'sequence_sum', 'token'., got 'mean'"):
        token_weights(mask, "mean", COUNTS)
    with pytest.raises(ValueError, match="needs max_length >= 1"):
        token_weights(mask, "constant", BatchCounts(2, 1))
    with pytest.raises(ValueError, match="at least one token"):
        token_weights(mask, "token", BatchCounts(0, 0))
    with pytest.raises(ValueError, match=r"bool mask of shape \(B, L\), got torch.float32"):
        token_weights(mask.float(), "token", COUNTS)


# --- the surrogate ---------------------------------------------------------------------------------------------------


def test_gradient_at_ratio_one_is_reinforce():
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, -1.0], [0.5, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.0]])
    loss, _ = clipped_loss(logprobs, logprobs.detach().clone(), advantages, mask, weights)
    loss.backward()
    close(loss.detach(), -(0.1 * 2.0 - 0.2 * 1.0 + 0.3 * 0.5))
    close(logprobs.grad, [[-0.2, 0.2], [-0.15, 0.0]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "grad", "low", "high"),
    [
        # positive: capped above 1 + 0.5, free below
        (1.25, 2.0, -2.5, -2.5, 0, 0),
        (1.6, 2.0, -3.0, 0.0, 0, 1),
        (0.5, 2.0, -1.0, -1.0, 0, 0),
        # negative: capped below 1 - 0.2, free above
        (0.9, -2.0, 1.8, 1.8, 0, 0),
        (0.5, -2.0, 1.6, 0.0, 1, 0),
        (3.0, -2.0, 6.0, 6.0, 0, 0),
    ],
)
def test_clip_with_separate_bounds(ratio, advantage, loss, grad, low, high):
    value, gradient, sums = one_token(math.log(ratio), advantage, clip_low=0.2, clip_high=0.5)
    assert value == pytest.approx(loss, abs=1e-6)
    assert gradient == pytest.approx(grad, abs=1e-6)
    assert (sums.token_sums["clipped_low"].item(), sums.token_sums["clipped_high"].item()) == (low, high)


def test_importance_weights_scale_the_surrogate_but_not_the_kl():
    logprobs = torch.tensor([-1.0], requires_grad=True)
    one, mask = torch.ones(1), torch.tensor([True])
    weights = torch.tensor([0.5], requires_grad=True)
    settings = {"kl_estimator": "k2", "kl_beta": 0.1}
    optional = {"ref_logprobs": -2 * one, "importance_weights": weights}
    loss, _ = clipped_loss(logprobs, -one, one, mask, one, settings=settings, **optional)
    loss.backward()
    close(loss.detach(), -0.5 + 0.1 * 0.5)
    close(logprobs.grad, [-0.5 + 0.1 * 1.0])
    assert weights.grad is None


# --- KL --------------------------------------------------------------------------------------------------------------


def test_kl_literals():
    # p = 0.5, q = 0.25
    p, q = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    close(kl_k1(p, q), [0.6931472])
    close(kl_k2(p, q), [0.2402265])
    close(kl_k3(p, q), [0.5 - 1 + 0.6931472])
    for estimator in (kl_k1, kl_k2, kl_k3):
        close(estimator(p, p), [0.0])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (kl_k1, "zero"),
        (kl_k2, "reverse"),
        (kl_k3, "forward"),
    ],
)
def test_expected_gradient_on_policy_is_what_the_docstring_says(estimator, expected):
    """Exact expectation over a three-token vocabulary, the tokens being sampled from p itself."""
    theta = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    logp = theta.log_softmax(0)
    p = logp.exp()
    targets = {
        "zero": (0.0 * theta).sum(),
        "reverse": (p * (logp - q.log())).sum(),
        "forward": (q * (q.log() - logp)).sum(),
    }
    (want,) = torch.autograd.grad(targets[expected], theta, retain_graph=True)
    (got,) = torch.autograd.grad((p.detach() * estimator(logp, q.log())).sum(), theta)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def off_policy():
    """Policy, sampling policy and reference over three tokens: (theta, log p, p_old, q)."""
    theta = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    p_old = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    return theta, theta.log_softmax(0), p_old, q


@pytest.mark.parametrize(
    ("name", "unbiased"), [("k1", False), ("k2", False), ("k3", False), ("k2_unbiased", True), ("k3_unbiased", True)]
)
def test_gradient_off_policy_is_the_kls_in_expectation_only_where_the_name_says_so(name, unbiased):
    theta, logp, p_old, q = off_policy()
    kl = (logp.exp() * (logp - q.log())).sum()
    (want,) = torch.autograd.grad(kl, theta, retain_graph=True)
    expectation = (p_old * KL_ESTIMATORS[name](logp, p_old.log(), q.log())).sum()
    (got,) = torch.autograd.grad(expectation, theta)
    difference = (got - want).abs().max().item()
    assert difference < 1e-12 if unbiased else difference > 0.02
    if name == "k3_unbiased":
        torch.testing.assert_close(expectation, kl, rtol=0, atol=1e-12)


def test_unbiased_kl_literals():
    # p = 0.5, p_old = q = 0.25: the ratio is 2. d/dlog p of ratio * k3 is 2 (k3 + 1 - q/p), of sg(ratio) * k2 it is 2 log(p/q).
    old = ref = torch.tensor([0.25]).log()
    for name, value, slope in (
        ("k3_unbiased", 2 * 0.1931472, 2 * 0.6931472),
        ("k2_unbiased", 2 * 0.2402265, 2 * 0.6931472),
    ):
        logp = torch.tensor([0.5]).log().requires_grad_()
        kl = KL_ESTIMATORS[name](logp, old, ref)
        kl.sum().backward()
        close(kl.detach(), [value])
        assert logp.grad is not None
        close(logp.grad, [slope])


@pytest.mark.parametrize(
    ("kl", "value"),
    [("k1", 0.6931472), ("k2", 0.2402265), ("k3", 0.1931472), ("k2_unbiased", 0.2402265), ("k3_unbiased", 0.1931472)],
)
def test_kl_enters_with_beta(kl, value):
    logprobs, one, mask = torch.tensor([math.log(0.5)]), torch.ones(1), torch.tensor([True])
    arguments = (logprobs, logprobs, 0 * one, mask, 2 * one)
    reference = torch.tensor([math.log(0.25)])
    settings = {"kl_estimator": kl, "kl_beta": 0.1}
    loss, sums = clipped_loss(*arguments, ref_logprobs=reference, settings=settings)
    close(loss, 2 * 0.1 * value)
    close(sums.terms["kl_loss"], 2 * 0.1 * value)
    close(sums.token_sums["kl_ref"], value)
    loss, sums = clipped_loss(*arguments, ref_logprobs=reference, settings={"kl_estimator": kl})
    close(loss, 0.0)
    close(sums.token_sums["kl_ref"], value)  # measured all the same


def test_kl_that_is_only_measured_cannot_poison_the_loss():
    logprobs, one = torch.tensor([-1.0], requires_grad=True), torch.ones(1)
    loss, sums = clipped_loss(logprobs, -one, one, one.bool(), one, ref_logprobs=torch.tensor([-torch.inf]))
    loss.backward()
    assert sums.token_sums["kl_ref"].item() == math.inf
    assert loss.item() == -1.0
    assert logprobs.grad is not None
    assert logprobs.grad.item() == -1.0


# --- cutting, padding, packing ---------------------------------------------------------------------------------------


def loss_and_grad(step, weights):
    logprobs = step["logprobs"].clone().requires_grad_()
    loss, sums = clipped_loss(**{**step, "logprobs": logprobs}, weights=weights, settings=SETTINGS)
    loss.backward()
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad, sums


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1), (2, 3, 1), (4, 2)])
def test_cutting_and_padding_change_nothing(normalisation, cuts):
    step = random_step()
    whole, whole_grad, whole_sums = loss_and_grad(step, token_weights(step["mask"], normalisation, COUNTS))

    wide = random_step(width=13)
    total, grads, sums = torch.zeros((), dtype=torch.float64), [], None
    for rows in torch.arange(len(LENGTHS)).split(cuts):
        width = 13 if len(rows) == 1 else max(LENGTHS[i] for i in rows)  # too wide, or as tight as can be
        piece = {name: tensor[rows, :width] for name, tensor in wide.items()}
        loss, grad, piece_sums = loss_and_grad(piece, token_weights(piece["mask"], normalisation, COUNTS))
        total += loss
        grads.append(grad[piece["mask"]])
        sums = piece_sums if sums is None else sums + piece_sums
    close(total, whole, atol=1e-12)
    assert torch.equal(torch.cat(grads), whole_grad[step["mask"]])
    assert sums is not None
    for name, value in whole_sums.values().items():
        close(sums.values()[name], value, atol=1e-12)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_packed_tokens_give_the_padded_loss(normalisation):
    step = random_step()
    mask, weights = step["mask"], token_weights(step["mask"], normalisation, COUNTS)
    padded, padded_grad, _ = loss_and_grad(step, weights)
    loss, grad, _ = loss_and_grad({name: tensor[mask] for name, tensor in step.items()}, weights[mask])
    close(loss, padded, atol=1e-12)
    assert torch.equal(grad, padded_grad[mask])
    assert padded_grad[~mask].eq(0).all()


def test_single_precision_pieces_add_up_to_1e_6():
    step = random_step(dtype=torch.float32)
    weights = token_weights(step["mask"], "sequence", COUNTS)
    whole, *_ = loss_and_grad(step, weights)
    pieces = [loss_and_grad({n: t[i : i + 1] for n, t in step.items()}, weights[i : i + 1])[0] for i in range(6)]
    close(torch.stack(pieces).sum(), whole, atol=1e-6)


def test_dummy_without_tokens_is_zero_with_a_graph():
    logprobs = torch.full((1, 3), torch.nan, requires_grad=True)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    nan = torch.full((1, 3), torch.nan)
    loss, sums = clipped_loss(
        logprobs,
        nan,
        nan,
        nothing,
        token_weights(nothing, "sequence", COUNTS),
        ref_logprobs=nan,
        settings={"kl_beta": 0.1},
    )
    loss.backward()
    assert loss.item() == 0.0
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.0, 0.0, 0.0]]
    assert sums.maxima["ratio_max"].item() == 0.0
    assert sums.values()["ratio"].item() == 0.0
    empty = torch.zeros(0)
    assert clipped_loss(empty, empty, empty, empty.bool(), empty)[0].item() == 0.0


# --- what is measured --------------------------------------------------------------------------------------------------


def test_sums_by_hand_and_reduced_over_ranks():
    old = torch.tensor([-1.0, -1.0, -1.0, -1.0])
    ratio = torch.tensor([2.0, 0.25, 1.0, 50.0])
    mask = torch.tensor([True, True, True, False])
    _, sums = clipped_loss(old + ratio.log(), old, torch.tensor([1.0, -1.0, 3.0, 1.0]), mask, torch.full((4,), 0.5))
    expected = {
        "tokens": 3.0,
        "loss": -0.5 * (1.2 - 0.8 + 3.0),
        "policy_loss": -0.5 * (1.2 - 0.8 + 3.0),
        "kl_loss": 0.0,
        "advantage": 3.0,
        "ratio": 3.25,
        "clipped_low": 1.0,
        "clipped_high": 1.0,
        "kl_old": (2.0 - 1 - math.log(2)) + (0.25 - 1 + math.log(4)),
        "ratio_max": 2.0,
        "entropy": 0.0,  # none was given
        "mismatch/logprob_mean": math.log(2) + math.log(4),
        "mismatch/logprob_max": math.log(4),
    }
    every = {**sums.terms, **sums.token_sums, **sums.maxima}
    assert {name: value.item() for name, value in every.items()} == pytest.approx(expected, abs=1e-6)
    both = sums.reduce(all_sum=lambda t: 2 * t, all_max=lambda t: t + 1)
    assert both.tokens.item() == 6.0
    assert both.values()["advantage"].item() == pytest.approx(1.0)
    assert both.maxima["ratio_max"].item() == pytest.approx(3.0)
    assert not any(value.requires_grad for value in every.values())


def test_half_precision_logprobs_are_raised_to_float32():
    logprobs = torch.tensor([-1.0], dtype=torch.bfloat16, requires_grad=True)
    one = torch.ones(1)
    loss, _ = clipped_loss(logprobs, torch.tensor([-1.001]), one, torch.tensor([True]), one)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.exp(0.001), abs=1e-6)


def test_refusals_name_what_came():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"advantages of the shape of logprobs, \(2, 3\), got \(2,\)"):
        clipped_loss(x, x, torch.zeros(2), mask, x)
    with pytest.raises(ValueError, match=r"bool mask, got torch.float32"):
        clipped_loss(x, x, x, mask.float(), x)
    with pytest.raises(ValueError, match=r"floating point weights, got torch.int64"):
        clipped_loss(x, x, x, mask, x.long())
    with pytest.raises(ValueError, match="floating point logprobs"):
        clipped_loss(x.long(), x, x, mask, x)
    with pytest.raises(ValueError, match="needs ref_logprobs, got None"):
        clipped_loss(x, x, x, mask, x, settings={"kl_beta": 0.1})
    with pytest.raises(ConfigError, match=r"kl_beta must be 0 \(no reference\) or positive and finite, got -0.1"):
        ClippedSurrogate(kl_beta=-0.1)
    with pytest.raises(ConfigError, match=r"kl_estimator: expected k1, k2, .* or k3_unbiased, got 'k4'"):
        ClippedSurrogate(kl_estimator="k4")  # pyright: ignore
    with pytest.raises(ConfigError, match=r"clip_low must lie in \[0, 1\)"):
        ClippedSurrogate(clip_low=1.5)
    with pytest.raises(ConfigError, match="clip_high be at least 0"):
        ClippedSurrogate(clip_high=-0.1)
