"""vLLM samples from a real pretrained model, and the trainer finds the same log-probs."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_tpgrpo.datamodules.sources import FileProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.rollout.prompts import prompt_ids
from tests.engines.vllm_engines.conftest import Policy, spread
from tests.real_data import SAMPLE
from tests.smollm2 import model_folder

EXACT = 5e-4
"""Largest gap of a sampled token's log-prob between engine and trainer, in nats; 5.7e-5 was measured."""


def test_logprobs_of_a_pretrained_model_are_the_trainers():
    folder = model_folder()
    policy = Policy(load_causal_lm(folder, False, torch.float32, "sdpa").eval(), load_tokenizer(folder), 0)
    problems = FileProblems(SAMPLE.folder / "gsm8k_test.jsonl", preset="gsm8k", limit=4).load()
    prompts = [list(prompt_ids(policy.tokenizer, problem)) for problem in problems]
    engine = VLLMEngine(max_num_seqs=8, max_model_len=512, kv_cache_gib=0.25)
    try:
        engine.load_weights(policy)
        params = SamplingParams(max_new_tokens=24, temperature=0.7)
        done = dict(engine.sample(prompts, 2, params, spread(0, prompts)))
    finally:
        engine.close()
    gaps: list[Tensor] = []
    for i, completions in done.items():
        for completion in completions:
            ids = torch.tensor([[*prompts[i], *completion.token_ids]])
            with torch.no_grad():
                logits = policy.policy_model(ids).logits[0, len(prompts[i]) - 1 : -1] / 0.7
            ours = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.token_ids).long()[:, None])[:, 0]
            gaps.append((ours - torch.tensor(completion.logprobs)).abs())
    gap = torch.cat(gaps)
    assert len(done) == 4
    assert len(gap) > 50
    assert gap.max() < EXACT
