"""Parts that sample: HFEngine's throughput with a large random-weight policy, and the tiny judge with LocalChat."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.models import TOKENIZER, architecture, random_model
from benchmarks.gpu_check.training import PartFailed
from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import Completion, Engine, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.pretrained import load_tokenizer

GROUP = 8


def engine_rate(bench: Bench) -> None:
    """Measure HFEngine's tokens/s at two batch sizes; with random weights hardly any row ends before the token limit."""
    arch = architecture(bench)
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    model = random_model(arch, bench.device, dtype)
    policy = LoadedModel(model.eval(), load_tokenizer(TOKENIZER))
    prompt, new = (8, 8) if bench.tiny else (128, 256)
    generator = torch.Generator().manual_seed(0)
    for sequences in (16, 32) if bench.tiny else (64, 256):
        label = f"{sequences} sequences"
        with bench.attempt(label):
            prompts = torch.randint(8, arch.vocab_size, (sequences // GROUP, prompt), generator=generator).tolist()
            engine = HFEngine(batch_size=sequences)
            engine.load_weights(policy)
            engine.wake()
            groups, seconds = timed_groups(bench, engine, prompts, new)
            engine.close()
            tokens = sum(len(c.token_ids) for group in groups.values() for c in group)
            bench.row(
                label,
                **{
                    "tokens/s": round(tokens / seconds),
                    "ms a token step": round(1e3 * seconds / new, 2),
                    "tokens": tokens,
                    "peak GiB": bench.peak_gib(),
                },
            )


def timed_groups(
    bench: Bench, engine: Engine, prompts: Sequence[Sequence[int]], new: int
) -> tuple[dict[int, tuple[Completion, ...]], float]:
    """Sample ``GROUP`` completions of each prompt with at most ``new`` tokens; return them by prompt, and the seconds."""
    seeds = list(range(len(prompts)))
    # The first call of a process compiles kernels and fills the allocator's pools.
    list(engine.sample(prompts, GROUP, SamplingParams(max_new_tokens=4), seeds))
    bench.reset_peak()
    bench.sync()
    start = time.perf_counter()
    groups = dict(engine.sample(prompts, GROUP, SamplingParams(max_new_tokens=new), seeds))
    bench.sync()
    seconds = time.perf_counter() - start
    if (count := sum(map(len, groups.values()))) != GROUP * len(prompts):
        raise PartFailed(f"{count} completions of {GROUP * len(prompts)} came")
    return groups, seconds


def static_cache(bench: Bench) -> None:
    """Measure transformers' ``generate`` on the same prompts, with a growing cache and with a static one.

    With a static cache transformers compiles the forward pass of a token and records CUDA graphs of it: what is left then is
    what HFEngine could gain from the same. Nothing is sampled at random, and no row ends before the limit.
    """
    arch = architecture(bench)
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    model = random_model(arch, bench.device, dtype).eval()
    prompt, new = (8, 8) if bench.tiny else (128, 256)
    generator = torch.Generator().manual_seed(0)
    for sequences in (16,) if bench.tiny else (64, 256):
        ids = torch.randint(8, arch.vocab_size, (sequences, prompt), generator=generator).to(bench.device)
        for name in ("dynamic", "static"):
            label = f"{sequences} sequences, {name} cache"
            with bench.attempt(label):
                config = GenerationConfig(
                    max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, cache_implementation=name
                )

                def generate(config: GenerationConfig = config, ids: torch.Tensor = ids) -> torch.Tensor:
                    with torch.no_grad():
                        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)  # pyright: ignore

                start = time.perf_counter()
                shape = tuple(generate().shape)  # compiles
                bench.sync()
                first = time.perf_counter() - start
                if shape != (sequences, prompt + new):
                    raise PartFailed(f"{label}: got tokens of shape {shape}")
                bench.reset_peak()
                (seconds,) = bench.seconds(generate, repeats=1)
                bench.row(
                    label,
                    **{
                        "tokens/s": round(sequences * new / seconds),
                        "ms a token step": round(1e3 * seconds / new, 2),
                        "first pass s": round(first, 1),
                        "peak GiB": bench.peak_gib(),
                    },
                )


def judge(bench: Bench) -> None:
    """Score the tiny judge on this device, on written solutions with known labels."""
    from lit_tpgrpo.datamodules.arithmetic.judge_measure import tiny_judge
    from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, writer_samples
    from lit_tpgrpo.judges.generative import IntrinsicSignals
    from lit_tpgrpo.judges.scoring import count_labels

    cases, _ = label_cases(writer_samples("1", 4 if bench.tiny else 100, 0))
    tested = tiny_judge("embedded:tiny-judge", IntrinsicSignals())
    tested.chat.device = bench.device
    start = time.perf_counter()
    counts = count_labels(tested, cases)
    seconds = time.perf_counter() - start
    metrics = tested.metrics()
    tested.close()
    scores = {label.value: counts.f1(label) for label in counts.present()}
    bench.row(
        "tiny judge",
        solutions=len(cases),
        abstained=metrics["abstained"],
        **{"solutions/s": round(len(cases) / seconds, 2)},
        **{f"F1 {name}": round(score, 3) for name, score in scores.items()},
    )
    # Measured on a CPU: .99, .95, 1, .99 on a thousand; far below, this device's arithmetic is wrong.
    if not bench.tiny and (min(scores.values()) < 0.8 or metrics["abstained"] > 0.1 * len(cases)):
        raise PartFailed(f"the judge labels worse than on a CPU: {scores}, {metrics['abstained']} abstained")
