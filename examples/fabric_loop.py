"""A training loop of your own with Lightning Fabric, on this package's rounds, policy and loss: python -m examples.fabric_loop

One process. On several, each rank takes its share of the problems, and counts and metrics are summed over ranks
(``lit_tpgrpo.rollout.rounds.assign_problems``, ``lit_tpgrpo.distributed``), as ``TPGRPOModule`` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from lightning.fabric import Fabric
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lit_tpgrpo.credit import ThoughtCredit
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.loaders import OpaqueBatch
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.functional.aggregation import BatchCounts
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.losses import ClippedSurrogate, TokenLoss
from lit_tpgrpo.pretrained import resolve_model
from lit_tpgrpo.records import TrainingSequence
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import KEEP_RULES
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import Assignment, RoundMaker
from lit_tpgrpo.rollout.step_cuts import even_steps
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.rollout.training_sequences import training_sequence
from lit_tpgrpo.training.microbatches import MicroBatch, microbatches
from lit_tpgrpo.training.optimizer_step import microbatch_loss
from lit_tpgrpo.training.padding import Padded
from lit_tpgrpo.training.policy import PolicyModel
from lit_tpgrpo.verify.verifier import MathVerifier


@dataclass
class SampledPolicy:
    """What an engine samples from (``lit_tpgrpo.engines.base.Policy``)."""

    policy_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    policy_version: int = 0

    def named_tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        return self.policy_model.named_parameters()


class StepLoss(torch.nn.Module):
    """The loss of a micro-batch as one forward pass, for Fabric to wrap."""

    def __init__(self, policy: PolicyModel, loss: TokenLoss) -> None:
        super().__init__()
        self.policy, self.loss = policy, loss

    def forward(self, boxed: OpaqueBatch[tuple[MicroBatch, float, BatchCounts]]) -> torch.Tensor:
        micro, temperature, counts = (
            boxed.content
        )  # boxed: Fabric would convert the tensors, and refuses frozen dataclasses
        return microbatch_loss(self.policy, self.loss, micro, temperature, "token", counts, None)[0]


def optimizer_step(
    fabric: Fabric,
    step_loss: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    sequences: Sequence[TrainingSequence],
    temperature: float,
    pad_id: int,
    max_grad_norm: float = 1.0,
) -> float:
    """Take one optimizer step, micro-batch by micro-batch; return its loss."""
    counts = BatchCounts(sum(len(s.completion_ids) for s in sequences), len(sequences))
    optimizer.zero_grad()
    total = 0.0
    for micro in microbatches([s.to(fabric.device) for s in sequences], 4096, Padded(pad_id)):
        loss = step_loss(OpaqueBatch((micro, temperature, counts)))
        fabric.backward(loss)
        total += float(loss.detach())
    fabric.clip_gradients(step_loss, optimizer, max_norm=max_grad_norm)
    optimizer.step()
    return total


def main(rounds: int = 2, problems_per_round: int = 16, group_size: int = 8) -> None:
    fabric = Fabric(devices=1)
    fabric.launch()
    fabric.seed_everything(0)
    folder = resolve_model("embedded:tiny-qwen2")
    policy = SampledPolicy(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    module = StepLoss(PolicyModel(policy.policy_model), ClippedSurrogate())
    step_loss, optimizer = fabric.setup(module, torch.optim.AdamW(module.parameters(), lr=1e-3))
    problems = ArithmeticProblems(n=rounds * problems_per_round).load()
    engine, verifier, sampling = HFEngine(), MathVerifier(), SamplingParams(max_new_tokens=176)
    parts = (engine, verifier, RuleJudge(), ThoughtCredit(), KEEP_RULES["nonzero_advantage"])
    maker = RoundMaker(*parts, policy.tokenizer, sampling, group_size, RolloutPrompt("{problem}"), show_progress=False)
    with tempfile.TemporaryDirectory() as disk:
        for index in range(rounds):
            chosen = problems[index * problems_per_round : (index + 1) * problems_per_round]
            assignments = [Assignment(i, p, seed=1000 * index + i) for i, p in enumerate(chosen)]
            engine.load_weights(policy)
            file = RoundStore(Path(disk), keep=1).open(index, {"version": policy.policy_version})
            round_, tally = maker.make(index, assignments, file, GroupAccuracy(), policy_version=policy.policy_version)
            for solutions in even_steps(round_.kept, per_step=problems_per_round * group_size // 2):
                sequences = [training_sequence(s) for s in solutions]
                pad_id = cast(int, policy.tokenizer.pad_token_id)
                loss = optimizer_step(fabric, step_loss, optimizer, sequences, round_.temperature, pad_id)
                policy.policy_version += 1
                fabric.print(f"step {policy.policy_version} | loss {loss:+.4f}")
            fabric.print(f"round {index} | accuracy {tally.metrics()['rollout/accuracy']:.3f}")
    for part in (engine, verifier):
        part.close()


if __name__ == "__main__":
    main()
