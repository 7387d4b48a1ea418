"""Runs that are killed and resumed, each in a fork of this process: python program.py MODEL OUT WORLD KILLS SEED.

The first run is left alone; it counts the events of sampling, judging, training, checkpointing and evaluation. The others
end by SIGKILL at one of these events, chosen by the seed from all kinds, and are resumed by the run's folder until they are
done. OUT/result.json says of each where it was killed and whether it came to the same end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger

from lit_tpgrpo.callbacks import CapabilityEstimator, MathEvaluation, SafeCheckpoint
from lit_tpgrpo.checkpoints import usable_checkpoint
from lit_tpgrpo.datamodules import MathRolloutDataModule
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rollout import rounds, sampling
from lit_tpgrpo.seeds import derived_seed


class Events:
    """Counts what happens and, at the chosen event, is killed without warning."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.folder, self.kill_at, self.seen = folder, kill_at, 0

    def __call__(self, kind: str) -> None:
        append_line(self.folder / f"events.{os.environ.get('LOCAL_RANK', 0)}.jsonl", {"kind": kind})
        if self.seen == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def lucky_by_sample(events: Events):
    """A random model is never right: in place of the verifier, one that goes by the sample's number and the problem."""

    def verify(verifier, pairs):
        events("verify")
        right = [int(p.answer) % 2 and s.sample % 2 for p, s in pairs]
        return [(Outcome.CORRECT if r else Outcome.INCORRECT, None) for r in right]

    return verify


class LoggingEngine(HFEngine):
    """Writes down what it is asked."""

    def __init__(self, events: Events, asked: Path) -> None:
        super().__init__(batch_size=8)  # two problems at once
        self.events, self.asked = events, asked

    def sample(self, prompts, n, params, seeds):
        append_line(self.asked, {"seeds": list(seeds)})
        self.events("sample")
        for item in super().sample(prompts, n, params, seeds):
            yield item
            self.events("sampled")


class LoggingJudge(RuleJudge):
    def __init__(self, events: Events, asked: Path) -> None:
        super().__init__()
        self.events, self.asked = events, asked

    def judge(self, cases):
        append_line(self.asked, {"cases": [[c.problem.uid, c.solution.sample, c.solution.policy_version] for c in cases]})
        for item in super().judge(cases):
            self.events("judge")
            yield item


class LoggingModule(TPGRPOModule):
    events: Any = None

    def training_step(self, batch, batch_idx):
        self.events("train")
        super().training_step(batch, batch_idx)
        self.events("trained")


