"""A short run on as many processes as torchrun starts: torchrun --nproc-per-node N program.py MODEL OUT CASE...

Writes OUT/CASE.pt by rank 0: losses, round and evaluation metrics, the weights at the end.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy

from lit_tpgrpo.callbacks import CapabilityEstimator, JudgeRefresh, MathEvaluation, RoundCallback, SafeCheckpoint
from lit_tpgrpo.credit import OutcomeCredit, SPAECredit, TokenRewardKL
from lit_tpgrpo.credit.batch import PotentialGain, Whitening
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.audit import ArithmeticAudit
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import OtherProcessError
from lit_tpgrpo.evidence import AnswerProbes, Continuations
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.judges.evidence import GoldAnswerProbes, MonteCarloContinuations
from lit_tpgrpo.losses import ClippedSurrogate
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome, StepLabel, Verdict
from lit_tpgrpo.rewards import OutcomeReward, RewardCase
from lit_tpgrpo.rollout import verifying
from lit_tpgrpo.rollout.sampling import verify_solutions
from lit_tpgrpo.text.steps import steps_from_starts
from lit_tpgrpo.training.adapters import LoRA
from lit_tpgrpo.training.checkpoints import usable_checkpoint
from lit_tpgrpo.training.sharding import Sharding
from lit_tpgrpo.verify.verifier import MathVerifier
from tests.rollout.own_weights import OwnWeights

WORLD = int(os.environ.get("WORLD_SIZE", 1))


class LuckySamples(MathVerifier):
    """A random model is never right. Here the odd samples of a group are, in two problems of three; the gold answer says in
    which, so that it is the same on any process. In the third all are wrong: they teach nothing and are dropped."""

    def verify_all(self, pairs):
        return [Outcome.CORRECT if i % 2 and int(gold) % 3 else Outcome.INCORRECT for i, (gold, _) in enumerate(pairs)]


class OnlyOne(LuckySamples):
    """Only one problem in eight teaches: most processes have nothing to train on."""

    def verify_all(self, pairs):
        return [
            Outcome.CORRECT if i % 2 and int(gold) % 8 == 1 else Outcome.INCORRECT for i, (gold, _) in enumerate(pairs)
        ]


class BreaksOnTheLast(LuckySamples):
    """An error on one process alone, while the others sample."""

    def verify_all(self, pairs):
        if int(os.environ.get("RANK", 0)) == WORLD - 1:
            raise OSError("the verifier of the last process is gone")
        return super().verify_all(pairs)


async def by_sample(case: RewardCase) -> float:
    return 0.25 * case.solution.sample


class BreaksInTheBackground(LuckySamples):
    """On the last process alone, when the second round is sampled."""

    batches = 0

    def verify_all(self, pairs):
        if threading.current_thread() is not threading.main_thread():
            self.batches += 1
            if self.batches == 2 and int(os.environ.get("RANK", 0)) == WORLD - 1:
                raise OSError("the verifier of the last process is gone")
        return super().verify_all(pairs)


class WithoutLast:
    """Drops the last sample of the groups whose answer is above the round's mean."""

    def summarise(self, group):
        return (float(group.problem.answer),)

    def survivors(self, groups, batch):
        mean = math.fsum(answer for (answer,) in batch) / len(batch)
        return [range(4 if float(group.problem.answer) <= mean else 3) for group in groups]


class FourTokens(Judge):
    """Divides what a random model writes, which has no paragraphs, into steps of four tokens."""

    cases = 0

    def judge(self, cases):
        for i, case in enumerate(cases):
            self.cases += 1
            solution, correct = case.solution, case.outcome is Outcome.CORRECT
            starts = sorted({0, *(s for s in solution.token_starts[::4].tolist() if s < case.divided().thinking[1])})
            steps = steps_from_starts(solution.text, starts, solution.token_starts, case.division)
            right, wrong = StepLabel.CORRECT, (StepLabel.UNMATCHED, StepLabel.MATCHED)
            yield i, Verdict(steps, tuple(right if correct else wrong[step.is_answer] for step in steps))

    def metrics(self):
        counted, self.cases = self.cases, 0
        return {"cases": float(counted)}


PROBED: dict[str, Any] = {
    "judge": FourTokens(),
    "evidence": [MonteCarloContinuations(samples=2), GoldAnswerProbes(samples=2, tokens=2, lead_in="\\boxed{")],
    "credit": SPAECredit(),
    "batch_stage": PotentialGain(),
}
REFILLED: dict[str, Any] = {
    "group_filter": WithoutLast(),
    "batch_stage": Whitening(),
    "evidence": MonteCarloContinuations(samples=2),
    "dynamic_sampling": DynamicSampling(),
    "rewards": {"outcome": OutcomeReward(), "sample": (by_sample, 0.5)},
}


