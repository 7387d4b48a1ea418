"""The stage of a round that asks the providers of evidence, with what the store has of their values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import shown
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.engines.base import Batching, Completion, Engine, SamplingParams
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import Evidence
from lit_tpgrpo.fingerprint import content_hash, settings_of
from lit_tpgrpo.judges.evidence.base import (
    Continued,
    EvidenceCase,
    EvidenceProvider,
    LearningProvider,
    OutcomeExample,
    Prefix,
    Probe,
    Probed,
)
from lit_tpgrpo.records import JudgedGroup, Outcome, Problem, Solution, StopReason
from lit_tpgrpo.rollout.probing import probe_answers
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.sampling import bar, batched, divide_solution, verify_solutions
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.spans import decode_with_offsets
from lit_tpgrpo.token_arrays import TokenInts, token_ints
from lit_tpgrpo.verify.base import Verifier


def add_evidence(
    providers: Sequence[EvidenceProvider], groups: Mapping[int, JudgedGroup], tools: RoundTools
) -> dict[int, JudgedGroup]:
    """Return the groups with the evidence that the providers give on their decided solutions.

    The engine is awake meanwhile if a provider uses it; it must then have the policy's weights.

    Raises:
        ConfigError: a provider returned something else than its interface says.
    """
    cases = [EvidenceCase(group.problem, judged, g) for g, group in groups.items() for judged in group.decided]
    found: list[tuple[Evidence, ...]] = [()] * len(cases)
    used = uses_engine(providers)
    if used:
        tools.engine.wake()  # also with nothing to sample: gathering a sharded policy is collective
    for provider in providers:
        given = _checked(provider, provider.provide(cases, tools), len(cases))
        found = [have if new is None else (*have, new) for have, new in zip(found, given, strict=True)]
    if used:
        tools.engine.sleep()
    records = iter(found)
    return {
        g: replace(
            group,
            solutions=tuple(
                s if s.outcome is Outcome.UNDECIDED else replace(s, evidence=next(records)) for s in group.solutions
            ),
        )
        for g, group in groups.items()
    }


def teach(
    providers: Sequence[EvidenceProvider],
    groups: Mapping[int, JudgedGroup],
    round_index: int,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Let providers that learn do so from the decided solutions of a round, over all ranks. Collective if one learns.

    Args:
        providers: of the run.
        groups: of this rank.
        round_index: of the round.
        guard: context of the parts without collectives, such as ``raise_on_all_ranks``.
    """
    learning = [provider for provider in providers if isinstance(provider, LearningProvider)]
    if not learning:
        return
    own = [
        (
            g,
            s.solution.sample,
            OutcomeExample(s.solution.prompt_ids, s.solution.completion_ids, s.outcome is Outcome.CORRECT),
        )
        for g, group in groups.items()
        for s in group.decided
    ]
    rows = sorted((row for rows in gather(own) for row in rows), key=operator.itemgetter(0, 1))
    with guard():
        for provider in learning:
            provider.learn(round_index, [example for *_, example in rows])


def uses_engine(providers: Sequence[EvidenceProvider]) -> bool:
    """Return whether a provider may sample, so that the engine needs the policy's weights; the same on all ranks."""
    return any(getattr(provider, "uses_engine", True) for provider in providers)


def needed_evidence(providers: Sequence[EvidenceProvider], *users: object) -> tuple[EvidenceProvider, ...]:
    """Return the providers of the kinds of evidence that the users (credit, group filter) list in their ``needs``."""
    needed = [kind for user in users for kind in getattr(user, "needs", ())]
    return tuple(provider for provider in providers if provider.gives in needed)


def _checked(provider: EvidenceProvider, given: Sequence[Evidence | None], count: int) -> Sequence[Evidence | None]:
    name = f"data.evidence: {type(provider).__name__}.provide"
    if not isinstance(given, Sized):
        raise ConfigError(f"{name} must return a sequence with one entry for each case, got {shown(given)}")
    if len(given) != count:
        raise ConfigError(f"{name} must return one entry for each of the {count} cases, got {len(given)}")
    wrong = next((e for e in given if e is not None and not isinstance(e, provider.gives)), None)
    if wrong is not None:
        raise ConfigError(f"{name} must return {provider.gives.__name__} or None, got {shown(wrong)}")
    return given


