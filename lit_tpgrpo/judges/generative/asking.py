"""Putting a question to the LLM: look in the store, send, send again, read, vote.

Three things are told apart. A *fault* is a request that came to nothing; it is sent again after a while. An *invalid*
reply is one that is no verdict; the question is asked anew, sampled differently. An *unanswered* question is one for which
all that was in vain: its solution is left to its outcome.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.engines.chat import ChatEngine, ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.errors import ConfigError, JudgeDownError
from lit_tpgrpo.judges.generative.background import together
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.limits import Endpoint, RequestLimits, Spending
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.replies import ReplyStore, reply_key
from lit_tpgrpo.judges.generative.verdicts import VerdictError, VerdictModel, read_verdict, schema_of
from lit_tpgrpo.judges.generative.voting import Vote

T = TypeVar("T")
FRESH_STARTS = 3
"""How often a request that failed together with all others may begin again."""
ALL_REFUSED = 3
"""So many refused requests and none answered: it is not the requests, it is the settings."""
RETRY_TEMPERATURE = 0.7
"""A greedy reply that was invalid would be invalid again."""


class Unanswered(Exception):
    """A question without an answer. ``reason`` is the end of a counter's name, ``abstained_...``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@checked_arguments()
@dataclass(frozen=True, slots=True)
class Asking:
    """How questions are asked.

    Args:
        votes: verdicts sampled for each question but segmentation.
        vote: how they are counted.
        temperature: of the replies; 0 is greedy and allows a single vote.
        top_p: of the replies.
        max_tokens: of a reply, without thinking.
        thinking_tokens: how long the judge may think about a question; 0: not at all.
        verdict_attempts: how often a question is asked whose replies are invalid.
    """

    votes: int = 1
    vote: Vote = Vote.MAJORITY
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 4096
    thinking_tokens: int = 0
    verdict_attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("votes", "max_tokens", "verdict_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"judge asking: {name} must be at least 1, got {getattr(self, name)}")
        if self.thinking_tokens < 0:
            raise ConfigError(f"judge asking: thinking_tokens must be 0 (off) or positive, got {self.thinking_tokens}")
        if not self.temperature >= 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"judge asking: temperature must be 0 or positive and top_p in (0, 1], got {self.temperature} and "
                f"{self.top_p}"
            )
        if self.votes > 1 and self.temperature == 0:
            raise ConfigError(
                f"judge asking: {self.votes} greedy votes are all the same; set temperature (0.6, say), or votes to 1"
            )


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One question: its text, the form of its verdict, and what turns a well-formed verdict into a value.

    ``check`` returns the value and how many details of it were repaired, or raises VerdictError.
    """

    question: Question
    shared: str
    text: str
    id: str
    form: type[VerdictModel]
    check: Callable[[Any], tuple[T, int]]


class Asker:
    """Asks the questions of one round, within its limits. Lives in one event loop."""

    def __init__(
        self,
        chat: ChatEngine,
        store: ReplyStore,
        asking: Asking,
        limits: RequestLimits,
        spending: Spending,
        counters: Counters,
        ever_answered: bool = False,
        read_store: bool = True,
    ) -> None:
        self.chat = chat
        self.store = store
        self.asking = asking
        self.limits = limits
        self.spending = spending
        self.counters = counters
        self.read_store = read_store
        self.endpoint = Endpoint(limits, self._probe, ever_answered)
        self._identity: Mapping[str, Any] = chat.identity
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._rate = AsyncLimiter(1, 60 / limits.requests_per_minute) if limits.requests_per_minute else None
        self._jitter = random.Random(0)

    async def once(self, ask: Ask[T]) -> T:
        """A single verdict.

        Raises:
            Unanswered: there is none.
            JudgeDownError: the judge is down.
        """
        self.counters.add("questions")
        return await self._verdict(ask, 0)

    async def votes(self, ask: Ask[T]) -> list[T]:
        """The verdicts of all votes, at least one more than half of those that were asked for.

        Raises:
            Unanswered: there are fewer.
            JudgeDownError: the judge is down.
        """
        self.counters.add("questions")
        wanted = self.asking.votes
        results = await together(*(self._verdict_or_reason(ask, sample) for sample in range(wanted)))
        verdicts = [r[0] for r in results if not isinstance(r, Unanswered)]
        if 2 * len(verdicts) <= wanted:
            raise next(r for r in results if isinstance(r, Unanswered))
        return verdicts

    async def _verdict_or_reason(self, ask: Ask[T], sample: int) -> tuple[T] | Unanswered:
        try:
            return (await self._verdict(ask, sample),)
        except Unanswered as unanswered:
            return unanswered

    async def _verdict(self, ask: Ask[T], sample: int) -> T:
        problem = ""
        for attempt in range(self.asking.verdict_attempts):
            request = self._request(ask, sample, attempt)
            key = reply_key(self._identity, request)
            reply = self.store.get(key) if self.read_store else None
            if reply is not None:
                self.counters.add("requests_stored")
            else:
                reply = await self._reply(request)
                # Invalid ones too: they were paid for, and the next run shall not pay for them again.
                self.store.add(key, reply)
            try:
                value, repairs = ask.check(read_verdict(reply.text, ask.form, ask.id))
            except VerdictError as error:
                self.counters.add("replies_invalid")
                problem = str(error)
                continue
            self.counters.add("replies_repaired", repairs > 0)
            return value
        raise Unanswered("invalid", f"{ask.question.value}: {self.asking.verdict_attempts} invalid replies, {problem}")

    def _request(self, ask: Ask[Any], sample: int, attempt: int) -> ChatRequest:
        temperature = self.asking.temperature or (RETRY_TEMPERATURE if attempt else 0.0)
        return ChatRequest(
            shared=ask.shared,
            question=ask.text,
            schema=schema_of(ask.form),
            schema_name=ask.question.value,
            max_tokens=self.asking.max_tokens,
            thinking_tokens=self.asking.thinking_tokens,
            temperature=temperature,
            top_p=self.asking.top_p,
            seed=1000 * attempt + sample,
        )

    async def _reply(self, request: ChatRequest) -> ChatReply:
        """The reply to a request that is sent as often as the limits allow, within the round's time."""
        try:
            async with asyncio.timeout(self.spending.seconds_left):
                return await self._persistently(request)
        except TimeoutError as error:
            raise Unanswered("budget", "the round's judging time is used up") from error

    async def _persistently(self, request: ChatRequest) -> ChatReply:
        for start in range(1 + FRESH_STARTS):
            failures: list[float] = []
            try:
                return await self._attempts(request, failures)
            except ChatError as error:
                reason = str(error)
                if error.fault is Fault.REFUSED:
                    self.endpoint.refused += 1
                    if not self.endpoint.ever_answered and self.endpoint.refused >= ALL_REFUSED:
                        raise ConfigError(f"the judge refuses all requests: {reason}") from error
                    raise Unanswered("refused", reason) from error
                if error.fault is Fault.SETUP and not self.endpoint.ever_answered:
                    raise ConfigError(reason) from error
            # What failed together with everything else may try again; what failed while others were answered may not.
            if not await self.endpoint.recover(failures[0], reason) or start == FRESH_STARTS:
                raise Unanswered("faults", reason)
        raise AssertionError("unreachable")

    async def _attempts(self, request: ChatRequest, failures: list[float]) -> ChatReply:
        """Send, and send again; ``failures`` receives the times at which that failed."""

        async def send() -> ChatReply:
            try:
                return await self._send(request)
            except ChatError:
                failures.append(time.monotonic())
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

    async def _send(self, request: ChatRequest) -> ChatReply:
        if self.endpoint.down is not None:
            raise JudgeDownError(self.endpoint.down)
        if self._rate is not None:
            await self._rate.acquire()
        async with self._slots:  # not while it waits to be sent again: others may be answered meanwhile
            if self.spending.exhausted:
                raise Unanswered("budget", "the round's judging budget is used up")
            self.counters.add("requests")
            began = time.monotonic()
            try:
                reply = await self.chat.complete(request)
            except ChatError as error:
                self.counters.add(f"faults_{error.fault.value}")
                raise
        self.endpoint.answers()
        self.spending.tokens += reply.prompt_tokens + reply.completion_tokens
        self.counters.add_reply(reply, time.monotonic() - began)
        return reply
