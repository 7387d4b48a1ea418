"""Measure from outside the resources of a run's processes: memory, open files, threads, and processes left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

GONE_WITHIN_S = 120.0
"""Time after which a process that still runs after the end of a run counts as left behind."""


@dataclass(frozen=True)
class ResourceReading:
    """Resources after a round, each of the training process that uses the most.

    Attributes:
        round: rollout round that just ended.
        memory_mb: resident memory in MB.
        handles: number of open file descriptors.
        threads: number of threads.
    """

    round: int
    memory_mb: float
    handles: int
    threads: int


class ProcessTree:
    """The processes of one start of a run: the launched one and all its descendants."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = {self._root}

    def update(self) -> None:
        """Record the present processes, to find those that outlive the run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen |= set(self._root.children(recursive=True))

    def trainers(self) -> list[psutil.Process]:
        """Return the training processes, one per rank, the launched one first."""
        return [p for p in [self._root, *self._children()] if "train.py" in _command(p)]

    def verifier_workers(self) -> list[psutil.Process]:
        """Return the verifier's worker processes."""
        return [p for p in self._children() if "lit_tpgrpo.verify.worker" in _command(p)]

    def reading(self, index: int) -> ResourceReading | None:
        """Measure the training processes after round ``index``; None if there are none."""
        readings: list[ResourceReading] = []
        for process in self.trainers():
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                memory = process.memory_info().rss / 2**20
                readings.append(ResourceReading(index, memory, process.num_fds(), process.num_threads()))
        if not readings:
            return None
        return ResourceReading(
            index,
            max(r.memory_mb for r in readings),
            max(r.handles for r in readings),
            max(r.threads for r in readings),
        )

    def left_behind(self) -> int:
        """Wait for all processes to end; kill and count those that do not."""
        _, alive = psutil.wait_procs(self._seen, timeout=GONE_WITHIN_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(alive)

    def _children(self) -> Iterator[psutil.Process]:
        self.update()
        yield from (p for p in self._seen if p != self._root and p.is_running())


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def files_in(folder: Path) -> list[str]:
    """Return the sorted names of a folder's entries."""
    return sorted(str(p.relative_to(folder)) for p in folder.iterdir())