@dataclass(frozen=True)
class RoundTools:
    """``EvidenceTools`` of one round: its engine, verifier and file.

    Args:
        engine: has the policy's weights.
        verifier: of the run.
        format: likewise.
        tokenizer: likewise.
        sampling: of the round's solutions.
        file: the round on disk.
        policy_version: that sampled the round.
        seed: of the run.
        current: whether the policy is still that version.
        show: whether to show a progress bar.
    """

    engine: Engine
    verifier: Verifier
    format: SolutionFormat
    tokenizer: PreTrainedTokenizerBase
    sampling: SamplingParams
    file: RoundFile
    policy_version: int
    seed: int
    current: bool = True
    show: bool = False

    def key(self, *content: object) -> str:
        """Return a hash of the content, the policy version, the verifier's and the format's settings."""
        return content_hash([self.policy_version, self._settings, *content], size=12)

    @cached_property
    def _settings(self) -> str:
        return content_hash([settings_of(self.verifier), settings_of(self.format)])

    def stored(self, keys: Collection[str]) -> dict[str, Any]:
        return self.file.evidence(keys)

    def store(self, values: Mapping[str, Any]) -> None:
        self.file.add_evidence(values)
        STOP.check()

    def continue_from(
        self, prefixes: Sequence[Prefix], n: int, params: SamplingParams
    ) -> Iterator[tuple[Continued, ...]]:
        """Sample, decode and verify continuations; see ``EvidenceTools``. Seeds depend on the run's and on the prefix alone."""
        solutions = [p.case.judged.solution for p in prefixes]
        ids = [s.completion_ids[: p.length] for p, s in zip(prefixes, solutions, strict=True)]
        prompts = [(*s.prompt_ids.tolist(), *begun.tolist()) for s, begun in zip(solutions, ids, strict=True)]
        seeds = [derived_seed(self.seed, "continuation", p.key) for p in prefixes]
        at_once = self.engine.prompts_at_once(n) if isinstance(self.engine, Batching) else 1
        stream = self.engine.sample(prompts, n, params, seeds)
        shown_stream = bar(stream, "continuations", len(prefixes), self.show, "prefix")
        for batch in batched(shown_stream, at_once):
            pairs = [
                (prefixes[i].case.problem, self._solution(prefixes[i], ids[i], k, completion))
                for i, completions in batch
                for k, completion in enumerate(completions)
            ]
            outcomes = iter(self._outcomes(pairs, params))
            yield tuple(
                Continued(
                    prefixes[i].key,
                    tuple(o for o in (next(outcomes) for _ in completions) if o is not None),
                    sum(len(c.token_ids) for c in completions),
                )
                for i, completions in batch
            )

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def probe(self, probes: Sequence[Probe], n: int, params: SamplingParams) -> Iterator[tuple[Probed, ...]]:
        """See ``EvidenceTools`` and ``rollout.probing``; seeds depend on the run's and on the probe alone."""
        seeds = [derived_seed(self.seed, "probe", p.key) for p in probes]
        yield from probe_answers(self.engine, probes, n, params, seeds, self.show)

    def _solution(self, prefix: Prefix, begun: TokenInts, sample: int, completion: Completion) -> Solution:
        whole = np.concatenate((begun, completion.token_ids))
        text, starts = decode_with_offsets(self.tokenizer, whole.tolist(), self.format.tags())
        judged = prefix.case.judged.solution
        return Solution(
            prefix.case.problem.uid,
            sample,
            judged.prompt_ids,
            whole,
            np.zeros(len(whole), np.float32),  # log-probs are of no use here
            completion.stop,
            self.policy_version,
            text,
            token_ints(starts, "token_starts"),
        )

    def _outcomes(self, pairs: Sequence[tuple[Problem, Solution]], params: SamplingParams) -> list[float | None]:
        """Return 1 for a correct solution, 0 for others and those that were cut off, None where it is not known."""
        divisions = [divide_solution(self.format, solution, params.stop) for _, solution in pairs]
        verified = verify_solutions(self.verifier, pairs, divisions)
        return [
            None
            if outcome is Outcome.UNDECIDED
            else float(outcome is Outcome.CORRECT and solution.stop is not StopReason.LENGTH)
            for (_, solution), (outcome, _) in zip(pairs, verified, strict=True)
        ]
