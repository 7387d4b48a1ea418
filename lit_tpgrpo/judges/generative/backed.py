"""LLMBacked: what every judge and grader that asks an LLM shares: its client, limits, budget, reply store and counters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from lit_tpgrpo.async_bridge import Emit, arriving, first_error, in_background
from lit_tpgrpo.chat.base import ChatClient, PolicyChat
from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.errors import ConfigError, JudgeDownError
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.limits import BudgetTracker, RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.prompts import PromptFolder
from lit_tpgrpo.judges.generative.queries import JudgeClient, QueryConfig
from lit_tpgrpo.judges.generative.replies import ReplyStore

T = TypeVar("T")
R = TypeVar("R")
OnDown = Literal["abstain", "stop"]


class LLMBacked:
    """Base of what asks an LLM in rounds, by ``each``. The arguments are those of ``GenerativeJudge``.

    Subclasses repeat them in their constructors, by choice: with ``**kwargs`` an editor and a type checker would know none of
    the names and types of the judge that most runs use, with a dataclass of them every config's keys would change, and the
    graders' default of ``query`` is another.
    """

    def __init__(
        self,
        chat: ChatClient,
        query: QueryConfig | None,
        limits: RequestLimits | None,
        budget: RoundBudget | None,
        store: str | Path | None,
        on_down: OnDown,
        max_shown_chars: int,
        price_in: float,
        price_out: float,
    ) -> None:
        if max_shown_chars < 1000:
            raise ConfigError(f"max_shown_chars must be at least 1000, got {max_shown_chars}")
        if on_down not in ("abstain", "stop"):
            raise ConfigError(f"on_down must be 'abstain' or 'stop', got {on_down!r}")
        self.chat = chat
        self.query = query or QueryConfig()
        self.limits = limits or RequestLimits()
        self.budget = budget or RoundBudget()
        self.store = ReplyStore(store)
        self.on_down: OnDown = on_down
        self.max_shown_chars = max_shown_chars
        self.price_in = price_in
        self.price_out = price_out
        self._counters = Counters()
        self._ever_answered = False
        self._read_store = True

    def each(
        self, items: Iterable[T], work: Callable[[JudgeClient, T], Awaitable[R]]
    ) -> Generator[tuple[int, R], None, None]:
        """Work on all items in one round and yield (index, result) as they complete; closing it cancels requests in flight.

        ``items`` may be an iterator that waits for them; the round begins with the first one.
        """
        yield from in_background(partial(self._run, items, work))

    async def _run(
        self, items: Iterable[T], work: Callable[[JudgeClient, T], Awaitable[R]], emit: Emit[tuple[int, R]]
    ) -> None:
        """Work on ``limits.concurrency`` items at a time, in their order, so that the first results are complete early."""
        waiting = arriving(enumerate(items))
        entry = await anext(waiting, None)
        if entry is None:
            return
        self.check_writable()
        async with self.chat.session():
            client = JudgeClient(
                self.chat,
                self.store,
                self.query,
                self.limits,
                BudgetTracker(self.budget),
                self._counters,
                self._ever_answered,
                self._read_store,
            )
            free = asyncio.Semaphore(self.limits.concurrency)

            async def run(index: int, item: T) -> None:
                with client.sender.health.at_work():
                    emit((index, await work(client, item)))
                free.release()

            try:
                async with client.sender.health.watchdog(), asyncio.TaskGroup() as group:
                    while entry is not None:
                        await free.acquire()
                        group.create_task(run(*entry))
                        entry = await anext(waiting, None)
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
            self._ever_answered = client.sender.health.ever_answered

    def reply_settings(self, prompts: PromptFolder) -> dict[str, Any]:
        """Return the settings that every reply depends on."""
        return {
            "chat": dict(self.chat.settings),
            "query": repr(self.query),
            "prompts": prompts.fingerprint,
            "max_shown_chars": self.max_shown_chars,
        }

    def stop_if_down(self, error: JudgeDownError) -> None:
        """Raise if a judge that is down ends the run; do nothing if it abstains."""
        if self.on_down == "stop":
            raise JudgeDownError(
                f"{error}; stopped, because judge.on_down is 'stop'. All samples and verdicts are stored: resume "
                "with --ckpt_path when the judge is up again"
            ) from error

    def metrics(self) -> dict[str, float]:
        return self.tally().metrics()

    def tally(self) -> Counters:
        """Return the counters since the last call and reset them, see ``TallyingJudge``."""
        return self._counters.take(self.price_in, self.price_out)

    @contextmanager
    def bypass_cache(self) -> Iterator[None]:
        """Read nothing from the store inside the block, but write to it: an audit must notice that a model has changed."""
        self._read_store = False
        try:
            yield
        finally:
            self._read_store = True

    def check_repeatable(self) -> None:
        """Check that draws differ, see ``RepeatableJudge``.

        Raises:
            ConfigError: replies are greedy.
        """
        if self.query.temperature == 0:
            raise ConfigError(
                f"the replies of {type(self).__name__} at temperature 0 are all the same; set its query's temperature "
                "(0.6, say)"
            )

    def check_writable(self) -> None:
        """Check that replies can be stored, see ``WritingJudge``."""
        self.store.check_writable()

    def share_engine(self, engine: Engine) -> None:
        """Offer the rollout engine to a self-judging policy, see ``EngineSharing``."""
        if isinstance(self.chat, PolicyChat):
            self.chat.share_engine(engine)

    def refresh(self, policy: Policy) -> bool:
        """Load the policy's weights if the policy judges itself; return whether the judge changed."""
        return isinstance(self.chat, PolicyChat) and self.chat.refresh(policy)

    @property
    def needs_policy(self) -> bool:
        """Whether ``refresh`` must be called before ``judge``."""
        return isinstance(self.chat, PolicyChat) and self.chat.needs_policy

    def close(self) -> None:
        self.chat.close()
