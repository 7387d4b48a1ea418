"""Problems from several sources, in given shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.datamodules.sources.decontaminate import Decontaminated, statement_key
from lit_tpgrpo.datamodules.sources.memory import Problems, as_named_sources
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.records import Problem

LONGEST_CYCLE = 10_000

if TYPE_CHECKING:
    Sources = Mapping[str, Problems]
else:  # the types that the command line accepts
    Sources = dict[str, ProblemSource]


@checked_arguments(sources=as_named_sources)
class MixtureProblems:
    """Mixture of named problem sources with weights.

    With weights, training takes problems in cycles: weights 3 and 1 make cycles of four problems, three of the first source
    and one of the second, in an order that the run's seed and the cycle's number shuffle. Each source is passed through in
    shuffled passes of its own, so a small one with a large weight repeats. The order does not depend on the number of
    processes, and a resumed run continues it. Without weights, a pass has each problem of each source once.

    Evaluation and prediction take each problem once and use no weights.

    ``Problem.source`` is the name in the mixture. Uids begin with that name and a slash, which are put before those of a
    source that has others: so the same uid in two sources is two problems.

    Args:
        sources: The sources by name: problem sources, in Python also lists or data sets (see ``MemoryProblems``).
        weights: The share of each source among the problems that are trained on, in any unit: ``{"gsm8k": 3, "math": 1}``.
            Null takes all problems equally often.
        name: Name of the mixture, for messages.
    """

    def __init__(self, sources: Sources, weights: dict[str, float] | None = None, name: str = "mixture") -> None:
        if not sources:
            raise ConfigError("sources: expected at least one problem source with its name, got none")
        for key, source in sources.items():
            if not key.strip() or "/" in key:
                raise ConfigError(
                    f"sources: expected names without slashes, got {key!r}: uids begin with name and slash"
                )
            if mixture_of(source) is not None:
                raise ConfigError(f"sources: {key} is a mixture: list its sources here instead")
        self.name = name
        self.sources = cast(dict[str, ProblemSource], dict(sources))
        self.weights = None if weights is None else dict(weights)
        self.turns = None if weights is None else _turns(self.sources, weights)
        self._counts: Counter[str] = Counter()
        self._duplicates = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}: {source!r}' for name, source in self.sources.items())})"

    def load(self) -> Sequence[Problem]:
        """Load all sources, one after another, and warn of statements that are in more than one of them.

        Raises:
            InputError: a source has no problem.
        """
        problems: list[Problem] = []
        for name, source in self.sources.items():
            loaded = source.load()
            if not loaded:
                raise InputError(f"{self.name}: expected problems in each source, but {name} is empty: {source!r}")
            problems += _renamed(name, loaded)
        self._counts = Counter(problem.source for problem in problems)
        self._duplicates = self._report_shared(problems)
        return problems

    def metrics(self) -> dict[str, float]:
        """Return the numbers of problems, of all and by source, and of statements that an earlier source has too."""
        counts = {f"problems/{name}": float(count) for name, count in self._counts.items()}
        return {"problems": float(self._counts.total()), **counts, "duplicates": float(self._duplicates)}

    def _report_shared(self, problems: Sequence[Problem]) -> int:
        first: dict[str, Problem] = {}
        shared: list[tuple[Problem, Problem]] = []
        for problem in problems:
            earlier = first.setdefault(statement_key(problem.prompt), problem)
            if earlier.source != problem.source:
                shared.append((problem, earlier))
        if shared:
            problem, earlier = shared[0]
            rank_zero_warn(
                f"{self.name}: {len(shared)} problems have the statement of one in an earlier source, such as {problem.uid} "
                f"that of {earlier.uid}. They are kept: remove those of {problem.source} with Decontaminated(..., against=...)."
            )
        return len(shared)


def mixture_of(source: Any) -> MixtureProblems | None:
    """Return the mixture that a source is, or that it removes problems from; None if there is none."""
    while isinstance(source, Decontaminated):
        source = source.source
    return source if isinstance(source, MixtureProblems) else None


def _renamed(name: str, problems: Sequence[Problem]) -> list[Problem]:
    """Return problems with the source's name in the mixture, and uids that begin with it."""
    prefix = f"{name}/"
    put_before = "" if all(problem.uid.startswith(prefix) for problem in problems) else prefix
    return [replace(problem, uid=f"{put_before}{problem.uid}", source=name) for problem in problems]


def _turns(sources: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, int]:
    """Return the problems of each source in a cycle: the smallest whole numbers in proportion to the weights.

    Raises:
        ConfigError: the names differ, a weight is not positive, or the cycle is too long.
    """
    if set(weights) != set(sources):
        raise ConfigError(
            f"weights: expected one for each of {', '.join(sources)}, got weights for {', '.join(weights) or 'none'}"
        )
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight <= 0:
            raise ConfigError(
                f"weights: expected positive numbers, got {weight} for {name}; leave out what is not wanted"
            )
    exact = {name: Fraction(str(weights[name])) for name in sources}  # 0.7 is 7/10, not the nearest binary number
    scale = math.lcm(*(share.denominator for share in exact.values()))
    whole = {name: int(share * scale) for name, share in exact.items()}
    common = math.gcd(*whole.values())
    turns = {name: count // common for name, count in whole.items()}
    if sum(turns.values()) > LONGEST_CYCLE:
        given = ", ".join(str(weight) for weight in weights.values())
        raise ConfigError(
            f"weights: expected numbers in a simple proportion, such as 0.7 and 0.3, got {given}: a cycle of them has "
            f"{sum(turns.values()):,} problems, and at most {LONGEST_CYCLE:,} are supported; round them"
        )
    return turns
