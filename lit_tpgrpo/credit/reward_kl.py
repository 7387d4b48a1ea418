"""A KL penalty in the reward, around a credit assignment: of each token (REINFORCE++) or of a whole solution (RLOO)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.baselines import LeaveOneOutBaseline, MeanBaseline
from lit_tpgrpo.credit.evidence_access import evidence_of
from lit_tpgrpo.credit.group_relative import GroupRelativeCredit, reward_of
from lit_tpgrpo.credit.returns import ReturnCredit
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evidence import ReferenceLogprobs
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.functional.kl import kl_k1
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution, Reward


def token_kl(judged: JudgedSolution) -> Tensor | None:
    """Compute k1 = log p_old - log q of each token of a solution, (T,) float64; None without the log-probs.

    The score function differentiates a reward, so that k1 has the gradient of KL(p || q) here; k2 and k3 would not.
    """
    logprobs = evidence_of(judged, ReferenceLogprobs)
    if logprobs is None:
        return None
    return kl_k1(
        torch.tensor(logprobs.policy, dtype=torch.float64), torch.tensor(logprobs.reference, dtype=torch.float64)
    )


class RewardKL(ABC):
    """Base of the KL penalties in the reward. The trainer computes the log-probs that they need, before credit.

    A group of which a rewarded solution lacks these log-probs has no penalty at all: the others would be compared with a reward
    that has none. So it is in ``predict``, where nothing is scored.

    Args:
        credit: the credit assignment inside.
        beta: weight of the penalty, above 0; the loss should have no KL term besides it.

    Raises:
        ConfigError: beta is not above 0 or not finite.
    """

    def __init__(self, credit: CreditAssignment, beta: float) -> None:
        if not 0 < beta < math.inf:
            raise ConfigError(f"beta must be above 0 and finite, got {beta}; without a penalty use the credit inside")
        self.credit, self.beta = credit, beta

    @property
    def needs(self) -> tuple[type, ...]:
        """What the credit inside needs, and the log-probs."""
        return (*getattr(self.credit, "needs", ()), ReferenceLogprobs)

    @property
    def settings(self) -> dict[str, Any]:
        """What loggers show."""
        return {"beta": self.beta, "credit": settings_of(self.credit)}

    def __call__(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Compute the credit of each solution, see ``CreditAssignment``."""
        if any(evidence_of(judged, ReferenceLogprobs) is None for judged in group.rewarded):
            return self.credit(group)
        return self.penalised(group)

    @abstractmethod
    def penalised(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Compute the credit with its penalty, of a group whose rewarded solutions all have log-probs."""


@checked_arguments()
class TokenRewardKL(RewardKL):
    """Subtract a KL penalty from the reward of each token, whose return is the sum of what follows (REINFORCE++).

    With A_t the credit inside, p the policy that sampled and q the frozen initial policy:

        A'_t = A_t - beta * sum_{s >= t} (log p_s - log q_s)

    Source: REINFORCE++ (arXiv 2501.03262), which whitens the result (``data.batch_stage`` ``Whitening``); PPO for RLHF. A
    solution that has nothing to be compared with has no penalty either. ``outcome_advantage`` is that of the credit inside.

    Args:
        credit: the credit assignment inside, any; ``ReturnCredit`` in the source.
        beta: weight of the penalty; 0.01, the default, is our choice.

    Raises:
        ConfigError: beta is not above 0 or not finite, or the credit inside is discounted, which the penalty is not.
    """

    def __init__(self, credit: CreditAssignment, beta: float = 0.01) -> None:
        super().__init__(credit, beta)
        if isinstance(credit, ReturnCredit) and credit.gamma != 1:
            raise ConfigError(
                f"TokenRewardKL sums its penalty without a discount, and ReturnCredit has gamma {credit.gamma}; set gamma to 1"
            )

    def penalised(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Compute the credit inside, less the penalty of the tokens from each one on."""
        return tuple(map(self._penalised, self.credit(group)))

    def _penalised(self, credited: CreditedSolution) -> CreditedSolution:
        kl = token_kl(credited.judged)
        if kl is None or not (credited.is_compared and credited.judged.is_rewarded):
            return credited
        ahead = kl.flip(0).cumsum(0).flip(0)
        return replace(credited, advantages=(credited.advantages.double() - self.beta * ahead).float())


def _uses_size_of_reward(credit: CreditAssignment) -> bool:
    if isinstance(credit, GroupRelativeCredit):
        return isinstance(credit.baseline, (LeaveOneOutBaseline, MeanBaseline))
    return isinstance(credit, ReturnCredit)


@checked_arguments()
class SequenceRewardKL(RewardKL):
    """Subtract a KL penalty from the reward of each solution, before the group's rewards are compared (RLOO).

    With R_i the reward of solution i, and p and q as for ``TokenRewardKL``:

        R'_i = R_i - beta * sum_t (log p_it - log q_it)

    Source: TRL 1.16, ``rloo_trainer.py``. The rewards that are logged stay those without the penalty.

    The credit inside must use the size of a reward. A division by the group's standard deviation would scale the penalties of
    a group with equal rewards to advantages of about 1, from 1e-4 or so on (eps is 1e-6); other credit assignments take the
    outcome, a grade or step scores in place of the reward, and would not see the penalty.

    Args:
        credit: the credit assignment inside: a ``GroupRelativeCredit`` with ``LeaveOneOutBaseline`` or ``MeanBaseline``, or
            ``ReturnCredit``; ``OutcomeCredit`` with ``LeaveOneOutBaseline`` is RLOO.
        beta: weight of the penalty; 0.05 in TRL.

    Raises:
        ConfigError: beta is not above 0 or not finite, or the credit inside is none of these.
    """

    def __init__(self, credit: CreditAssignment, beta: float = 0.05) -> None:
        super().__init__(credit, beta)
        if not _uses_size_of_reward(credit):
            baseline = f" with {type(credit.baseline).__name__}" if isinstance(credit, GroupRelativeCredit) else ""
            raise ConfigError(
                "SequenceRewardKL needs a credit that compares penalised rewards without dividing by their spread: one such as "
                "OutcomeCredit with LeaveOneOutBaseline or MeanBaseline, or ReturnCredit; got "
                f"{type(credit).__name__}{baseline}. TokenRewardKL goes around any credit"
            )

    def penalised(self, group: JudgedGroup) -> tuple[CreditedSolution, ...]:
        """Compute the credit inside from the penalised rewards."""
        credited = self.credit(replace(group, solutions=tuple(map(self._penalised, group.solutions))))
        return tuple(replace(c, judged=judged) for c, judged in zip(credited, group.solutions, strict=True))

    def _penalised(self, judged: JudgedSolution) -> JudgedSolution:
        kl = token_kl(judged)
        if kl is None or not judged.is_rewarded:
            return judged
        total, outcome = reward_of(judged)
        terms = {} if judged.reward is None else judged.reward.terms
        return replace(judged, reward=Reward(total - self.beta * kl.sum().item(), outcome, terms))
