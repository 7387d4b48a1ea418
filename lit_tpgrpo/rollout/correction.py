"""The trainer's own log-probs of a round, and what makes up for the engine's being others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_tpgrpo.distributed import gather_sum
from lit_tpgrpo.functional.corrections import importance_weights, truncation_sums
from lit_tpgrpo.functional.kl import kl_k3
from lit_tpgrpo.records import CreditedSolution, Round, TrainingSequence
from lit_tpgrpo.rollout.store import RoundFile
from lit_tpgrpo.rollout.training_sequences import training_sequence

log = logging.getLogger(__name__)

MISMATCH_ALARM = 0.01
"""Nats a token of ``mismatch/kl`` above which a round is warned of: a choice, far above what rounding gives (5e-7 in mean
log-prob difference for vLLM and the tiny policy in float32) and far below other weights."""

CorrectionName = Literal[
    "auto",
    "off",
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
    "product_truncate",
    "product_mask",
]


@runtime_checkable
class Scorer(Protocol):
    """A module that can say how likely the policy in training finds given completions."""

    def completion_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """(T,) float32 log-probs of each sequence's completion, without gradient. Collective."""
        ...


@dataclass(frozen=True)
class Correction:
    """How a round is corrected: a method of ``functional.corrections`` and its bounds."""

    method: str
    cap: float
    floor: float = 0.0

    def apply(
        self, made: Round, file: RoundFile, scorer: Scorer, current: bool, cut: bool = False
    ) -> tuple[Round, MismatchTally]:
        """The round with the trainer's log-probs as its old ones and importance weights, and what ``mismatch/`` metrics are of.

        Only kept solutions are scored, each once: the scores are stored with the round, for a resumed run has other weights.

        Args:
            current: whether the policy still has the weights that sampled the round. If not, what was never scored (the
                keep rule or the judge was changed) keeps the engine's log-probs, uncorrected and counted.
            cut: whether ``top_p`` or ``top_k`` cut what was sampled from. The engine's log-probs are then of what is left: the
                weights are divided by the kept mass of the round (see ``functional.corrections.truncation_sums``), and
                what was never scored weighs nothing.
        """
        solutions = {at: s.judged.solution for at, s in zip(made.kept_indices, made.kept, strict=True)}
        scores = file.scores(solutions)
        missing = [(at, s) for at, s in zip(made.kept_indices, made.kept, strict=True) if at not in scores]
        # Collective: a process with nothing to score still takes part.
        todo = [training_sequence(s) for _, s in missing]
        new = scorer.completion_logprobs(todo, made.temperature) if current else []
        for (at, _), logprobs in zip(missing, new, strict=False):
            scores[at] = tuple(logprobs.tolist())
            file.add_score(at, solutions[at], scores[at])
        unscored = sum(at not in scores for at in made.kept_indices)
        if unscored:
            log.warning(
                "%d solutions of round %d were not scored before the policy moved on: they are %s",
                *(unscored, made.index, "not trained on" if cut else "not corrected"),
            )
        mass = (
            self._kept_mass([(scores[at], s.logprobs) for at, s in solutions.items() if at in scores]) if cut else None
        )
        corrected = tuple(
            self._corrected(s, scores.get(at), mass) for at, s in zip(made.kept_indices, made.kept, strict=True)
        )
        return replace(made, kept=corrected), replace(tally_mismatch(corrected, unscored), kept_mass=mass)

    def _kept_mass(self, scored: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
        """Mean ratio over the scored tokens of all processes; 1 without any. Collective."""
        parts = [truncation_sums(torch.tensor(trainer), torch.tensor(engine), self.cap) for trainer, engine in scored]
        total, tokens = gather_sum(torch.tensor(parts, dtype=torch.float64).reshape(-1, 2).sum(0)).tolist()
        return total / tokens if total > 0 else 1.0

    def _corrected(
        self, solution: CreditedSolution, score: tuple[float, ...] | None, mass: float | None
    ) -> CreditedSolution:
        sampled = torch.tensor(solution.judged.solution.logprobs, dtype=torch.float32)
        trainer = sampled if score is None else torch.tensor(score, dtype=torch.float32)
        kept_mass = 1.0 if mass is None else mass
        weights = importance_weights(trainer, sampled, self.method, self.cap, self.floor, kept_mass)
        if score is None and mass is not None:
            weights = torch.zeros_like(weights)
        return replace(solution, trainer_logprobs=trainer, importance_weights=weights)


@dataclass(frozen=True)
class MismatchTally:
    """Sums over all tokens of the kept solutions, of one process or of all; extremes are None without a token."""

    sums: tuple[float, ...]
    gap_max: float | None
    weight_min: float | None
    weight_max: float | None
    kept_mass: float | None = None
    """Of all processes; None where nothing was cut."""

    def __add__(self, other: MismatchTally) -> MismatchTally:
        def both(choose: Callable[[list[float]], float], *values: float | None) -> float | None:
            given = [v for v in values if v is not None]
            return choose(given) if given else None

        return MismatchTally(
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            both(max, self.gap_max, other.gap_max),
            both(min, self.weight_min, other.weight_min),
            both(max, self.weight_max, other.weight_max),
            self.kept_mass,
        )

    def metrics(self) -> dict[str, float]:
        """How far the engine's log-probs are from the trainer's, and the weights, under ``mismatch/``.

        With ``top_p`` or ``top_k``, ``kept_mass`` is the mean probability of what they left; the distances hold that cut too.
        """
        tokens, gap, kl, weight, unscored = self.sums
        metrics = {"mismatch/unscored": unscored}
        if self.kept_mass is not None:
            metrics["mismatch/kept_mass"] = self.kept_mass
        if self.gap_max is None or self.weight_min is None or self.weight_max is None:
            return metrics
        return metrics | {
            "mismatch/logprob_mean": gap / tokens,
            "mismatch/logprob_max": self.gap_max,
            "mismatch/kl": kl / tokens,
            "mismatch/weight_mean": weight / tokens,
            "mismatch/weight_min": self.weight_min,
            "mismatch/weight_max": self.weight_max,
        }


def tally_mismatch(kept: Sequence[CreditedSolution], unscored: int) -> MismatchTally:
    """One process's part."""
    if not kept:
        return MismatchTally((0.0, 0.0, 0.0, 0.0, float(unscored)), None, None, None)
    trainer = torch.cat([s.trainer_logprobs for s in kept if s.trainer_logprobs is not None])
    weights = torch.cat([s.importance_weights for s in kept if s.importance_weights is not None])
    engine = torch.cat([torch.tensor(s.judged.solution.logprobs, dtype=torch.float32) for s in kept])
    gap = (engine - trainer).abs()
    sums = (len(gap), gap.double().sum(), kl_k3(engine, trainer).double().sum(), weights.double().sum(), unscored)
    return MismatchTally(tuple(map(float, sums)), float(gap.max()), float(weights.min()), float(weights.max()))


def warn_of_mismatch(kl: float, round_index: int) -> None:
    """Warn that a round was sampled by another policy than the one in training, ``kl`` nats a token away."""
    if kl > MISMATCH_ALARM:
        rank_zero_warn(
            f"round {round_index} was sampled from other weights or another arithmetic than those in training: mismatch/kl is "
            f"{kl:.2g} nats a token, above {MISMATCH_ALARM}. Let the engine compute in the trainer's dtype (an adapter merged "
            "into bfloat16 weights loses its small updates: set the engine's dtype to float32), and look at "
            "sampling settings that change log-probs"
        )
