"""Whether the judge answers: what fails alone is told apart from what fails together with everything else.

Three questions are asked of a silence, in which nothing is answered. Did a request fail because of it, so that it deserves a
fresh start (``recover``)? Has it lasted so long that the judge counts as down (``patience``)? And is it the judge that is
silent, or the few requests that are left (a probe asks it for anything)?
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lit_tpgrpo.chat.base import ChatError, Fault
from lit_tpgrpo.errors import JudgeDownError
from lit_tpgrpo.judges.generative.limits import RequestLimits

log = logging.getLogger(__name__)

PROBED_AFTER = 0.75
"""Share of the patience after which a silent judge is probed: the rest of it is for the answer."""


class Silence(enum.Enum):
    """What is known of the silence since the last reply to a question. Each stage lasts for ``patience_s`` at most."""

    UNKNOWN = "unknown"
    """Nothing was answered: at its end the judge is down."""
    PROBED = "probed"
    """A probe was answered: at its end the questions that wait are given up, for others may fare better."""
    OTHERS_TRIED = "others tried"
    """Those were given up: at its end the judge is down, for it answers no question."""


class EndpointHealth:
    """The judge of one round, as its requests find it. Lives in one event loop.

    ``probe`` asks for anything. It is used when a request has run out of attempts and nothing else was answered meanwhile, and
    when most of the patience is over. Questions that wait are ended with the patience only if the judge is one to be
    ``patient`` with.
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
        self.answered = self._now()  # when something was answered last, be it a probe; the start at first
        self.ever_answered = ever_answered
        self.refused = 0
        self.last_fault = "requests are under way and get no answer"
        self.down: str | None = None
        self._recovered = -math.inf  # when the last silence was seen to end
        self._probe = probe
        self._lock = asyncio.Lock()
        self._silence = Silence.UNKNOWN
        self._quiet_since = self._idle_since = self._now()
        self._waiting: set[asyncio.Timeout] = set()
        self._waited_for = asyncio.Event()

    def answers(self) -> None:
        """Note the reply to a question, if only that it is refused."""
        self.answered = self._quiet_since = self._now()
        self._silence = Silence.UNKNOWN

    def _answers_probe(self) -> None:
        self.answered = self._now()
        if self._silence is Silence.UNKNOWN:
            self._silence, self._quiet_since = Silence.PROBED, self._now()

    # ---- patience ----

    @asynccontextmanager
    async def patience(self) -> AsyncIterator[None]:
        """Wait inside the block for the answer to a question, as long as the judge's patience lasts.

        Time in which no question waits is no silence. Needs ``watched``.

        Raises:
            ChatError: nothing but probes was answered for ``patience_s``: this question is given up.
            JudgeDownError: nothing was answered for ``patience_s``.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                if not self._waiting:
                    self._quiet_since += self._now() - self._idle_since
                self._waiting.add(limit)
                self._waited_for.set()
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
                self._waited_for.clear()
        if reason is not None:
            raise JudgeDownError(reason)
        raise ChatError(
            Fault.TIMEOUT,
            f"no question was answered for {self.limits.patience_s:g} s, though a probe was: {self.last_fault}",
        )

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keep the patience of all questions that are asked inside the block. Errors come out of it in a group."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            try:
                yield
            finally:
                watch.cancel()

    async def _watch(self) -> None:
        while self.down is None and self._patience:
            await self._waited_for.wait()
            since = self._quiet_since
            if self._silence is Silence.UNKNOWN:
                await self._sleep_until(since + PROBED_AFTER * self._patience)
                if since == self._quiet_since:
                    await self._probe_until(since, since + self._patience)
            if since == self._quiet_since:
                await self._sleep_until(since + self._patience)
            if since == self._quiet_since and self._waiting:
                self._give_up()

    async def _sleep_until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self._now()))

    async def _probe_until(self, since: float, end: float) -> None:
        """Probe until something is answered, or the patience ends."""
        try:
            async with asyncio.timeout_at(end):
                waits = 0
                while since == self._quiet_since:
                    if await self._is_answered():
                        self._answers_probe()
                        return
                    waits += 1
                    await asyncio.sleep(self._pause(waits))
        except TimeoutError:
            return

    def _give_up(self) -> None:
        """End the wait of all questions."""
        if self._silence is Silence.PROBED:
            self._silence, self._quiet_since = Silence.OTHERS_TRIED, self._now()
        else:
            self.down = f"the judge has answered nothing for {self.limits.patience_s:.0f} s: {self.last_fault}"
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(self._now())

    # ---- fresh starts ----

    async def recover(self, since: float, reason: str) -> bool:
        """Wait until the judge answers, if nothing was answered after ``since``, a request's first failure.

        Returns whether there was such a silence: then the request failed with all others, and deserves a fresh start.

        Raises:
            JudgeDownError: nothing was answered for ``patience_s``.
        """
        waits = 0
        self.last_fault = reason
        async with self._lock:
            silence = self.answered <= since
            while self.down is None and self.answered <= since:
                if await self._is_answered():
                    self._answers_probe()
                    break
                silent = self._now() - self.answered
                if silent >= self.limits.patience_s:
                    self.down = f"the judge has answered nothing for {silent:.0f} s: {self.last_fault}"
                    break
                if not waits:
                    log.warning(
                        "the judge answers nothing (%s); waiting up to %g s for it",
                        self.last_fault,
                        self.limits.patience_s,
                    )
                waits += 1
                await asyncio.sleep(self._pause(waits))
            if self.down is not None:
                raise JudgeDownError(self.down)
            if silence:
                self._recovered = self._now()
            # Those who waited for the lock meanwhile failed in the same silence.
            return since <= self._recovered

    async def _is_answered(self) -> bool:
        """Probe once; a refusal is an answer, if no kind one."""
        try:
            await self._probe()
        except ChatError as error:
            self.last_fault = str(error)
            return error.fault is Fault.REFUSED
        self.ever_answered = True
        return True

    def _pause(self, waits: int) -> float:
        return min(self.limits.max_backoff_s, self.limits.backoff_s * 2.0 ** min(waits, 30))