class Record(RoundCallback):
    """What every step and round said, on every process."""

    def __init__(self) -> None:
        self.losses, self.steps, self.rounds, self.uids, self.evidence = [], [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.steps.append(len(batch.sequences))

    def on_round_end(self, trainer, pl_module, made):
        self.rounds.append(dict(made.metrics))
        self.uids.append([g.problem.uid for g in made.groups])
        self.evidence.append(
            {
                (group.problem.uid, judged.solution.sample): [
                    e.values if isinstance(e, AnswerProbes) else e.outcomes
                    for e in judged.evidence
                    if isinstance(e, (AnswerProbes, Continuations))
                ]
                for group in made.groups
                for judged in group.solutions
            }
        )


def strategy_of(name: str) -> Strategy | str:
    if name.startswith("fsdp"):
        return ModelParallelStrategy(data_parallel_size=WORLD, tensor_parallel_size=1)
    return "ddp" if WORLD > 1 else "auto"


def data(name: str, out: Path) -> MathRolloutDataModule:
    schedule = next((kind for kind in ("streamed", "pipelined", "ahead") if kind in name), "serial")
    as_pipelined = schedule == "pipelined" or "full" in name
    concurrent = schedule in ("pipelined", "ahead")
    breaks = BreaksInTheBackground if concurrent else BreaksOnTheLast
    verifier = OnlyOne() if "nothing" in name else breaks() if "breaks" in name else LuckySamples()
    return MathRolloutDataModule(
        train=ArithmeticProblems("1", n=64),
        val=ArithmeticProblems("1", n=7, split="heldout"),
        verifier=verifier,
        group_size=4,
        problems_per_step=5,
        steps_per_round=2,
        steps_per_epoch=4,
        keep="nonzero_advantage",
        correction="off" if "uncorrected" in name else "token_truncate",
        sampling=SamplingParams(max_new_tokens=16, top_k=0 if as_pipelined else 50),
        eval_samples=2,
        prompt_template="{problem}",
        store_dir=str(out / f"store-{name}-{WORLD}"),
        max_empty_rounds=3,
        progress=False,
        **(REFILLED if "dynamic" in name else {}),
        **(PROBED if "probed" in name else {}),
        schedule=schedule,
        step_sizes="full" if as_pipelined else None,
        engine=OwnWeights() if concurrent else None,
        **({"credit": TokenRewardKL(OutcomeCredit(), 0.5)} if "rewardkl" in name else {}),
    )


def trainer_of(name: str, out: Path, callbacks: list[L.Callback], max_steps: int) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=strategy_of(name),
        max_epochs=1,
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=any(isinstance(c, SafeCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        default_root_dir=out,
    )


def module_of(model: str, name: str) -> TPGRPOModule:
    L.seed_everything(0, verbose=False)
    precision = "bfloat16" if "bf16" in name else None
    return TPGRPOModule(
        model,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
        loss=ClippedSurrogate(kl_beta=0.0 if {"plain", "rewardkl"} & set(name.split("-")) else 0.1, kl_estimator="k2"),
        tokens_per_microbatch=60,
        gradient_checkpointing="recomputed" in name,
        sharding=Sharding(precision, reshard_after_forward="kept" not in name, cpu_offload="offloaded" in name),
        adapter=LoRA(4, 8.0) if "lora" in name else None,
        reference="offloaded" if "offloaded" in name else "auto",
    )


def lucky_by_sample(verifier, pairs, divisions):
    """As ``LuckySamples``, whichever of the round's solutions are verified together: a resumed run lacks some."""
    right = [s.sample % 2 and int(p.answer) % 3 for p, s in pairs]
    return [(Outcome.CORRECT if r else Outcome.INCORRECT, None) for r in right]


def run(model: str, out: Path, name: str) -> None:
    by_sample_alone = bool({"ahead", "pipelined", "full"} & set(name.split("-"))) and "breaks" not in name
    verifying.verify_solutions = lucky_by_sample if by_sample_alone else verify_solutions
    record, evaluation, capability = Record(), MathEvaluation(), CapabilityEstimator(0.5, "uncertainty")
    callbacks = [record, evaluation, capability, JudgeRefresh(1, ArithmeticAudit("1", n=9))]
    begun = None
    if "resumed" in name:  # the first two steps by a run that ends there, in the middle of a round
        begun = out / f"checkpoints-{name}-{WORLD}"
        saving = SafeCheckpoint(dirpath=begun, every_n_train_steps=1)
        first = [MathEvaluation(), CapabilityEstimator(0.5, "uncertainty"), saving]
        trainer_of(name, out, first, 2).fit(module_of(model, name), datamodule=data(name, out))
        begun = usable_checkpoint(begun)
    module, trainer = module_of(model, name), trainer_of(name, out, callbacks, -1)
    dm = data(name, out)
    try:
        trainer.fit(module, datamodule=dm, ckpt_path=begun, weights_only=True)
    except (OSError, OtherProcessError) as error:
        (out / f"{name}.{trainer.global_rank}.txt").write_text(f"{type(error).__name__}: {error}")
        return
    weights = {n: t.clone() for n, t in module.named_tensors()}
    shares: list = [None] * WORLD
    share = (record.steps, record.uids, capability.state_dict(), record.evidence)
    if WORLD > 1:
        torch.distributed.all_gather_object(shares, share)
    else:
        shares = [share]
    if trainer.is_global_zero:
        sharded = any(type(p).__name__ == "DTensor" for p in module.policy_model.parameters())
        found = {"losses": record.losses, "rounds": record.rounds, "weights": weights, "shares": shares}
        evaluated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("eval/")}
        torch.save(found | {"eval": evaluated, "sharded": sharded}, out / f"{name}-{WORLD}.pt")


if __name__ == "__main__":
    for case in sys.argv[3:]:
        run(sys.argv[1], Path(sys.argv[2]), case)
    if torch.distributed.is_initialized():  # a thread of the group that still runs while Python ends aborts the process
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
