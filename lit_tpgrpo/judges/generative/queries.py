"""Query the LLM: read the reply store, send the request, parse the reply, retry, vote.

Three failures are distinguished. A *fault* is a failed request, which is retried after a backoff (``sending``). An
*invalid* reply contains no verdict, or is too large; the question is sent again with another seed. A question is
*unanswered* if its retries are exhausted; its solution keeps its outcome reward only.
"""

from __future__ import annotations

import asyncio
import enum
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.async_bridge import gather_or_cancel
from lit_tpgrpo.chat.base import ChatClient, ChatReply, ChatRequest
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.limits import BudgetTracker, RequestLimits
from lit_tpgrpo.judges.generative.replies import ReplyStore, reply_key
from lit_tpgrpo.judges.generative.sending import RequestSender, UnansweredError
from lit_tpgrpo.judges.generative.verdicts import VerdictError, VerdictModel, read_verdict, schema_of
from lit_tpgrpo.judges.generative.voting import Vote
from lit_tpgrpo.seeds import derived_seed

T = TypeVar("T")
RETRY_TEMPERATURE = 0.7
"""Used after an invalid greedy reply, which would be the same again."""
SEEDS_PER_ATTEMPT = 1000


@checked_arguments()
@dataclass(frozen=True, slots=True)
class QueryConfig:
    """Votes, sampling and retries of questions.

    Args:
        votes: verdicts sampled for each question, except segmentation (one).
        vote: how votes are combined.
        temperature: sampling temperature of replies; 0 is greedy and allows a single vote only.
        top_p: nucleus sampling of replies.
        max_tokens: most tokens of a reply, without thinking.
        thinking_tokens: most tokens that the judge may think about a question; 0 disables thinking.
        verdict_attempts: how often a question is sent while its replies are invalid.
    """

    votes: int = 1
    vote: Vote = Vote.MAJORITY
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 4096
    thinking_tokens: int = 0
    verdict_attempts: int = 3

    def __post_init__(self) -> None:
        counts = {"votes": self.votes, "max_tokens": self.max_tokens, "verdict_attempts": self.verdict_attempts}
        check_positive("judge query: ", **counts)
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
    """One question: its text, the type of its verdict, and the function that turns a well-formed verdict into a value.

    ``question`` is the kind of question, whose value names it in requests and messages. ``shared`` is the common prefix of the
    prompt, ``text`` the question after it, ``id`` is repeated by the verdict. ``check`` returns the value and the number of
    repairs, or raises VerdictError. ``draw``: which of several independent verdicts on the case is asked for; another one has
    other seeds.
    """

    question: enum.Enum
    shared: str
    text: str
    id: str
    verdict_type: type[VerdictModel]
    check: Callable[[Any], tuple[T, int]]
    draw: int = 0


class JudgeClient:
    """Client for the questions of one round, within its limits. Use it in one event loop only."""

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
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # Replies to questions of `once`: all draws of a case share them, stored or not.
        self._replies: dict[str, ChatReply] = {}

    async def once(self, query: Query[T]) -> T:
        """Ask for a single verdict and return its value. The same question, asked meanwhile, waits for the same replies.

        Raises:
            UnansweredError: the retries are exhausted.
            JudgeDownError: the judge is down.
        """
        self.counters.add("questions")
        async with self._locks[reply_key(self._identity, self._request(query, 0, 0))]:
            return await self._verdict(query, 0, remember=True)

    async def draw(self, query: Query[T]) -> T:
        """Ask for the verdict of ``query.draw`` and return its value; other draws of the question are other requests.

        Raises:
            UnansweredError: the retries are exhausted.
            JudgeDownError: the judge is down.
        """
        self.counters.add("questions")
        return await self._verdict(query, 0)

    async def votes(self, query: Query[T]) -> list[T]:
        """Ask for ``config.votes`` verdicts and return the values of those that were answered, more than half.

        Raises:
            UnansweredError: half of them or more are unanswered.
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

    async def _verdict(self, query: Query[T], sample: int, remember: bool = False) -> T:
        problem = ""
        for attempt in range(self.config.verdict_attempts):
            request = self._request(query, sample, attempt)
            key = reply_key(self._identity, request)
            reply = self._replies.get(key) or (self.store.get(key) if self.read_store else None)
            if reply is not None:
                self.counters.add("requests_stored")
            else:
                reply = await self.sender.reply(request)
                # Invalid replies are stored too, so that a later run does not request (and pay for) them again.
                self.store.add(key, reply)
            if remember:
                self._replies[key] = reply
            if reply.oversized:
                self.counters.add("replies_oversized")
                self.counters.add("replies_invalid")
                problem = "the last one too large to be read"
                continue
            try:
                value, repairs = query.check(read_verdict(reply.text, query.verdict_type, query.id))
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
            schema=schema_of(query.verdict_type),
            schema_name=query.question.value,
            max_tokens=self.config.max_tokens,
            thinking_tokens=self.config.thinking_tokens,
            temperature=temperature,
            top_p=self.config.top_p,
            seed=request_seed(attempt, query.draw * self.config.votes + sample),
        )


def request_seed(attempt: int, index: int) -> int:
    """Return the seed of a request: 1,000 * attempt + index for the first 1,000 verdicts, a hash of both for later ones.

    Requests that differ in one of both have different seeds. Not all are hashes, because stored replies have the seed in their
    keys: a reply whose seed changed would be requested again.

    Args:
        attempt: from 0; how often the question was asked and answered with an invalid reply.
        index: of the verdict among all votes of all draws, from 0.
    """
    if index < SEEDS_PER_ATTEMPT:
        return SEEDS_PER_ATTEMPT * attempt + index
    return derived_seed("judge reply", attempt, index)
