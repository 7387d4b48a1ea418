"""Log-probs of a round's solutions under the frozen initial policy, for a KL term in the reward: before credit, stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.errors import ConfigError, NonFiniteLossError
from lit_tpgrpo.evidence import ReferenceLogprobs
from lit_tpgrpo.fingerprint import content_hash
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Outcome, Solution, TrainingSequence
from lit_tpgrpo.rollout.correction import Scorer
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.training_sequences import scoring_sequence, tensor_floats
from lit_tpgrpo.token_arrays import TokenFloats

log = logging.getLogger(__name__)


@runtime_checkable
class ReferenceScorer(Scorer, Protocol):
    """A module that computes log-probs of given completions under the current policy and under its reference."""

    def completion_reference_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """Return (T,) float32 log-probs of each sequence's completion, without gradient. Collective."""
        ...

    def reference_fingerprint(self) -> str:
        """Return a hash that is another one for a reference with other weights. Not collective."""
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
        methods = ("completion_reference_logprobs", "reference_fingerprint", "completion_logprobs")
        raise ConfigError(
            f"data.credit needs a module that scores completions under a reference, and {type(module).__name__} has no "
            f"{', '.join(m for m in methods if not hasattr(module, m))}; use TPGRPOModule, add what is missing, or take a "
            "credit without a KL term"
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

    What is computed is stored with the round: the reference's under a key with the reference's fingerprint; the
    policy's, where the engine's cannot be compared with it, as the scores of ``Correction``, which uses them again. If a crash
    left a part, all are computed again, as ``Correction.apply`` does, so that the rest is the same, bit for bit.

    Args:
        groups: of this rank, by group index.
        group_size: solutions of a group.
        temperature: of sampling.
        file: the round on disk.
        scorer: the trainer's module.
        mismatched: whether the engine's log-probs are not the trainer's.
        current: whether the policy still has the weights that sampled the round. If not, solutions of a mismatched engine that
            were never scored get none.

    Raises:
        NonFiniteLossError: log-probs are NaN or infinite. These are not stored; the others are.
    """
    solutions = {g * group_size + s.solution.sample: s.solution for g, group in groups.items() for s in group.decided}
    with raise_on_all_ranks("reading stored log-probs"):
        weights = scorer.reference_fingerprint()
        keys = {i: _key(s, temperature, weights) for i, s in solutions.items()}
        stored = file.references(set(keys.values()))
        references = {i: stored[keys[i]] for i in solutions if keys[i] in stored}
        policies = file.scores(solutions) if mismatched else {i: s.logprobs for i, s in solutions.items()}
        unreferred = [i for i in solutions if i not in references]
        unscored = [i for i in solutions if i not in policies and current]
        referred, scored = (solutions if missing else {} for missing in (unreferred, unscored))
        to_refer, to_score = ([scoring_sequence(s) for s in part.values()] for part in (referred, scored))
    # Both collectives before anything that can fail on one rank alone, such as a write.
    new_references = scorer.completion_reference_logprobs(to_refer, temperature)
    new_scores = scorer.completion_logprobs(to_score, temperature) if mismatched and current else []
    with raise_on_all_ranks("log-probs under the reference"):
        references = {i: tensor_floats(p) for i, p in zip(referred, new_references, strict=True)} | references
        policies = {i: tensor_floats(p) for i, p in zip(scored, new_scores, strict=True)} | policies
        for i in filter(lambda i: _is_finite(references[i]), unreferred):
            file.add_reference(keys[i], references[i])
        for i in filter(lambda i: _is_finite(policies[i]), unscored):
            file.add_score(i, solutions[i], policies[i])
        _check_finite(references, "the reference")
        _check_finite(policies, "the policy")
        if len(policies) < len(solutions):
            log.warning(
                "%d solutions were not scored before the policy moved on: their groups have no KL term in their rewards",
                len(solutions) - len(policies),
            )
        return {g: _with_logprobs(group, g * group_size, policies, references) for g, group in groups.items()}


def _key(solution: Solution, temperature: float, weights: str) -> str:
    return content_hash(
        ["reference log-probs", weights, temperature, solution.prompt_ids.tolist(), solution.completion_ids.tolist()],
        size=12,
    )


def _is_finite(logprobs: TokenFloats) -> bool:
    return bool(np.isfinite(logprobs).all())


def _check_finite(logprobs: Mapping[int, TokenFloats], of: str) -> None:
    bad = sorted(i for i, values in logprobs.items() if not _is_finite(values))
    if bad:
        raise NonFiniteLossError(
            f"log-probs under {of} are NaN or infinite in {len(bad)} of {len(logprobs)} solutions, first in number {bad[0]} of "
            "the round, so that there is no KL penalty; the others are stored. Try another model.dtype or trainer.precision, "
            "then resume with --ckpt_path"
        )


def _with_logprobs(
    group: JudgedGroup,
    start: int,
    policies: Mapping[int, TokenFloats],
    references: Mapping[int, TokenFloats],
) -> JudgedGroup:
    """Return a group, whose solutions have indices from ``start`` on, with log-probs on those that have both."""

    def attached(judged: JudgedSolution) -> JudgedSolution:
        i = start + judged.solution.sample
        if judged.outcome is Outcome.UNDECIDED or i not in policies:
            return judged
        return replace(judged, evidence=(*judged.evidence, ReferenceLogprobs(policies[i], references[i])))

    return replace(group, solutions=tuple(map(attached, group.solutions)))
