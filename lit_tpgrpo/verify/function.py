"""Use a plain function as a verifier."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, cast

from lit_tpgrpo.arguments import accepted, shown
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import callable_name
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.text.answers import extract_boxed
from lit_tpgrpo.verify.base import Verifier

log = logging.getLogger(__name__)

Compare = Callable[[str, str], bool | Outcome | None]

GivenVerifier = Verifier | Compare
"""What users give: a verifier, or a function, which ``as_verifier`` wraps."""


class FunctionVerifier:
    """Verifier that calls ``compare(gold, answer)`` for each pair, in this process.

    The function returns True or False, an ``Outcome``, or None if it cannot decide (UNVERIFIABLE). An answer of None or white
    space is INCORRECT without a call. If the function raises, the answer is UNVERIFIABLE and counted as ``error``, and the
    first error of a call of ``verify_all`` is logged. If it raises for all answers of such a call and has never returned
    before, the first error is raised.

    Args:
        compare: the function; its result must depend on its arguments only.
    """

    def __init__(self, compare: Compare) -> None:
        accepted(compare, Callable[..., Any], "FunctionVerifier: compare")
        _check_signature(compare)
        self.function = callable_name(compare)  # public: another function invalidates the verdicts of a stored round
        self._name = self.function.partition("#")[0]  # for messages: the hash means nothing to their reader
        self._compare = compare
        self._counts: Counter[str] = Counter()
        self._returned = False

    def extract(self, text: str) -> str | None:
        """Return the content of an answer block's last box, None if there is none."""
        return extract_boxed(text)

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return the outcomes in the order of the pairs.

        Raises:
            ConfigError: the function returned something else, or raised for all answers.
        """
        errors: list[Exception] = []
        outcomes = [self._outcome(gold, answer, errors) for gold, answer in pairs]
        if errors and not self._returned:
            raise ConfigError(
                f"the verifier {self._name} raised for all {len(errors)} answers, first "
                f"{type(errors[0]).__name__}: {errors[0]}; expected compare(gold, answer) -> bool, both arguments strings"
            ) from errors[0]
        self._counts.update(o.value for o in outcomes)
        self._counts["pairs"] += len(outcomes)
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, and reset them; see ``MathVerifier.metrics``."""
        names = ("pairs", *(outcome.value for outcome in Outcome), "error")
        counts = {name: float(self._counts[name]) for name in names}
        self._counts.clear()
        return counts

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _outcome(self, gold: str, answer: str | None, errors: list[Exception]) -> Outcome:
        if answer is None or not answer.strip():
            return Outcome.INCORRECT
        try:
            verdict: Any = self._compare(gold, answer)
        except Exception as error:  # a user's function failing on one answer must not end the run
            if not errors:
                log.warning(
                    "the verifier %s raised for gold %.80r, answer %.80r", self._name, gold, answer, exc_info=error
                )
            errors.append(error)
            self._counts["error"] += 1
            return Outcome.UNVERIFIABLE
        self._returned = True
        if isinstance(verdict, Outcome):
            return verdict
        if verdict is None:
            return Outcome.UNVERIFIABLE
        if getattr(verdict, "dtype", type(verdict)) in (bool, int, float) and verdict in (0, 1):  # also numpy's bool
            return Outcome.CORRECT if verdict else Outcome.INCORRECT
        raise ConfigError(
            f"the verifier {self._name} must return True, False, an Outcome, or None if it cannot decide; got "
            f"{shown(verdict)} for gold {gold[:80]!r}, answer {answer[:80]!r}"
        )


def as_verifier(value: Any, where: str) -> Any:
    """Wrap a plain function in a FunctionVerifier; return a verifier or None unchanged.

    Raises:
        ConfigError: the value is neither a function, a verifier nor None; ``where`` names it in the message.
    """
    if value is None or (isinstance(value, Verifier) and not isinstance(value, type)):
        return value
    if isinstance(value, type) or not callable(value):
        accepted(value, Verifier, where)
    return FunctionVerifier(cast(Compare, value))


def _check_signature(compare: Callable[..., Any]) -> None:
    """Check that a function can be called with a gold and an answer.

    Raises:
        ConfigError: it takes other arguments.
    """
    try:
        signature = inspect.signature(compare)
    except ValueError:  # of some functions written in C it is not known
        return
    try:
        signature.bind("gold", "answer")
    except TypeError as error:
        name = callable_name(compare).partition("#")[0]
        raise ConfigError(f"verifier: {name} must take (gold, answer), both texts; it takes {signature}") from error
