"""Credit of VPPO (arXiv 2601.18984): the part of an incorrect solution before its first wrong step is worth something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from statistics import fmean
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit, warn_of_unused_rewards
from lit_tpgrpo.credit.merging import has_usable_labels, merge_thoughts
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import callable_name
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Outcome, Solution, StepLabel


@runtime_checkable
class PrefixMargin(Protocol):
    """Interface of a margin: how many tokens before its first wrong step a solution's good prefix ends."""

    def __call__(self, solution: Solution) -> int: ...


@dataclass(frozen=True)
class PromptMargin:
    """As many tokens as the prompt has, the best of the paper's rules (second-hand)."""

    def __call__(self, solution: Solution) -> int:
        return len(solution.prompt_ids)


@dataclass(frozen=True)
class FixedMargin:
    """A fixed number of tokens, 200 in the paper (second-hand).

    Raises:
        ConfigError: it is negative.
    """

    tokens: int = 200

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(f"tokens must be at least 0, got {self.tokens}")

    def __call__(self, solution: Solution) -> int:
        return self.tokens


@dataclass(frozen=True)
class LengthMargin:
    """A share of the solution's tokens, 0.1 in the paper (second-hand), rounded down (the rounding is unpublished).

    Raises:
        ConfigError: it is not in [0, 1].
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share must be in [0, 1], got {self.share}")

    def __call__(self, solution: Solution) -> int:
        return int(self.share * len(solution.completion_ids))


@checked_arguments()
class VPPOCredit(GroupCredit):
    """Value 1 for correct solutions, alpha for the good prefix of incorrect ones, minus the group's mean.

    With L_i the tokens of solution i, and the good prefix the tokens before the first wrong step, less a margin of c tokens:

        v_it = 1 in a correct solution; in an incorrect one alpha if t < (first token of the first wrong step) - c, else 0
        A_it = v_it - mean over solutions of (sum_t v_it / L_i)

    The baseline weighs every solution alike, whatever its length; there is no standard deviation. All equations are
    second-hand. The paper takes the first step that a process reward model scores below 0.8; here it is the first one that is
    labelled MATCHED, at the latest the answer block. An incorrect solution without usable labels has no good prefix. Labels of
    correct solutions are not used. A solution without tokens counts as 1 in the baseline if it is correct, else as 0 (ours).

    Args:
        alpha: value of a good prefix, 0.5 in the paper (second-hand: 0.3 to 0.7 do, 0.9 does not).
        margin: c, ``PromptMargin`` (the default), ``FixedMargin`` or ``LengthMargin``, or any function of a solution, rounded
            down. The paper's models lengthened their solutions without it.
        floor: whether good prefixes have at least advantage 0, which the paper advises for instruct models, not for base
            models (second-hand).

    Raises:
        ConfigError: alpha is not in (0, 1].
    """

    def __init__(self, alpha: float = 0.5, margin: PrefixMargin | None = None, floor: bool = False) -> None:
        if not 0 < alpha <= 1:
            raise ConfigError(f"alpha must be in (0, 1], the value of a correct solution being 1, got {alpha}")
        self.alpha = alpha
        self.margin: PrefixMargin = PromptMargin() if margin is None else margin
        self.floor = floor

    @property
    def settings(self) -> dict[str, bool | float | str]:
        """What loggers show of this credit assignment."""
        return {"alpha": self.alpha, "margin": self._margin_name(), "floor": self.floor}

    def _margin_name(self) -> str:
        # The repr of a function holds a memory address.
        return repr(self.margin) if is_dataclass(self.margin) else callable_name(self.margin)

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Compute token values and subtract the mean over solutions."""
        warn_of_unused_rewards(self, rewarded)
        values = [self._values(judged) for judged in rewarded]
        baseline = fmean(_mean_value(judged, v) for judged, v in zip(rewarded, values, strict=True))
        return [self._credit(judged, v, baseline) for judged, v in zip(rewarded, values, strict=True)]

    def _values(self, judged: JudgedSolution) -> Tensor:
        if judged.outcome is Outcome.CORRECT:
            has_usable_labels(judged)  # a verdict that contradicts its solution is an error here too
            return torch.ones(len(judged.solution.completion_ids), dtype=torch.float64)
        values = torch.zeros(len(judged.solution.completion_ids), dtype=torch.float64)
        if has_usable_labels(judged):
            verdict = judged.verdict
            first_wrong = verdict.steps[verdict.labels.index(StepLabel.MATCHED)].token_start
            values[: max(0, first_wrong - int(self.margin(judged.solution)))] = self.alpha
        return values

    def _credit(self, judged: JudgedSolution, values: Tensor, baseline: float) -> CreditedSolution:
        is_correct = judged.outcome is Outcome.CORRECT
        outcome = float(is_correct) - baseline
        advantages = values - baseline
        if self.floor and not is_correct:
            advantages = torch.where(values > 0, advantages.clamp(min=0), advantages)
        thoughts = merge_thoughts(judged.verdict)
        # A good prefix may end within a thought: that of its first token.
        rewards = [advantages[t.token_start].item() - outcome if t.token_end > t.token_start else 0.0 for t in thoughts]
        return CreditedSolution(judged, outcome, thoughts, tuple(rewards), advantages.float())


def _mean_value(judged: JudgedSolution, values: Tensor) -> float:
    """Return the mean of a solution's token values; without tokens that of its outcome, for the mean of nothing is NaN."""
    return values.mean().item() if len(values) else float(judged.outcome is Outcome.CORRECT)
