"""GroupAsker: base of the graders, which ask an LLM about groups of solutions within its limits, budget and reply store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lit_tpgrpo.chat.base import ChatClient
from lit_tpgrpo.errors import ConfigError, JudgeDownError
from lit_tpgrpo.judges.generative.backed import LLMBacked, OnDown
from lit_tpgrpo.judges.generative.limits import RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.prompts import request_id
from lit_tpgrpo.judges.generative.queries import JudgeClient, Query, QueryConfig, UnansweredError
from lit_tpgrpo.judges.generative.verdicts import VerdictModel
from lit_tpgrpo.judges.grading.questions import GroupPrompts, GroupQuestion, SolutionGroup
from lit_tpgrpo.judges.wrapped import OwnCounters

T = TypeVar("T")


class GroupAsker(LLMBacked):
    """Base of the graders. The arguments are those of ``GenerativeJudge``, and ``counters``, the names of the grader's own.

    Raises:
        ConfigError: ``query.votes`` is above 1: a grader has its own number of samples.
    """

    def __init__(
        self,
        chat: ChatClient,
        query: QueryConfig,
        limits: RequestLimits | None,
        budget: RoundBudget | None,
        prompts: str | Path | None,
        store: str | Path | None,
        on_down: OnDown,
        max_shown_chars: int,
        price_in: float,
        price_out: float,
        counters: tuple[str, ...],
    ) -> None:
        if query.votes > 1:
            raise ConfigError(f"{type(self).__name__}: query.votes must be 1, got {query.votes}; use its own argument")
        super().__init__(chat, query, limits, budget, store, on_down, max_shown_chars, price_in, price_out)
        self.prompts = GroupPrompts(prompts)
        self.own = OwnCounters(counters)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that replies depend on."""
        return self.reply_settings(self.prompts)

    def metrics(self) -> dict[str, float]:
        """Return the counters of requests and the grader's own since the last call, and reset them."""
        return self.own.take(self.tally()).metrics()

    async def ask(
        self,
        client: JudgeClient,
        question: GroupQuestion,
        group: SolutionGroup,
        order: Sequence[int],
        form: type[VerdictModel],
        check: Callable[[Any], tuple[T, int]],
        draw: int,
        **variables: Any,
    ) -> T | None:
        """Ask about the solutions ``order`` of a group; None if no reply can be read, or the judge is down and may be."""
        shared = self.prompts.shared(group, order, self.max_shown_chars)
        asked = request_id(shared, question, **variables)
        text = self.prompts.render(question.value, id=asked, **variables)
        try:
            return await client.draw(Query(question, shared, text, asked, form, check, draw))
        except UnansweredError:
            return None
        except JudgeDownError as error:
            self.stop_if_down(error)
            return None
