"""GradedGroups: base of the providers of grades and preferences, which ask a grader about each group of a round once."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Evidence
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools
from lit_tpgrpo.judges.grading.asking import GroupAsker
from lit_tpgrpo.judges.grading.questions import SolutionGroup

log = logging.getLogger(__name__)
V = TypeVar("V")

SUMMED = ("requests", "requests_stored", "retries", "replies_invalid", "tokens_prompt", "tokens_completion", "cost")
"""Counters of requests that may be added up over ranks; shares and latencies may not."""


class GradedGroups(EvidenceProvider, ABC, Generic[V]):
    """Base of providers that turn a grader's value of each solution of a group, None where it says nothing, into evidence.

    A group is stored once it is complete; the replies for it are in the grader's own store as they come. A group without a
    readable reply is stored as well: a round that is partly trained on must not change when the run is resumed.

    Args:
        grader: asks the LLM, which must not be the policy itself.
        values: type of the values of a group, plain as JSON holds them.
        counters: of the grader, beside those of its requests.

    Raises:
        ConfigError: the LLM is the policy in training, whose weights evidence does not wait for.
    """

    uses_engine: ClassVar = False

    def __init__(self, grader: GroupAsker, values: TypeAdapter[list[V | None]], counters: Sequence[str]) -> None:
        if grader.needs_policy:
            name = type(grader).__name__
            raise ConfigError(f"{name}: as evidence its chat must not be the policy in training; name another model")
        self._grader = grader
        self._counters = (*counters, *SUMMED)
        self._values = values

    def metrics(self) -> dict[str, float]:
        """Return and reset the counters that may be added up over ranks."""
        counts = self._grader.metrics()
        return {name: counts[name] for name in self._counters}

    def check_writable(self) -> None:
        """Check that replies can be stored."""
        self._grader.check_writable()

    def close(self) -> None:
        self._grader.close()

    @abstractmethod
    def ask(self, groups: Sequence[SolutionGroup]) -> Generator[tuple[int, Sequence[V | None]], None, None]:
        """Yield (index of the group, a value for each of its solutions) as they come."""

    @abstractmethod
    def evidence(self, value: V, samples: tuple[int, ...]) -> Evidence:
        """Return the evidence of a value; ``samples`` are those of the group's solutions."""

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        given: list[Evidence | None] = [None] * len(cases)
        for members, values in self._values_of_groups(cases, tools):
            samples = tuple(cases[i].judged.solution.sample for i in members)
            for i, value in zip(members, values, strict=True):
                given[i] = None if value is None else self.evidence(value, samples)
        return given

    def _values_of_groups(
        self, cases: Sequence[EvidenceCase], tools: EvidenceTools
    ) -> list[tuple[tuple[int, ...], list[V | None]]]:
        """Return for each group the indices of its cases and a value for each of them."""
        members = _members(cases)
        groups = [SolutionGroup(cases[own[0]].problem, tuple(_text(cases[i]) for i in own)) for own in members]
        kind, settings = type(self._grader).__name__, self._grader.settings
        keys = [tools.key(kind, settings, g.problem.prompt, g.texts) for g in groups]
        sizes = {key: len(own) for key, own in zip(keys, members, strict=True)}
        known = self._readable(tools.stored(sizes), sizes)
        missing = {key: group for key, group in zip(keys, groups, strict=True) if key not in known}
        # Closed at once if storing is interrupted: requests in flight are cancelled.
        with closing(self.ask(list(missing.values()))) as results:
            for k, values in results:
                key = list(missing)[k]
                known[key] = list(values)
                tools.store({key: self._values.dump_python(known[key], mode="json")})
        return [(own, known[key]) for own, key in zip(members, keys, strict=True)]

    def _readable(self, stored: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, list[V | None]]:
        """Return the stored values; leave out what is something else, which is then asked for again, with a warning."""
        read: dict[str, list[V | None]] = {}
        for key, plain in stored.items():
            try:
                values = self._values.validate_python(plain)
            except ValidationError:
                continue
            if len(values) == sizes[key]:
                read[key] = values
        if len(read) < len(stored):
            log.warning("%d stored groups cannot be read; they are asked for again", len(stored) - len(read))
        return read


def _members(cases: Sequence[EvidenceCase]) -> list[tuple[int, ...]]:
    """Return the indices of the cases of each group."""
    groups: dict[tuple[int, str], list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault((case.group_index, case.problem.uid), []).append(i)
    return [tuple(own) for own in groups.values()]


def _text(case: EvidenceCase) -> str:
    return case.judged.solution.text
