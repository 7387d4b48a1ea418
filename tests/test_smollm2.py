"""A real pretrained model with its real tokenizer and chat template goes through a round and an optimizer step."""

from __future__ import annotations

import re
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_tpgrpo import audit
from lit_tpgrpo.callbacks import RoundCallback
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.sources import FileProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome, Round
from lit_tpgrpo.text.formats import PlainChain
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.real_data import SAMPLE
from tests.smollm2 import model_folder

EXACT = 5e-4
"""Largest gap of a sampled token's log-prob between engine and trainer, in nats; 2.3e-5 was measured."""


class CorrectByTurns(MathVerifier):
    """Half of each group is correct: this model solves none of these problems within so few tokens."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i % 2 else Outcome.INCORRECT for i, _ in enumerate(pairs)]


class Watch(RoundCallback):
    round_: Round

    def on_round_end(self, trainer, pl_module, round_):
        self.round_ = round_


@pytest.mark.slow
def test_a_round_and_a_step_of_a_pretrained_model(tmp_path):
    watch, module = Watch(), TPGRPOModule(model_folder())
    data = MathRolloutDataModule(
        train=FileProblems(SAMPLE.folder / "gsm8k_test.jsonl", preset="gsm8k", limit=2),
        verifier=CorrectByTurns(),
        format=PlainChain(("box", "stated", "last")),
        group_size=2,
        problems_per_step=2,
        steps_per_round=1,
        keep="all",
        sampling=SamplingParams(max_new_tokens=16, temperature=0.7),
        progress=False,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.fit(module, data)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert trainer.global_step == 1
    assert metrics["rollout/accuracy"] == 0.5
    assert metrics["rollout/no_answer_block_share"] == 0.0
    assert metrics["mismatch/logprob_max"] < EXACT
    assert 0 < metrics["train/grad_norm"] < float("inf")
    tokenizer = module.tokenizer
    for group in watch.round_.groups:
        for judged in group.solutions:
            solution = judged.solution
            prompt = tokenizer.decode(solution.prompt_ids)
            assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
            assert group.problem.prompt in prompt
            assert prompt.endswith("<|im_start|>assistant\n")
            steps = judged.verdict.steps
            assert steps[-1].is_answer
            assert all(torch.isfinite(torch.tensor(solution.logprobs)))
    lengths = {len(s.solution.completion_ids) for g in watch.round_.groups for s in g.solutions}
    assert max(lengths) <= 16


@pytest.mark.slow
def test_a_pretrained_model_too_small_to_judge_rings_the_alarm(capsys):
    """Its replies are valid by their schema and empty: no step is incorrect, and a wrong answer adopts next to nothing."""
    root = Path(__file__).parent.parent
    judge = [
        "--config",
        str(root / "benchmarks" / "judge_audit" / "smollm2.yaml"),
        "--judge.chat.model",
        model_folder(),
    ]
    audit.main([*judge, "--level", "1", "--n", "4"])
    printed = capsys.readouterr().out
    assert "4 of 4 solutions" in printed
    assert "ALARM: F1 of incorrect steps is 0.000, under 0.800" in printed
    assert "ALARM: F1 of matched steps is 0." in printed
    assert re.search(r"requests +questions \d+, requests \d+", printed)
