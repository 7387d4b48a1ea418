"""Runs that are ended and resumed, each in a fork of this process: python program.py MODEL OUT WORLD SEED CASE...

The first run of each kind of settings is uninterrupted; it counts the events of sampling, judging, training, checkpointing and
evaluation. CASE is ACTION:RESUME:MOMENTS. In further runs ACTION happens at one of these events, chosen by the seed
(``kill``: SIGKILL; ``term``, ``int``, ``int_twice``: signals; ``full``: no file can grow any more; with ``-dynamic``
after it rounds are refilled and have a reward term, with ``-evidence`` solutions are continued from their steps, with
``-streamed`` judged while others are sampled, with ``-pipelined`` trained on as well, with ``-ahead`` each round is sampled
while the one before is trained on), and they are resumed by the run's folder, on RESUME processes, until they are done.
MOMENTS is ``all``, for a run for each kind of event; the names of kinds with ``+`` between them, for a run for each of these,
in the second half of its events and before the last sixth; or a number of runs, with kinds spread over their alphabetical
order.
OUT/CASE/result.json says of each where and how it ended, and whether the resumed one came to the same end.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import random
import resource
import signal
import sys
import threading
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file

from lit_tpgrpo.callbacks import CapabilityEstimator, MathEvaluation, SafeCheckpoint
from lit_tpgrpo.credit import VinePPOCredit
from lit_tpgrpo.credit.batch import Whitening
from lit_tpgrpo.credit.filters import PROFFilter
from lit_tpgrpo.datamodules import MathRolloutDataModule, round_factory
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.engines.vllm.process_groups import reserved_port
from lit_tpgrpo.evaluation import sampling
from lit_tpgrpo.jsonl import append_line, read_lines
from lit_tpgrpo.judges.evidence import ContinuationScores, MonteCarloContinuations
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rewards import OutcomeReward
from lit_tpgrpo.rollout import evidence, sampling_weights, verifying
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.text.formats.base import Division, SolutionFormat
from lit_tpgrpo.training.checkpoints import usable_checkpoint
from tests.rollout.own_weights import OwnWeights

Moment = tuple[int, str, int]
"""Rank, kind of event, how many of this kind come before on this rank: the order of kinds depends on threads."""
GROUP_SIZE = 4
EVAL_SAMPLES = 3
"""Unlike the samples of a group and the continuations: by their number an evaluation is told from a round."""
LATER_IMPORTS = ("transformers.models.qwen2.modeling_qwen2", "pandas")
"""Of the model, and by pyarrow where a stored round is read: once here rather than in each fork."""
LOADS_BEFORE_LAST_ROUND = 6
"""Of rounds 0, 1 and 2 and the evaluations before them and after steps 2 and 4."""


def fill_the_disk() -> None:
    """From here on the kernel refuses to let a file grow beyond 20 kB, as a full disk would."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


ACTIONS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "int": lambda: os.kill(os.getpid(), signal.SIGINT),
    "int_twice": lambda: (os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT)),
    "full": fill_the_disk,
}


class Events:
    """Counts what happens, by kind, and acts at the chosen event; threads may share it."""

    def __init__(self, folder: Path, at: Moment | None, action: str) -> None:
        self.folder, self.at, self.action = folder, at, action
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, kind: str) -> None:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        with self._lock:
            moment = (rank, kind, self._seen[kind])
            self._seen[kind] += 1
            if self.at is None:  # the uninterrupted run
                append_line(self.folder / f"events.{rank}.jsonl", {"kind": kind})
        if moment == self.at:
            append_line(self.folder / "acted.jsonl", {"kind": kind})
            ACTIONS[self.action]()


def lucky_by_sample(events: Events, kind: str):
    """A random model is never right: in place of the verifier, one that goes by the sample's number and the problem."""

    def verify(verifier, pairs, divisions):
        events(kind)
        right = [int(p.answer) % 2 and s.sample % 2 for p, s in pairs]
        return [(Outcome.CORRECT if r else Outcome.INCORRECT, None) for r in right]

    return verify


def lucky_by_tokens(events: Events):
    """For continuations: by their tokens, so that each prefix has other outcomes, and a mistaken one shows in the weights."""

    def verify(verifier, pairs, divisions):
        events("verify")
        return [(Outcome.CORRECT if sum(s.completion_ids) % 2 else Outcome.INCORRECT, None) for _, s in pairs]

    return verify


