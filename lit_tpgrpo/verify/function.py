"""A plain function as a verifier."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.arguments import accepted, shown
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.verify.base import Verifier

log = logging.getLogger(__name__)

Compare = Callable[[str, str], Any]

if TYPE_CHECKING:
    GivenVerifier = Verifier | Compare
else:  # what the command line can give
    GivenVerifier = Verifier


class FunctionVerifier:
    """Asks ``compare(gold, answer)``, in this process, pair by pair.

    It returns True or False, an ``Outcome``, or None where it cannot tell (UNVERIFIABLE). An answer of None or of white space
    is INCORRECT and never asked about. Where it raises the answer is UNVERIFIABLE, counted as ``error`` and the first one
    logged; if it raises for all answers it is given at once and never returned anything before, that error is raised.

    Args:
        compare: the function; it must not depend on anything but its arguments.
    """

    def __init__(self, compare: Compare) -> None:
        accepted(compare, Callable[..., Any], "FunctionVerifier: compare")
        self.function = _named(compare)  # public: another function voids the verdicts of a stored round
        self._compare = compare
        self._counts: Counter[str] = Counter()
        self._returned = False

    def verify_all(self, pairs: Iterable[tuple[str, str | None]]) -> list[Outcome]:
        """Return the outcomes in the order of the pairs.

        Raises:
            ConfigError: the function returned something else.
        """
        errors: list[Exception] = []
        outcomes = [self._outcome(gold, answer, errors) for gold, answer in pairs]
        if errors and not self._returned:
            raise ConfigError(
                f"the verifier {self.function} raised for all of the {len(errors)} answers that it was given, first "
                f"{type(errors[0]).__name__}: {errors[0]}; expected compare(gold, answer) -> bool, both as text"
            ) from errors[0]
        self._counts.update(o.value for o in outcomes)
        self._counts["pairs"] += len(outcomes)
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Return the counters since the last call, and reset them; see ``MathVerifier.metrics``."""
        names = ("pairs", "correct", "incorrect", "unverifiable", "error")
        counts = {name: float(self._counts[name]) for name in names}
        self._counts.clear()
        return counts

    def close(self) -> None:
        """Hold nothing."""

    def _outcome(self, gold: str, answer: str | None, errors: list[Exception]) -> Outcome:
        if answer is None or not answer.strip():
            return Outcome.INCORRECT
        try:
            verdict = self._compare(gold, answer)
        except Exception as error:  # the user's own, about one answer: a run must not end with it
            if not errors:
                log.warning(
                    "the verifier %s raised for gold %.80r, answer %.80r", self.function, gold, answer, exc_info=error
                )
            errors.append(error)
            self._counts["error"] += 1
            return Outcome.UNVERIFIABLE
        self._returned = True
        if isinstance(verdict, Outcome):
            return verdict
        if verdict is None:
            return Outcome.UNVERIFIABLE
        if getattr(verdict, "dtype", type(verdict)) in (bool, int, float) and verdict in (0, 1):  # numpy's bool, too
            return Outcome.CORRECT if verdict else Outcome.INCORRECT
        raise ConfigError(
            f"the verifier {self.function} must return True, False, an Outcome, or None where it cannot tell; got "
            f"{shown(verdict)} for gold {gold[:80]!r}, answer {answer[:80]!r}"
        )


def as_verifier(value: Any, where: str) -> Any:
    """Return a verifier for a plain function; anything else as it is.

    Raises:
        ConfigError: it is neither.
    """
    if value is None or (isinstance(value, Verifier) and not isinstance(value, type)):
        return value
    if isinstance(value, type) or not callable(value):
        accepted(value, Verifier, where)
    return FunctionVerifier(value)


def _named(function: Compare) -> str:
    """The function's name and a hash of its code: a lambda has no other name than any lambda."""
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    code = getattr(function, "__code__", None)
    if code is None:
        return name
    plain = [c for c in code.co_consts if isinstance(c, bool | int | float | str | None)]
    told = repr((code.co_code, code.co_names, plain)).encode()
    return f"{name}#{hashlib.blake2b(told, digest_size=4).hexdigest()}"
