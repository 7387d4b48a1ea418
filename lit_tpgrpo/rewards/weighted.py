"""The weighted sum of reward terms, and the calls of the terms: plain functions in turn, asynchronous ones concurrently."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_tpgrpo.arguments import checked_arguments, shown
from lit_tpgrpo.async_bridge import Emit, first_error, in_background
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import callable_name, settings_of
from lit_tpgrpo.records import Reward
from lit_tpgrpo.rewards.base import RewardCase, RewardTerm
from lit_tpgrpo.rewards.outcome import OutcomeReward


@checked_arguments()
@dataclass(frozen=True)
class WeightedTerm:
    """A reward term with its weight in the sum.

    Args:
        term: the term: an object of a class, or a function ``(case) -> number or None``.
        weight: factor of its values. With 0 the term is logged and not added; below 0 what it counts is punished.
        concurrency: calls of the term that are awaited at a time, if it is asynchronous.

    Raises:
        ConfigError: the term cannot be called, the weight is not finite, negative for an outcome reward, or the concurrency
            not positive.
    """

    term: RewardTerm
    weight: float = 1.0
    concurrency: int = 16

    def __post_init__(self) -> None:
        if not callable(self.term):  # its class is, as every class
            raise ConfigError(
                f"term: expected a reward term or a function (case) -> number or None, got {shown(self.term)}"
            )
        if not math.isfinite(self.weight):
            raise ConfigError(f"weight must be finite, got {self.weight}")
        if self.weight < 0 and isinstance(self.term, OutcomeReward):
            raise ConfigError(
                f"weight of an outcome reward must not be negative, got {self.weight}: errors would be rewarded"
            )
        if self.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {self.concurrency}")


if TYPE_CHECKING:
    GivenTerm = WeightedTerm | RewardTerm | Callable[[RewardCase], Any] | tuple[RewardTerm, float] | Mapping[str, Any]
    GivenRewards = Mapping[str, GivenTerm]
else:  # what the command line can give
    GivenRewards = dict[str, WeightedTerm]


@dataclass(frozen=True)
class Todo:
    """A term's call that is due: index of the case, and the term's name."""

    index: int
    term: str


class WeightedRewards:
    """Compute rewards as weighted sums of named terms.

        R = sum over the terms that do not skip the solution of weight * value

    A term that skips a solution adds nothing to its reward, as a value of 0 would, and is left out of the term's own mean in
    the logs; the solution stays in its group's mean and standard deviation. A solution that all terms skip has no reward: it
    is left out of the group's statistics, and of the loss. (TRL treats None likewise.)

    Args:
        terms: by name.

    Raises:
        ConfigError: there is no term, or a name cannot be part of a metric's name.
    """

    def __init__(self, terms: Mapping[str, WeightedTerm]) -> None:
        if not terms:
            raise ConfigError(
                "rewards: expected at least one term, got none; leave rewards out for the outcome reward alone"
            )
        for name in terms:
            if not name.replace("-", "_").isidentifier() or name == "total":
                raise ConfigError(f"rewards: a term's name is letters, digits, - and _, and not 'total'; got {name!r}")
        self.terms = dict(terms)

    def settings(self, name: str) -> dict[str, Any]:
        """Return what a stored value of a term must have been computed with to be reused. The weight is not part of it."""
        return settings_of(self.terms[name].term)

    def reward(self, values: Mapping[str, float | None]) -> Reward:
        """Return the weighted sum of a solution's values, one for each term."""
        applied = {n: self.terms[n].weight * v for n, v in values.items() if v is not None}
        outcome = sum(v for n, v in applied.items() if isinstance(self.terms[n].term, OutcomeReward))
        return Reward(float(sum(applied.values())) if applied else None, float(outcome), dict(values))

    def compute(self, cases: Sequence[RewardCase], todo: Sequence[Todo]) -> Iterator[tuple[Todo, float | None]]:
        """Call terms and yield their values as they complete; plain functions first, in turn and in this thread.

        Args:
            cases: the solutions.
            todo: which terms to call for which of them.

        Raises:
            ConfigError: a term raised, or returned something other than a finite number or None; the calls in progress are
                cancelled.
        """
        waiting: list[tuple[Todo, Any]] = []
        try:
            for call in todo:
                value = self._checked(call, cases[call.index], lambda call=call: self._call(call, cases))
                if inspect.isawaitable(value):
                    waiting.append((call, value))
                else:
                    yield call, value
            started, waiting = waiting, []
            if started:
                yield from self._await(cases, started)
        finally:
            for _, value in waiting:
                if inspect.iscoroutine(value):
                    value.close()  # never started

    def _call(self, call: Todo, cases: Sequence[RewardCase]) -> Any:
        return self.terms[call.term].term(cases[call.index])

    def _await(self, cases: Sequence[RewardCase], started: Sequence[tuple[Todo, Any]]) -> Iterator[tuple[Todo, Any]]:
        async def produce(emit: Emit[tuple[Todo, Any]]) -> None:
            slots = {name: asyncio.Semaphore(term.concurrency) for name, term in self.terms.items()}

            async def finish(call: Todo, value: Any) -> None:
                try:
                    async with slots[call.term]:
                        result = await value
                except Exception as error:
                    raise self._fault(call, cases[call.index], error) from error
                emit((call, self._checked(call, cases[call.index], lambda: result)))

            async with asyncio.TaskGroup() as group:
                for call, value in started:
                    group.create_task(finish(call, value))

        try:
            yield from in_background(produce)
        except BaseExceptionGroup as errors:
            error = first_error(errors)
            raise error from error.__cause__

    def _checked(self, call: Todo, case: RewardCase, compute: Callable[[], Any]) -> Any:
        """Return a term's result as a float; None and awaitables unchanged."""
        try:
            value = compute()
        except Exception as error:  # whatever the user's function raises
            raise self._fault(call, case, error) from error
        if value is None or inspect.isawaitable(value):
            return value
        number = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value  # of a tensor
        if isinstance(number, numbers.Real) and math.isfinite(number):
            return float(number)
        raise ConfigError(f"{self._where(call, case)} must be a finite number or None, got {shown(value)}")

    def _fault(self, call: Todo, case: RewardCase, error: Exception) -> ConfigError:
        text = " ".join(str(error).split())
        # Functions for other trainers take all completions at once.
        kind = " (a term takes one lit_tpgrpo.RewardCase)" if isinstance(error, TypeError | AttributeError) else ""
        return ConfigError(
            f"{self._where(call, case)} cannot be computed: it raised {type(error).__name__}: {text}{kind}. What was sampled "
            "and computed is stored: fix the function, then resume"
        )

    def _where(self, call: Todo, case: RewardCase) -> str:
        term = self.terms[call.term].term
        name = callable_name(term).partition("#")[0] if inspect.isroutine(term) else type(term).__name__
        return f"data.rewards.{call.term} ({name}) of sample {case.solution.sample} of problem {case.problem.uid!r}"


def as_rewards(value: Any, where: str) -> WeightedRewards | None:
    """Return the weighted sum of a mapping from names to terms; None for an empty one, and for None: the outcome reward alone.

    Args:
        value: of each name a ``WeightedTerm``, a mapping of its arguments, a pair (term, weight), or a term alone (weight 1).
        where: names the argument in messages.

    Raises:
        ConfigError: it is something else.
    """
    if value is None or isinstance(value, WeightedRewards):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping from names to reward terms, got {shown(value)}")
    if not value:
        return None
    return WeightedRewards({str(name): _as_term(term, f"{where}.{name}") for name, term in value.items()})


def _as_term(value: Any, where: str) -> WeightedTerm:
    if isinstance(value, WeightedTerm):
        return value
    try:
        if isinstance(value, Mapping):
            return WeightedTerm(**value)
        if isinstance(value, tuple):
            return WeightedTerm(*value)
        return WeightedTerm(value)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error
