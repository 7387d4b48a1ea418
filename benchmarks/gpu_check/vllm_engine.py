"""The part that samples with vLLM in the training process, where vLLM is installed."""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedModel

from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.models import TOKENIZER, architecture, random_model
from benchmarks.gpu_check.sampling import GROUP, timed_groups
from benchmarks.gpu_check.training import PartFailed
from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.forced_scores import forced_scores
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer

LARGEST_MEAN_GAP = 0.02
"""Most that the log-probs of vLLM and of the policy may differ on average, in nats; above it, its weights are others."""


def _large_model(bench: Bench) -> PreTrainedModel:
    return random_model(architecture(bench), bench.device, torch.bfloat16 if bench.device == "cuda" else torch.float32)


def vllm_rate(bench: Bench) -> None:
    """Measure ``VLLMEngine``'s tokens/s with HFEngine's prompts, and its log-probs against those of the policy."""
    # vLLM has no kernel for the tiny architecture's heads.
    model = load_causal_lm(TOKENIZER, False, torch.float32, "sdpa") if bench.tiny else _large_model(bench)
    model.eval().requires_grad_(False)
    prompt, new = (8, 8) if bench.tiny else (128, 256)
    engine = VLLMEngine(max_num_seqs=256, kv_cache_gib=0.25 if bench.tiny else 16.0, sleep_level=0)
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    engine.load_weights(LoadedModel(model, load_tokenizer(TOKENIZER)))
    built = time.perf_counter() - start
    for sequences in (16,) if bench.tiny else (64, 256):
        label = f"{sequences} sequences"
        prompts = torch.randint(8, model.config.vocab_size, (sequences // GROUP, prompt), generator=generator).tolist()
        groups, seconds = timed_groups(bench, engine, prompts, new)
        tokens = sum(len(c.token_ids) for group in groups.values() for c in group)
        rows = [(prompts[i], group[0].token_ids) for i, group in groups.items()]  # one of each group
        with torch.no_grad():
            scores = forced_scores(model, rows)
        ours = torch.cat([torch.tensor(score.logprobs) for score in scores])
        theirs = torch.cat([torch.tensor(group[0].logprobs) for group in groups.values()])
        gap = (ours - theirs).abs()
        bench.row(
            label,
            **{
                "tokens/s": round(tokens / seconds),
                "tokens": tokens,
                "mean log-prob gap": round(gap.mean().item(), 6),
                "max log-prob gap": round(gap.max().item(), 6),
                "built in s": round(built, 1),
            },
        )
        if not gap.mean() < LARGEST_MEAN_GAP:  # NaN too
            raise PartFailed(f"{label}: log-probs of vLLM and of the policy differ by {gap.mean()} nats on average")
    engine.close()
