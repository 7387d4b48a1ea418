"""Parts that time single operations: the log-prob head, and attention with and without a mask."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import logprobs
from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.models import architecture, random_model
from lit_tpgrpo.functional.compiled_tiles import CompiledTiles
from lit_tpgrpo.functional.logprobs import tile_math_for

# ---- the log-prob head ----


LARGEST_DIFFERENCE = {"log-probs": 1e-3, "entropy": 1e-3, "d hidden": 1e-2, "d weight": 1e-2}
"""Between our head and the same without compilation: absolute, and relative for gradients, which may be rounded otherwise."""


def logprob_head(bench: Bench) -> None:
    """Measure each implementation of log softmax(hidden @ W.T)[target] and its entropy: time, and memory beyond the inputs.

    Raises:
        RuntimeError: if our head is not compiled on a GPU, or its values are not those without compilation.
    """
    arch = architecture(bench)
    settings = argparse.Namespace(
        tokens=64 if bench.tiny else 8192,
        hidden=arch.hidden_size,
        vocab=arch.vocab_size,
        dtype="bfloat16" if bench.device == "cuda" else "float32",
        device=bench.device,
        repeats=3,
        threads=torch.get_num_threads(),
        first_tokens=None,
    )
    runs: dict[str, logprobs.HeadRun] = {}
    for variant, module in (
        ("ours", None),
        ("ours_eager", None),
        ("naive", None),
        ("trl", "trl"),
        ("liger", "liger_kernel"),
    ):
        if module is not None and importlib.util.find_spec(module) is None:
            bench.row(variant, note=f"not installed: {module}")
            continue
        if variant == "liger" and bench.device != "cuda":
            continue  # it needs Triton
        with bench.attempt(variant):
            runs[variant] = logprobs.HeadRun(variant, settings)
    _head_rows(bench, runs, settings)
    del runs
    with bench.attempt("differences of ours to ours_eager"):
        _head_values(bench, settings)
    if bench.device == "cuda":
        # What is compiled for the sizes of the first pass serves all others: does it serve them as well?
        torch.compiler.reset()
        settings.first_tokens = 64
        label = "ours, compiled for 64 tokens"
        with bench.attempt(label):
            _head_rows(bench, {label: logprobs.HeadRun("ours", settings)}, settings)
        chosen = tile_math_for(torch.device(bench.device), settings.tokens)
        if chosen is not CompiledTiles:
            raise RuntimeError(f"our head is not compiled here: {chosen.__name__}; a warning above says why")


def _head_rows(bench: Bench, runs: Mapping[str, logprobs.HeadRun], settings: argparse.Namespace) -> None:
    """Measure implementations in turn; a row each, of medians."""
    with bench.attempt("passes in turn"):
        for label, measured in logprobs.alternate(runs, settings.repeats).items():
            spread = f"{1e3 * min(measured.both):.2f} to {1e3 * max(measured.both):.2f}"
            bench.row(
                label,
                tokens=settings.tokens,
                vocabulary=settings.vocab,
                **{
                    "forward ms": round(1e3 * median(measured.forward), 2),
                    "backward ms": round(1e3 * median(measured.backward), 2),
                    "both, lowest to highest": spread,
                    "MiB": round(median(measured.mib), 1),
                    "first pass s": round(measured.first, 2) if bench.device == "cuda" else None,
                },
            )


def _head_values(bench: Bench, settings: argparse.Namespace) -> None:
    found = logprobs.differences(settings)
    bench.row("differences of ours to ours_eager", **{name: float(f"{value:.2e}") for name, value in found.items()})
    # Not "value > limit": NaN is no agreement.
    wrong = [f"{name} {found[name]:.1e}" for name, limit in LARGEST_DIFFERENCE.items() if not found[name] <= limit]
    if wrong:
        raise RuntimeError(f"the compiled head differs from the eager one: {', '.join(wrong)}")


# ---- attention ----


def attention(bench: Bench) -> None:
    """Time the attention call, then forward and backward of a few decoder layers with transformers' implementations."""
    _kernels(bench)
    _implementations(bench)


