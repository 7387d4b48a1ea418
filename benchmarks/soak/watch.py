"""What the processes of a run hold, read from outside: memory, open files, threads, and what they leave behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

GONE_WITHIN_S = 120.0
"""A process of an ended run that is still there after this long counts as left behind."""


@dataclass(frozen=True)
class Reading:
    """Of the one training process that holds most.

    Attributes:
        round: rollout round that had just ended.
        memory_mb: resident memory, in MB.
        handles: open file descriptors.
        threads: threads.
    """

    round: int
    memory_mb: float
    handles: int
    threads: int


class ProcessTree:
    """The processes of one start of a run: the launched one and all below it."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = {self._root}

    def look(self) -> None:
        """Remember the processes there are, to find those that outlive the run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen |= set(self._root.children(recursive=True))

    def trainers(self) -> list[psutil.Process]:
        """One a rank, the launched one first."""
        return [p for p in [self._root, *self._children()] if "train.py" in _command(p)]

    def verifier_workers(self) -> list[psutil.Process]:
        return [p for p in self._children() if "lit_tpgrpo.verify.worker" in _command(p)]

    def reading(self, index: int) -> Reading | None:
        held: list[Reading] = []
        for process in self.trainers():
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                memory = process.memory_info().rss / 2**20
                held.append(Reading(index, memory, process.num_fds(), process.num_threads()))
        if not held:
            return None
        return Reading(
            index, max(r.memory_mb for r in held), max(r.handles for r in held), max(r.threads for r in held)
        )

    def left_behind(self) -> int:
        """Wait until all have ended; kill and count those that do not."""
        _, alive = psutil.wait_procs(self._seen, timeout=GONE_WITHIN_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(alive)

    def _children(self) -> Iterator[psutil.Process]:
        self.look()
        yield from (p for p in self._seen if p != self._root and p.is_running())


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.iterdir())
