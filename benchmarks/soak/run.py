"""One run of many short rounds, started again whenever a fault has ended it, until it is done."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.soak.endpoint import judge_endpoint
from benchmarks.soak.watch import ProcessTree, Reading, files_in

ROOT = Path(__file__).parents[2]
CONFIGS = (ROOT / "configs" / "quickstart.yaml", Path(__file__).with_name("config.yaml"))
ROUND = re.compile(r"^round (\d+) \|", re.MULTILINE)
KILL_EVERY = 20
DISK_FACTOR = 3
"""Kills for each full disk."""
WORKER_SHARE = 0.15
"""Of the rounds: a verifier worker is killed in them."""
FAULT_SHARE = 0.1
"""Of the requests to the judge's endpoint: they meet a fault first."""
FULL_BYTES = 20_000
"""The kernel lets no file of a run grow beyond this once its disk is "full"."""


@dataclass
class Outcome:
    """What a run went through and what it held.

    Attributes:
        processes: training processes of the run.
        disturbed: faults were injected.
        starts: times it was started.
        due: kills and full disks that were planned.
        kills: SIGKILLs of a training process; disks: ends by a disk that was full; workers: verifier workers killed.
        endpoint: faults of the judge's endpoint, by kind.
        ends: exit status of each start (negative: signal).
        left: processes that outlived a start by ``watch.GONE_WITHIN_S``.
        files: temporary files left after starts that were not killed.
        tracebacks: starts whose output holds a traceback.
        readings: by start, one a round.
        seconds: wall time of all starts.
    """

    processes: int
    disturbed: bool
    starts: int = 0
    due: int = 0
    kills: int = 0
    disks: int = 0
    workers: int = 0
    endpoint: dict[str, int] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    left: int = 0
    files: list[str] = field(default_factory=list)
    tracebacks: int = 0
    readings: list[list[Reading]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def longest(self) -> list[Reading]:
        """Of the start with most rounds: a leak shows where a process lives long."""
        return max(self.readings, key=len)


class SoakFailed(RuntimeError):
    """A run ended where no fault had been injected, or makes no headway."""


class Soak:
    """``rounds`` rounds on ``processes`` processes in ``folder``; ``seed`` draws the faults, not the training."""

    def __init__(
        self, folder: Path, rounds: int, processes: int, disturbed: bool, seed: int, kill_every: int = KILL_EVERY
    ) -> None:
        self.folder, self.rounds = folder, rounds
        self.seed, self.kill_every = seed, kill_every
        self.random = random.Random(f"{seed}:{processes}")
        self.outcome = Outcome(processes, disturbed)
        due = range(kill_every, rounds, kill_every) if disturbed else ()
        self.due_kills = set(due)
        # Half-way between two kills, and not in each such gap.
        self.due_disks = {r + kill_every // 2 for r in due if r % (DISK_FACTOR * kill_every) == 0}
        self.due_disks &= set(range(rounds - 1))  # there is a checkpoint to come that finds no room
        self.outcome.due = len(self.due_kills) + len(self.due_disks)

    @property
    def run_folder(self) -> Path:
        return self.folder / "soak" / "run"

    def run(self) -> Outcome:
        self.folder.mkdir(parents=True)
        began = time.monotonic()
        with judge_endpoint(self.seed, FAULT_SHARE if self.outcome.disturbed else 0.0) as (url, counts):
            while not self._start(url):
                self._check_headway()
            self.outcome.endpoint = {fault: count.value for fault, count in counts.items()}
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def weights(self) -> dict[str, Tensor]:
        """Of the last checkpoint."""
        path = self.run_folder / "checkpoints" / "last.ckpt"
        return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]

    def _command(self, url: str) -> list[str]:
        ddp = ["--trainer.strategy", "ddp"] if self.outcome.processes > 1 else []
        begun = (self.run_folder / "checkpoints").is_dir()
        resumed = ["--ckpt_path", str(self.run_folder)] if begun else []
        return [
            *(sys.executable, "train.py", "fit"),
            *(arg for config in CONFIGS for arg in ("--config", str(config))),
            *("--trainer.max_steps", str(self.rounds), "--data.steps_per_epoch", str(self.rounds)),
            *("--trainer.devices", str(self.outcome.processes), *ddp),
            *("--trainer.logger.save_dir", str(self.folder), "--trainer.logger.name", "soak"),
            *("--trainer.logger.version", "run", "--trainer.enable_progress_bar", "false"),
            *("--data.progress", "false"),
            *("--data.judge.chat.base_url", url, "--data.judge.store", str(self.folder / "replies")),
            *resumed,
        ]

    def _start(self, url: str) -> bool:
        """True if the run came to its end."""
        o = self.outcome
        temporary, log = self.folder / f"tmp_{o.starts}", self.folder / f"log_{o.starts}.txt"
        temporary.mkdir()
        o.starts += 1
        o.readings.append([])
        environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        with log.open("w") as output:
            process = subprocess.Popen(
                self._command(url), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        tree = ProcessTree(process.pid)
        try:
            killed, full = self._follow(process, tree, log)
        except BaseException:
            process.terminate()
            raise
        finally:
            o.left += tree.left_behind()
        o.ends.append(process.wait())
        said = log.read_text(errors="replace")
        o.tracebacks += "Traceback (most recent call last)" in said
        if not killed:
            o.files += files_in(temporary)
        if o.ends[-1] and not killed and not full:
            raise SoakFailed(f"the run ended with status {o.ends[-1]} by itself, see {log}:\n{said[-2000:]}")
        return not o.ends[-1]

    def _follow(self, process: subprocess.Popen[bytes], tree: ProcessTree, log: Path) -> tuple[bool, bool]:
        """Watch and disturb it until it ends; whether it was killed, and whether its disk was full."""
        o, place, killed, full = self.outcome, 0, False, False
        while process.poll() is None:
            time.sleep(0.05)
            tree.look()
            with log.open(errors="replace") as text:
                text.seek(place)
                lines = text.read()
            whole = lines.rfind("\n") + 1
            place += len(lines[:whole].encode())
            for index in map(int, ROUND.findall(lines[:whole])):
                if (reading := tree.reading(index)) is not None:
                    o.readings[-1].append(reading)
                if index in self.due_kills and not killed:
                    self.due_kills.remove(index)
                    killed = self._kill(tree)
                elif index in self.due_disks and not full:
                    self.due_disks.remove(index)
                    full = self._fill_disk(tree)
                elif o.disturbed and self.random.random() < WORKER_SHARE:
                    self._kill_worker(tree)
        return killed, full

    def _kill(self, tree: ProcessTree) -> bool:
        """SIGKILL one of the training processes, at a moment in the next rounds that chance chooses."""
        time.sleep(self.random.uniform(0, 2))
        trainers = tree.trainers()
        if not trainers:
            return False
        self.random.choice(trainers).send_signal(signal.SIGKILL)
        self.outcome.kills += 1
        return True

    def _fill_disk(self, tree: ProcessTree) -> bool:
        trainers = tree.trainers()
        for trainer in trainers:
            trainer.rlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, FULL_BYTES))
        self.outcome.disks += bool(trainers)
        return bool(trainers)

    def _kill_worker(self, tree: ProcessTree) -> None:
        workers = tree.verifier_workers()
        if workers:
            self.random.choice(workers).send_signal(signal.SIGKILL)
            self.outcome.workers += 1

    def _check_headway(self) -> None:
        most = 3 * (self.rounds // self.kill_every) + 5
        if self.outcome.starts > most:
            raise SoakFailed(f"{most} starts did not bring the run to its end, see {self.folder}")