class LoggingReward:
    """Writes down for what it is called."""

    def __init__(self, events: Events, asked: Path) -> None:
        self._events, self._asked = events, asked

    def __call__(self, case):
        append_line(self._asked, {"reward": [case.problem.uid, case.solution.sample, case.solution.policy_version]})
        self._events("reward")
        return 0.25 * case.solution.sample


class LoggingEngine(HFEngine):
    """Writes down what it is asked."""

    def __init__(self, events: Events, asked: Path) -> None:
        super().__init__(batch_size=8)  # two problems at once
        self.events, self.asked = events, asked

    def sample(self, prompts, n, params, seeds):
        append_line(self.asked, {"seeds": list(seeds)})
        before, after = ("evaluate", "evaluate") if n == EVAL_SAMPLES else ("sample", "sampled")
        self.events(before)
        for item in super().sample(prompts, n, params, seeds):
            yield item
            self.events(after)


class LoggingJudge(RuleJudge):
    def __init__(self, events: Events, asked: Path) -> None:
        super().__init__()
        self.events, self.asked = events, asked

    def judge_arriving(self, cases):
        for item in super().judge_arriving(self.noted(cases)):
            self.events("judge")
            yield item

    def noted(self, cases):
        for c in cases:
            append_line(self.asked, {"cases": [[c.problem.uid, c.solution.sample, c.solution.policy_version]]})
            yield c


class LoggingModule(TPGRPOModule):
    events: Any = None
    scoring = "score"

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.events("trained")

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.events("train")  # gradients are there, and the weights are as they were

    def completion_logprobs(self, sequences, temperature):
        logprobs = super().completion_logprobs(sequences, temperature)
        if sequences:
            self.events(self.scoring)  # no score of them is stored yet
        return logprobs


def log_scoring(events: Events) -> None:
    """Events when a score is stored, and other ones while older weights are in the trainer's place."""
    store, replaced, late = RoundFile.add_score, round_factory.weights_of_round, []

    def add_score(*args: Any) -> None:
        store(*args)
        events("late scored" if late else "scored")

    @contextmanager
    def weights_of_round(policy, path):
        with replaced(policy, path):
            late.append(path)
            policy.scoring = "late score"
            yield
        policy.scoring = "score"
        late.clear()

    RoundFile.add_score = add_score
    round_factory.weights_of_round = weights_of_round


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


def refilled(events: Events, asked: Path) -> dict[str, Any]:
    """Settings of runs whose rounds are refilled and have a reward of their own."""
    rewards = {"outcome": OutcomeReward(), "slow": LoggingReward(events, asked)}
    return {"dynamic_sampling": DynamicSampling(), "rewards": rewards}


