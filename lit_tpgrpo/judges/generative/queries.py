"""Putting a question to the LLM: look in the store, send, read, ask again, vote.

Three things are told apart. A *fault* is a request that failed; it is sent again after a while (``sending``). An *invalid*
reply is one that is no verdict, or too large to be one; the question is asked again, sampled differently. An *unanswered*
question is one for which retries are exhausted: its solution keeps its outcome reward only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.chat.base import ChatClient, ChatRequest
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.async_bridge import gather_or_cancel
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.limits import BudgetTracker, RequestLimits
from lit_tpgrpo.judges.generative.prompts import Question
from lit_tpgrpo.judges.generative.replies import ReplyStore, reply_key
from lit_tpgrpo.judges.generative.sending import RequestSender, UnansweredError
from lit_tpgrpo.judges.generative.verdicts import VerdictError, VerdictModel, read_verdict, schema_of
from lit_tpgrpo.judges.generative.voting import Vote

T = TypeVar("T")
RETRY_TEMPERATURE = 0.7
"""A greedy reply that was invalid would be invalid again."""


@checked_arguments()
@dataclass(frozen=True, slots=True)
class QueryConfig:
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
                raise ConfigError(f"judge query: {name} must be at least 1, got {getattr(self, name)}")
        if self.thinking_tokens < 0:
            raise ConfigError(f"judge query: thinking_tokens must be 0 (off) or positive, got {self.thinking_tokens}")
        if not self.temperature >= 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"judge query: temperature must be 0 or positive and top_p in (0, 1], got {self.temperature} and "
                f"{self.top_p}"
            )
        if self.votes > 1 and self.temperature == 0:
            raise ConfigError(
                f"judge query: {self.votes} greedy votes are all the same; set temperature (0.6, say), or votes to 1"
            )


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """One question: its text, the form of its verdict, and what turns a well-formed verdict into a value.

    ``check`` returns the value and how many details of it were repaired, or raises VerdictError.
    """

    question: Question
    shared: str
    text: str
    id: str
    form: type[VerdictModel]
    check: Callable[[Any], tuple[T, int]]


class JudgeClient:
    """Asks the questions of one round, within its limits. Lives in one event loop."""

    def __init__(
        self,
        chat: ChatClient,
        store: ReplyStore,
        config: QueryConfig,
        limits: RequestLimits,
        budget: BudgetTracker,
        counters: Counters,
        ever_answered: bool = False,
        read_store: bool = True,
    ) -> None:
        self.store = store
        self.config = config
        self.counters = counters
        self.read_store = read_store
        self.sender = RequestSender(chat, limits, budget, counters, ever_answered)
        self._identity: Mapping[str, Any] = chat.identity

    async def once(self, query: Query[T]) -> T:
        """A single verdict.

        Raises:
            UnansweredError: there is none.
            JudgeDownError: the judge is down.
        """
        self.counters.add("questions")
        return await self._verdict(query, 0)

    async def votes(self, query: Query[T]) -> list[T]:
        """The verdicts of all votes, at least one more than half of those that were asked for.

        Raises:
            UnansweredError: there are fewer.
            JudgeDownError: the judge is down.
        """
        self.counters.add("questions")
        wanted = self.config.votes
        results = await gather_or_cancel(*(self._verdict_or_reason(query, sample) for sample in range(wanted)))
        verdicts = [r[0] for r in results if not isinstance(r, UnansweredError)]
        if 2 * len(verdicts) <= wanted:
            raise next(r for r in results if isinstance(r, UnansweredError))
        return verdicts

    async def _verdict_or_reason(self, query: Query[T], sample: int) -> tuple[T] | UnansweredError:
        try:
            return (await self._verdict(query, sample),)
        except UnansweredError as unanswered:
            return unanswered

    async def _verdict(self, query: Query[T], sample: int) -> T:
        problem = ""
        for attempt in range(self.config.verdict_attempts):
            request = self._request(query, sample, attempt)
            key = reply_key(self._identity, request)
            reply = self.store.get(key) if self.read_store else None
            if reply is not None:
                self.counters.add("requests_stored")
            else:
                reply = await self.sender.reply(request)
                # Invalid ones too: they were paid for, and the next run shall not pay for them again.
                self.store.add(key, reply)
            if reply.oversized:
                self.counters.add("replies_oversized")
                self.counters.add("replies_invalid")
                problem = "the last one too large to be read"
                continue
            try:
                value, repairs = query.check(read_verdict(reply.text, query.form, query.id))
            except VerdictError as error:
                self.counters.add("replies_invalid")
                problem = str(error)
                continue
            self.counters.add("replies_repaired", repairs > 0)
            return value
        raise UnansweredError(
            "invalid", f"{query.question.value}: {self.config.verdict_attempts} invalid replies, {problem}"
        )

    def _request(self, query: Query[Any], sample: int, attempt: int) -> ChatRequest:
        temperature = self.config.temperature or (RETRY_TEMPERATURE if attempt else 0.0)
        return ChatRequest(
            shared=query.shared,
            question=query.text,
            schema=schema_of(query.form),
            schema_name=query.question.value,
            max_tokens=self.config.max_tokens,
            thinking_tokens=self.config.thinking_tokens,
            temperature=temperature,
            top_p=self.config.top_p,
            seed=1000 * attempt + sample,
        )
