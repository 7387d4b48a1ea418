"""Measure the way of weights to a vLLM server on this machine: python -m benchmarks.weight_sync --out FILE

Two tables, medians with extremes of ``--repeats`` passes that alternate between the variants in one gloo group each:

1. the messages alone, from process to process: a message a tensor, and buckets; the tensors of the model, and of a mixture
   of experts, whose weights are many small ones;
2. whole updates of a server (``python -m lit_tpgrpo.serve``, a random Qwen2 of float32): a message a tensor, buckets, and
   buckets with the adapter alone. The first two send all weights, the adapter merged into them by the trainer.

Last line: ratios of paired passes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.engines.vllm.environment import import_vllm
from lit_tpgrpo.engines.vllm.weight_forms import MergedWeights, SeparateAdapter
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.adapters import LoRA

PER_TENSOR = 1  # most bytes of a bucket: each tensor is larger
KEY_ENV = "VLLM_API_KEY"
Pairs = list[tuple[str, Tensor]]


def build_model(folder: str, args: argparse.Namespace) -> TPGRPOModule:
    """Write a random Qwen2 with a tokenizer to a folder; return it as a policy with an adapter that is not zero."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from lit_tpgrpo.pretrained import resolve_model

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        intermediate_size=11 * args.hidden // 4,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=args.vocabulary,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("embedded:tiny-qwen2")).save_pretrained(folder)
    module = TPGRPOModule(folder, adapter=LoRA(args.rank))
    module.configure_model()
    with torch.no_grad():
        for name, parameter in module.policy_model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.01)
    return module


def announce(pairs: Pairs, limit: int) -> Any:
    """Return what a receiver has to know of tensors."""
    from lit_tpgrpo.engines.vllm.gloo import GlooUpdateInfo

    names, tensors = zip(*pairs, strict=True)
    dtypes = [str(t.dtype).removeprefix("torch.") for t in tensors]
    return GlooUpdateInfo(list(names), dtypes, [list(t.shape) for t in tensors], limit)


def receiver(pipe: Connection) -> None:
    """Receive updates that ``pipe`` announces; answer each with the sum of its bytes."""
    import_vllm()
    from lit_tpgrpo.engines.vllm.gloo import join, receive

    torch.set_num_threads(1)
    group = join(pipe.recv(), 1)
    while (info := pipe.recv()) is not None:
        pipe.send(sum(tensor.nbytes for _, tensor in receive(group, info)))


@contextmanager
def second_process() -> Iterator[Callable[[Pairs, int], float]]:
    """Yield a function that sends tensors to another process, and returns the seconds until all have arrived."""
    from lit_tpgrpo.engines.vllm.gloo import GlooInitInfo, broadcast, join
    from lit_tpgrpo.engines.vllm.process_groups import reserved_port

    context = multiprocessing.get_context("spawn")
    pipe, far_end = context.Pipe()
    process = context.Process(target=receiver, args=(far_end,), daemon=True)
    process.start()
    with reserved_port() as port:
        init = GlooInitInfo("127.0.0.1", port, 2, 600.0)
        pipe.send(init)
        group = join(init, 0)

    def send(pairs: Pairs, limit: int) -> float:
        info = announce(pairs, limit)
        started = time.perf_counter()
        pipe.send(info)
        broadcast(group, pairs, info)
        arrived = pipe.recv()
        if arrived != sum(tensor.nbytes for _, tensor in pairs):
            raise SystemExit(f"{arrived} bytes arrived")
        return time.perf_counter() - started

    yield send
    pipe.send(None)
    process.join()


@contextmanager
def served(folder: str, rank: int) -> Iterator[str]:
    """Run a server within the context; yield its address."""
    import urllib.request

    from lit_tpgrpo.engines.vllm.process_groups import reserved_port

    with reserved_port() as port:
        command = [sys.executable, "-m", "lit_tpgrpo.serve", folder, "--port", str(port), "--dtype", "float32"]
        with open(Path(folder) / "server.log", "w") as out:
            process = subprocess.Popen([*command, "--adapter-rank", str(rank)], stdout=out, stderr=out)
        try:
            while True:
                if process.poll() is not None:
                    raise SystemExit((Path(folder) / "server.log").read_text()[-3000:])
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def updates(url: str, module: TPGRPOModule, limit: int) -> Iterator[dict[str, Callable[[], float]]]:
    """Yield a function for each kind of update, all over one transfer, which returns the seconds of one."""
    from lit_tpgrpo.engines.vllm.client import EventLoopThread, ServerClient
    from lit_tpgrpo.engines.vllm.transfer import PolicySource, open_transfer
    from lit_tpgrpo.engines.vllm.weights import TransferSettings

    loop = EventLoopThread()
    client = ServerClient(url, os.environ[KEY_ENV], KEY_ENV, loop, 600.0, 120.0)
    source = PolicySource()
    settings = TransferSettings("gloo", "127.0.0.1", 600.0, limit, SeparateAdapter())
    transfer = open_transfer(settings, client, source, 0, module.policy_model)
    held = SeparateAdapter().update(module, "").base
    plans = {
        "all weights, a message a tensor": (MergedWeights().update(module, ""), PER_TENSOR),
        "all weights, buckets": (MergedWeights().update(module, ""), limit),
        "weights and adapter, buckets": (SeparateAdapter().update(module, ""), limit),
        "adapter alone, buckets": (SeparateAdapter().update(module, held), limit),
    }

    def run(name: str) -> float:
        update, transfer.bucket_bytes = plans[name]
        source.select(update)
        source.metadata()  # read once a run
        source.select(update)
        started = time.perf_counter()
        transfer.send_weights()
        return time.perf_counter() - started

    yield {name: lambda name=name: run(name) for name in plans}
    client.close()
    loop.close()


