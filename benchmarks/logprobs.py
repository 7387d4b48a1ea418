"""Measure time and peak memory of the log-prob head, forward and backward: python -m benchmarks.logprobs --help

Each variant runs in a separate process. Memory is what it adds to the resident set (Linux) or to the CUDA allocator in
addition to its inputs, including gradients. Time is the minimum of the repeats, since slower ones include other load. On a
GPU the first pass is timed separately: it compiles. "ours" is what training uses, on a GPU compiled if that can work;
"ours_eager" is the same without compilation, and all there is on a CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_tpgrpo.functional.logprob_tiles import EagerTiles
from lit_tpgrpo.functional.logprobs import selected_logprobs

ROOT = Path(__file__).parent.parent
Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute all logits at once and log_softmax in fp32, like a trainer without a fused head."""
    logp = torch.log_softmax((hidden @ weight.t()).float(), dim=-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, targets.unsqueeze(1)).squeeze(1), entropy


def token_tiles(hidden: Tensor, weight: Tensor, targets: Tensor, rows: int = 512) -> tuple[Tensor, Tensor]:
    """Apply the naive head to tiles of tokens, each under torch.utils.checkpoint."""
    tiles = [
        checkpoint(naive, h, weight, t, use_reentrant=False)
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat([logp for logp, _ in tiles]), torch.cat([entropy for _, entropy in tiles])  # pyright: ignore


def ours_eager(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Call our head without compilation."""
    return selected_logprobs(hidden, weight, targets, tile_math=EagerTiles)


def trl_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Call TRL's chunked head with the tile size of its GRPO trainer (Triton on CUDA, torch operations elsewhere)."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    logp, entropy, *_ = ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 8192, None, 1.0, ("entropy",))
    return logp, entropy


def liger_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Call Liger's fused cross-entropy without reduction (Triton, so GPUs only); it computes no entropy."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32)(weight, hidden, targets)
    return -loss, torch.zeros_like(loss.detach())


VARIANTS: dict[str, Head] = {
    "naive": naive,
    "token_tiles": token_tiles,
    "trl": trl_head,
    "ours": selected_logprobs,
    "ours_eager": ours_eager,
    "liger": liger_head,
}


def _peak_bytes(device: str, reset: bool = False) -> int:
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    # Not ru_maxrss: imports raise it above the resident memory at the start of the measurement, and it never decreases.
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def _inputs(args: argparse.Namespace, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden = torch.randn(tokens, args.hidden, device=args.device).to(dtype).requires_grad_()
    weight = (0.05 * torch.randn(args.vocab, args.hidden, device=args.device)).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(args.vocab, (tokens,), device=args.device)


def measure(variant: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure one variant in this process; return seconds forward, backward and of the first pass (0 on a CPU), and MiB.

    ``args.first_tokens``: number of tokens of the first pass on a GPU, for whose size it compiles; None for all.
    """
    torch.set_num_threads(args.threads)
    hidden, weight, targets = _inputs(args, args.tokens)
    head = VARIANTS[variant]

    def sync() -> None:
        if args.device == "cuda":
            torch.cuda.synchronize()

    sync()
    start = time.perf_counter()
    if args.device == "cuda":
        few = slice(0, args.first_tokens)
        head(hidden[few], weight, targets[few])[0].sum().backward()
        hidden.grad = weight.grad = None
        sync()
    else:
        # With small separate inputs: a freed large gradient would stay in the heap and hide the next one.
        small = [torch.zeros(n, args.hidden, dtype=hidden.dtype, requires_grad=True) for n in (8, 24)]
        head(small[0], small[1], targets[:8] % 8)[0].sum().backward()
    first = time.perf_counter() - start if args.device == "cuda" else 0.0
    before = _peak_bytes(args.device, reset=True)
    forward, backward = [], []
    for _ in range(args.repeats):
        hidden.grad = weight.grad = None
        sync()
        t0 = time.perf_counter()
        logp, _ = head(hidden, weight, targets)
        sync()
        t1 = time.perf_counter()
        logp.mean().backward()
        sync()
        forward.append(t1 - t0)
        backward.append(time.perf_counter() - t1)
    mib = (_peak_bytes(args.device) - before) / 2**20
    return {"forward": min(forward), "backward": min(backward), "first": first, "mib": mib}


def differences(args: argparse.Namespace) -> dict[str, float]:
    """Compare "ours" with "ours_eager" in several tiles, and both with log_softmax in fp64, on at most 512 tokens.

    Returns:
        The largest absolute difference of log-probs and of entropies, and the norm of the difference of the gradients in hidden
        states and weight, relative to that of the gradient; the last four are of ours against fp64.
    """
    inputs = _inputs(args, min(args.tokens, 512))

    def values(head: Head, hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
        logp, entropy = head(hidden, weight, targets)
        loss = (logp * torch.linspace(-1, 2, len(logp), device=logp.device)).sum() + 0.1 * entropy.sum()
        return [t.detach().double() for t in (logp, entropy, *torch.autograd.grad(loss, (hidden, weight)))]

    def exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logp = torch.log_softmax(hidden.double() @ weight.double().t(), dim=-1)
        return logp.gather(1, targets.unsqueeze(1)).squeeze(1), -(logp.exp() * logp).sum(-1)

    names, chunk = ("log-probs", "entropy", "d hidden", "d weight"), -(-args.vocab // 3)
    ours = values(lambda *given: selected_logprobs(*given, chunk_size=chunk), *inputs)
    eager = values(lambda *given: selected_logprobs(*given, chunk_size=chunk, tile_math=EagerTiles), *inputs)
    found: dict[str, float] = {}
    for suffix, others in (("", eager), (" to fp64", values(exact, *inputs))):
        for name, mine, other in zip(names, ours, others, strict=True):
            difference = mine - other
            value = difference.norm() / other.norm() if name.startswith("d ") else difference.abs().max()
            found[name + suffix] = value.item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--variants", nargs="+", default=["naive", "token_tiles", "trl", "ours"], choices=list(VARIANTS)
    )
    parser.add_argument(
        "--first-tokens", type=int, help="tokens of the first pass on a GPU, which compiles; default: all"
    )
    parser.add_argument("--only", choices=list(VARIANTS), help="measure this one in this process and print JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args)))
        return

    print(f"{args.tokens} tokens, H = {args.hidden}, V = {args.vocab}, {args.dtype} on {args.device}")
    print(
        f"{'':12} {'forward s':>10} {'backward s':>11} {'time':>7} {'peak MiB':>9} {'memory':>7} {'first s':>8}"
        "   (ratios to the first row)"
    )
    first: dict[str, float] = {}
    for variant in args.variants:
        command = [sys.executable, "-m", "benchmarks.logprobs", *sys.argv[1:], "--only", variant]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if run.returncode:
            print(f"{variant:12} failed: {run.stderr.strip().splitlines()[-1]}")
            continue
        row = json.loads(run.stdout.splitlines()[-1])
        row["time"] = row["forward"] + row["backward"]
        first = first or row
        print(
            f"{variant:12} {row['forward']:10.3f} {row['backward']:11.3f} {row['time'] / first['time']:6.2f}x"
            f" {row['mib']:9.0f} {row['mib'] / first['mib']:6.2f}x {row['first']:8.2f}"
        )
    print("ours to ours_eager, and to fp64:", {name: float(f"{d:.1e}") for name, d in differences(args).items()})


if __name__ == "__main__":
    main()
