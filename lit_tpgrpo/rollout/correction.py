"""Score a round with the trainer's log-probs, and compute importance weights that correct the engine-trainer mismatch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from lit_tpgrpo.arguments import accepted, checked_arguments, shown
from lit_tpgrpo.distributed import gather_sum, raise_on_all_ranks
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import callable_name
from lit_tpgrpo.functional.corrections import CORRECTIONS, importance_weights, truncation_sums
from lit_tpgrpo.records import CreditedSolution, Round, TrainingSequence
from lit_tpgrpo.rollout.mismatch import MismatchTally, tally_mismatch
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.training_sequences import tensor_floats, training_sequence
from lit_tpgrpo.token_arrays import TokenFloats

log = logging.getLogger(__name__)

WeightRule = Callable[[Tensor, float, float], Any]
"""``(log_ratio, floor, cap) -> weights``, as the functions of ``lit_tpgrpo.functional.corrections``.

With Tensor in place of Any the command line would refuse a function without a return annotation.
"""

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
    """A module that computes log-probs of given completions under the current policy."""

    def completion_logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[Tensor]:
        """Return (T,) float32 log-probs of each sequence's completion, without gradient. Collective."""
        ...


def scorer_of(module: object) -> Scorer:
    """Return a LightningModule as the scorer that a correction needs.

    Raises:
        ConfigError: it computes no log-probs of completions.
    """
    if not isinstance(module, Scorer):
        raise ConfigError(
            f"data.correction needs a module that scores completions, and {type(module).__name__} has no "
            "completion_logprobs; use TPGRPOModule, add the method, or set data.correction to off"
        )
    return module


