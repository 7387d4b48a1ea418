"""The tiled head against log_softmax on all logits."""

import math

import pytest
import torch

from lit_tpgrpo.functional.logprobs import selected_logprobs

N, H, V = 13, 8, 37


def inputs(dtype=torch.float32, bias=True, scale=1.0):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=g).to(dtype)
    weight = (scale * torch.randn(V, H, generator=g)).to(dtype)
    targets = torch.randint(V, (N,), generator=g)
    targets[:2] = torch.tensor([0, V - 1])
    return hidden, weight, targets, (torch.randn(V, generator=g).to(dtype) if bias else None)


def naive(hidden, weight, targets, temperature=1.0, bias=None):
    logits = hidden @ weight.t() if bias is None else hidden @ weight.t() + bias
    logp = (logits.float() / temperature).log_softmax(-1)
    return logp.gather(1, targets.unsqueeze(1)).squeeze(1), -(logp.exp() * logp).sum(-1)


def run(head, hidden, weight, targets, bias, **settings):
    """Log-probs, entropy and the gradients of a sum in which every token has a weight of its own."""
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    logp, entropy = head(leaves[0], leaves[1], targets, bias=leaves[2] if len(leaves) > 2 else None, **settings)
    (logp * torch.linspace(-1, 2, N)).sum().backward()
    return logp.detach(), entropy.detach(), *(leaf.grad for leaf in leaves)


def test_literal():
    # Logits (0, ln 3): probabilities 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10.
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [math.log(3)]])
    logp, entropy = selected_logprobs(hidden, weight, torch.tensor([0, 1]))
    assert logp.tolist() == pytest.approx([math.log(0.25), math.log(0.75)], abs=1e-6)
    assert entropy.tolist() == pytest.approx([0.5623351] * 2, abs=1e-6)
    logp, entropy = selected_logprobs(hidden, weight, torch.tensor([0, 1]), temperature=0.5)
    assert logp.tolist() == pytest.approx([math.log(0.1), math.log(0.9)], abs=1e-6)
    assert entropy.tolist() == pytest.approx([0.3250830] * 2, abs=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 5, 36, 37, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_log_softmax(chunk_size, temperature, bias):
    hidden, weight, targets, b = inputs(bias=bias)
    want = run(naive, hidden, weight, targets, b, temperature=temperature)
    got = run(selected_logprobs, hidden, weight, targets, b, temperature=temperature, chunk_size=chunk_size)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)


def test_large_logits_stay_finite_and_exact():
    hidden, weight, targets, bias = inputs(scale=200.0)
    want = run(naive, hidden, weight, targets, bias)
    got = run(selected_logprobs, hidden, weight, targets, bias, chunk_size=5)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-3)
    # An entropy taken as the difference of log Z and E[z], both in the hundreds, would be off by 1e-4.
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("chunk_size", [5, None])
@pytest.mark.parametrize("outputs", [(0,), (1,), (0, 1)], ids=["logprobs", "entropy", "both"])
def test_gradcheck_in_float64(outputs, chunk_size):
    hidden, weight, targets, bias = inputs(torch.float64)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]

    def head(h, w, b):
        both = selected_logprobs(h, w, targets, 0.7, b, chunk_size=chunk_size)
        return tuple(both[i] for i in outputs)

    assert torch.autograd.gradcheck(head, leaves)


