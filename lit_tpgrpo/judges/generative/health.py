"""Health of the judge's endpoint: distinguishes requests that fail individually from an outage in which all fail.

During an outage nothing is answered. Three decisions depend on it: whether a failed request gets a new set of attempts
because it failed in an outage (``recover``); whether the outage has lasted so long that the judge counts as down
(``reply_deadline``); and whether the endpoint itself is down or just slow on the last few requests (a small probe request
decides).
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from lit_tpgrpo.chat.base import ChatError, Fault
from lit_tpgrpo.errors import JudgeDownError
from lit_tpgrpo.judges.generative.limits import RequestLimits

log = logging.getLogger(__name__)

PROBE_AFTER = 0.75
"""Share of the patience without a reply after which the judge is probed; the rest is left for the probe's reply."""


class OutageStage(enum.Enum):
    """What is known about the time since the last reply to a question. Each stage lasts at most ``patience_s``."""

    UNKNOWN = "unknown"
    """Nothing was answered: when the stage ends, the judge is down."""
    PROBED = "probed"
    """A probe was answered: when the stage ends, the waiting questions are given up and new ones are tried."""
    RETRIED = "retried"
    """Waiting questions were given up and new ones sent: when the stage ends, the judge is down."""


class EndpointHealth:
    """Tracks during one round whether the judge's endpoint answers. Use it in one event loop only.

    Args:
        limits: patience and backoff.
        probe: sends a small request. Called when a request has used up its attempts and nothing else was answered
            meanwhile, and when most of the patience is over.
        ever_answered: whether the judge answered in an earlier round.
        patient: whether waiting questions time out after ``patience_s``; False for a judge that samples in this process.
    """

    def __init__(
        self,
        limits: RequestLimits,
        probe: Callable[[], Awaitable[object]],
        ever_answered: bool = False,
        patient: bool = True,
    ) -> None:
        self.limits = limits
        self._patience = limits.patience_s if patient else 0.0
        self._now = asyncio.get_running_loop().time
        self.answered = self._now()  # time of the last reply, also to a probe; initially the start
        self.ever_answered = ever_answered
        self.refused = 0
        self.last_fault = "requests are under way and get no answer"
        self.down: str | None = None
        self._recovered = -math.inf  # when the end of the last outage was observed
        self._probe = probe
        self._lock = asyncio.Lock()
        self._stage = OutageStage.UNKNOWN
        self._unanswered_since = self._idle_since = self._now()
        self._at_work, self._idle_from = 0, self._now()
        self._waiting: set[asyncio.Timeout] = set()
        self._any_waiting = asyncio.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Enclose the work on one case. Time without any, while the next one is still being sampled, is no outage."""
        if not self._at_work:
            self.answered += self._now() - self._idle_from
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle_from = self._now()

    def record_reply(self) -> None:
        """Record that a question was answered; a refusal counts."""
        self.answered = self._unanswered_since = self._now()
        self._stage = OutageStage.UNKNOWN

    def _record_probe_reply(self) -> None:
        self.answered = self._now()
        if self._stage is OutageStage.UNKNOWN:
            self._stage, self._unanswered_since = OutageStage.PROBED, self._now()

    # ---- deadline of waiting questions ----

    @asynccontextmanager
    async def reply_deadline(self) -> AsyncIterator[None]:
        """Enforce the patience on the block, which waits for the reply to a question. Needs ``watchdog`` to be running.

        Time in which no question waits does not count.

        Raises:
            ChatError: only probes were answered for ``patience_s``: this question is given up.
            JudgeDownError: nothing was answered for ``patience_s``.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                if not self._waiting:
                    self._unanswered_since += self._now() - self._idle_since
                self._waiting.add(limit)
                self._any_waiting.set()
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            reason = self.down
        else:
            return
        finally:
            self._waiting.discard(limit)
            if not self._waiting:
                self._idle_since = self._now()
                self._any_waiting.clear()
        if reason is not None:
            raise JudgeDownError(reason)
        raise ChatError(
            Fault.TIMEOUT,
            f"no question was answered for {self.limits.patience_s:g} s, though a probe was: {self.last_fault}",
        )

    @asynccontextmanager
    async def watchdog(self) -> AsyncIterator[None]:
        """Run the task that ends waiting questions when the patience is over. Errors are raised as an exception group."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            try:
                yield
            finally:
                watch.cancel()

    async def _watch(self) -> None:
        while self.down is None and self._patience:
            await self._any_waiting.wait()
            since = self._unanswered_since
            if self._stage is OutageStage.UNKNOWN:
                await self._sleep_until(since + PROBE_AFTER * self._patience)
                if since == self._unanswered_since:
                    await self._probe_until(since, since + self._patience)
            if since == self._unanswered_since:
                await self._sleep_until(since + self._patience)
            if since == self._unanswered_since and self._waiting:
                self._time_out_waiting()

    async def _sleep_until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self._now()))

    async def _probe_until(self, since: float, end: float) -> None:
        """Probe until anything is answered, or until the patience is over."""
        try:
            async with asyncio.timeout_at(end):
                waits = 0
                while since == self._unanswered_since:
                    if await self._probe_answered():
                        self._record_probe_reply()
                        return
                    waits += 1
                    await asyncio.sleep(self._backoff(waits))
        except TimeoutError:
            return

    def _time_out_waiting(self) -> None:
        """Time out all waiting questions; unless a probe was answered, the judge is down."""
        if self._stage is OutageStage.PROBED:
            self._stage, self._unanswered_since = OutageStage.RETRIED, self._now()
        else:
            self.down = f"the judge has answered nothing for {self.limits.patience_s:.0f} s: {self.last_fault}"
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(self._now())

    # ---- restarts after an outage ----

    async def recover(self, since: float, reason: str) -> bool:
        """Wait until the judge answers, if nothing was answered after ``since``, a request's first failure.

        Returns whether there was an outage: then all requests failed, and this one may start over with new attempts.

        Raises:
            JudgeDownError: nothing was answered for ``patience_s``.
        """
        waits = 0
        self.last_fault = reason
        async with self._lock:
            outage = self.answered <= since
            while self.down is None and self.answered <= since:
                if await self._probe_answered():
                    self._record_probe_reply()
                    break
                unanswered_s = self._now() - self.answered
                if unanswered_s >= self.limits.patience_s:
                    self.down = f"the judge has answered nothing for {unanswered_s:.0f} s: {self.last_fault}"
                    break
                if not waits:
                    log.warning(
                        "the judge does not answer (%s); waiting up to %g s for it",
                        self.last_fault,
                        self.limits.patience_s,
                    )
                waits += 1
                await asyncio.sleep(self._backoff(waits))
            if self.down is not None:
                raise JudgeDownError(self.down)
            if outage:
                self._recovered = self._now()
            # Requests that waited for the lock meanwhile failed in the same outage.
            return since <= self._recovered

    async def _probe_answered(self) -> bool:
        """Probe once and return whether it was answered; a refusal is an answer too."""
        try:
            await self._probe()
        except ChatError as error:
            self.last_fault = str(error)
            return error.fault is Fault.REFUSED
        self.ever_answered = True
        return True

    def _backoff(self, waits: int) -> float:
        return min(self.limits.max_backoff_s, self.limits.backoff_s * 2.0 ** min(waits, 30))
