"""Scores of a policy on the embedded problems: sampled and greedy accuracy, termination and corrections of chains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2ForCausalLM

from lit_tpgrpo.datamodules.arithmetic.phrases import THINK_END, Kind
from lit_tpgrpo.datamodules.arithmetic.truth import ChainTruth, solution_truth
from lit_tpgrpo.records import Problem

_BOX = re.compile(r"\\boxed\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Shares between 0 and 1, except ``mean_tokens`` (completion tokens, EOS included)."""

    sampled: float
    greedy: float
    corrected: float
    """Share of the correct sampled solutions in which a reflection corrects a wrong step."""
    ended: float
    unparsable: float
    mean_tokens: float


def prompt_text(tokenizer: PreTrainedTokenizerBase, statement: str) -> str:
    """Apply the chat template to a statement; the prompt ends with the open think block."""
    messages = [{"role": "user", "content": statement}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def is_correct(problem: Problem, text: str) -> bool:
    """Return whether the last box after the think block has the gold number."""
    boxes = _BOX.findall(text.rpartition(THINK_END)[2]) if THINK_END in text else []
    return bool(boxes) and boxes[-1] == problem.answer


@torch.inference_mode()
def sample_texts(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    seed: int,
    greedy: bool,
    max_new_tokens: int = 512,
    rows: int = 128,
) -> list[tuple[str, int, bool]]:
    """Sample one solution per problem; return ``(text, completion tokens, ended by EOS)`` for each."""
    model.eval()
    choice = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **choice,
    )
    out = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i in range(0, len(problems), rows):
            prompts = [prompt_text(tokenizer, p.prompt) for p in problems[i : i + rows]]
            encoded = tokenizer(
                prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
            )
            generated = model.generate(**encoded, generation_config=config)  # pyright: ignore[reportAttributeAccessIssue]
            for row in generated[:, encoded["input_ids"].shape[1] :].tolist():
                ended = tokenizer.eos_token_id in row
                ids = row[: row.index(tokenizer.eos_token_id)] if ended else row
                out.append((tokenizer.decode(ids), len(ids) + ended, ended))
    return out


def measure(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    seed: int,
    max_new_tokens: int = 512,
) -> Measurement:
    """Sample each problem once at temperature 1 and once greedily."""
    sampled = sample_texts(model, tokenizer, problems, seed, greedy=False, max_new_tokens=max_new_tokens)
    greedy = sample_texts(model, tokenizer, problems, seed, greedy=True, max_new_tokens=max_new_tokens)
    truths = [solution_truth(p, text) for p, (text, _, _) in zip(problems, sampled, strict=True)]
    parsed = [t for t in truths if isinstance(t, ChainTruth)]
    correct = [t for t in parsed if t.correct]
    corrected = [any(s.kind is Kind.CORRECTION and s.right for s in t.steps) for t in correct]
    return Measurement(
        sampled=fmean(is_correct(p, text) for p, (text, _, _) in zip(problems, sampled, strict=True)),
        greedy=fmean(is_correct(p, text) for p, (text, _, _) in zip(problems, greedy, strict=True)),
        corrected=fmean(corrected) if corrected else 0.0,
        ended=fmean(ended for _, _, ended in sampled),
        unparsable=1 - len(parsed) / len(truths),
        mean_tokens=fmean(tokens for _, tokens, _ in sampled),
    )
