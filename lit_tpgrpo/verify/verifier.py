r"""Gold answers against sampled ones with math-verify, in worker processes that can be killed.

CORRECT and INCORRECT are the word of the pipeline in ``lit_tpgrpo.verify.compare``, whose last stage is math-verify.
Where it has none, the cause decides (and is counted in ``metrics``):

- UNVERIFIABLE is the answer's own doing, on any machine: gold or answer could not be read, was too long, used up its
  processor time, took two workers down with it, or made the comparison raise (out of memory, say). It is rewarded as
  incorrect: otherwise an answer that exhausts the verifier would be a way out of a wrong one.
- UNDECIDED is the machine's misfortune: two workers in a row were killed from outside, or got no reply out within the
  wall-clock limit with processor time left. It says nothing about the answer.

Known to be generous, on purpose: a unit, a base, a half of the day or a ``%`` that only one side names is not compared
(50 = 50%, 52 for 52_8, 3:30 for 3:30 PM); a letter is a letter, so (C) = C; decimals of at least six places and six digits
stand for the number they round (0.333333 for 1/3). Known to be strict: 0.33 is not 1/3; a list with one answer twice is
another list; equal points of an ellipse in another parameter, ranges with another variable, anagrams of four letters and
more are not the gold.
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
from lit_tpgrpo.verify.compare import compare
from lit_tpgrpo.verify.match import Match
from lit_tpgrpo.verify.pool import WorkerPool
from lit_tpgrpo.verify.worker import Reply

Pair = tuple[str, str]

MAX_LOCAL_CHARS = 2000
"""Longer texts are read by a worker, whose time is limited."""
_DECIDED = {Reply.CORRECT: Outcome.CORRECT, Reply.INCORRECT: Outcome.INCORRECT}
_MISFORTUNES = {Reply.STALLED: Outcome.UNDECIDED, Reply.KILLED: Outcome.UNDECIDED}
# The rest depends on the machine's speed or on who killed whom: never remembered.
_LASTING = frozenset({Reply.CORRECT, Reply.INCORRECT, Reply.UNPARSED})


@checked_arguments()
class MathVerifier:
    """Compares answers on ``workers`` processes with a limit on the processor time of each comparison.

    Workers start with the first comparison that needs one and are replaced when lost; a pair that takes one down
    leaves the others untouched. Any thread may call; ``close`` ends the processes, as do garbage collection and the
    interpreter's exit, and a later ``verify`` starts new ones.

    Args:
        workers: processes at most; each takes about 75 MB.
        timeout_s: processor seconds for one comparison, start-up not included; other programs on the machine do not
            change what they suffice for.
        max_answer_chars: a longer gold or answer is UNVERIFIABLE (MATH's longest gold has 159 characters).
        memory_mb: address space of a worker; beyond it a comparison fails instead of filling the machine.
        cache_size: how many (gold, answer) pairs are remembered between calls; 0 for none.
        shortcuts: decide without a worker what needs no math-verify: answers that look like the gold, plain numbers,
            choices, words, lists of these. The outcomes are the same; False exists to check that.
        wall_timeout_s: wall-clock seconds for one comparison, after which it is tried once more and then UNDECIDED;
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
            raise ConfigError(f"memory_mb must be at least 256 (a worker needs about 100 idle), got {memory_mb}")
        if cache_size < 0:
            raise ConfigError(f"cache_size must be 0 (off) or positive, got {cache_size}")
        if wall_timeout_s is not None and not wall_timeout_s >= timeout_s:
            raise ConfigError(
                f"wall_timeout_s must be at least timeout_s ({timeout_s}), for a comparison alone on the machine takes as long "
                f"by both clocks; got {wall_timeout_s}"
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

    def verify(self, pairs: Iterable[tuple[str, str | None]]) -> Iterator[tuple[int, Outcome]]:
        """Yield ``(index, outcome)`` as each ``(gold, answer)`` is decided, in any order, each index exactly once.

        The comparisons start at once, not with the first ``next``. No answer (None or blank) is INCORRECT. Equal
        pairs of one call are compared once.
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
        """The outcomes in the order of the pairs."""
        return [outcome for _, outcome in sorted(self.verify(pairs), key=lambda item: item[0])]

    def metrics(self) -> dict[str, float]:
        """Counters since the last call, which resets them.

        Of all ``pairs`` so many were ``correct``, ``incorrect``, ``unverifiable`` (because of ``unparsed``, ``too_long``,
        ``timeout``, ``crash`` or ``error``) and ``undecided`` (``stalled`` or ``killed``); ``shortcuts`` and
        ``cache_hits`` needed no worker; ``respawns`` workers were lost and had to be replaced.
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
        """End the workers; iterations under way raise. May be called twice."""
        with self._lock:
            if self._pool is not None:
                self._counts["respawns"] += self._pool.lost - self._lost_before
            self._pool, self._lost_before = None, 0
        if self._end_workers is not None:
            self._end_workers()

    def _decide_here(self, pair: Pair) -> Reply | None:
        """What needs no worker; None for what does."""
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
                self._end_workers = weakref.finalize(self, self._pool.close)  # at the interpreter's exit, too
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
                self._remember(pair, reply)
                self._count(*["cache_hits"] * (len(indices) - 1))
                for index in indices:
                    yield index, self._outcome(reply)
        finally:
            for future in running:  # the caller gave up: do not compare for nobody
                future.cancel()

    def _remember(self, pair: Pair, reply: Reply) -> None:
        if reply in _LASTING:
            with self._lock:
                self._cache[pair] = reply
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)

    def _outcome(self, reply: Reply) -> Outcome:
        outcome = (_DECIDED | _MISFORTUNES).get(reply, Outcome.UNVERIFIABLE)
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
            f"expected a gold or answer as str, got {text!r}; lit_tpgrpo.text.answers.normalise_gold makes one"
        )
    return text.strip()


class _NeedsWorker(Exception):
    """The pair cannot be decided without math-verify."""


def _ask_worker(gold: str, answer: str) -> Match:
    raise _NeedsWorker


def _shortcut(gold: str, answer: str) -> Reply | None:
    """The reply of a worker, where it would not need math-verify."""
    if gold == answer:
        return Reply.CORRECT
    if max(len(gold), len(answer)) > MAX_LOCAL_CHARS:
        return None
    try:
        match = compare(gold, answer, _ask_worker)
    except (_NeedsWorker, RecursionError):  # how deep our own stack is must not decide
        return None
    return {Match.SAME: Reply.CORRECT, Match.DIFFERENT: Reply.INCORRECT, Match.UNREADABLE: Reply.UNPARSED}[match]
