"""GenerativeJudge: labels steps by prompting an LLM, tolerant of all faults of its endpoint.

Every solution is returned exactly once: labelled, or with all steps ABSTAINED and the reason in the verdict's note.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.chat.base import ChatClient
from lit_tpgrpo.errors import JudgeDownError
from lit_tpgrpo.judges.base import JudgeCase, abstain
from lit_tpgrpo.judges.generative.backed import LLMBacked, OnDown
from lit_tpgrpo.judges.generative.intrinsic import IntrinsicSignals
from lit_tpgrpo.judges.generative.limits import RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.methods import Method
from lit_tpgrpo.judges.generative.numbered_solution import NumberedSolution, number_solution
from lit_tpgrpo.judges.generative.prompt_window import PromptWindow
from lit_tpgrpo.judges.generative.prompts import PromptSet
from lit_tpgrpo.judges.generative.queries import JudgeClient, QueryConfig, UnansweredError
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
class GenerativeJudge(LLMBacked):
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
        on_down: OnDown = "abstain",
        max_shown_chars: int = 100_000,
        price_in: float = 0.0,
        price_out: float = 0.0,
    ) -> None:
        super().__init__(chat, query, limits, budget, store, on_down, max_shown_chars, price_in, price_out)
        self.method = IntrinsicSignals() if method is None else method
        self.segmentation = LLMSegmentation() if segmentation is None else segmentation
        self.prompts = PromptSet(prompts)

    @property
    def name(self) -> str:
        return f"generative_{self.method.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that verdicts depend on: stored verdicts are reused only if they are equal.

        The weights of a self-judging policy are not among them; ``JudgeRefresh`` invalidates verdicts for those.
        """
        own = {"method": self.method.settings, "segmentation": self.segmentation.settings}
        return self.reply_settings(self.prompts) | own

    def judge(self, cases: Sequence[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge the cases, see ``Judge``. Closing the iterator cancels requests in flight."""
        return self.judge_arriving(cases)

    def judge_arriving(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[int, Verdict]]:
        """Judge cases as they come, see ``StreamingJudge``; limits and budget are those of one round."""
        notes: Counter[str] = Counter()
        with closing(self.each(cases, self._verdict)) as verdicts:
            for index, verdict in verdicts:
                notes[verdict.note] += 1
                yield index, verdict
        self._report_unjudged(notes.total(), notes)

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
            self.stop_if_down(error)
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
