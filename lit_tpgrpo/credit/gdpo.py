"""Credit of GDPO (arXiv 2601.05242): each reward term is standardised in its group before the terms are added up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.group_credit import GroupCredit
from lit_tpgrpo.credit.group_relative import reward_of
from lit_tpgrpo.credit.merging import check_standardisation, merge_thoughts
from lit_tpgrpo.credit.per_solution import credit_outcome
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.advantages import standardise_group
from lit_tpgrpo.records import CreditedSolution, JudgedGroup, JudgedSolution


@checked_arguments()
class GDPOCredit(GroupCredit):
    """Credit every token of a solution with the weighted sum of its standardised reward terms.

    With v_ik the value of term k of solution i, mean and std over the solutions of the group to which the term applies:

        A_i = sum_k w_k (v_ik - mean_k) / (std_k + eps)

    A term whose values are all equal, or that a solution alone has, adds 0; one that skips a solution adds 0 to it. Without
    ``data.rewards`` the outcome, +1 or -1, is the only term.

    Source: GDPO (arXiv 2601.05242), as in TRL 1.16's ``multi_objective_aggregation: normalize_then_sum``, which then
    standardises over the solutions of the batch, whatever their length. ``data.batch_stage`` ``Whitening`` does so over the
    tokens of the round.

    Args:
        weights: w_k by the names of ``data.rewards``; 1 for a term that is not named, where the weights of ``data.rewards``
            themselves are not used.
        ddof: ddof of the standard deviation; 1 as in TRL.
        eps: added to it; 1e-4 in TRL.

    Raises:
        ConfigError: a weight is not finite, ddof is not 0 or 1, or eps is negative; with the first group: a weight's name is no
            term of ``data.rewards``.
    """

    def __init__(self, weights: dict[str, float] | None = None, ddof: int = 1, eps: float = 1e-4) -> None:
        check_standardisation(ddof, eps)
        self.weights = dict(weights or {})
        if not all(math.isfinite(weight) for weight in self.weights.values()):
            raise ConfigError(f"weights must be finite, got {self.weights}")
        self.ddof, self.eps = ddof, eps

    def credit_rewarded(self, group: JudgedGroup, rewarded: Sequence[JudgedSolution]) -> Sequence[CreditedSolution]:
        """Standardise each term and add them up."""
        values = [_terms(judged) for judged in rewarded]
        names = list(dict.fromkeys(name for terms in values for name in terms))
        unknown = self.weights.keys() - set(names)
        if unknown:
            raise ConfigError(
                f"GDPOCredit: weights names {', '.join(sorted(unknown))}, and data.rewards has {', '.join(names)}; name its "
                "terms"
            )
        totals = [0.0] * len(rewarded)
        for name in names:
            weight = self.weights.get(name, 1.0)
            for i, advantage in self._standardised([terms.get(name) for terms in values]).items():
                totals[i] += weight * advantage
        return [
            credit_outcome(judged, total, merge_thoughts(judged.verdict))
            for judged, total in zip(rewarded, totals, strict=True)
        ]

    def _standardised(self, values: Sequence[float | None]) -> dict[int, float]:
        """Return the standardised value of each solution that has one."""
        given = {i: value for i, value in enumerate(values) if value is not None}
        if len(given) < 2:
            return dict.fromkeys(given, 0.0)
        column = torch.tensor(list(given.values()), dtype=torch.float64)
        return dict(zip(given, standardise_group(column, self.ddof, self.eps).tolist(), strict=True))


def _terms(judged: JudgedSolution) -> Mapping[str, float | None]:
    return {"outcome": reward_of(judged)[0]} if judged.reward is None else judged.reward.terms
