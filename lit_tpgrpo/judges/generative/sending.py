"""Sending a request to the LLM, and sending it again, within the limits of rate, concurrency, budget and patience."""

from __future__ import annotations

import asyncio
import random
import time

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from lit_tpgrpo.chat.base import ChatClient, ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.errors import ConfigError, JudgeDownError
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.health import EndpointHealth
from lit_tpgrpo.judges.generative.limits import BudgetTracker, RequestLimits
from lit_tpgrpo.judges.generative.verdicts import MAX_REPLY_CHARS

FRESH_STARTS = 3
"""How often a request that failed together with all others may begin again."""
ALL_REFUSED = 3
"""So many refused requests and none answered: it is not the requests, it is the settings."""


class UnansweredError(Exception):
    """A question without an answer. ``reason`` is the end of a counter's name, ``abstained_...``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestSender:
    """Sends the requests of one round. Lives in one event loop; ``health.watched`` has to be entered around its use."""

    def __init__(
        self,
        chat: ChatClient,
        limits: RequestLimits,
        budget: BudgetTracker,
        counters: Counters,
        ever_answered: bool = False,
    ) -> None:
        self.chat = chat
        self.limits = limits
        self.budget = budget
        self.counters = counters
        # Where it samples in this process there is no silence that could mean anything: batches may take long.
        patient = not getattr(chat, "in_process", False)
        self.health = EndpointHealth(limits, self._probe, ever_answered, patient)
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._rate = AsyncLimiter(1, 60 / limits.requests_per_minute) if limits.requests_per_minute else None
        self._jitter = random.Random(0)

    async def reply(self, request: ChatRequest) -> ChatReply:
        """The reply to a request that is sent as often as the limits allow, within the round's time and the patience.

        An answer that is too large to be one comes back as a reply that is ``oversized``.

        Raises:
            UnansweredError: there is none.
            JudgeDownError: the judge is down.
            ConfigError: no request can succeed.
        """
        try:
            async with asyncio.timeout(self.budget.seconds_left):
                await self._turn()
                async with self.health.patience():
                    return await self._persistently(request)
        except TimeoutError as error:
            raise UnansweredError("budget", "the round's judging time is used up") from error
        except ChatError as error:
            raise UnansweredError("faults", str(error)) from error

    async def _persistently(self, request: ChatRequest) -> ChatReply:
        for start in range(1 + FRESH_STARTS):
            failures: list[float] = []
            try:
                return await self._attempts(request, failures, fresh=start == 0)
            except ChatError as error:
                reason = str(error)
                if error.fault is Fault.OVERSIZED:  # it would be as large again
                    return ChatReply("", oversized=True)
                if error.fault is Fault.REFUSED:
                    self.health.answers()
                    self.health.refused += 1
                    if not self.health.ever_answered and self.health.refused >= ALL_REFUSED:
                        raise ConfigError(f"the judge refuses all requests: {reason}") from error
                    raise UnansweredError("refused", reason) from error
                if error.fault is Fault.SETUP and not self.health.ever_answered:
                    raise ConfigError(reason) from error
            # What failed together with everything else may try again; what failed while others were answered may not.
            if not await self.health.recover(failures[0], reason) or start == FRESH_STARTS:
                raise UnansweredError("faults", reason)
        raise AssertionError("unreachable")

    async def _attempts(self, request: ChatRequest, failures: list[float], fresh: bool) -> ChatReply:
        """Send, and send again; ``failures`` receives the times at which that failed. A fresh request had its turn."""

        async def send() -> ChatReply:
            try:
                if failures or not fresh:
                    await self._turn()
                return await self._send(request)
            except ChatError as error:
                failures.append(asyncio.get_running_loop().time())
                self.health.last_fault = str(error)
                raise

        sending = AsyncRetrying(
            stop=stop_after_attempt(self.limits.attempts),
            wait=self._wait,
            retry=retry_if_exception(lambda e: isinstance(e, ChatError) and e.passing),
            before_sleep=lambda _: self.counters.add("retries"),
            reraise=True,
        )
        return await sending(send)

    async def _probe(self) -> ChatReply:
        """Ask for anything, to see whether the judge answers at all."""
        self.counters.add("probes")
        return await self.chat.complete(ChatRequest("Reply with OK.", "", max_tokens=4))

    def _wait(self, state: RetryCallState) -> float:
        """Full jitter under a doubling bound, on top of what the endpoint asked for."""
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, ChatError) and error.retry_after else 0.0
        bound = min(self.limits.max_backoff_s, self.limits.backoff_s * 2.0 ** min(state.attempt_number, 30))
        return min(asked, self.limits.patience_s) + self._jitter.uniform(0, bound)

    async def _turn(self) -> None:
        """Wait until the rate allows a request."""
        if self.health.down is not None:
            raise JudgeDownError(self.health.down)
        if self._rate is not None:
            await self._rate.acquire()

    async def _send(self, request: ChatRequest) -> ChatReply:
        async with self._slots:  # not while it waits to be sent again: others may be answered meanwhile
            if self.health.down is not None:
                raise JudgeDownError(self.health.down)
            if self.budget.exhausted:
                raise UnansweredError("budget", "the round's judging budget is used up")
            self.counters.add("requests")
            began = time.monotonic()
            try:
                reply = await self.chat.complete(request)
            except ChatError as error:
                self.counters.add(f"faults_{error.fault.value}")
                raise
        self.budget.tokens += reply.prompt_tokens + reply.completion_tokens
        self.counters.add_reply(reply, time.monotonic() - began)
        if len(reply.text) > MAX_REPLY_CHARS:
            self.counters.add(f"faults_{Fault.OVERSIZED.value}")
            raise ChatError(
                Fault.OVERSIZED, f"a reply of {len(reply.text):,} characters, expected {MAX_REPLY_CHARS:,} at most"
            )
        self.health.answers()
        self.health.ever_answered = True
        return reply
