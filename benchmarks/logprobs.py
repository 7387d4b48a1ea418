"""Measure time and peak memory of the log-prob head, forward and backward: python -m benchmarks.logprobs --help

    python -m benchmarks.logprobs --threads 1 --out benchmarks/results/logprobs.md

Each variant has a process of its own, and takes its passes while all others wait: a round is one timed pass of each, forward
and backward, then one for memory. Printed are medians, lowest and highest of the rounds, and ratios to ``naive``, log_softmax
of all logits, within a round. Memory is what a pass adds to the resident set (Linux) or to the CUDA allocator in addition to
its inputs, including gradients; memory that was freed before is given back first. On a GPU the first pass is timed separately:
it compiles. "ours" is what training uses, on a GPU compiled if that can work; "ours_eager" is the same without compilation, and
all there is on a CPU.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.memory import resident_bytes, restart_peak
from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.functional.logprob_tiles import EagerTiles
from lit_tpgrpo.functional.logprobs import selected_logprobs

BASELINE = "naive"
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


def _inputs(args: argparse.Namespace, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden = torch.randn(tokens, args.hidden, device=args.device).to(dtype).requires_grad_()
    weight = (0.05 * torch.randn(args.vocab, args.hidden, device=args.device)).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(args.vocab, (tokens,), device=args.device)


@dataclass
class Passes:
    """Seconds forward and backward and MiB of each round; seconds of the first pass (0 on a CPU); or the error."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    first: float = 0.0
    error: str = ""

    @property
    def both(self) -> list[float]:
        return [f + b for f, b in zip(self.forward, self.backward, strict=True)]

    def add(self, forward: float, backward: float, mib: float) -> None:
        for values, value in zip((self.forward, self.backward, self.mib), (forward, backward, mib), strict=True):
            values.append(value)


class HeadRun:
    """A variant with inputs of its own in this process; the first pass is taken at once.

    ``args.first_tokens``: number of tokens of the first pass on a GPU, for whose size it compiles; None for all.
    """

    def __init__(self, variant: str, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        self.cuda = args.device == "cuda"
        self.head = VARIANTS[variant]
        self.inputs = hidden, weight, targets = _inputs(args, args.tokens)
        self.sync()
        start = time.perf_counter()
        if self.cuda:
            few = slice(0, args.first_tokens)
            self.head(hidden[few], weight, targets[few])[0].sum().backward()
        else:
            small = [torch.zeros(n, args.hidden, dtype=hidden.dtype, requires_grad=True) for n in (8, 24)]
            self.head(small[0], small[1], targets[:8] % 8)[0].sum().backward()
        self.sync()
        self.first = time.perf_counter() - start if self.cuda else 0.0

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def one_pass(self) -> tuple[float, float]:
        """Return the seconds forward and backward."""
        hidden, weight, targets = self.inputs
        hidden.grad = weight.grad = None
        self.sync()
        started = time.perf_counter()
        logp, _ = self.head(hidden, weight, targets)
        self.sync()
        between = time.perf_counter()
        logp.mean().backward()
        self.sync()
        return between - started, time.perf_counter() - between

    def added_mib(self) -> float:
        """Take a pass; return the most memory that it added to the inputs."""
        self.inputs[0].grad = self.inputs[1].grad = None
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        else:
            held = restart_peak()
        self.one_pass()
        peak = torch.cuda.max_memory_allocated() if self.cuda else resident_bytes("VmHWM")
        return (peak - held) / 2**20

    def measure(self) -> tuple[float, float, float]:
        """Return seconds forward and backward, and MiB."""
        return *self.one_pass(), self.added_mib()


def alternate(runs: Mapping[str, HeadRun], repeats: int) -> dict[str, Passes]:
    """Measure variants in this process, in turn, every other round backwards, after a round that warms up."""
    found = {name: Passes(first=run.first) for name, run in runs.items()}
    for repeat in range(repeats + 1):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            measured = runs[name].measure()
            if repeat:
                found[name].add(*measured)
    return found


def work(variant: str, connection: Connection, args: argparse.Namespace) -> None:
    """Measure a variant each time that it is told to; send what was measured, or a line that says what failed."""
    try:
        run = HeadRun(variant, args)
        connection.send(run.first)
        while connection.recv():
            connection.send(run.measure())
    except Exception as error:  # a variant that cannot run is a row of the table
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])


def alternate_processes(variants: Sequence[str], args: argparse.Namespace) -> dict[str, Passes]:
    """Measure variants in turn, each in its process, which waits while others measure."""
    context = mp.get_context("spawn")
    found: dict[str, Passes] = {}
    processes: dict[str, Any] = {}
    connections: dict[str, Connection] = {}
    try:
        for variant in variants:
            connections[variant], theirs = context.Pipe()
            processes[variant] = context.Process(target=work, args=(variant, theirs, args), daemon=True)
            processes[variant].start()
            theirs.close()  # else the end of the process would not be noticed
            first = _received(connections[variant])
            found[variant] = Passes(error=first) if isinstance(first, str) else Passes(first=first)
        for repeat in range(args.repeats + 1):
            for variant in list(found)[:: -1 if repeat % 2 else 1]:
                if found[variant].error:
                    continue
                connections[variant].send(True)
                measured = _received(connections[variant])
                if isinstance(measured, str):
                    found[variant] = Passes(error=measured)
                elif repeat:  # the first round of each warms up
                    found[variant].add(*measured)
    finally:
        for process in processes.values():
            process.kill()
    return found


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        return "the process was killed: perhaps it needed more memory than there is"


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


COLUMNS = ("", "forward s", "backward s", "time to log_softmax", "peak MiB", "memory to log_softmax", "first pass s")


def report(found: Mapping[str, Passes]) -> list[str]:
    """Return the table; ratios are of passes in the same round, and empty without the baseline."""
    base = found.get(BASELINE, Passes(error="not measured"))
    rows = []
    for variant, one in found.items():
        if one.error:
            rows.append((variant, f"failed: {one.error}", *[""] * (len(COLUMNS) - 2)))
            continue
        time_ratio, memory_ratio = (
            "" if base.error else _ratios(mine, theirs) for mine, theirs in ((one.both, base.both), (one.mib, base.mib))
        )
        cells = (spread(one.forward, 3), spread(one.backward, 3), time_ratio, spread(one.mib, 0), memory_ratio)
        rows.append((variant, *cells, f"{one.first:.2f}" if one.first else ""))
    return table(COLUMNS, rows)


def _ratios(values: Sequence[float], of: Sequence[float]) -> str:
    """Return ratios, empty where one is of nothing: a small pass may add no memory."""
    return spread([a / b for a, b in zip(values, of, strict=True)]) if all(of) else ""


def main(arguments: Sequence[str] | None = None) -> None:
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
    add_out(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    lines = opening("Log-prob head", "logprobs", arguments, args, threads=args.threads, device=args.device)
    lines += report(alternate_processes(args.variants, args))
    compared = ", ".join(f"{name} {value:.1e}" for name, value in differences(args).items())
    publish([*lines, "", f"ours to ours_eager, and to fp64: {compared}"], args.out)


if __name__ == "__main__":
    main()
