"""Where the rule judge labels solutions: in this process, or side by side in worker processes that can be killed."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from lit_tpgrpo.arrivals import End
from lit_tpgrpo.judges.rule_labels import RuleCase, RuleLabels, label_steps
from lit_tpgrpo.verify.pool import WorkerPool
from lit_tpgrpo.verify.worker import Reply

log = logging.getLogger(__name__)

MODULE = "lit_tpgrpo.judges.rule_worker"
MEMORY_MB = 1024
WALL_FACTOR = 10
"""Wall-clock limit of a solution, as a multiple of its limit of processor time; as the verifier's."""
WORKER_COUNTERS = ("worker_timeouts", "worker_crashes", "worker_failures", "worker_respawns")
_NOTES = {
    Reply.TIMEOUT: ("worker_timeouts", "its labels take more than timeout_s of processor time"),
    Reply.CRASH: ("worker_crashes", "it crashed two workers of the rule judge"),
}


class Labeller(Protocol):
    """Labels numbered solutions as they come, in any order; a text instead of labels says why there are none.

    A text in place of a solution is returned as it is. ``next`` of the solutions may have to wait, which keeps nothing back
    that is there already.
    """

    def label(self, cases: Iterable[tuple[int, RuleCase | str]]) -> Iterator[tuple[int, RuleLabels | str]]: ...

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, and reset them."""
        ...

    def close(self) -> None: ...


class LocalLabeller:
    """Labels one solution after another in this process."""

    def label(self, cases: Iterable[tuple[int, RuleCase | str]]) -> Iterator[tuple[int, RuleLabels | str]]:
        return ((index, case if isinstance(case, str) else label_steps(case)) for index, case in cases)

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


@dataclass(eq=False)
class _Asked:
    """Solutions that a thread hands to workers, and what comes back of them."""

    running: dict[Future[Any], tuple[int, RuleCase]] = field(default_factory=dict)
    results: SimpleQueue[Future[Any] | tuple[int, str] | End] = field(default_factory=SimpleQueue)
    all_known: bool = False
    is_wanted: bool = True


class WorkerLabeller:
    """Labels solutions in worker processes, which have the verifier's limits, retries and replacement.

    A solution that exceeds its processor time, or crashes two workers, has no labels: it would do so again. One whose workers
    were killed or starved twice is labelled in this process, since that says nothing about the solution.

    Args:
        workers: maximum number of processes, each of about 30 MB.
        timeout_s: processor seconds for one solution.
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        self._workers, self._timeout_s = workers, timeout_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._pool: WorkerPool | None = None
        self._end_workers: weakref.finalize | None = None
        self._lost_before = 0

    def label(self, cases: Iterable[tuple[int, RuleCase | str]]) -> Iterator[tuple[int, RuleLabels | str]]:
        asked = _Asked()
        # A thread of its own: the wait for the next case must not keep back labels that are there.
        threading.Thread(target=self._ask, args=(cases, asked), name="rule-cases", daemon=True).start()
        try:
            while not (asked.all_known and not asked.running):
                item = asked.results.get()
                if isinstance(item, End):
                    asked.all_known = True
                    if item.error is not None:
                        raise item.error
                elif isinstance(item, tuple):
                    yield item
                else:
                    index, case = asked.running.pop(item)
                    yield index, self._labels(case, item.result())
        finally:
            asked.is_wanted = False  # the caller may have stopped iterating
            for future in list(asked.running):
                future.cancel()

    def _ask(self, cases: Iterable[tuple[int, RuleCase | str]], asked: _Asked) -> None:
        """Hand the cases to the workers, to the last one or until nobody wants them any more."""
        error: BaseException | None = None
        try:
            for index, case in cases:
                if not asked.is_wanted:
                    return
                if isinstance(case, str):
                    asked.results.put((index, case))
                    continue
                future = self._open_pool().request(case.as_json())
                asked.running[future] = (index, case)
                future.add_done_callback(asked.results.put)
        except BaseException as raised:  # raised again where the labels are taken
            error = raised
        finally:
            asked.results.put(End(error))

    def metrics(self) -> dict[str, float]:
        with self._lock:
            self._count_lost()
            counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in WORKER_COUNTERS}

    def close(self) -> None:
        """End the workers; running iterations raise PoolClosed. May be called twice."""
        with self._lock:
            self._count_lost()
            self._pool, self._lost_before = None, 0
        if self._end_workers is not None:
            self._end_workers()

    def _labels(self, case: RuleCase, reply: Reply | dict) -> RuleLabels | str:
        if not isinstance(reply, Reply):
            return RuleLabels.from_json(reply)
        counter, note = _NOTES.get(reply, ("worker_failures", ""))
        with self._lock:
            self._counts[counter] += 1
        if note:
            return note
        log.warning("workers of the rule judge were %s twice: the solution is labelled in this process", reply.value)
        return label_steps(case)

    def _open_pool(self) -> WorkerPool:
        with self._lock:
            if self._pool is None or not self._pool.usable:
                wall = WALL_FACTOR * self._timeout_s
                self._pool, self._lost_before = WorkerPool(self._workers, self._timeout_s, wall, MEMORY_MB, MODULE), 0
                self._end_workers = weakref.finalize(self, self._pool.close)  # also at the interpreter's exit
            return self._pool

    def _count_lost(self) -> None:
        if self._pool is not None:
            self._counts["worker_respawns"] += self._pool.lost - self._lost_before
            self._lost_before = self._pool.lost
