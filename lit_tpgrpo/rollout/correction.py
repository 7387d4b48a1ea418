"""The trainer's own log-probs of a round, and what makes up for the engine's being others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_tpgrpo.functional.corrections import importance_weights
from lit_tpgrpo.functional.losses import kl_k3
from lit_tpgrpo.records import CreditedSolution, Round, TrainingSequence
from lit_tpgrpo.rollout.batching import training_sequence
from lit_tpgrpo.rollout.store import RoundFile

log = logging.getLogger(__name__)

CorrectionName = Literal["auto", "off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@runtime_checkable
class Scorer(Protocol):
    """A module that can say how likely the policy in training finds given completions."""

    def completion_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """(T,) float32 log-probs of each sequence's completion, without gradient. Collective."""
        ...


@dataclass(frozen=True)
class Correction:
    """How a round is corrected: a method of ``functional.corrections`` and its cap."""

    method: str
    cap: float

    def apply(self, made: Round, file: RoundFile, scorer: Scorer, current: bool, cut: bool = False) -> Round:
        """The round with the trainer's log-probs as its old ones and importance weights, and ``mismatch/`` metrics.

        Only kept solutions are scored, each once: the scores are stored with the round, for a resumed run has other weights.

        Args:
            current: whether the policy still has the weights that sampled the round. If not, what was never scored (the
                keep rule or the judge was changed) keeps the engine's log-probs, uncorrected and counted.
            cut: whether ``top_p`` or ``top_k`` cut what was sampled from. The engine's log-probs are then no policy's, and what
                was never scored weighs nothing.
        """
        place = {id(solution): i for i, solution in enumerate(made.credited)}
        scores = file.scores()
        missing = [s for s in made.kept if place[id(s)] not in scores]
        # Collective: a rank with nothing to score still takes part.
        new = scorer.completion_logprobs([training_sequence(s) for s in missing], made.temperature) if current else []
        for solution, logprobs in zip(missing, new, strict=False):
            scores[place[id(solution)]] = tuple(logprobs.tolist())
            file.add_score(place[id(solution)], scores[place[id(solution)]])
        unscored = sum(place[id(s)] not in scores for s in made.kept)
        if unscored:
            log.warning(
                "%d solutions of round %d were not scored before the policy moved on: they are %s",
                *(unscored, made.index, "not trained on" if cut else "not corrected"),
            )
        kept = tuple(self._corrected(s, scores.get(place[id(s)]), cut) for s in made.kept)
        return replace(
            made, kept=kept, metrics={**made.metrics, **_metrics(kept), "mismatch/unscored": float(unscored)}
        )

    def _corrected(self, solution: CreditedSolution, score: tuple[float, ...] | None, cut: bool) -> CreditedSolution:
        sampled = torch.tensor(solution.judged.solution.logprobs, dtype=torch.float32)
        trainer = sampled if score is None else torch.tensor(score, dtype=torch.float32)
        weights = importance_weights(trainer, sampled, self.method, self.cap)
        if score is None and cut:
            weights = torch.zeros_like(weights)
        return replace(solution, trainer_logprobs=trainer, importance_weights=weights)


def _metrics(kept: Sequence[CreditedSolution]) -> dict[str, float]:
    """Over all tokens of the kept solutions: how far the engine's log-probs are from the trainer's, and the weights."""
    if not kept:
        return {}
    trainer = torch.cat([s.trainer_logprobs for s in kept if s.trainer_logprobs is not None])
    weights = torch.cat([s.importance_weights for s in kept if s.importance_weights is not None])
    engine = torch.cat([torch.tensor(s.judged.solution.logprobs, dtype=torch.float32) for s in kept])
    gap = (engine - trainer).abs()
    return {
        "mismatch/logprob_mean": float(gap.mean()),
        "mismatch/logprob_max": float(gap.max()),
        "mismatch/kl": float(kl_k3(engine, trainer).mean()),
        "mismatch/weight_mean": float(weights.mean()),
        "mismatch/weight_min": float(weights.min()),
        "mismatch/weight_max": float(weights.max()),
    }
