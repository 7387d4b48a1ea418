r"""Verify answers to multiple-choice questions: exact, in this process, without any mathematics."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import AnswerForm, extract_answer
from lit_tpgrpo.verify.base import Verifier
from lit_tpgrpo.verify.choice_text import read_answer, read_gold

log = logging.getLogger(__name__)


@checked_arguments()
class MultipleChoiceVerifier(Verifier):
    r"""Verifier of multiple-choice answers: CORRECT if the answer names the gold's choice and no other.

    An answer names a choice by its letter (``B``, ``(b)``, ``B.``, ``\text{(B)}``, ``B) text``), or by the option's text if the
    gold lists the options (``choice_text`` gives the forms of golds; a problem source writes them with ``columns.options``).
    Several letters (``A or B``, ``ABCD``), a letter with another option's text, and a text that several options share name
    none: INCORRECT.

    Args:
        answer_form: where a solution gives its answer: ``BOX``, in its last box, or ``ANSWER_LINE``, on a line ``Answer: B``.
        first_index: the index that names A, for golds that are numbers.
        max_answer_chars: a longer answer is UNVERIFIABLE.
    """

    def __init__(
        self, answer_form: AnswerForm = AnswerForm.BOX, first_index: int = 0, max_answer_chars: int = 2000
    ) -> None:
        if max_answer_chars < 1:
            raise ConfigError(f"max_answer_chars must be positive, got {max_answer_chars}")
        self.answer_form = answer_form
        self.settings = {
            "answer_form": answer_form.value,
            "first_index": first_index,
            "max_answer_chars": max_answer_chars,
        }
        self._first_index, self._max_chars = first_index, max_answer_chars
        self._counts: Counter[str] = Counter()
        self._read_a_gold = False

    def extract(self, text: str) -> str | None:
        """Return the answer that an answer block gives in the verifier's form, None if it gives none."""
        return extract_answer(text, self.answer_form)

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return the outcomes in the order of the pairs.

        A gold that names no choice makes the outcome UNVERIFIABLE and is counted as ``unreadable_gold``.

        Raises:
            InputError: no gold of the first call names a choice.
        """
        faults: list[InputError] = []
        outcomes = [self._outcome(gold, answer, faults) for gold, answer in pairs]
        if faults and not self._read_a_gold:
            raise faults[0]
        if faults:
            log.warning("%d golds name no choice, their answers count as wrong: %s", len(faults), faults[0])
        self._counts.update(outcome.value for outcome in outcomes)
        self._counts["pairs"] += len(outcomes)
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, and reset them: ``pairs`` is the total of the outcomes."""
        names = ("pairs", *(outcome.value for outcome in Outcome), "too_long", "unreadable_gold")
        counts = {name: float(self._counts[name]) for name in names}
        self._counts.clear()
        return counts

    def _outcome(self, gold: str, answer: str | None, faults: list[InputError]) -> Outcome:
        try:
            choices = read_gold(gold, self._first_index)
        except InputError as fault:
            faults.append(fault)
            self._counts["unreadable_gold"] += 1
            return Outcome.UNVERIFIABLE
        self._read_a_gold = True
        if answer is None:
            return Outcome.INCORRECT
        if len(answer) > self._max_chars:
            self._counts["too_long"] += 1
            return Outcome.UNVERIFIABLE
        return Outcome.CORRECT if read_answer(answer, choices.options) == choices.letter else Outcome.INCORRECT