class Halves(SolutionFormat):
    """The second half of a text is its answer, so that a random model has solutions of several steps."""

    def divide(self, text):
        return Division((0, len(text) // 2), (len(text) // 2, len(text)))


def evidenced(events: Events, asked: Path) -> dict[str, Any]:
    """Settings of runs with continuations, step scores, a filter by them and a batch stage."""
    return {
        "credit": VinePPOCredit(),
        "evidence": [MonteCarloContinuations(samples=2), ContinuationScores(samples=4)],
        "group_filter": PROFFilter(removed=1),
        "batch_stage": Whitening(),
        "format": Halves(),
        "sampling": SamplingParams(max_new_tokens=10, stop=("e",)),
    }


def streamed(events: Events, asked: Path) -> dict[str, Any]:
    """Settings of runs whose solutions are judged while others are sampled, and scored when the round is whole."""
    return {"schedule": "streamed", "correction": "token_truncate"}


class LoggingServer(LoggingEngine, OwnWeights):
    """Has its own copy of the weights, which is an event too."""

    def load_weights(self, policy) -> None:
        self.events("load")
        super().load_weights(policy)


def ahead(events: Events, asked: Path) -> dict[str, Any]:
    """Settings of runs that sample a round while the trainer works on the one before."""

    def half_stored(*args: Any, **kwargs: Any) -> None:
        save_file(*args, **kwargs)
        events("weights without a name")

    sampling_weights.save_file = half_stored
    return {"schedule": "ahead", "engine": LoggingServer(events, asked)}


class OtherDevices(LoggingEngine, OwnWeights):
    """Has its own copy of the weights."""


def pipelined(events: Events, asked: Path) -> dict[str, Any]:
    """Settings of runs that train on the first of three steps while a third of the round is made; all of it is scored."""

    def half_stored(*args: Any, **kwargs: Any) -> None:
        save_file(*args, **kwargs)
        events("weights without a name")

    sampling_weights.save_file = half_stored
    engine = OtherDevices(events, asked)
    return {"schedule": "pipelined", "engine": engine, "steps_per_round": 3, "correction": "token_truncate"}


KINDS = {
    "": lambda events, asked: {},
    "dynamic": refilled,
    "evidence": evidenced,
    "streamed": streamed,
    "pipelined": pipelined,
    "ahead": ahead,
}


def train(model: str, folder: Path, world: int, at: Moment | None, action: str, settings: str) -> None:
    """One attempt, from the start or from what the one before left."""
    events = Events(folder, at, action)
    asked = folder / "asked.jsonl"
    L.seed_everything(0, verbose=False)
    module = LoggingModule(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9))
    module.events = events
    log_scoring(events)
    verifying.verify_solutions = lucky_by_sample(events, "verify")
    sampling.verify_solutions = lucky_by_sample(events, "evaluate")
    evidence.verify_solutions = lucky_by_tokens(events)
    data = MathRolloutDataModule(
        train=ArithmeticProblems("1", n=64),
        val=ArithmeticProblems("1", n=4, split="heldout"),
        judge=LoggingJudge(events, asked),
        group_size=GROUP_SIZE,
        problems_per_step=3,
        steps_per_epoch=6,
        keep="all",
        keep_rounds=0,
        eval_samples=EVAL_SAMPLES,
        prompt_template="{problem}",
        progress=False,
        **(
            {
                "engine": LoggingEngine(events, asked),
                "sampling": SamplingParams(max_new_tokens=10),
                "steps_per_round": 2,
            }
            | KINDS[settings](events, asked)
        ),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_epochs=1,
        val_check_interval=2,
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


def attempt(
    model: str, folder: Path, world: int, settings: str, where: Moment | None = None, action: str = ""
) -> list[int]:
    """Fork one process a rank; their exit statuses. ``where`` the action happens, in the process of that rank."""
    with reserved_port() as port:
        pids = [_fork(model, folder, (rank, world), port, settings, where, action) for rank in range(world)]
        statuses = _await(pids, killed=action in ("kill", "int_twice"))
    if where is None and any(statuses.values()):
        raise SystemExit(f"an uninterrupted run failed, see {folder}")
    return [statuses[pid] for pid in pids]


def _fork(
    model: str, folder: Path, place: tuple[int, int], port: int, settings: str, where: Moment | None, action: str
) -> int:
    """Fork the process of a (rank, number of ranks); its id."""
    rank, world = place
    if pid := os.fork():
        return pid
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    output = os.open(folder / f"output.{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 0
    try:
        train(model, folder, world, where, action, settings)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _await(pids: list[int], killed: bool) -> dict[int, int]:
    """Wait for all processes; the exit status of each. ``killed``: if one is gone, so are the others."""
    statuses, left = {}, set(pids)
    while left:
        pid, status = os.wait()
        left.remove(pid)
        statuses[pid] = os.waitstatus_to_exitcode(status)
        if status and killed:
            for other in left:
                os.kill(other, signal.SIGKILL)
    return statuses


def stored(folder: Path) -> tuple[set[int], set[tuple[str, int, int]], set[tuple[str, int, int]]]:
    """Seeds of the groups and continuations in the store, and (problem, sample, policy version) of its verdicts and rewards."""
    seeds, verdicts, rewards = set(), set(), set()
    for path in (folder / "run" / "rounds").glob("round_*"):
        index, groups = int(path.name.removeprefix("round_")), RoundFile(path).solutions(GROUP_SIZE)
        seeds |= {derived_seed(0, "round", index, place) for place in groups}
        for file in path.glob("evidence.*.jsonl"):
            seeds |= {derived_seed(0, "continuation", key) for line in read_lines(file) for key in line["values"]}
        for kind, keys in (("verdicts", verdicts), ("rewards", rewards)):
            for file in path.glob(f"{kind}.*.jsonl"):
                for line in read_lines(file):
                    problem, solutions = groups[line["group"]]
                    version = solutions[line["sample"]].policy_version
                    if kind == "verdicts" or line["term"] == "slow":
                        keys.add((problem.uid, line["sample"], version))
    return seeds, verdicts, rewards


def made_again(folder: Path, before: tuple[set, set, set], asked_before: int) -> int:
    seeds, verdicts, rewards = before
    lines = list(read_lines(folder / "asked.jsonl"))[asked_before:]
    again = sum(seed in seeds for line in lines for seed in line.get("seeds", []))
    again += sum(tuple(line["reward"]) in rewards for line in lines if "reward" in line)
    return again + sum(tuple(c) in verdicts for line in lines for c in line.get("cases", []))


def moments(events: list[list[str]], chosen: str, rng: random.Random, action: str) -> list[Moment]:
    """Where each action happens: at every kind of event, at those named, or at kinds spread over their order; see above."""
    counts: dict[str, dict[int, int]] = {}
    for rank, seen in enumerate(events):
        # In the very last evaluation there may be nothing left that a signal could stop.
        end = len(seen) if action == "kill" else len(seen) - seen[::-1].index("trained")
        if "load" in seen:  # rounds are sampled ahead: how much of the last one, which no step needs, depends on time
            end = [number for number, kind in enumerate(seen) if kind == "load"][LOADS_BEFORE_LAST_ROUND]
        for kind, count in Counter(seen[:end]).items():
            counts.setdefault(kind, {})[rank] = count
    order, part = ["save"] if action == "full" else sorted(counts), (0, 1)
    if chosen.isdigit():
        spread = max(1, len(order) // int(chosen))
        order = [order[i * spread % len(order)] for i in range(int(chosen))]
    elif chosen != "all":
        order, part = chosen.split("+"), (1 / 2, 5 / 6)  # few moments: all where there is something to restore

    def moment(kind: str) -> Moment:
        rank, count = rng.choice(sorted(counts[kind].items()))
        return rank, kind, rng.randrange(int(part[0] * count), math.ceil(part[1] * count))

    return [moment(kind) for kind in order]


def ended_and_resumed(
    model: str, out: Path, expected: dict[str, Any], world: int, case: str, events: list[list[str]], seed: int
) -> None:
    """The runs of one case, against the uninterrupted one's end."""
    action, resume, chosen = case.split(":")
    action, _, settings = action.partition("-")
    found = []
    for number, moment in enumerate(moments(events, chosen, random.Random(seed), action)):
        folder = out / f"ended_{number}"
        folder.mkdir(parents=True)
        codes = attempt(model, folder, world, settings, moment, action)
        said = "".join((folder / f"output.{r}.txt").read_text() for r in range(world))
        left = bool(list((folder / "run").rglob("*.ckpt")))
        before, asked = stored(folder), len(list(read_lines(folder / "asked.jsonl")))
        attempt(model, folder, int(resume), settings)
        end = torch.load(folder / "end.pt")
        gaps = [float((end["weights"][k] - w).abs().max()) for k, w in expected["weights"].items()]
        found.append(
            {
                "acted": [line["kind"] for line in read_lines(folder / "acted.jsonl")],
                "rank": moment[0],
                "event": moment[1:],
                "codes": codes,
                "said": said[-6000:],
                "left": left,
                "again": made_again(folder, before, asked),
                "stored": [len(part) for part in before],
                "gap": max(gaps),
                "step": end["step"],
                "eval": {k: float(v) for k, v in end["eval"].items()}
                == {k: float(v) for k, v in expected["eval"].items()},
            }
        )
    (out / "result.json").write_text(
        json.dumps({"events": [Counter(e) for e in events], "step": expected["step"], "ended": found}, indent=1)
    )


def main(model: str, out: Path, world: int, seed: int, cases: list[str]) -> None:
    for name in filter(importlib.util.find_spec, LATER_IMPORTS):
        importlib.import_module(name)
    for case in cases:
        (out / case).mkdir(parents=True)
    for settings in dict.fromkeys(map(settings_of, cases)):
        of_settings = [case for case in cases if settings_of(case) == settings]
        whole = out / f"whole-{settings}"
        whole.mkdir()
        try:
            attempt(model, whole, world, settings)
        except SystemExit as failed:  # the cases of other settings tell the more about it
            for case in of_settings:
                (out / case / "failed.txt").write_text(str(failed))
            continue
        events = [[line["kind"] for line in read_lines(whole / f"events.{rank}.jsonl")] for rank in range(world)]
        expected = torch.load(whole / "end.pt")
        for case in of_settings:
            try:
                ended_and_resumed(model, out / case, expected, world, case, events, seed)
            except SystemExit as failed:
                (out / case / "failed.txt").write_text(str(failed))


def settings_of(case: str) -> str:
    return case.partition(":")[0].partition("-")[2]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
