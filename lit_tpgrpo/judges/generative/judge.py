"""GenerativeJudge: labels steps by asking an LLM, and survives everything that an endpoint does.

Every solution comes back exactly once, labelled or with all steps ABSTAINED and the reason in the verdict's note.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.chat.base import ChatClient, PolicyChat
from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.errors import ConfigError, JudgeDownError
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.judges.generative.async_bridge import Emit, first_error, in_background
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.intrinsic import IntrinsicSignals
from lit_tpgrpo.judges.generative.limits import BudgetTracker, RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.methods import Method
from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution, number_solution
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.generative.queries import JudgeClient, QueryConfig, UnansweredError
from lit_tpgrpo.judges.generative.replies import ReplyStore
from lit_tpgrpo.judges.generative.segmentation import LLMSegmentation, Segmentation
from lit_tpgrpo.records import Step, StepLabel, Verdict
from lit_tpgrpo.text.steps import steps_from_starts

log = logging.getLogger(__name__)
NO_ANSWER = "no think block with an answer block after it"
ALARM_SHARE = 0.5
"""More solutions than this share of a round without a verdict are an error, not bad luck."""
FEWEST_TO_STOP = 8


@checked_arguments()
class GenerativeJudge:
    """Stage I of the paper by a generative LLM.

    A solution costs a request for its segmentation and, with the default method, one for the positions of its
    reflections, one for each ``reflections_per_question`` of them, and one for each ``steps_per_question`` suspect steps;
    or, if it is incorrect, one for the matching. All of them begin with the same text.

    Args:
        chat: the LLM: ``OpenAIChat`` or ``LocalChat``.
        method: how steps are labelled: ``IntrinsicSignals`` (the paper's), or the baselines ``DirectLabels`` and
            ``StepByStep``.
        segmentation: ``LLMSegmentation`` or ``RuleSegmentation``.
        query: votes, temperature, token limits.
        limits: concurrency, rate, retries, patience.
        budget: of one round.
        prompts: folder of a prompt set; the package's own where not given.
        store: folder for replies, so that none is paid for twice; None stores nothing.
        on_down: a judge that answers nothing for ``limits.patience_s``: ``abstain`` goes on with outcome rewards alone (and
            tries again in the next round), ``stop`` ends the run with all verdicts kept.
        max_shown_chars: most characters of a think block in one prompt; a longer one is shown in parts.
        price_in: of a million prompt tokens, for the metric ``cost``, in any currency.
        price_out: of a million completion tokens.

    Raises:
        ConfigError: a setting or prompt file is unusable. From ``judge``: no request can succeed (key, model, address).
        JudgeDownError: from ``judge``, see ``on_down``.
        StorageError: from ``judge``, before anything is asked, or where a disk is full: replies cannot be stored.
    """

    def __init__(
        self,
        chat: ChatClient,
        method: Method | None = None,
        segmentation: Segmentation | None = None,
        query: QueryConfig | None = None,
        limits: RequestLimits | None = None,
        budget: RoundBudget | None = None,
        prompts: str | Path | None = None,
        store: str | Path | None = "runs/judge_replies",
        on_down: Literal["abstain", "stop"] = "abstain",
        max_shown_chars: int = 100_000,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        if max_shown_chars < 1000:
            raise ConfigError(f"max_shown_chars must be at least 1000, got {max_shown_chars}")
        if on_down not in ("abstain", "stop"):
            raise ConfigError(f"on_down must be 'abstain' or 'stop', got {on_down!r}")
        self.chat = chat
        self.method = method or IntrinsicSignals()
        self.segmentation = segmentation or LLMSegmentation()
        self.query = query or QueryConfig()
        self.limits = limits or RequestLimits()
        self.budget = budget or RoundBudget()
        self.prompts = PromptSet(prompts)
        self.store = ReplyStore(store)
        self.on_down = on_down
        self.max_shown_chars = max_shown_chars
        self.price_in = price_in
        self.price_out = price_out
        self._counters = Counters()
        self._ever_answered = False
        self._read_store = True

    @property
    def name(self) -> str:
        return f"generative_{self.method.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """What verdicts depend on; stored verdicts of other settings are void. Weights of a self-judging policy are not
        among them: ``JudgeRefresh`` decides about those."""
        return {
            "chat": dict(self.chat.settings),
            "method": self.method.settings,
            "segmentation": self.segmentation.settings,
            "query": repr(self.query),
            "prompts": self.prompts.fingerprint,
            "max_shown_chars": self.max_shown_chars,
        }

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """See ``Judge``. Closing the iterator cancels what is in flight."""
        if not cases:
            return
        yield from in_background(partial(self._run, cases))

    def metrics(self) -> dict[str, float]:
        return self.tally().metrics()

    def tally(self) -> Counters:
        """See ``TallyingJudge``."""
        return self._counters.take(self.price_in, self.price_out)

    @contextmanager
    def bypass_cache(self) -> Iterator[None]:
        """Meanwhile nothing is read from the store (but written to it): an audit must notice that a model has changed."""
        self._read_store = False
        try:
            yield
        finally:
            self._read_store = True

    def check_writable(self) -> None:
        """See ``WritingJudge``."""
        self.store.check_writable()

    def share_engine(self, engine: Engine) -> None:
        """See ``EngineSharing``."""
        if isinstance(self.chat, PolicyChat):
            self.chat.share_engine(engine)

    def refresh(self, policy: Policy) -> bool:
        """Take over the policy's weights if the policy judges itself; returns whether the judge changed."""
        return isinstance(self.chat, PolicyChat) and self.chat.refresh(policy)

    @property
    def needs_policy(self) -> bool:
        """Whether it has to be refreshed before it can judge."""
        return isinstance(self.chat, PolicyChat) and self.chat.needs_policy

    def close(self) -> None:
        self.chat.close()

    async def _run(self, cases: Sequence[JudgeCase], emit: Emit[tuple[int, Verdict]]) -> None:
        """Judge all cases, as many at once as there may be requests: the first ones are done early."""
        self.check_writable()
        queue = iter(enumerate(cases))
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
            notes: Counter[str] = Counter()

            async def work() -> None:
                for index, case in queue:
                    verdict = await self._verdict(client, case)
                    notes[verdict.note] += 1
                    emit((index, verdict))

            try:
                async with client.sender.health.watched(), asyncio.TaskGroup() as group:
                    for _ in range(min(len(cases), self.limits.concurrency)):
                        group.create_task(work())
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
            self._ever_answered = client.sender.health.ever_answered
        self._sound_alarm(len(cases), notes)

    def _sound_alarm(self, cases: int, notes: Counter[str]) -> None:
        """Say loudly that most of a round came to nothing, whatever the reason; end the run there if it is to be ended."""
        lost = Counter({note: n for note, n in notes.items() if note and note != NO_ANSWER})
        if sum(lost.values()) <= ALARM_SHARE * cases:
            return
        reason, n = lost.most_common(1)[0]
        message = (
            f"the judge labelled nothing in {sum(lost.values())} of {cases} solutions, which keep their outcome reward "
            f"alone; the commonest reason ({n}): {reason}"
        )
        log.error(message)
        if self.on_down == "stop" and cases >= FEWEST_TO_STOP:
            raise JudgeDownError(f"{message}; stopped, because judge.on_down is 'stop'")

    async def _verdict(self, client: JudgeClient, case: JudgeCase) -> Verdict:
        counters = self._counters
        counters.add("cases")
        numbered = number_solution(case, self.max_shown_chars)
        if numbered is None:
            return self._abstained(case, "no_answer", NO_ANSWER)
        try:
            steps, flagged = await self._labelled(client, numbered)
        except UnansweredError as unanswered:
            return self._abstained(case, unanswered.reason, str(unanswered))
        except JudgeDownError as error:
            if self.on_down == "stop":
                raise JudgeDownError(
                    f"{error}; stopped, because judge.on_down is 'stop'. What was sampled and judged is stored: start "
                    "again with --ckpt_path when the judge is back"
                ) from error
            return self._abstained(case, "down", str(error))
        verdict = Verdict(steps, labels_of(steps, flagged, numbered.correct))
        counters.add("steps", len(steps))
        counters.add("steps_incorrect", verdict.labels.count(StepLabel.INCORRECT))
        counters.add("steps_matched", verdict.labels.count(StepLabel.MATCHED))
        return verdict

    async def _labelled(
        self, client: JudgeClient, numbered: NumberedSolution
    ) -> tuple[tuple[Step, ...], frozenset[int]]:
        """Segment, then label: the steps and the places of the flagged ones."""
        window = PromptWindow(numbered, self.prompts, self.max_shown_chars)
        starts = await self.segmentation.starts(client, window)
        solution = numbered.case.solution
        characters = [0, *(numbered.start_of(n) for n in starts[1:])]
        steps = steps_from_starts(solution.text, characters, solution.token_starts)
        return steps, await self.method.flagged(client, window, numbered.step_starts(steps))

    def _abstained(self, case: JudgeCase, reason: str, note: str) -> Verdict:
        self._counters.add("abstained")
        self._counters.add(f"abstained_{reason}")
        return abstain(case, note)


def labels_of(steps: Sequence[Step], flagged: frozenset[int], correct: bool) -> tuple[StepLabel, ...]:
    """Labels of all steps: think steps by whether they are flagged, the answer block by its outcome."""
    yes, no = (StepLabel.INCORRECT, StepLabel.CORRECT) if correct else (StepLabel.MATCHED, StepLabel.UNMATCHED)
    answer = StepLabel.CORRECT if correct else StepLabel.MATCHED
    return tuple(answer if step.is_answer else yes if i in flagged else no for i, step in enumerate(steps))
