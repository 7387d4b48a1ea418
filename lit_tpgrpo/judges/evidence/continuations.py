"""Monte-Carlo continuations: sample the policy from the start of each step and see how often it ends correct."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_tpgrpo.arguments import check_positive, checked_arguments
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Continuations, Evidence
from lit_tpgrpo.judges.evidence.base import EvidenceCase, EvidenceProvider, EvidenceTools, Prefix
from lit_tpgrpo.judges.evidence.missing import still_missing

log = logging.getLogger(__name__)
BUCKETS = 32
"""Prefixes are sampled in groups of similar length, at most so many."""


@checked_arguments()
class MonteCarloContinuations(EvidenceProvider):
    """Continue each solution from the start of its steps with the policy that sampled it.

    Equal prefixes, such as the prompt of a group, are sampled once for all solutions of a rank's problem. A continuation may
    have as many tokens as the prefix leaves of the run's ``max_new_tokens``, less up to 1/32 of that limit: the engine is
    called up to 32 times, one call after another, each with prefixes of similar length and one limit. It costs about
    ``samples`` times the solutions' tokens for each step; see ``evidence/continuation_tokens``.

    Args:
        samples: continuations of each prefix, 9 in VinePPO's code.
        max_steps: steps of a solution from whose start it is continued, the first ones: 20 in VinePPO's code for MATH.
        from_prompt: whether the bare prompt is continued as well.
        temperature: of the continuations; None is that of the run's ``sampling``. 0 is greedy and allows a single sample.
        top_p: likewise.

    Raises:
        ConfigError: a number is too small, a sampling parameter out of its range, or several samples would be greedy.
    """

    def __init__(
        self,
        samples: int = 9,
        max_steps: int = 20,
        from_prompt: bool = True,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> None:
        check_positive(samples=samples, max_steps=max_steps)
        self.samples, self.max_steps, self.from_prompt = samples, max_steps, from_prompt
        self.temperature, self.top_p = temperature, top_p
        self._params(SamplingParams())
        if samples > 1 and temperature == 0:
            raise ConfigError(
                f"data.evidence: {samples} greedy continuations of a prefix are all the same; set a positive temperature, or "
                "samples to 1"
            )
        self._counts: Counter[str] = Counter()

    @property
    def gives(self) -> type[Evidence]:
        return Continuations

    def metrics(self) -> dict[str, float]:
        """Return and reset the cost: prefixes that were sampled, continuations, their tokens, and prefixes shared or stored.

        ``prefixes_lost`` have no continuations: the store lacks them, and the policy that sampled the round has moved on.
        """
        names = ("prefixes", "prefixes_reused", "prefixes_lost", "continuations", "continuation_tokens")
        counts = {name: float(self._counts[name]) for name in names}
        self._counts.clear()
        return counts

    def provide(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> Sequence[Evidence | None]:
        return self.continued(cases, tools)

    def continued(self, cases: Sequence[EvidenceCase], tools: EvidenceTools) -> list[Continuations]:
        """Return the continuations of each case, in their order: those that the store lacks are sampled and stored."""
        rows = [self._prefixes(case, tools) for case in cases]
        outcomes = self.outcomes(rows, tools)
        # Without a decided continuation nothing is known of a prefix.
        return [Continuations(tuple(None if p is None else outcomes.get(p.key) or None for p in row)) for row in rows]

    def outcomes(self, rows: Sequence[Sequence[Prefix | None]], tools: EvidenceTools) -> dict[str, tuple[float, ...]]:
        """Return outcomes of continuations by the keys of their prefixes; those that the store lacks are sampled and stored.

        Args:
            rows: of each case; None where nothing is continued.
            tools: of the round.
        """
        outcomes = _readable(tools.stored({prefix.key for row in rows for prefix in row if prefix is not None}))
        lost = "%d prefixes have no continuations, and the policy that sampled them has moved on: their steps have no value"
        missing = still_missing(rows, outcomes, tools.current, self._counts, "prefixes", lost)
        for bucket, params in self._buckets(missing, self._params(tools.sampling)):
            for batch in tools.continue_from(bucket, self.samples, params):
                values = {continued.key: continued.outcomes for continued in batch}
                tools.store(values)
                outcomes |= values
                self._counts["prefixes"] += len(batch)
                self._counts["continuations"] += self.samples * len(batch)
                self._counts["continuation_tokens"] += sum(continued.tokens for continued in batch)
        return outcomes

    def prefix(self, case: EvidenceCase, length: int, tools: EvidenceTools) -> Prefix:
        """Return the prefix of a solution that has its prompt and its first ``length`` tokens."""
        solution = case.judged.solution
        ids = (*solution.prompt_ids.tolist(), *solution.completion_ids[:length].tolist())
        params = repr(self._params(tools.sampling))
        return Prefix(tools.key(self.samples, params, case.problem.answer, length, ids), case, length)

    def _params(self, sampling: SamplingParams) -> SamplingParams:
        temperature = sampling.temperature if self.temperature is None else self.temperature
        return replace(sampling, temperature=temperature, top_p=sampling.top_p if self.top_p is None else self.top_p)

    def _prefixes(self, case: EvidenceCase, tools: EvidenceTools) -> list[Prefix | None]:
        """Return the prefix before each step, None where it is not continued."""
        whole = len(case.judged.solution.completion_ids)
        row: list[Prefix | None] = []
        for j, step in enumerate(case.judged.verdict.steps):
            length = step.token_start
            # A last step without tokens begins where the solution has ended: there is nothing to continue.
            if length == whole or j >= self.max_steps or (length == 0 and not self.from_prompt):
                row.append(None)
            else:
                row.append(self.prefix(case, length, tools))
        return row

    def _buckets(
        self, prefixes: Sequence[Prefix], params: SamplingParams
    ) -> Iterator[tuple[list[Prefix], SamplingParams]]:
        """Yield prefixes of similar length, the longest first, each with what they leave of the token limit."""
        limit = params.max_new_tokens
        width = max(1, limit // BUCKETS)
        buckets: dict[int, list[Prefix]] = {}
        for prefix in prefixes:
            buckets.setdefault(-(-prefix.length // width) * width, []).append(prefix)
        for used in sorted(buckets, reverse=True):
            yield buckets[used], replace(params, max_new_tokens=max(1, limit - used))


def _readable(stored: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return the stored outcomes; leave out what is something else, which is then sampled again, with a warning."""
    read = {
        key: tuple(map(float, value))
        for key, value in stored.items()
        if isinstance(value, list) and all(type(v) in (int, float) and v in (0, 1) for v in value)
    }
    if len(read) < len(stored):
        log.warning("%d stored continuations cannot be read; they are computed again", len(stored) - len(read))
    return read
