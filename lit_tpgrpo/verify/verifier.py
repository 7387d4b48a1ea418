r"""Verify sampled answers against golds with math-verify, in worker processes that can be killed.

CORRECT and INCORRECT come from the stages of ``lit_tpgrpo.verify.compare``, the last of which is math-verify. If they
reach no decision, the outcome depends on the cause, which is counted in ``metrics``:

- UNVERIFIABLE if the answer is the cause, on any machine: gold or answer could not be read, was too long, exceeded the
  processor time, crashed two workers, or made the comparison raise (out of memory, for example). It is rewarded as
  incorrect; otherwise a policy could avoid the penalty for a wrong answer by exhausting the verifier.
- UNDECIDED if the machine is the cause: two workers in a row were killed from outside, or did not reply within the
  wall-clock limit with processor time left. It says nothing about the answer.

Lenient on purpose: a unit, a base, am/pm or a ``%`` that only one side gives is not compared (50 = 50%, 52 for 52_8, 3:30
for 3:30 PM); choice letters ignore brackets, so (C) = C; a decimal with at least six places and six digits equals the number
that it rounds (0.333333 for 1/3). Strict on purpose: 0.33 is not 1/3; a list that repeats an answer is a different list; the
same points in another parametrisation, ranges with another variable, and anagrams of at least four letters are not accepted.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import extract_boxed
from lit_tpgrpo.verify.compare import compare
from lit_tpgrpo.verify.match import Match
from lit_tpgrpo.verify.pool import WorkerPool
from lit_tpgrpo.verify.worker import Reply

Pair = tuple[str, str]

MAX_LOCAL_CHARS = 2000
"""Longer texts are read by a worker, whose time is limited."""
_DECIDED = {Reply.CORRECT: Outcome.CORRECT, Reply.INCORRECT: Outcome.INCORRECT}
_MACHINE_FAULTS = {Reply.STALLED: Outcome.UNDECIDED, Reply.KILLED: Outcome.UNDECIDED}
# Other replies depend on the machine's speed or on external kills, so they are not cached.
_CACHEABLE = frozenset({Reply.CORRECT, Reply.INCORRECT, Reply.UNPARSED})


@checked_arguments()
class MathVerifier:
    """Verifier that compares answers in worker processes, with a limit on the processor time of each comparison.

    Workers start with the first comparison that needs one and are replaced when lost; a pair that crashes one does not
    affect other pairs. All methods are thread-safe. ``close`` ends the processes, as do garbage collection and the
    interpreter's exit; a later ``verify`` starts new ones.

    Args:
        workers: maximum number of processes; each takes about 75 MB.
        timeout_s: processor seconds for one comparison, without start-up; independent of other programs on the machine.
        max_answer_chars: a longer gold or answer is UNVERIFIABLE (MATH's longest gold has 159 characters).
        memory_mb: limit of a worker's address space in MiB; a comparison that exceeds it fails.
        cache_size: number of (gold, answer) pairs whose results are cached between calls; 0 for none.
        shortcuts: decide in this process what needs no math-verify: answers that look like the gold, plain numbers,
            choices, words, lists of these. The outcomes are the same; False exists to check that.
        wall_timeout_s: wall-clock seconds for one comparison, after which it is retried once and then UNDECIDED;
            by default ten times ``timeout_s``.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_s: float = 5.0,
        max_answer_chars: int = 1000,
        memory_mb: int = 1024,
        cache_size: int = 4096,
        shortcuts: bool = True,
        wall_timeout_s: float | None = None,
    ) -> None:
        limits = {"workers": workers, "timeout_s": timeout_s, "max_answer_chars": max_answer_chars}
        for name, value in limits.items():
            if not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}")
        if memory_mb < 256:
            raise ConfigError(f"memory_mb must be at least 256 (an idle worker needs about 100), got {memory_mb}")
        if cache_size < 0:
            raise ConfigError(f"cache_size must be 0 (off) or positive, got {cache_size}")
        if wall_timeout_s is not None and not wall_timeout_s >= timeout_s:
            raise ConfigError(
                f"wall_timeout_s must be at least timeout_s ({timeout_s}), since a comparison takes at least its processor "
                f"time; got {wall_timeout_s}"
            )
        wall = 10 * timeout_s if wall_timeout_s is None else wall_timeout_s
        self._workers, self._worker_limits = workers, (timeout_s, wall, memory_mb)
        self._max_chars, self._cache_size, self._shortcuts = max_answer_chars, cache_size, shortcuts
        self._lock = threading.Lock()
        self._cache: OrderedDict[Pair, Reply] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._pool: WorkerPool | None = None
        self._end_workers: weakref.finalize | None = None
        self._lost_before = 0

    def extract(self, text: str) -> str | None:
        """Return the content of an answer block's last box, None if there is none."""
        return extract_boxed(text)

    def verify(self, pairs: Iterable[tuple[str, str | None]]) -> Iterator[tuple[int, Outcome]]:
        """Yield ``(index, outcome)`` as each ``(gold, answer)`` is decided, in any order, each index exactly once.

        The comparisons start immediately, not with the first ``next``. A missing answer (None or blank) is INCORRECT.
        Equal pairs of one call are compared once.
        """
        decided: list[tuple[int, Reply]] = []
        waiting: dict[Pair, list[int]] = {}
        for index, (gold, answer) in enumerate(pairs):
            pair = _bare(gold), _bare(answer) if answer is not None else ""
            reply = self._decide_here(pair)
            if reply is None:
                waiting.setdefault(pair, []).append(index)
            else:
                decided.append((index, reply))
        running = {self._submit(pair): (pair, indices) for pair, indices in waiting.items()}
        return self._collect(decided, running)

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return the outcomes in the order of the pairs."""
        return [outcome for _, outcome in sorted(self.verify(pairs), key=lambda item: item[0])]

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, and reset them.

        ``pairs`` is the total of ``correct``, ``incorrect``, ``unverifiable`` (``unparsed``, ``too_long``, ``timeout``,
        ``crash`` or ``error``) and ``undecided`` (``stalled`` or ``killed``). ``shortcuts`` and ``cache_hits`` count pairs
        decided without a worker, ``respawns`` the workers that were lost and replaced.
        """
        names = ("pairs", *(outcome.value for outcome in Outcome), *(r.value for r in Reply if r not in _DECIDED))
        with self._lock:
            lost = self._pool.lost if self._pool else 0
            self._counts["respawns"] += lost - self._lost_before
            self._lost_before = lost
            counts = {name: float(self._counts[name]) for name in (*names, "shortcuts", "cache_hits", "respawns")}
            self._counts.clear()
        return counts

    def close(self) -> None:
        """End the workers; running iterations raise PoolClosed. May be called twice."""
        with self._lock:
            if self._pool is not None:
                self._counts["respawns"] += self._pool.lost - self._lost_before
            self._pool, self._lost_before = None, 0
        if self._end_workers is not None:
            self._end_workers()

    def _decide_here(self, pair: Pair) -> Reply | None:
        """Decide a pair without a worker; None if it needs one."""
        gold, answer = pair
        if not answer:
            return Reply.INCORRECT
        if not gold:
            return Reply.UNPARSED
        if gold != answer and max(len(gold), len(answer)) > self._max_chars:
            return Reply.TOO_LONG
        reply = _shortcut(gold, answer) if self._shortcuts else None
        if reply is not None:
            self._count("shortcuts")
            return reply
        if len(gold) > self._max_chars:
            return Reply.TOO_LONG
        with self._lock:
            reply = self._cache.get(pair)
            if reply is not None:
                self._cache.move_to_end(pair)
                self._counts["cache_hits"] += 1
        return reply

    def _submit(self, pair: Pair) -> Future[Reply]:
        with self._lock:
            if self._pool is None or not self._pool.usable:
                self._pool = WorkerPool(self._workers, *self._worker_limits)
                self._lost_before = 0
                self._end_workers = weakref.finalize(self, self._pool.close)  # also at the interpreter's exit
            return self._pool.submit(*pair)

    def _collect(
        self, decided: list[tuple[int, Reply]], running: dict[Future[Reply], tuple[Pair, list[int]]]
    ) -> Iterator[tuple[int, Outcome]]:
        try:
            for index, reply in decided:
                yield index, self._outcome(reply)
            for future in as_completed(running):
                pair, indices = running[future]
                reply = future.result()
                self._store(pair, reply)
                self._count(*["cache_hits"] * (len(indices) - 1))
                for index in indices:
                    yield index, self._outcome(reply)
        finally:
            for future in running:  # the caller stopped iterating: cancel the remaining comparisons
                future.cancel()

    def _store(self, pair: Pair, reply: Reply) -> None:
        """Cache a reply."""
        if reply in _CACHEABLE:
            with self._lock:
                self._cache[pair] = reply
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)

    def _outcome(self, reply: Reply) -> Outcome:
        outcome = (_DECIDED | _MACHINE_FAULTS).get(reply, Outcome.UNVERIFIABLE)
        self._count("pairs", outcome.value)
        if reply not in _DECIDED:
            self._count(reply.value)
        return outcome

    def _count(self, *names: str) -> None:
        with self._lock:
            self._counts.update(names)


def _bare(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(
            f"expected a gold or answer as str, got {text!r}; lit_tpgrpo.text.answers.normalise_gold converts golds to str"
        )
    return text.strip()


class _NeedsWorker(Exception):
    """The pair cannot be decided without math-verify."""


def _ask_worker(gold: str, answer: str) -> Match:
    raise _NeedsWorker


def _shortcut(gold: str, answer: str) -> Reply | None:
    """Return the reply that a worker would give, if that takes no math-verify; otherwise None."""
    if gold == answer:
        return Reply.CORRECT
    if max(len(gold), len(answer)) > MAX_LOCAL_CHARS:
        return None
    try:
        match = compare(gold, answer, _ask_worker)
    except (_NeedsWorker, RecursionError):  # the result must not depend on the depth of the caller's stack
        return None
    return {Match.SAME: Reply.CORRECT, Match.DIFFERENT: Reply.INCORRECT, Match.UNREADABLE: Reply.UNPARSED}[match]
