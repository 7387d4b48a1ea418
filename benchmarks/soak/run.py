"""One training run of many short rounds, resumed after each fault that ends it, until it is complete."""

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
from benchmarks.soak.watch import ProcessTree, ResourceReading, files_in

ROOT = Path(__file__).parents[2]
CONFIGS = (ROOT / "configs" / "quickstart.yaml", Path(__file__).with_name("config.yaml"))
ROUND = re.compile(r"^round (\d+) \|", re.MULTILINE)
KILL_EVERY = 20
DISK_FACTOR = 3
"""Number of kills per full disk."""
WORKER_SHARE = 0.15
"""Share of the rounds in which a verifier worker is killed."""
FAULT_SHARE = 0.1
"""Share of the requests to the judge's endpoint that fail."""
FULL_BYTES = 20_000
"""Limit on the size of a run's files, by the kernel, once its disk is "full"."""


@dataclass
class SoakOutcome:
    """The faults injected into a run, and the resources that it used.

    Attributes:
        processes: training processes of the run.
        disturbed: whether faults were injected.
        starts: number of starts.
        due: number of planned kills and full disks.
        kills: SIGKILLs of a training process.
        disks: full disks.
        workers: verifier workers killed.
        endpoint: faults of the judge's endpoint, by kind.
        ends: exit status of each start (negative: signal).
        left: processes that outlived a start by ``watch.GONE_WITHIN_S``.
        files: temporary files left after starts that were not killed.
        tracebacks: starts whose output contains a traceback.
        readings: for each start, one reading per round.
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
    readings: list[list[ResourceReading]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def longest(self) -> list[ResourceReading]:
        """Readings of the start with the most rounds, since a leak shows in a long-lived process."""
        return max(self.readings, key=len)


class SoakFailed(RuntimeError):
    """A run ended without an injected fault, or does not make progress."""


class Soak:
    """A run of ``rounds`` rounds on ``processes`` processes in ``folder``; ``seed`` is for the faults, not the training."""

    def __init__(
        self, folder: Path, rounds: int, processes: int, disturbed: bool, seed: int, kill_every: int = KILL_EVERY
    ) -> None:
        self.folder, self.rounds = folder, rounds
        self.seed, self.kill_every = seed, kill_every
        self.random = random.Random(f"{seed}:{processes}")
        self.outcome = SoakOutcome(processes, disturbed)
        due = range(kill_every, rounds, kill_every) if disturbed else ()
        self.due_kills = set(due)
        # In the middle between two kills, but not between all of them.
        self.due_disks = {r + kill_every // 2 for r in due if r % (DISK_FACTOR * kill_every) == 0}
        self.due_disks &= set(range(rounds - 1))  # a checkpoint must follow that finds no space
        self.outcome.due = len(self.due_kills) + len(self.due_disks)

    @property
    def run_folder(self) -> Path:
        return self.folder / "soak" / "run"

    def run(self) -> SoakOutcome:
        """Start and resume the run until it is complete.

        Raises:
            SoakFailed: it ended without an injected fault, or does not make progress.
        """
        self.folder.mkdir(parents=True)
        start = time.monotonic()
        with judge_endpoint(self.seed, FAULT_SHARE if self.outcome.disturbed else 0.0) as (url, counts):
            while not self._start(url):
                self._check_progress()
            self.outcome.endpoint = {fault: count.value for fault, count in counts.items()}
        self.outcome.seconds = time.monotonic() - start
        return self.outcome

    def weights(self) -> dict[str, Tensor]:
        """Load the weights of the last checkpoint."""
        path = self.run_folder / "checkpoints" / "last.ckpt"
        return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]

    def _command(self, url: str) -> list[str]:
        ddp = ["--trainer.strategy", "ddp"] if self.outcome.processes > 1 else []
        has_checkpoints = (self.run_folder / "checkpoints").is_dir()
        resume = ["--ckpt_path", str(self.run_folder)] if has_checkpoints else []
        return [
            *(sys.executable, "train.py", "fit"),
            *(arg for config in CONFIGS for arg in ("--config", str(config))),
            *("--trainer.max_steps", str(self.rounds), "--data.steps_per_epoch", str(self.rounds)),
            *("--trainer.devices", str(self.outcome.processes), *ddp),
            *("--trainer.logger.save_dir", str(self.folder), "--trainer.logger.name", "soak"),
            *("--trainer.logger.version", "run", "--trainer.enable_progress_bar", "false"),
            *("--data.progress", "false"),
            *("--data.judge.chat.base_url", url, "--data.judge.store", str(self.folder / "replies")),
            *resume,
        ]

    def _start(self, url: str) -> bool:
        """Start or resume the run once; return whether it completed."""
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
        text = log.read_text(errors="replace")
        o.tracebacks += "Traceback (most recent call last)" in text
        if not killed:
            o.files += files_in(temporary)
        if o.ends[-1] and not killed and not full:
            raise SoakFailed(f"the run ended with status {o.ends[-1]} without a fault, see {log}:\n{text[-2000:]}")
        return not o.ends[-1]

    def _follow(self, process: subprocess.Popen[bytes], tree: ProcessTree, log: Path) -> tuple[bool, bool]:
        """Watch the run and inject faults until it ends; return whether it was killed, and whether its disk was full."""
        o, position, killed, full = self.outcome, 0, False, False
        while process.poll() is None:
            time.sleep(0.05)
            tree.update()
            with log.open(errors="replace") as text:
                text.seek(position)
                lines = text.read()
            complete = lines.rfind("\n") + 1
            position += len(lines[:complete].encode())
            for index in map(int, ROUND.findall(lines[:complete])):
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
        """Send SIGKILL to one of the training processes at a random moment in the next rounds."""
        time.sleep(self.random.uniform(0, 2))
        trainers = tree.trainers()
        if not trainers:
            return False
        self.random.choice(trainers).send_signal(signal.SIGKILL)
        self.outcome.kills += 1
        return True

    def _fill_disk(self, tree: ProcessTree) -> bool:
        """Limit the size of the training processes' files; return whether there are such processes."""
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

    def _check_progress(self) -> None:
        limit = 3 * (self.rounds // self.kill_every) + 5
        if self.outcome.starts > limit:
            raise SoakFailed(f"the run is not complete after {limit} starts, see {self.folder}")
