"""What holds for every loss of ours: the policy gradient on-policy, cutting changes nothing, the mask is not read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lit_tpgrpo.functional.aggregation import NORMALISATIONS
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
from lit_tpgrpo.losses.metrics import LossMetrics, measure
from lit_tpgrpo.losses.settings import as_loss, loss_settings
from tests.losses.loss_cases import LENGTHS, LOSSES, STATE, THRESHOLD, WRAPPED, a_step, inputs_of, with_kl

also_wrapped = pytest.mark.parametrize("loss", [*LOSSES, *WRAPPED], ids=lambda loss: type(loss).__name__)
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


def evaluate(loss: TokenLoss, inputs: LossInputs) -> tuple[Tensor, Tensor, LossMetrics]:
    output = loss(inputs)
    (grad,) = torch.autograd.grad(output.loss, inputs.logprobs)
    return output.loss.detach(), grad, measure(inputs, output)


def pieces(step: dict[str, Tensor], cuts: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """The step cut into micro-batches of whole sequences, rows counted from 0 in each."""
    result = []
    for rows in torch.arange(len(LENGTHS)).split(list(cuts)):
        inside = torch.isin(step["row"], rows)
        part = {name: tensor[inside] for name, tensor in step.items() if name != "lengths"}
        result.append({**part, "row": part["row"] - rows[0], "lengths": step["lengths"][rows]})
    return result


@each_loss
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_on_policy_the_gradient_is_the_policy_gradient(loss, normalisation):
    """At kappa = 1: -w_t A_t grad log pi, whatever the loss."""
    step = a_step(loss)
    inputs = inputs_of(
        step, normalisation, logprobs=step["old_logprobs"], importance_weights=torch.ones_like(step["row"]).double()
    )
    _, grad, metrics = evaluate(loss, inputs)
    torch.testing.assert_close(grad, -inputs.weights * inputs.advantages, rtol=1e-9, atol=1e-12)
    values = metrics.values()
    assert {n for n, v in values.items() if n.startswith(("clipped", "dropped", "capped")) and v != 0} == set()


@also_wrapped
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1), (2, 3, 1)])
def test_cutting_a_step_changes_nothing(loss, normalisation, cuts):
    loss = with_kl(loss)
    step = a_step(loss)
    whole, whole_grad, whole_metrics = evaluate(loss, inputs_of(step, normalisation))
    parts = [evaluate(loss, inputs_of(piece, normalisation)) for piece in pieces(step, cuts)]
    torch.testing.assert_close(sum(p[0] for p in parts), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole_grad, rtol=0, atol=1e-14)
    total = parts[0][2]
    for part in parts[1:]:
        total = total + part[2]
    for name, value in whole_metrics.values().items():
        torch.testing.assert_close(total.values()[name], value, rtol=0, atol=1e-12)


@each_loss
def test_what_is_off_limits_is_touched_or_the_test_says_nothing(loss):
    """The step above clips, drops or caps tokens, and leaves others alone."""
    values = evaluate(loss, inputs_of(a_step(loss)))[2].values()
    marks = {n: float(v) for n, v in values.items() if n.startswith(("clipped", "dropped", "capped", "soft"))}
    assert any(0 < v < 1 for v in marks.values()) or (isinstance(loss, VESPO) and marks["soft_weight"] != 1), marks


@also_wrapped
def test_masked_tokens_are_not_read_and_get_no_gradient(loss):
    """A masked token may hold NaN; the others have what they have in a step without it, for the weights are the step's."""
    loss = with_kl(loss)
    step = a_step(loss)
    keep = torch.ones(sum(LENGTHS), dtype=torch.bool)
    keep[[1, 4, 5, 9]] = False  # of several sequences; token 5 is all of the second one
    inputs = inputs_of(step)
    poison = {n: torch.where(keep, step[n], torch.nan) for n in step if n not in ("row", "lengths")}
    masked = inputs_of(step, **poison, mask=keep)
    value, grad, _ = evaluate(loss, masked)
    shorter = {n: step[n][keep] for n in step if n not in ("lengths",)}
    packed = loss_inputs(
        shorter.pop("logprobs").requires_grad_(),
        weights=inputs.weights[keep],
        lengths=step["lengths"],
        entropy_threshold=THRESHOLD,
        state=STATE,
        **shorter,
    )
    want, want_grad, _ = evaluate(loss, packed)
    torch.testing.assert_close(value, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(grad[keep], want_grad, rtol=0, atol=1e-14)
    assert grad[~keep].eq(0).all()


@each_loss
def test_gradient_by_the_formula(loss):
    """Each loss's weight of grad log pi, written out in plain Python token by token."""
    step = a_step(loss)
    _, grad, _ = evaluate(loss, inputs_of(step))
    ratios = (step["logprobs"] - step["old_logprobs"]).exp().tolist()
    by_row: dict[int, list[int]] = {}
    for i, r in enumerate(step["row"].tolist()):
        by_row.setdefault(r, []).append(i)
    for members in by_row.values():
        mean = torch.tensor([ratios[i] for i in members]).double().log().mean().exp().item()
        w = torch.tensor([ratios[i] * step["importance_weights"][i].item() for i in members]).double().prod().item()
        for i in members:
            kappa, a, c = ratios[i], step["advantages"][i].item(), step["importance_weights"][i].item()
            p, old = (step[n][i].exp().item() for n in ("logprobs", "old_logprobs"))
            if isinstance(loss, GSPO):  # the token's weight is not its own: all tokens' c share it
                c = sum(step["importance_weights"][j].item() for j in members) / len(members)
            want = -weight_of(loss, kappa, a, c, mean, w, p - old) * a / sum(LENGTHS)
            assert grad[i].item() == pytest.approx(want, rel=1e-6, abs=1e-12)


def weight_of(loss: TokenLoss, kappa: float, a: float, c: float, mean: float, w: float, moved: float) -> float:
    def clipped(ratio: float, low: float, high: float) -> float:
        return 0.0 if (a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - low) else ratio

    match loss:
        case DualClip():
            return 0.0 if a < 0 and kappa > loss.delta else c * clipped(kappa, loss.clip_low, loss.clip_high)
        case ClippedSurrogate():
            return c * clipped(kappa, loss.clip_low, loss.clip_high)
        case GSPO() | GSPOToken():
            return c * clipped(mean, loss.clip_low, loss.clip_high)
        case CISPO():
            return c * min(kappa, loss.cap)
        case SAPO():
            tau = loss.tau_positive if a > 0 else loss.tau_negative
            gate = 1 / (1 + math.e ** (-tau * (kappa - 1)))
            return c * 4 * gate * (1 - gate) * kappa
        case VESPO():
            k, lam = (loss.k_positive, loss.lam_positive) if a >= 0 else (loss.k_negative, loss.lam_negative)
            return math.e ** (lam * (1 - w)) * w**k
        case DPPOTotalVariation():
            dropped = moved > loss.tv_high if a > 0 else moved < -loss.tv_low
            return 0.0 if dropped else c * min(kappa, loss.cap)
        case MiniRL():
            return min(kappa * c, loss.cap) if clipped(kappa, loss.clip_low, loss.clip_high) else 0.0
    raise AssertionError(loss)


def test_gspo_token_is_gspo_where_advantages_do_not_differ():
    step = a_step(GSPO())
    step["importance_weights"] = torch.ones_like(step["logprobs"])
    one, other = (evaluate(loss, inputs_of(step, "sequence")) for loss in (GSPO(0.05, 0.07), GSPOToken(0.05, 0.07)))
    torch.testing.assert_close(one[:2], other[:2], rtol=0, atol=1e-14)


@pytest.mark.parametrize("loss", WRAPPED, ids=lambda loss: type(loss).__name__)
def test_a_wrapped_loss_acts_in_the_step_above(loss):
    """Its mark is on some tokens and not on others, and its terms are no zeros."""
    output = loss(inputs_of(a_step(loss)))
    marks = {n: float(v.double().mean()) for n, v in output.token_values.items() if n in ("stale", "low_entropy")}
    assert all(0 < mark < 1 for mark in marks.values()), marks
    assert output.terms.get("entropy_loss") != 0


@pytest.mark.parametrize("estimator", ["k2_unbiased", "k3_unbiased"])
@pytest.mark.parametrize("advantages", [(1.0, -1.0, 1.0, -1.0), (0.0, 0.0, 0.0, 0.0)])
@each_loss
def test_extreme_ratios_stay_finite(loss, advantages, estimator):
    """A token that the engine all but excluded: exp(200) overflows float32, and 0 times that is NaN."""
    n = 4
    old = torch.tensor([-200.0, -200.0, -0.1, -0.1])
    logprobs = torch.tensor([-0.1, -0.1, -200.0, -200.0], requires_grad=True)
    row, lengths = torch.arange(n), torch.ones(n, dtype=torch.int64)
    reference = logprobs.detach() - torch.tensor([0.0, 0.5, 0.0, -0.5])
    inputs = loss_inputs(logprobs, old, torch.tensor(advantages), torch.ones(n), row, lengths, ref_logprobs=reference)
    loss = replace(loss, kl_beta=0.1, kl_estimator=estimator)
    value, grad, _ = evaluate(loss, inputs)
    assert value.isfinite()
    assert grad.isfinite().all()


@each_loss
def test_a_checkpoint_records_it(loss):
    loss = with_kl(loss)
    settings = loss_settings(loss)
    assert settings["init_args"]["kl_estimator"] == "k3_unbiased"
    assert as_loss(settings, "loss") == loss
    assert loss.needs_reference()
    assert not replace(loss, kl_beta=0.0).needs_reference()