class SlowIO(TorchCheckpointIO):
    """Events before a checkpoint, when half of it is written, and when it has no name yet."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.events("save")
        super().save_checkpoint(checkpoint, path, storage_options)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        self.events("half saved")
        Path(path).write_bytes(whole)
        self.events("saved")


def train(model: str, folder: Path, world: int, kill_at: int | None) -> None:
    """One attempt, from the start or from what the one before left."""
    events = Events(folder, kill_at)
    asked = folder / "asked.jsonl"
    L.seed_everything(0, verbose=False)
    module = LoggingModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9))
    module.events = events
    rounds.verify_solutions = sampling.verify_solutions = lucky_by_sample(events)
    data = MathRolloutDataModule(
        train=ArithmeticProblems("1", n=64),
        val=ArithmeticProblems("1", n=4, split="heldout"),
        engine=LoggingEngine(events, asked),
        judge=LoggingJudge(events, asked),
        group_size=4,
        problems_per_step=3,
        steps_per_round=2,
        steps_per_epoch=6,
        keep="all",
        keep_rounds=0,
        sampling=SamplingParams(max_new_tokens=10),
        eval_samples=2,
        prompt_template="{problem}",
        progress=False,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_epochs=1,
        logger=CSVLogger(folder, name="", version="run"),
        plugins=[SlowIO(events)],
        callbacks=[
            MathEvaluation(),
            CapabilityEstimator(0.5, "uncertainty"),
            SafeCheckpoint(every_n_train_steps=1, save_top_k=2, monitor="step", mode="max"),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    resumable = list((folder / "run").rglob("*.ckpt"))
    path = usable_checkpoint(folder / "run") if resumable else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    if trainer.is_global_zero:
        weights = {name: tensor.clone() for name, tensor in module.named_tensors()}
        after = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("eval/")}
        torch.save({"weights": weights, "step": trainer.global_step, "eval": after}, folder / "end.pt")


def attempt(model: str, folder: Path, world: int, kill: tuple[int, int] | None) -> bool:
    """Fork one process a rank; whether all came to an end. ``kill`` is (rank, event)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
            output = os.open(folder / f"output.{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = 1
            try:
                train(model, folder, world, kill[1] if kill and kill[0] == rank else None)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    statuses = []
    while pids:
        pid, status = os.wait()
        pids.remove(pid)
        statuses.append(status)
        if status:  # one is gone: so are the others
            for other in pids:
                os.kill(other, signal.SIGKILL)
    if kill is None and any(statuses):
        raise SystemExit(f"a run that was not killed failed, see {folder}")
    return not any(statuses)


def stored(folder: Path) -> tuple[set[int], set[tuple[str, int, int]]]:
    """Seeds of which groups are in the store, and (problem, sample, policy version) of which verdicts are."""
    seeds, verdicts = set(), set()
    for path in (folder / "run" / "rounds").glob("round_*"):
        index, groups = int(path.name.removeprefix("round_")), {}
        for file in path.glob("solutions.*.jsonl"):
            for line in read_lines(file):
                groups |= {group["group"]: group for group in line["groups"]}
        seeds |= {derived_seed(0, "round", index, place) for place in groups}
        for file in path.glob("verdicts.*.jsonl"):
            for line in read_lines(file):
                group = groups[line["group"]]
                version = group["solutions"][line["sample"]]["policy_version"]
                verdicts.add((group["problem"]["uid"], line["sample"], version))
    return seeds, verdicts


def made_again(folder: Path, before: tuple[set, set], asked_before: int) -> int:
    seeds, verdicts = before
    lines = list(read_lines(folder / "asked.jsonl"))[asked_before:]
    again = sum(seed in seeds for line in lines for seed in line.get("seeds", []))
    return again + sum(tuple(c) in verdicts for line in lines for c in line.get("cases", []))


def moments(events: list[list[str]], kills: int, rng: random.Random) -> list[tuple[int, int]]:
    """(rank, number of the event) of each kill, from every kind of event in turn."""
    kinds: dict[str, list[tuple[int, int]]] = {}
    for rank, seen in enumerate(events):
        for number, kind in enumerate(seen):
            kinds.setdefault(kind, []).append((rank, number))
    order = sorted(kinds)
    return [rng.choice(kinds[order[i % len(order)]]) for i in range(kills)]


def main(model: str, out: Path, world: int, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    whole = out / "whole"
    whole.mkdir(parents=True)
    attempt(model, whole, world, None)
    events = [[line["kind"] for line in read_lines(whole / f"events.{rank}.jsonl")] for rank in range(world)]
    expected = torch.load(whole / "end.pt")
    found = []
    for number, (rank, event) in enumerate(moments(events, kills, rng)):
        folder = out / f"killed_{number}"
        folder.mkdir()
        ended = attempt(model, folder, world, (rank, event))
        before, asked = stored(folder), len(list(read_lines(folder / "asked.jsonl")))
        attempt(model, folder, world, None)
        end = torch.load(folder / "end.pt")
        gaps = [float((end["weights"][k] - w).abs().max()) for k, w in expected["weights"].items()]
        found.append(
            {
                "kind": events[rank][event],
                "event": event,
                "rank": rank,
                "killed": not ended,
                "again": made_again(folder, before, asked),
                "stored": [len(part) for part in before],
                "gap": max(gaps),
                "step": end["step"],
                "eval": {k: float(v) for k, v in end["eval"].items()}
                == {k: float(v) for k, v in expected["eval"].items()},
            }
        )
    (out / "result.json").write_text(
        json.dumps({"events": [Counter(e) for e in events], "step": expected["step"], "kills": found}, indent=1)
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
