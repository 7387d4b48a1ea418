"""Measure the overhead of this package's vLLM engine over vLLM itself, side by side in one process.

    python -m benchmarks.vllm_engine sample   # tokens/s: raw LLM.generate, VLLMEngine, HFEngine, on the same prompts
    python -m benchmarks.vllm_engine sync     # seconds: load_weights, vLLM's own reload, a plain copy of the same tensors

The candidates run in alternation, so that a machine that becomes slower affects all of them; medians and their ratios are
printed. ``--model`` takes any causal language model, ``--layers`` and ``--hidden`` build a Qwen2 with random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.rollout.prompts import RolloutPrompt, prompt_ids
from lit_tpgrpo.seeds import derived_seed


def policy_of(args: argparse.Namespace) -> LoadedModel:
    """Load or build the model of the arguments, on the GPU if there is one."""
    tokenizer = load_tokenizer(args.model)
    if args.hidden:
        config = Qwen2Config(
            vocab_size=args.vocab,
            hidden_size=args.hidden,
            intermediate_size=4 * args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=args.hidden // 64,
            num_key_value_heads=max(1, args.hidden // 256),
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            dtype=args.dtype,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, args.dtype))
    else:
        model = load_causal_lm(args.model, False, getattr(torch, args.dtype), "sdpa")
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return LoadedModel(model, tokenizer)


def medians(candidates: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each candidate, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats + 1):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def sampling(args: argparse.Namespace) -> None:
    """Print tokens/s; vLLM and this package sample the same tokens, with the same weights, prompts and seeds."""
    import vllm

    from lit_tpgrpo.engines.vllm.environment import scratch_folder
    from lit_tpgrpo.engines.vllm.sampling import request_settings
    from lit_tpgrpo.engines.vllm.updates import update_worker

    policy = policy_of(args)
    prompts = [
        prompt_ids(policy.tokenizer, p, RolloutPrompt("{problem}")) for p in ArithmeticProblems(n=args.prompts).load()
    ]
    params = SamplingParams(args.tokens, 1.0)
    seeds = [derived_seed(0, i) for i in range(len(prompts))]
    ours, hf = (
        VLLMEngine(max_num_seqs=args.sequences, kv_cache_gib=args.kv_gib, sleep_level=0),
        HFEngine(args.sequences),
    )
    ours.load_weights(policy)
    hf.load_weights(policy)
    engine = ours._engine
    folder = scratch_folder()
    policy.policy_model.config.save_pretrained(folder.name)
    policy.tokenizer.save_pretrained(folder.name)
    raw = vllm.LLM(
        model=folder.name,
        load_format="dummy",
        dtype=args.dtype,
        max_num_seqs=args.sequences,
        kv_cache_memory_bytes=int(args.kv_gib * 2**30),
        enforce_eager=not torch.cuda.is_available(),
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        disable_log_stats=True,
        **({} if torch.cuda.is_available() else {"enable_chunked_prefill": False}),
    )
    raw.collective_rpc(update_worker, args=(policy.named_tensors(),))
    eos = policy.tokenizer.eos_token_id
    settings = [request_settings(params, args.n, s, [eos]) for s in seeds]
    counts: dict[str, int] = {}

    def generate(name: str, **changes: Any) -> None:
        raw.reset_prefix_cache()
        outputs = raw.generate(
            [{"prompt_token_ids": list(p)} for p in prompts],
            [vllm.SamplingParams(**(s | changes)) for s in settings],
            use_tqdm=False,
        )
        counts[name] = sum(len(c.token_ids) for o in outputs for c in o.outputs)

    def run_ours() -> None:
        engine.reset_prefix_cache()
        counts["ours"] = sum(len(c.token_ids) for _, cs in ours.sample(prompts, args.n, params, seeds) for c in cs)

    def run_hf() -> None:
        counts["hf"] = sum(len(c.token_ids) for _, cs in hf.sample(prompts, args.n, params, seeds) for c in cs)

    bare = {"logprobs": None, "seed": None}
    candidates = {
        "raw": lambda: generate("raw"),
        "flat": lambda: generate("flat", flat_logprobs=True),
        "bare": lambda: generate("bare", **bare),
        "ours": run_ours,
        "hf": run_hf,
    }
    times = medians(candidates, args.repeats)
    speed = {name: counts[name] / seconds for name, seconds in times.items()}
    labels = {
        "raw": "LLM.generate",
        "flat": "LLM.generate, flat_logprobs",
        "bare": "LLM.generate, no log-probs or seeds",
        "ours": "VLLMEngine",
        "hf": "HFEngine",
    }
    for name, label in labels.items():
        print(
            f"{label:36} {speed[name]:10,.0f} tokens/s  {counts[name]:8,} tokens  {speed[name] / speed['raw']:.3f} of raw"
        )
    ours.close()


def syncing(args: argparse.Namespace) -> None:
    """Print the time to load weights; ``load_weights`` also checks that all arrived and resets the prefix cache."""
    policy = policy_of(args)
    ours = VLLMEngine(max_num_seqs=8, kv_cache_gib=args.kv_gib, sleep_level=0)
    ours.load_weights(policy)
    target = {name: torch.empty_like(t) for name, t in policy.named_tensors()}

    def copy() -> None:
        for name, tensor in policy.named_tensors():
            target[name].copy_(tensor)

    def reload() -> None:
        ours._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(policy.named_tensors())})

    times = medians(
        {"plain copy": copy, "vLLM reload": reload, "load_weights": lambda: ours.load_weights(policy)}, args.repeats
    )
    size = sum(t.numel() * t.element_size() for t in target.values())
    print(f"{len(target)} tensors, {size / 2**20:,.0f} MiB")
    for name, seconds in times.items():
        print(f"{name:14} {seconds * 1e3:10.1f} ms  {seconds / times['plain copy']:.2f} of a plain copy")
    ours.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sample", "sync"))
    parser.add_argument("--model", default="embedded:tiny-qwen2")
    parser.add_argument("--hidden", type=int, default=0, help="width of a random Qwen2 instead of the model")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=176)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--kv-gib", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    {"sample": sampling, "sync": syncing}[args.what](args)


if __name__ == "__main__":
    main()
