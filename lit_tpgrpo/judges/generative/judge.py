"""GenerativeJudge: labels steps by prompting an LLM, tolerant of all faults of its endpoint.

Every solution is returned exactly once: labelled, or with all steps ABSTAINED and the reason in the verdict's note.
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
from lit_tpgrpo.async_bridge import Emit, first_error, in_background
from lit_tpgrpo.chat.base import ChatClient, PolicyChat
from lit_tpgrpo.engines.base import Engine, Policy
from lit_tpgrpo.errors import ConfigError, JudgeDownError
from lit_tpgrpo.judges.base import JudgeCase, abstain
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
NO_ANSWER = "no thinking with an answer block after it"
MAX_UNJUDGED_SHARE = 0.5
"""An error is logged if more than this share of a round's solutions has no verdict."""
MIN_CASES_TO_STOP = 8
"""``on_down: stop`` ends the run for unjudged solutions only in rounds of at least this many."""


@checked_arguments()
class GenerativeJudge:
    """Judge by a generative LLM (paper, Stage I).

    A solution takes one request for its segmentation and, with the default method, one to locate its reflections, one
    for each ``reflections_per_question`` of them, and one for each ``steps_per_question`` suspect steps; or, if it is
    incorrect, one for the matching. All of them share a prompt prefix, which the endpoint can cache.

    Args:
        chat: the LLM: ``OpenAIChat`` or ``LocalChat``.
        method: how steps are labelled: ``IntrinsicSignals`` (the paper's), or the baselines ``DirectLabels`` and
            ``StepByStep``.
        segmentation: ``LLMSegmentation`` or ``RuleSegmentation``.
        query: votes, temperature, token limits.
        limits: concurrency, rate, retries, patience.
        budget: tokens and seconds that one round may use.
        prompts: folder of a prompt set; None uses the prompts of the package.
        store: folder that caches replies, so that no request is sent twice; None caches nothing.
        on_down: what to do if the judge answers nothing for ``limits.patience_s``: ``abstain`` continues with outcome
            rewards only (and tries again in the next round), ``stop`` ends the run and keeps all verdicts.
        max_shown_chars: most characters of a think block in one prompt; a longer one is split over several prompts.
        price_in: price of a million prompt tokens, for the metric ``cost``, in any currency.
        price_out: price of a million completion tokens.

    Raises:
        ConfigError: a setting or prompt file is invalid. From ``judge``: no request can succeed (key, model, address).
        JudgeDownError: from ``judge``, see ``on_down``.
        StorageError: from ``judge``: replies cannot be stored (checked before the first request), or the disk is full.
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
        self.method = IntrinsicSignals() if method is None else method
        self.segmentation = LLMSegmentation() if segmentation is None else segmentation
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
        """The settings that verdicts depend on: stored verdicts are reused only if they are equal.

        The weights of a self-judging policy are not among them; ``JudgeRefresh`` invalidates verdicts for those.
        """
        return {
            "chat": dict(self.chat.settings),
            "method": self.method.settings,
            "segmentation": self.segmentation.settings,
            "query": repr(self.query),
            "prompts": self.prompts.fingerprint,
            "max_shown_chars": self.max_shown_chars,
        }

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge the cases, see ``Judge``. Closing the iterator cancels requests in flight."""
        if not cases:
            return
        yield from in_background(partial(self._run, cases))

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

    async def _run(self, cases: Sequence[JudgeCase], emit: Emit[tuple[int, Verdict]]) -> None:
        """Judge all cases with ``limits.concurrency`` workers, so that the first verdicts are complete early."""
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
                async with client.sender.health.watchdog(), asyncio.TaskGroup() as group:
                    for _ in range(min(len(cases), self.limits.concurrency)):
                        group.create_task(work())
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
            self._ever_answered = client.sender.health.ever_answered
        self._report_unjudged(len(cases), notes)

    def _report_unjudged(self, cases: int, notes: Counter[str]) -> None:
        """Log an error if most of the round has no verdict; raise if ``on_down`` is stop."""
        unjudged = Counter({note: n for note, n in notes.items() if note and note != NO_ANSWER})
        if sum(unjudged.values()) <= MAX_UNJUDGED_SHARE * cases:
            return
        reason, n = unjudged.most_common(1)[0]
        message = (
            f"the judge returned no verdict for {sum(unjudged.values())} of {cases} solutions, which keep their outcome "
            f"reward only; most common reason ({n}): {reason}"
        )
        log.error(message)
        if self.on_down == "stop" and cases >= MIN_CASES_TO_STOP:
            raise JudgeDownError(f"{message}; stopped, because judge.on_down is 'stop'")

    async def _verdict(self, client: JudgeClient, case: JudgeCase) -> Verdict:
        counters = self._counters
        counters.add("cases")
        numbered = number_solution(case, self.max_shown_chars)
        if numbered is None:
            return self._abstained(case, "no_answer", NO_ANSWER)
        try:
            steps, flagged = await self._label(client, numbered)
        except UnansweredError as unanswered:
            return self._abstained(case, unanswered.reason, str(unanswered))
        except JudgeDownError as error:
            if self.on_down == "stop":
                raise JudgeDownError(
                    f"{error}; stopped, because judge.on_down is 'stop'. All samples and verdicts are stored: resume "
                    "with --ckpt_path when the judge is up again"
                ) from error
            return self._abstained(case, "down", str(error))
        verdict = Verdict(steps, labels_of(steps, flagged, numbered.correct))
        counters.add("steps", len(steps))
        counters.add("steps_incorrect", verdict.labels.count(StepLabel.INCORRECT))
        counters.add("steps_matched", verdict.labels.count(StepLabel.MATCHED))
        return verdict

    async def _label(self, client: JudgeClient, numbered: NumberedSolution) -> tuple[tuple[Step, ...], frozenset[int]]:
        """Segment, then label; return the steps and the indices of the flagged ones."""
        window = PromptWindow(numbered, self.prompts, self.max_shown_chars)
        starts = await self.segmentation.starts(client, window)
        solution = numbered.case.solution
        characters = [0, *(numbered.start_of(n) for n in starts[1:])]
        steps = steps_from_starts(solution.text, characters, solution.token_starts, numbered.case.divided())
        return steps, await self.method.flagged(client, window, numbered.step_starts(steps))

    def _abstained(self, case: JudgeCase, reason: str, note: str) -> Verdict:
        self._counters.add("abstained")
        self._counters.add(f"abstained_{reason}")
        return abstain(case, note)


def labels_of(steps: Sequence[Step], flagged: frozenset[int], correct: bool) -> tuple[StepLabel, ...]:
    """Return the labels of all steps: think steps by whether they are flagged, the answer block by the outcome."""
    yes, no = (StepLabel.INCORRECT, StepLabel.CORRECT) if correct else (StepLabel.MATCHED, StepLabel.UNMATCHED)
    answer = StepLabel.CORRECT if correct else StepLabel.MATCHED
    return tuple(answer if step.is_answer else yes if i in flagged else no for i, step in enumerate(steps))
