"""Log-probs of a round's solutions under the frozen initial policy, for a KL term in the reward: before credit, stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import ReferenceLogprobs
from lit_tpgrpo.fingerprint import content_hash
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Outcome, Solution, TrainingSequence
from lit_tpgrpo.rollout.correction import Scorer
from lit_tpgrpo.rollout.store import RoundFile
from lit_tpgrpo.rollout.store_rows import FLOATS, UNREADABLE
from lit_tpgrpo.rollout.training_sequences import scoring_sequence

log = logging.getLogger(__name__)


@runtime_checkable
class ReferenceScorer(Scorer, Protocol):
    """A module that computes log-probs of given completions under the current policy and under its reference."""

    def completion_reference_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """Return (T,) float32 log-probs of each sequence's completion, without gradient. Collective."""
        ...


def needs_reference(credit: object) -> bool:
    """Return whether a credit assignment needs log-probs under the reference."""
    return ReferenceLogprobs in getattr(credit, "needs", ())


def reference_scorer_of(module: object) -> ReferenceScorer:
    """Return a LightningModule as the scorer that a KL term in the reward needs.

    Raises:
        ConfigError: it computes no log-probs under a reference.
    """
    if not isinstance(module, ReferenceScorer):
        raise ConfigError(
            f"data.credit needs a module that scores completions under a reference, and {type(module).__name__} has no "
            "completion_reference_logprobs; use TPGRPOModule, add the method, or take a credit without a KL term"
        )
    return module


def add_reference_logprobs(
    groups: Mapping[int, JudgedGroup],
    group_size: int,
    temperature: float,
    file: RoundFile,
    scorer: ReferenceScorer,
    *,
    mismatched: bool,
    current: bool,
) -> dict[int, JudgedGroup]:
    """Return the groups with ``ReferenceLogprobs`` on their decided solutions. Collective.

    What is computed is stored with the round: the reference's as evidence, the policy's, where the engine's cannot be compared
    with it, as the scores of ``Correction``, which uses them again.

    Args:
        groups: of this rank, by group index.
        group_size: solutions of a group.
        temperature: of sampling.
        file: the round on disk.
        scorer: the trainer's module.
        mismatched: whether the engine's log-probs are not the trainer's.
        current: whether the policy still has the weights that sampled the round. If not, solutions of a mismatched engine that
            were never scored get none.
    """
    solutions = {g * group_size + s.solution.sample: s.solution for g, group in groups.items() for s in group.decided}
    references = _references(solutions, temperature, file, scorer)
    policies = {i: solution.logprobs for i, solution in solutions.items()}
    if mismatched:
        policies = _scores(solutions, temperature, file, scorer, current)
    unscored = len(solutions) - len(policies)
    if unscored:
        log.warning(
            "%d solutions were not scored before the policy moved on: they have no KL term in their reward", unscored
        )

    def with_logprobs(g: int, judged: JudgedSolution) -> JudgedSolution:
        i = g * group_size + judged.solution.sample
        if judged.outcome is Outcome.UNDECIDED or i not in policies:
            return judged
        return replace(judged, evidence=(*judged.evidence, ReferenceLogprobs(policies[i], references[i])))

    return {
        g: replace(group, solutions=tuple(with_logprobs(g, judged) for judged in group.solutions))
        for g, group in groups.items()
    }


def _references(
    solutions: Mapping[int, Solution], temperature: float, file: RoundFile, scorer: ReferenceScorer
) -> dict[int, tuple[float, ...]]:
    """Return the reference's log-probs by solution index; compute and store those that the store lacks."""
    keys = {
        i: content_hash(["reference log-probs", temperature, s.prompt_ids, s.completion_ids], size=12)
        for i, s in solutions.items()
    }
    stored = file.evidence(set(keys.values()))
    found: dict[int, tuple[float, ...]] = {}
    for i, solution in solutions.items():
        if keys[i] in stored:
            try:
                logprobs = FLOATS.validate_python(stored[keys[i]])
            except UNREADABLE:
                logprobs = ()
            if len(logprobs) == len(solution.completion_ids):
                found[i] = logprobs
            else:
                log.warning("reference log-probs in %s cannot be read; they are computed again", file.folder)
    missing = [i for i in solutions if i not in found]
    new = scorer.completion_reference_logprobs([scoring_sequence(solutions[i]) for i in missing], temperature)
    for i, logprobs in zip(missing, new, strict=True):
        found[i] = tuple(logprobs.tolist())
        file.add_evidence({keys[i]: found[i]})
    return found


def _scores(
    solutions: Mapping[int, Solution], temperature: float, file: RoundFile, scorer: Scorer, current: bool
) -> dict[int, tuple[float, ...]]:
    """Return the policy's log-probs by solution index, as the trainer computes them; compute and store missing ones."""
    scores = file.scores(solutions)
    if not current:
        return scores
    missing = [i for i in solutions if i not in scores]
    new = scorer.completion_logprobs([scoring_sequence(solutions[i]) for i in missing], temperature)
    for i, logprobs in zip(missing, new, strict=True):
        scores[i] = tuple(logprobs.tolist())
        file.add_score(i, solutions[i], scores[i])
    return scores