def experts(count: int, n_bytes: int) -> Pairs:
    """Many small tensors, like the experts of a mixture."""
    return [(f"expert {i}", torch.full((n_bytes // 2,), 0.5, dtype=torch.bfloat16)) for i in range(count)]


def alternate(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run, in ``repeats`` passes, every other one backwards, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name in list(runs) if repeat % 2 else list(runs)[::-1]:
            taken = runs[name]()
            if repeat:
                seconds[name].append(taken)
    return seconds


def section(title: str, seconds: dict[str, list[float]], sizes: Sequence[int]) -> list[str]:
    """Return a table of runs that sent so many bytes each."""
    rows = [
        (name, spread(values, 3), f"{size / 2**20:.2f}", f"{size / 2**20 / statistics.median(values):.0f}")
        for (name, values), size in zip(seconds.items(), sizes, strict=True)
    ]
    return ["", title, *table(("", "seconds", "MiB", "MiB a second"), rows)]


def ratio(seconds: dict[str, list[float]], first: str, second: str) -> str:
    return spread([a / b for a, b in zip(seconds[first], seconds[second], strict=True)])


def n_bytes(pairs: Any) -> int:
    return sum(tensor.nbytes for _, tensor in pairs)


def measure(args: argparse.Namespace) -> list[str]:
    """Send weights in both ways; return the tables and the line of ratios."""
    limit = int(args.bucket_mib * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        module = build_model(folder, args)
        small, model = experts(args.experts, 2**15), [(n, t.clone()) for n, t in module.named_tensors()]
        parameters = sum(t.numel() for _, t in model)
        with second_process() as send:
            messages = alternate(
                {
                    "model, a message a tensor": lambda: send(model, PER_TENSOR),
                    "model, buckets": lambda: send(model, limit),
                    "experts, a message a tensor": lambda: send(small, PER_TENSOR),
                    "experts, buckets": lambda: send(small, limit),
                },
                args.repeats,
            )
        sizes = [n_bytes(model)] * 2 + [n_bytes(small)] * 2
        lines = section(f"Messages alone: {len(model)} tensors of the model, {len(small)} of experts.", messages, sizes)
        adapter = SeparateAdapter().update(module, "")
        both = n_bytes(adapter.tensors())
        with served(folder, args.rank) as url, updates(url, module, limit) as runs:
            runs["weights and adapter, buckets"]()  # an adapter alone needs weights beneath it
            whole = alternate(runs, args.repeats)
    sizes = [n_bytes(model)] * 2 + [both, both - n_bytes(model)]
    title = f"Updates of a server: {parameters:,} parameters, adapter of rank {args.rank}."
    return [*lines, *section(title, whole, sizes), "", ratios(messages, whole)]


def ratios(messages: dict[str, list[float]], whole: dict[str, list[float]]) -> str:
    """Return the last line."""
    return (
        f"buckets to a message a tensor, messages: model {ratio(messages, 'model, buckets', 'model, a message a tensor')}, "
        f"experts {ratio(messages, 'experts, buckets', 'experts, a message a tensor')}; updates: "
        f"{ratio(whole, 'all weights, buckets', 'all weights, a message a tensor')}; adapter alone to all weights: "
        f"{ratio(whole, 'adapter alone, buckets', 'all weights, buckets')}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--experts", type=int, default=4096, help="tensors of 32 KiB in the first table")
    parser.add_argument("--bucket_mib", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    args = parser.parse_args(arguments)
    import_vllm()
    torch.set_num_threads(1)
    os.environ.setdefault(KEY_ENV, secrets.token_urlsafe(32))
    lines = opening("Weights to a server", "weight_sync", arguments, args, threads=1)
    publish([*lines, *measure(args)], args.out)


if __name__ == "__main__":
    main()