@checked_arguments()
@dataclass(frozen=True)
class Correction:
    """How the engine-trainer log-prob mismatch of a round is corrected.

    Args:
        method: a name of ``functional.corrections``; ``auto`` is ``token_truncate`` for an engine with a mismatch and ``off``
            for others. Or a function ``(log_ratio, floor, cap) -> weights``, where ``log_ratio`` is log c_t, (T,) float32, of
            one solution and ``weights`` are (T,), finite.
        cap: the most a weight may be; IcePop's is 5 (arXiv 2510.18855, second-hand: the code of others).
        floor: the least; 0 sets no bound. IcePop's is 0.5 (second-hand, likewise).

    Raises:
        ConfigError: a value is out of its range.
    """

    method: CorrectionName | WeightRule = "auto"
    cap: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ConfigError(f"correction.cap must be at least 1, the weight of an exact sample, got {self.cap}")
        if not 0 <= self.floor <= 1:
            raise ConfigError(
                f"correction.floor must lie between 0 (no bound) and 1, the weight of an exact sample, got {self.floor}"
            )

    def for_engine(self, engine: object) -> Correction | None:
        """Return the correction with ``auto`` resolved for an engine, None if there is nothing to correct."""
        method = self.method
        if method == "auto":
            method = "token_truncate" if getattr(engine, "mismatched", False) else "off"
        return None if method == "off" else replace(self, method=method)

    def apply(
        self, round_: Round, file: RoundFile, scorer: Scorer, current: bool, cut: bool = False
    ) -> tuple[Round, MismatchTally]:
        """Return the round with the trainer's log-probs as old log-probs and importance weights, and sums for ``mismatch/``.

        Only kept solutions are scored, and stored with the round, since a resumed run has other weights. If a crash left a part
        of them all are computed again, so that those it lacks come from the same micro-batches and are the same, bit for bit.

        Args:
            round_: this rank's share.
            file: the round on disk.
            scorer: the trainer's module.
            current: whether the policy still has the weights that sampled the round. If not, solutions that were never scored
                (the keep rule or the judge was changed) keep the engine's log-probs, uncorrected, and are counted.
            cut: whether ``top_p`` or ``top_k`` cut the distribution. The engine's log-probs are then those of the rest: the
                weights are divided by the kept mass of the round (see ``functional.corrections.truncation_sums``), and
                solutions that were never scored have weight 0.

        Raises:
            ConfigError: the user's method returned something other than weights.
        """
        solutions = {i: s.judged.solution for i, s in zip(round_.kept_indices, round_.kept, strict=True)}
        with raise_on_all_ranks("reading stored scores"):
            scores = file.scores(solutions)
            missing = {i for i in solutions if i not in scores}
            todo = [training_sequence(s) for s in round_.kept] if missing else []
        # Collective: a rank with nothing to score takes part, too.
        new = scorer.completion_logprobs(todo, round_.temperature) if current else []
        with raise_on_all_ranks("storing scores"):
            for i, logprobs in zip(round_.kept_indices, new, strict=False):
                if i in missing:
                    scores[i] = tensor_floats(logprobs)
                    file.add_score(i, solutions[i], scores[i])
        unscored = sum(i not in scores for i in round_.kept_indices)
        if unscored:
            log.warning(
                "%d solutions of round %d were not scored before the policy moved on: they are %s",
                *(unscored, round_.index, "not trained on" if cut else "not corrected"),
            )
        mass = self._kept_mass([(scores[i], s.logprobs) for i, s in solutions.items() if i in scores]) if cut else None
        with raise_on_all_ranks("data.correction"):  # the rule may be the user's
            corrected = tuple(
                self._corrected(s, scores.get(i), mass) for i, s in zip(round_.kept_indices, round_.kept, strict=True)
            )
        return replace(round_, kept=corrected), replace(tally_mismatch(corrected, unscored), kept_mass=mass)

    def _rule(self) -> WeightRule:
        if isinstance(self.method, str):
            return CORRECTIONS[self.method]
        return functools.partial(checked_weights, self.method)

    def _kept_mass(self, scored: Sequence[tuple[TokenFloats, TokenFloats]]) -> float:
        """Return the mean ratio over the scored tokens of all ranks, 1 without any. Collective."""
        parts = [truncation_sums(torch.tensor(trainer), torch.tensor(engine), self.cap) for trainer, engine in scored]
        total, tokens = gather_sum(torch.tensor(parts, dtype=torch.float64).reshape(-1, 2).sum(0)).tolist()
        return total / tokens if total > 0 else 1.0

    def _corrected(self, solution: CreditedSolution, score: TokenFloats | None, mass: float | None) -> CreditedSolution:
        sampled = torch.tensor(solution.judged.solution.logprobs, dtype=torch.float32)
        trainer = sampled if score is None else torch.tensor(score, dtype=torch.float32)
        kept_mass = 1.0 if mass is None else mass
        weights = importance_weights(trainer, sampled, self._rule(), self.cap, self.floor, kept_mass)
        if score is None and mass is not None:
            weights = torch.zeros_like(weights)
        return replace(solution, trainer_logprobs=trainer, importance_weights=weights)


if TYPE_CHECKING:
    GivenCorrection = Correction | CorrectionName | WeightRule
else:  # what the command line can give; a function goes to the option correction.method
    GivenCorrection = Correction | CorrectionName


def as_correction(value: Any, where: str) -> Correction:
    """Return a correction; a method's name or function becomes one with the default bounds.

    Raises:
        ConfigError: it is neither; ``where`` names the argument.
    """
    if callable(value) and not isinstance(value, type):
        return Correction(cast(WeightRule, value))
    given = accepted(value, Correction | CorrectionName, where)
    return given if isinstance(given, Correction) else Correction(given)


def checked_weights(method: WeightRule, log_ratio: Tensor, floor: float, cap: float) -> Tensor:
    """Call a user's method.

    Raises:
        ConfigError: it returned something other than (T,) finite weights.
    """
    weights: Any = method(log_ratio, floor, cap)
    if isinstance(weights, Tensor) and weights.shape == log_ratio.shape and weights.isfinite().all():
        return weights.detach().float()
    got = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else shown(weights)
    if isinstance(weights, Tensor) and weights.shape == log_ratio.shape:
        got = "values that are not finite"
    raise ConfigError(
        f"data.correction.method: {callable_name(method)} must return a tensor of {tuple(log_ratio.shape)} finite weights, one "
        f"for each token, got {got}"
    )
