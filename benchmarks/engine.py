"""Measure what HFEngine gains by taking finished rows out of its batches and by a cache that is not copied at every token.

transformers' continuous batching, which refills its batch as rows finish, is measured beside it. Its random numbers are one
stream for all rows, so that its solutions are others of the same problems, and no row's are repeatable by its own seed.

    python -m benchmarks.engine                          # the quickstart's policy, problems and lengths
    python -m benchmarks.engine --level 5 --tokens 512   # longer solutions
    python -m benchmarks.engine --out benchmarks/results/engine.md

The candidates sample the same problems with the same seeds, in alternation, each in turn the first, so that a machine that
becomes slower affects all of them. Time is processor time of this process (on a GPU: time on the clock). Printed are medians
of tokens/s over the repeats, and the median, lowest and highest ratio to ``generate`` of a whole batch within a repeat.
Solutions that differ from those of the first candidate are counted: rounding depends on the number of rows. Last lines: the
engine's ratios.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.continuous_batching.requests import GenerationOutput

from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines import hf
from lit_tpgrpo.engines.base import Completion, SamplingParams, StopReason
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.row_cache import RowCache
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.rollout.prompts import RolloutPrompt, prompt_ids
from lit_tpgrpo.seeds import derived_seed

BASELINE = "generate"
CANDIDATES = {
    BASELINE: "transformers' `generate`, its cache, all rows to the last token",
    "cache": "our cache, all rows to the last token",
    "engine": "HFEngine: our cache, finished rows leave",
    "continuous": "transformers' `generate_batch`: paged cache, finished rows are replaced",
}
OWN_SEEDS = ("continuous",)
RIVALS = ("continuous", BASELINE)
PAGE = 32  # tokens of a page of its cache; a few pages a solution of the quickstart
T = TypeVar("T")
Samples = dict[int, tuple[Completion, ...]]


def as_variant(name: str) -> AbstractContextManager[object]:
    """Return the context in which HFEngine samples as the candidate of this name."""
    if name == BASELINE:
        return patch.object(RowCache, "of", lambda model: None)
    if name == "cache":
        return patch.object(hf, "SHARE", 1)
    return nullcontext()


def sampled(args: argparse.Namespace, engine: HFEngine, prompts: list[tuple[int, ...]]) -> tuple[float, Samples]:
    """Sample all prompts; return seconds and samples."""
    seeds = [derived_seed(0, i) for i in range(len(prompts))]
    return timed(args, lambda: dict(engine.sample(prompts, args.n, SamplingParams(args.tokens), seeds)))


def continuous(
    args: argparse.Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[tuple[int, ...]]
) -> tuple[float, Samples]:
    """Sample all prompts by continuous batching, in batches of as many rows and with a cache for them; seconds and samples."""
    pages = -(-(max(map(len, prompts)) + args.tokens) // PAGE)
    batching = ContinuousBatchingConfig(
        return_logprobs=True,
        seed=0,
        page_size=PAGE,
        num_blocks=pages * args.batch_size,
        max_requests_per_batch=args.batch_size,
        max_batch_tokens=max(args.batch_size, 1024),  # rows that decode beside prompts that are read
    )
    generation = GenerationConfig(
        max_new_tokens=args.tokens,
        do_sample=True,
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    rows = [list(prompt) for prompt in prompts for _ in range(args.n)]
    seconds, found = timed(args, lambda: list(model.generate_batch(rows, generation, batching).values()))
    done = [Completion(row.generated_tokens, row.logprobs, stop_reason(row, args.tokens)) for row in found]
    return seconds, {i: tuple(done[i * args.n : (i + 1) * args.n]) for i in range(len(prompts))}


def stop_reason(row: GenerationOutput, limit: int) -> StopReason:
    """Return why a row ended."""
    return StopReason.LENGTH if len(row.generated_tokens) == limit else StopReason.EOS


def timed(args: argparse.Namespace, run: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of a call and what it returned."""
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    started = clock()
    returned = run()
    return clock() - started, returned


def differing(one: Samples, other: Samples) -> int:
    """Return how many solutions have other tokens."""
    return sum(not np.array_equal(a.token_ids, b.token_ids) for i in one for a, b in zip(one[i], other[i], strict=True))


def differences(last: dict[str, Samples], name: str) -> tuple[str, str]:
    """Return how many solutions differ from the baseline's, where seeds are the same, and the mean log-prob of all tokens."""
    differ = "–" if name in OWN_SEEDS else str(differing(last[BASELINE], last[name]))
    logprobs = np.concatenate([c.logprobs for completions in last[name].values() for c in completions])
    return differ, f"{logprobs.mean():.4f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:tiny-qwen2")
    parser.add_argument("--level", default="1", help="of the embedded arithmetic problems")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--n", type=int, default=8, help="solutions of each problem")
    parser.add_argument("--tokens", type=int, default=176, help="most tokens of a solution")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    add_out(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    lines = opening("HFEngine", "engine", arguments, args, threads=args.threads, device=args.device)
    publish([*lines, *report(*measure(args))], args.out)


def measure(args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, Samples]]:
    """Return tokens/s of each candidate in each repeat, and its samples of the last."""
    tokenizer = load_tokenizer(args.model)
    model = load_causal_lm(args.model, False, getattr(torch, args.dtype), "sdpa").to(args.device).eval()
    engine = HFEngine(args.batch_size)
    engine.load_weights(LoadedModel(model, tokenizer))
    other_model = copy.deepcopy(model)  # continuous batching changes its model's attention
    problems = ArithmeticProblems(level=args.level, n=args.prompts).load()
    prompts = [prompt_ids(tokenizer, problem, RolloutPrompt("{problem}")) for problem in problems]
    sampled(args, engine, prompts[: max(1, args.batch_size // args.n)])  # libraries initialise at the first batch
    rates: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    last: dict[str, Samples] = {}
    for repeat in range(args.repeats):
        names = list(CANDIDATES)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            if name in OWN_SEEDS:
                seconds, last[name] = continuous(args, other_model, tokenizer, prompts)
            else:
                with as_variant(name):
                    seconds, last[name] = sampled(args, engine, prompts)
            rates[name].append(sum(len(c.token_ids) for cs in last[name].values() for c in cs) / seconds)
    return rates, last


def report(rates: dict[str, list[float]], last: dict[str, Samples]) -> list[str]:
    """Return what was sampled, the table, and the line of the ratio."""
    lengths = sorted(len(c.token_ids) for cs in last[BASELINE].values() for c in cs)
    ratios = {name: [r / b for r, b in zip(rates[name], rates[BASELINE], strict=True)] for name in CANDIDATES}
    rows = [
        (name, what, spread(rates[name], 0), spread(ratios[name]), *differences(last, name))
        for name, what in CANDIDATES.items()
    ]
    rivals = {
        name: statistics.median(e / r for e, r in zip(rates["engine"], rates[name], strict=True)) for name in RIVALS
    }
    return [
        f"- {len(lengths)} solutions of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}",
        *table(("candidate", "what", "tokens/s", "to `generate`", "solutions that differ", "mean log-prob"), rows),
        "",
        *(f"tokens/s ratio to {name}: {ratio:.2f}" for name, ratio in rivals.items()),
    ]


if __name__ == "__main__":
    main()
