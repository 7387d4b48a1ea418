"""Start the runs of a study side by side, seed by seed, resume interrupted ones and store their results."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import yaml

from benchmarks.study.results import CODE, FILE, Result, Results, code_version
from benchmarks.study.settings import ROOT, Arm, Overlay, Study
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import content_hash

GRACE_S = 60.0
"""Time that an interrupted run has to reach its next safe point and save a checkpoint."""
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass
class Running:
    """A run in progress."""

    arm: Arm
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float


class Runner:
    """Run the arms of a study on each seed.

    Args:
        study: arms, seeds and settings.
        results: where results are stored.
        work: folder of the runs: checkpoints, rounds, logs. A run's folder there is named by arm, seed and settings.
        processes: runs side by side.
    """

    def __init__(self, study: Study, results: Results, work: Path, processes: int) -> None:
        self.study, self.results, self.work, self.processes = study, results, work.absolute(), processes
        self.failed: list[str] = []
        self._running: list[Running] = []
        self._locks: list[IO[bytes]] = []
        self._done, self._total = 0, 0

    def run(self) -> None:
        """Run what has no result yet. Failed runs are recorded in ``failed`` and on disk, and the rest goes on.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM was received; all runs have ended, with checkpoints where they could.
        """
        with self._only_one(), _sigterm_interrupts():
            waiting = self._waiting()
            self._total = len(waiting) + self._done
            where = "" if waiting else "; another --out repeats them"
            print(f"{self._done} of {self._total} runs have a result in {self.results.folder}{where}", flush=True)
            try:
                while waiting or self._running:
                    while waiting and len(self._running) < self.processes:
                        self._start(*waiting.pop(0))
                    time.sleep(_POLL_S)
                    for running in [r for r in self._running if r.process.poll() is not None]:
                        self._running.remove(running)
                        self._finish(running)
            finally:
                self._stop()

    def _waiting(self) -> list[tuple[Arm, int]]:
        """Return the runs without a result, seed by seed over all arms, so that an interrupted study is balanced."""
        waiting = []
        for seed in self.study.budget.seeds:
            for arm in self.study.arms:
                result, reason = self.results.read(self.study, arm, seed)
                if reason:
                    print(f"{arm.name}, seed {seed}: its result is not used, {reason}; it is run again", flush=True)
                if result is None:
                    waiting.append((arm, seed))
                else:
                    self._done += 1
        return waiting

    def folder(self, arm: Arm, seed: int) -> Path:
        """Return a run's folder; other settings give another folder, so a checkpoint in it is of these settings."""
        return self.work / f"{arm.name}-seed{seed}-{content_hash(self.study.hashes(arm), 4)}" / "run"

    def command(self, arm: Arm, seed: int) -> list[str]:
        """Return the command of a run, which goes on from its last checkpoint if it has one."""
        folder = self.folder(arm, seed)
        configs = [str(_written(overlay, folder.parent, i)) for i, overlay in enumerate(self.study.overlays(arm))]
        resume = ["--ckpt_path", str(folder)] if any(folder.glob("checkpoints/*")) else []
        return [
            *(sys.executable, "train.py", "fit"),
            *(argument for config in configs for argument in ("--config", config)),
            *("--seed_everything", str(seed)),
            *("--trainer.logger.save_dir", str(self.work), "--trainer.logger.name", folder.parent.name),
            *("--trainer.logger.version", folder.name, "--trainer.enable_progress_bar", "false"),
            *("--data.progress", "false", "--data.show_prompt", "false"),
            *(argument for key, value in self.study.options(arm).items() for argument in (f"--{key}", _plain(value))),
            *resume,
        ]

    def _start(self, arm: Arm, seed: int) -> None:
        folder = self.folder(arm, seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = self.command(arm, seed)
        resumed = "--ckpt_path" in command
        log = (folder.parent / "log.txt").open("ab" if resumed else "wb")
        with (folder.parent / CODE).open("a" if resumed else "w", encoding="utf-8") as file:
            file.write(f"{code_version()}\n")
        if not resumed:
            (folder / FILE).unlink(missing_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's ctrl-C reaches it once, through this process
            preexec_fn=_stop_with_parent,
            pass_fds=tuple(lock.fileno() for lock in self._locks),  # held until the last run has ended
        )
        self._running.append(Running(arm, seed, folder, process, log, time.monotonic()))
        print(f"{arm.name}, seed {seed}: {'resumed' if resumed else 'started'} ({folder.parent}/log.txt)", flush=True)

    def _finish(self, running: Running) -> None:
        running.log.close()
        arm, seed, status = running.arm, running.seed, running.process.returncode
        log = running.folder.parent / "log.txt"
        self._done += 1
        head = f"[{self._done}/{self._total}] {arm.name}, seed {seed}:"
        try:
            if status != 0:
                raise ConfigError(f"it ended with status {status}")
            result = self.results.write(self.study, arm, seed, running.folder)
        except ConfigError as error:
            self.results.fail(arm, seed, status, str(error), log)
            self.failed.append(f"{arm.name}, seed {seed}: {error}; see {log}")
            print(f"{head} failed: {error}; {_last_line(log)}", flush=True)
        else:
            print(f"{head} {_summary(result)}, {time.monotonic() - running.started:.0f} s", flush=True)

    def _stop(self) -> None:
        """End all runs: at their next safe point with a checkpoint, and after ``GRACE_S``, or another ctrl-C, at once."""
        if not self._running:
            return
        print(f"stopping {len(self._running)} runs, which save checkpoints; repeat to stop immediately", flush=True)
        try:
            for running in self._running:
                running.process.terminate()
            deadline = time.monotonic() + GRACE_S
            for running in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for running in self._running:
                if running.process.poll() is None:
                    os.killpg(running.process.pid, signal.SIGKILL)
                    running.process.wait()
                running.log.close()
            self._running = []

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """Hold the folders of runs and of results; wait for another study in one, and for runs that outlived a killed one.

        All take the folder of runs first, so that two cannot wait for one another.
        """
        with contextlib.ExitStack() as held:
            for folder in (self.work, self.results.folder):
                self._locks.append(held.enter_context(_locked(folder)))
            try:
                yield
            finally:
                self._locks = []


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    """Hold a folder's lock; the yielded file is to be passed on to processes that hold it too."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another study that writes to {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _summary(result: Result) -> str:
    first, last = result["evaluations"][0], result["evaluations"][-1]
    return f"held-out accuracy {first['accuracy']:.3f} -> {last['accuracy']:.3f} with {last['sampled_solutions']:,} solutions"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


def _written(overlay: Overlay, folder: Path, index: int) -> Path:
    """Return the path of a config, written to a file if its content is given."""
    if not isinstance(overlay, Mapping):
        return ROOT / overlay
    path = folder / f"overlay_{index}.yaml"
    path.write_text(yaml.safe_dump(dict(overlay), sort_keys=False))
    return path


def _plain(value: Any) -> str:
    """Return a value as an option's text."""
    return (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    )


def _stop_with_parent() -> None:
    """In the child: ask Linux to end it, with a checkpoint, if the runner is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within the block, SIGTERM does what ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
