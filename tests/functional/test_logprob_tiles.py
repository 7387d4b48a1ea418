"""The compiled arithmetic of a tile, with Inductor's CPU backend, against the eager one and against log_softmax in fp64."""

import os
import re
import shutil
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lit_tpgrpo.functional import compilation, logprobs
from lit_tpgrpo.functional.compiled_tiles import CompiledTiles, tile_sums, to_gradient, to_gradient_with_entropy
from lit_tpgrpo.functional.logprob_tiles import EagerTiles
from lit_tpgrpo.functional.logprobs import selected_logprobs, tile_math_for

H, V = 8, 37
CUDA = torch.device("cuda", 0)


@pytest.fixture
def inductor(tmp_path, monkeypatch):
    """Inductor's CPU backend, which builds C++, without what earlier tests compiled; Dynamo's counters."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._dynamo.utils import counters  # takes seconds

    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def inputs(n, dtype=torch.float32, bias=True, scale=1.0):
    g = torch.Generator().manual_seed(n)
    hidden, weight = torch.randn(n, H, generator=g).to(dtype), (scale * torch.randn(V, H, generator=g)).to(dtype)
    return hidden, weight, torch.randint(V, (n,), generator=g), torch.randn(V, generator=g).to(dtype) if bias else None


def naive(hidden, weight, targets, temperature=1.0, bias=None):
    logits = hidden @ weight.t() if bias is None else hidden @ weight.t() + bias
    logp = (logits.double() / temperature).log_softmax(-1)
    return logp.gather(1, targets.unsqueeze(1)).squeeze(1), -(logp.exp() * logp).sum(-1)


def run(head, hidden, weight, targets, bias, entropy=True, **settings):
    """Log-probs, entropies, and the gradients of a loss of the log-probs, and of the entropies if asked for."""
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    logp, entropies = head(leaves[0], leaves[1], targets, bias=leaves[2] if len(leaves) > 2 else None, **settings)
    loss = (logp * torch.linspace(-1, 2, len(hidden))).sum()
    if entropy:
        loss = loss + (entropies * torch.linspace(2, -1, len(hidden))).sum()
    return logp.detach(), entropies.detach(), *torch.autograd.grad(loss, leaves)


def agree(got, want, rtol, atol):
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=rtol, atol=atol, check_dtype=False)


def compiled_run(*args, **settings):
    return run(selected_logprobs, *args, tile_math=CompiledTiles, **settings)


# ---- values ----


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_compiled_values_and_gradients_equal_the_eager_ones_and_log_softmax(inductor, dtype):
    cases = [
        (13, 5, 1.0, True, True),  # tiles of 5, the last one of 2; each target is outside all tiles but one
        (13, 5, 0.7, False, False),
        (13, None, 0.7, True, False),  # one tile, whose product is kept
        (13, None, 0.7, True, True),
    ]
    if dtype == torch.float32:  # sizes 0 and 1 are compiled separately
        cases += [(9, 36, 0.7, True, True), (1, 5, 0.7, True, True), (0, 5, 0.7, True, True)]
    for n, chunk, temperature, bias, entropy in cases:
        args = inputs(n, dtype, bias)
        settings = {"temperature": temperature, "chunk_size": chunk, "entropy": entropy}
        got = compiled_run(*args, **settings)
        eager = run(selected_logprobs, *args, tile_math=EagerTiles, **settings)
        assert [t.dtype for t in got] == [t.dtype for t in eager]
        agree(got[:2], eager[:2], 1e-5, 1e-5)
        # A gradient in bf16 may be rounded the other way, and is then 2**-8 away; sums have several such terms.
        agree(got[2:], eager[2:], *((1e-5, 1e-5) if dtype == torch.float32 else (2e-2, 2e-2)))
        wide = [None if t is None else t.double() if t.is_floating_point() else t for t in args]
        exact = run(naive, *wide, temperature=temperature, entropy=entropy)
        agree(got, exact, *((1e-4, 1e-5) if dtype == torch.float32 else (4e-2, 8e-2)))


@pytest.mark.slow
def test_compiled_large_logits_and_targets_outside_the_vocabulary(inductor):
    hidden, weight, targets, bias = inputs(13, scale=200.0)
    settings = {"chunk_size": 5, "entropy": True}
    agree(
        compiled_run(hidden, weight, targets, bias, **settings),
        run(selected_logprobs, hidden, weight, targets, bias, tile_math=EagerTiles, **settings),
        1e-5,
        1e-3,
    )
    targets[:2] = torch.tensor([-100, V])
    logp, entropy = selected_logprobs(hidden, weight, targets, chunk_size=5, tile_math=CompiledTiles)
    assert logp.isnan().tolist() == [True, True] + [False] * 11
    assert entropy.isfinite().all()


@pytest.mark.parametrize("rows", [1, 3, 2**20])
def test_products_are_added_without_rounding(rows, monkeypatch):
    monkeypatch.setattr(logprobs, "WIDENED", rows * H)
    g = torch.Generator().manual_seed(0)
    total, exact = torch.zeros(4, H), torch.zeros(4, H, dtype=torch.float64)
    for _ in range(38):
        a, b = (torch.randn(*shape, generator=g).bfloat16() for shape in ((4, 7), (7, H)))
        logprobs._add_product(total, a, b)
        exact += a.double() @ b.double()
    torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=1e-5)  # rounded products: off by 1e-2


# ---- compilation ----


@pytest.mark.slow
def test_other_widths_token_counts_and_temperatures_compile_nothing(inductor):
    args = inputs(13)
    for entropy in (False, True):
        compiled_run(*args, chunk_size=5, entropy=entropy, temperature=0.7)
    assert inductor["stats"]["unique_graphs"] == 3  # the sums and both gradients
    assert not inductor["graph_break"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n, chunk, temperature in [(13, 10, 0.7), (7, 5, 1.0), (200, 19, 1.3), (2, None, 0.7), (40, None, 1.0)]:
            for entropy in (False, True):
                compiled_run(*inputs(n), chunk_size=chunk, entropy=entropy, temperature=temperature)
        with torch.no_grad():
            selected_logprobs(*args[:3], chunk_size=5, tile_math=CompiledTiles)
    assert inductor["stats"]["unique_graphs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "count"),
    [(tile_sums, 4), (to_gradient, 5), (to_gradient_with_entropy, 7)],
    ids=["sums", "gradient", "with_entropy"],
)
def test_no_copy_of_the_tile_in_fp32_is_stored(inductor, function, count):
    from torch._inductor.utils import run_and_get_code

    n, width = 64, 300
    tile = (torch.randn(n, width).bfloat16(), torch.tensor(0.7), torch.randint(width, (n,)))
    args = [*tile, *(torch.randn(n) for _ in range(4))][:count]
    _, code = run_and_get_code(torch.compile(function, dynamic=True, fullgraph=True), *args)
    assert len(code) == 1
    called = code[0][code[0].index("def call(") :]
    buffers = re.findall(r"= empty_strided_cpu\(\((.*?)\), \(", called)
    # The four sums of a token; a gradient replaces the product by one kernel.
    assert [sizes.count("s") for sizes in buffers] == ([1] * 4 if function is tile_sums else [])
    assert len(re.findall(r"^ +cpp_fused\w+\(", called, re.MULTILINE)) == 1


# ---- with the rest of torch ----


@pytest.mark.slow
def test_compiled_in_autocast_checkpoints_threads_and_dispatch_modes(inductor):
    args = inputs(13)
    settings = {"chunk_size": 5, "temperature": 0.7}
    want = compiled_run(*args, **settings)

    def recomputed(*inner, **keywords):
        return checkpoint(lambda: selected_logprobs(*inner, tile_math=CompiledTiles, **keywords), use_reentrant=False)

    agree(run(recomputed, *args, **settings), want, 0, 0)

    # On a GPU a thread of autograd's runs the backward pass.
    there = []
    thread = threading.Thread(target=lambda: there.append(compiled_run(*args, **settings)))
    thread.start()
    thread.join()
    agree(there[0], want, 0, 0)

    with FlopCounterMode(display=False) as counter:
        agree(compiled_run(*args, **settings), want, 1e-5, 1e-5)
    assert counter.get_total_flops() == 4 * 2 * 13 * V * H  # forward, recomputed, and two gradients

    with torch.autocast("cpu", torch.bfloat16):
        got = compiled_run(*args, **settings)
        eager = run(selected_logprobs, *args, tile_math=EagerTiles, **settings)
    assert all(t.dtype == torch.float32 for t in got)
    agree(got, eager, 2e-2, 2e-2)


@pytest.mark.slow
def test_compiled_kept_product_serves_two_backward_passes(inductor):
    hidden, weight, targets, _ = inputs(13)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    logp, _ = selected_logprobs(leaves[0], leaves[1], targets, tile_math=CompiledTiles)
    first = torch.autograd.grad(logp.sum(), leaves, retain_graph=True)
    agree(torch.autograd.grad(logp.sum(), leaves), first, 0, 0)


class ShardedHead(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, hidden, targets):
        return selected_logprobs(hidden, self.weight, targets, chunk_size=5, tile_math=CompiledTiles)[0]


@pytest.mark.slow
def test_compiled_in_fsdp2_with_mixed_precision(inductor):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    hidden, weight, targets, _ = inputs(13)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        head = fully_shard(ShardedHead(weight), mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)
        head(hidden, targets).sum().backward()
        grad = head.weight.grad
        assert isinstance(grad, DTensor)
        got = grad.full_tensor()
    finally:
        distributed.destroy_process_group()
    leaf = weight.clone().requires_grad_()
    selected_logprobs(hidden, leaf, targets)[0].sum().backward()
    torch.testing.assert_close(got, leaf.grad, rtol=3e-2, atol=3e-2)


# ---- the choice ----


def test_the_device_and_what_is_installed_choose(monkeypatch):
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    monkeypatch.setattr(compilation, "_missing_for", lambda index: None)
    assert tile_math_for(CUDA, 2) is CompiledTiles
    assert tile_math_for(CUDA, 1) is tile_math_for(CUDA, 0) is EagerTiles
    assert tile_math_for(torch.device("cpu"), 100) is EagerTiles
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert tile_math_for(CUDA, 2) is EagerTiles


def test_what_is_missing_is_said_once(monkeypatch, recwarn):
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    monkeypatch.setattr(compilation, "_missing_for", lambda index: "there is no spoon")
    compilation._warn_once.cache_clear()
    assert [tile_math_for(CUDA, 2) for _ in range(3)] == [EagerTiles] * 3
    said = [str(warning.message) for warning in recwarn]
    assert len(said) == 1
    assert "without torch.compile: there is no spoon." in said[0]
    assert "TORCH_COMPILE_DISABLE=1" in said[0]
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    compilation._warn_once.cache_clear()
    tile_math_for(CUDA, 2)
    assert len(recwarn) == 1


@pytest.fixture
def found(monkeypatch):
    """A GPU of compute capability 9.0, with Triton."""
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA Old")
    compilation._missing_for.cache_clear()
    yield
    compilation._missing_for.cache_clear()


def test_each_requirement_is_named(found, monkeypatch, tmp_path):
    if shutil.which("gcc") is None and shutil.which("clang") is None:
        pytest.skip("no C compiler")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CPATH", raising=False)
    assert compilation._missing_for(0) == compilation.missing_compiler()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    assert compilation._missing_for(1) == "NVIDIA Old has compute capability 6.1, and Triton needs 7.0"
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: None)
    assert compilation._missing_for(2) == "Triton is not installed (pip install triton)"
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert compilation.missing_compiler() == f"there is no C compiler ({tmp_path / 'cc'}; install gcc, or set CC)"
    monkeypatch.delenv("CC")
    monkeypatch.setattr(compilation.sysconfig, "get_path", lambda name: str(tmp_path))
    assert (
        compilation.missing_compiler()
        == f"Python.h is not in {tmp_path} (install Python's headers, such as python3-dev)"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Python.h").touch()
    monkeypatch.setenv("CPATH", str(tmp_path / "elsewhere"))
    assert compilation.missing_compiler() is None


def test_default_widths():
    assert logprobs._default_chunk("cuda", 8192) == 4096
    assert logprobs._default_chunk("cuda", 5000) == 6656  # 52 * 128, below 2**25 / 5000 = 6710.9
    assert logprobs._default_chunk("cuda", 10**9) == 128
    assert logprobs._default_chunk("cpu", 5000) == 838
    assert logprobs._default_chunk("cpu", 0) == 2**22
