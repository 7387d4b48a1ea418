"""Send requests to the LLM with retries, within the limits of rate, concurrency, budget and patience."""

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

MAX_RESTARTS = 3
"""How often a request that failed in an outage may start over with new attempts."""
MAX_REFUSED = 3
"""After this many refused requests and no successful one, the settings are at fault, not the requests."""


class UnansweredError(Exception):
    """A question is unanswered. ``reason`` is the suffix of the counter ``abstained_...``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestSender:
    """Sender of the requests of one round, in one event loop. Enter ``health.watchdog`` around its use."""

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
        # A judge that samples in this process cannot be down; its batches may take long.
        patient = not getattr(chat, "in_process", False)
        self.health = EndpointHealth(limits, self._probe, ever_answered, patient)
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._rate = AsyncLimiter(1, 60 / limits.requests_per_minute) if limits.requests_per_minute else None
        self._jitter = random.Random(0)

    async def reply(self, request: ChatRequest) -> ChatReply:
        """Send a request, with retries, and return its reply.

        A reply that is too large is returned as an empty one with ``oversized`` set.

        Raises:
            UnansweredError: the retries, the round's budget or the patience are exhausted, or the request is refused.
            JudgeDownError: the judge is down.
            ConfigError: no request can succeed.
        """
        try:
            async with asyncio.timeout(self.budget.seconds_left):
                await self._turn()
                async with self.health.reply_deadline():
                    return await self._send_with_restarts(request)
        except TimeoutError as error:
            raise UnansweredError("budget", "the round's judging time is used up") from error
        except ChatError as error:
            raise UnansweredError("faults", str(error)) from error

    async def _send_with_restarts(self, request: ChatRequest) -> ChatReply:
        for restart in range(1 + MAX_RESTARTS):
            failures: list[float] = []
            try:
                return await self._send_with_retries(request, failures, first=restart == 0)
            except ChatError as error:
                reason = str(error)
                if error.fault is Fault.OVERSIZED:  # a retry would be as large
                    return ChatReply("", oversized=True)
                if error.fault is Fault.REFUSED:
                    self.health.record_reply()
                    self.health.refused += 1
                    if not self.health.ever_answered and self.health.refused >= MAX_REFUSED:
                        raise ConfigError(f"the judge refuses all requests: {reason}") from error
                    raise UnansweredError("refused", reason) from error
                if error.fault is Fault.SETUP and not self.health.ever_answered:
                    raise ConfigError(reason) from error
            # A request that failed in an outage may start over; one that failed while others were answered may not.
            if not await self.health.recover(failures[0], reason) or restart == MAX_RESTARTS:
                raise UnansweredError("faults", reason)
        raise AssertionError("unreachable")

    async def _send_with_retries(self, request: ChatRequest, failures: list[float], first: bool) -> ChatReply:
        """Send a request up to ``limits.attempts`` times; append the times of failures to ``failures``.

        The first attempt of the ``first`` start is not rate-limited here: ``reply`` has waited already.
        """

        async def send() -> ChatReply:
            try:
                if failures or not first:
                    await self._turn()
                return await self._send(request)
            except ChatError as error:
                failures.append(asyncio.get_running_loop().time())
                self.health.last_fault = str(error)
                raise

        sending = AsyncRetrying(
            stop=stop_after_attempt(self.limits.attempts),
            wait=self._wait,
            retry=retry_if_exception(lambda e: isinstance(e, ChatError) and e.transient),
            before_sleep=lambda _: self.counters.add("retries"),
            reraise=True,
        )
        return await sending(send)

    async def _probe(self) -> ChatReply:
        """Send a small request, to see whether the judge answers at all."""
        self.counters.add("probes")
        return await self.chat.complete(ChatRequest("Reply with OK.", "", max_tokens=4))

    def _wait(self, state: RetryCallState) -> float:
        """Return the backoff in seconds: full jitter below a doubling bound, plus the endpoint's ``Retry-After``."""
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
        async with self._slots:  # not held during backoff, so that other requests can be sent meanwhile
            if self.health.down is not None:
                raise JudgeDownError(self.health.down)
            if self.budget.exhausted:
                raise UnansweredError("budget", "the round's judging budget is used up")
            self.counters.add("requests")
            start = time.monotonic()
            try:
                reply = await self.chat.complete(request)
            except ChatError as error:
                self.counters.add(f"faults_{error.fault.value}")
                raise
        self.budget.tokens += reply.prompt_tokens + reply.completion_tokens
        self.counters.add_reply(reply, time.monotonic() - start)
        if len(reply.text) > MAX_REPLY_CHARS:
            self.counters.add(f"faults_{Fault.OVERSIZED.value}")
            raise ChatError(
                Fault.OVERSIZED, f"a reply of {len(reply.text):,} characters, expected {MAX_REPLY_CHARS:,} at most"
            )
        self.health.record_reply()
        self.health.ever_answered = True
        return reply