def _kernels(bench: Bench) -> None:
    arch = architecture(bench)
    heads, width = arch.num_attention_heads, arch.hidden_size // arch.num_attention_heads
    rows, length = (2, 32) if bench.tiny else (4, 4096)
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    generator = torch.Generator(bench.device).manual_seed(0)
    shape = (rows, heads, length, width)
    q, k, v = (
        torch.randn(shape, device=bench.device, dtype=dtype, generator=generator).requires_grad_() for _ in range(3)
    )
    upstream = torch.randn(shape, device=bench.device, dtype=dtype, generator=generator)
    # Right padding: the last quarter of the odd rows.
    ends = torch.tensor([length - (length // 4) * (i % 2) for i in range(rows)], device=bench.device)
    index = torch.arange(length, device=bench.device)
    causal = index[:, None] >= index[None, :]
    mask = causal & (index < ends[:, None])[:, None, None, :]

    def flex(block_mask: Any) -> Callable[[], Tensor]:
        from torch.nn.attention.flex_attention import flex_attention

        call = torch.compile(flex_attention) if bench.device == "cuda" else flex_attention
        # On a CPU there is only the forward pass, and inputs that require gradients are refused.
        inputs = (q, k, v) if bench.device == "cuda" else (q.detach(), k.detach(), v.detach())
        return lambda: call(*inputs, block_mask=block_mask)  # pyright: ignore[reportReturnType]

    def blocks(padded: bool) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return (i >= j) & (j < ends[b]) if padded else i >= j

        return create_block_mask(visible, rows if padded else None, None, length, length, device=bench.device)

    def sdpa(attn_mask: Tensor | None) -> Callable[[], Tensor]:
        return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=attn_mask is None)

    variants: list[tuple[str, SDPBackend | None, Callable[[], Callable[[], Tensor]]]] = [
        ("sdpa, causal, no mask (torch chooses)", None, lambda: sdpa(None)),
        ("sdpa, padding mask (torch chooses)", None, lambda: sdpa(mask)),
        ("flash, causal, no mask", SDPBackend.FLASH_ATTENTION, lambda: sdpa(None)),
        ("cuDNN, causal, no mask", SDPBackend.CUDNN_ATTENTION, lambda: sdpa(None)),
        ("efficient, padding mask", SDPBackend.EFFICIENT_ATTENTION, lambda: sdpa(mask)),
        ("flex, causal, no mask", None, lambda: flex(blocks(False))),
        ("flex, padding mask", None, lambda: flex(blocks(True))),
    ]
    # Causal: half of 2 * 2 T^2 D per head forward, and 2.5 times that backward, where scores are recomputed.
    flops = 3.5 * 2 * rows * heads * length**2 * width
    for label, backend, build in variants:
        if bench.device == "cpu" and backend not in (None, SDPBackend.FLASH_ATTENTION):
            continue
        backward = not (bench.device == "cpu" and label.startswith("flex"))
        with bench.attempt(label), sdpa_kernel(backend) if backend is not None else nullcontext():
            call = build()

            # Gradients are returned: accumulating them in .grad would be timed too.
            def both(call: Callable[[], Tensor] = call, backward: bool = backward) -> None:
                out = call()
                if backward:
                    torch.autograd.grad(out, (q, k, v), upstream)

            bench.reset_peak()
            seconds = median(bench.seconds(both))
            bench.row(
                label,
                **{
                    "forward and backward ms": round(1e3 * seconds, 3)
                    if backward
                    else f"{1e3 * seconds:.3f} (forward)",
                    "TFLOP/s": round(flops / seconds / 1e12, 1) if backward else None,
                    "peak GiB": bench.peak_gib(),
                },
            )


def _implementations(bench: Bench) -> None:
    """Time a few decoder layers in transformers, whose mask may prevent the choice of the fast kernel."""
    arch = architecture(bench)
    layers = 2 if bench.tiny else 8
    rows, length = (2, 32) if bench.tiny else (4, 4096)
    ids = torch.randint(8, arch.vocab_size, (rows, length), device=bench.device)
    ends = torch.tensor([length - (length // 4) * (i % 2) for i in range(rows)], device=bench.device)
    mask = (torch.arange(length, device=bench.device) < ends[:, None]).long()
    names = ["sdpa"]
    if bench.device == "cuda":
        names += ["flex_attention", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    for name in names:
        for label, attention_mask in ((f"{name}, no mask", None), (f"{name}, padding mask", mask)):
            with bench.attempt(f"{layers} layers, {label}"):
                model = random_model(arch, bench.device, torch.float32, name, layers)
                model.train()

                def both(model: Any = model, attention_mask: Tensor | None = attention_mask) -> None:
                    model.zero_grad(set_to_none=True)
                    with torch.autocast(bench.device, torch.bfloat16, enabled=bench.device == "cuda"):
                        hidden = model.base_model(ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
                    hidden.float().mean().backward()

                bench.reset_peak()
                seconds = median(bench.seconds(both))
                bench.row(
                    f"{layers} layers, {label}",
                    **{"forward and backward ms": round(1e3 * seconds, 2), "peak GiB": bench.peak_gib()},
                )
                del model, both