@pytest.mark.parametrize("chunk_size", [1, 5, None])
def test_the_gradient_of_the_entropy_equals_autograds(chunk_size):
    hidden, weight, targets, bias = inputs()

    def gradients(head, **settings):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
        logp, entropy = head(leaves[0], leaves[1], targets, 0.7, leaves[2], **settings)
        loss = (logp * torch.linspace(-1, 2, N)).sum() + (entropy * torch.linspace(2, -1, N)).sum()
        return torch.autograd.grad(loss, leaves)

    for got, want in zip(gradients(selected_logprobs, chunk_size=chunk_size), gradients(naive), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_bf16_products_with_fp32_reductions():
    hidden, weight, targets, bias = inputs(torch.bfloat16)
    want = run(naive, hidden, weight, targets, bias)
    got = run(selected_logprobs, hidden, weight, targets, bias, chunk_size=5)
    assert [t.dtype for t in got] == [torch.float32] * 2 + [torch.bfloat16] * 3
    for g, w in zip(got[:2], want[:2], strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)  # the same bf16 logits, the same fp32 sums
    for g, w in zip(got[2:], want[2:], strict=True):
        torch.testing.assert_close(g, w, rtol=2e-2, atol=2e-2)


def test_autocast_runs_products_in_its_dtype_and_returns_fp32_gradients():
    hidden, weight, targets, bias = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        want = run(naive, hidden, weight, targets, bias)
        got = run(selected_logprobs, hidden, weight, targets, bias, chunk_size=5)
    assert all(t.dtype == torch.float32 for t in got)
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=3e-2)
    torch.testing.assert_close(got[3], want[3], rtol=2e-2, atol=2e-2)
    exact = run(naive, hidden, weight, targets, bias)
    assert (got[0] - exact[0]).abs().max() > 1e-4  # it did run in bf16


def test_only_the_gradients_asked_for():
    hidden, weight, targets, bias = inputs()
    want = run(naive, hidden, weight, targets, bias)
    for index in range(3):
        leaves = [hidden.clone(), weight.clone(), bias.clone()]
        leaves[index].requires_grad_()
        logp, _ = selected_logprobs(leaves[0], leaves[1], targets, bias=leaves[2], chunk_size=5)
        (logp * torch.linspace(-1, 2, N)).sum().backward()
        torch.testing.assert_close(leaves[index].grad, want[2 + index], rtol=1e-5, atol=1e-5)
        assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != index)
    with torch.no_grad():
        assert not selected_logprobs(hidden, weight, targets)[0].requires_grad


@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_the_softmax_that_is_kept_serves_two_backward_passes(entropy):
    """The vocabulary is one tile: its softmax is kept, not computed again, and not overwritten."""
    hidden, weight, targets, _ = inputs()
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]

    def loss(**settings):
        logp, entropies = selected_logprobs(leaves[0], leaves[1], targets, **settings)
        return (logp + entropy * entropies).sum() if entropy else logp.sum()

    kept = loss()
    first = torch.autograd.grad(kept, leaves, retain_graph=True)
    second = torch.autograd.grad(kept, leaves)
    for a, b, c in zip(first, second, torch.autograd.grad(loss(chunk_size=5), leaves), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_no_tokens():
    hidden, weight = torch.zeros(0, H, requires_grad=True), torch.randn(V, H, requires_grad=True)
    logp, entropy = selected_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert logp.shape == entropy.shape == (0,)
    logp.sum().backward()
    assert weight.grad is not None
    assert weight.grad.eq(0).all()


def test_all_logits_are_never_held():
    """The largest tensor that any operation makes, forward or backward, is a tile or a gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return out

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(1000, 4, requires_grad=True)
    with Largest() as largest:
        selected_logprobs(hidden, weight, torch.arange(64), chunk_size=50)[0].sum().backward()
    assert largest.numel == 1000 * 4


def test_target_outside_the_vocabulary_is_nan():
    hidden, weight, targets, _ = inputs()
    targets[:2] = torch.tensor([-100, V])
    logp, _ = selected_logprobs(hidden, weight, targets, chunk_size=5)
    assert logp.isnan().tolist() == [True, True] + [False] * (N - 2)


def test_refusals_name_what_came():
    hidden, weight, targets, _ = inputs()
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be > 0"):
            selected_logprobs(hidden, weight, targets, temperature)
    with pytest.raises(ValueError, match=r"got \(13, 8\) and \(8, 37\)"):
        selected_logprobs(hidden, weight.t(), targets)
    with pytest.raises(ValueError, match=r"one dtype, got torch.float32 and torch.bfloat16"):
        selected_logprobs(hidden, weight.bfloat16(), targets)
    with pytest.raises(ValueError, match=r"int64 targets of shape \(13,\), got torch.int64 \(12,\)"):
        selected_logprobs(hidden, weight, targets[1:])
    with pytest.raises(ValueError, match=r"bias of shape \(37,\), got \(8,\)"):
        selected_logprobs(hidden, weight, targets, bias=torch.zeros(8))
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        selected_logprobs(hidden, weight, targets, chunk_size=0)
