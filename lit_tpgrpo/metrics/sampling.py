"""Metrics avg@k, pass@k and maj@k over problems, each with its standard error, exact across ranks.

All three are updated in the same way, once per problem, so one call updates a ``MetricCollection``::

    metrics = MetricCollection({m.label: m for m in (AvgAtK(8), PassAtK(1), PassAtK(8), MajAtK(8))})
    metrics.update(outcomes, answers)  # the 8 samples of one problem
    metrics.compute()  # {"avg@8": ..., "avg@8_se": ..., "pass@1": ..., ...}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.metrics.scores import average, majority, moments_compute, moments_update, pass_at_k
from lit_tpgrpo.records import Outcome


class _MeanOverProblems(Metric):
    """Mean of a score over problems; ``compute`` returns it as ``label`` and its standard error as ``label_se``.

    Without a problem both are NaN (torchmetrics also warns), with one problem the error is NaN.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, kind: str, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ConfigError(f"{kind}@k: expected k of at least 1, got {k}")
        self.k = k
        self.label = f"{kind}@{k}"
        # Each metric has its own state name, because MetricCollection merges metrics whose states have the same names and,
        # after the first update, the same values: an all-correct first problem would turn pass@8 into avg@8.
        self._state = f"moments_{kind}_{k}"
        self.add_state(self._state, torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> dict[str, Tensor]:
        mean, error = moments_compute(getattr(self, self._state))
        return {self.label: mean, f"{self.label}_se": error}

    def _add(self, score: float) -> None:
        moments = getattr(self, self._state)
        setattr(self, self._state, moments + moments_update(score).to(moments.device))

    def _check_count(self, outcomes: Sequence[Outcome]) -> None:
        if len(outcomes) != self.k:
            raise ValueError(
                f"{self.label}: expected the {self.k} samples of one problem, got {len(outcomes)}. Set k to the number "
                f"of samples."
            )


class AvgAtK(_MeanOverProblems):
    """avg@k: mean share of correct samples, k per problem.

    Args:
        k: Number of samples per problem.
        kwargs: Further arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__("avg", k, **kwargs)

    def update(self, outcomes: Sequence[Outcome], answers: Sequence[str | None] | None = None) -> None:
        """Add one problem. ``answers`` is not used."""
        self._check_count(outcomes)
        self._add(average(outcomes))


class PassAtK(_MeanOverProblems):
    """pass@k: probability that one of k samples is correct, by the unbiased estimator from n >= k samples per problem.

    Args:
        k: Number of tries.
        kwargs: Further arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__("pass", k, **kwargs)

    def update(self, outcomes: Sequence[Outcome], answers: Sequence[str | None] | None = None) -> None:
        """Add one problem with at least k samples. ``answers`` is not used."""
        self._add(pass_at_k(outcomes, self.k))


class MajAtK(_MeanOverProblems):
    """maj@k: share of problems whose most frequent answer among k samples is correct; a tie counts its expected value.

    Samples without an answer have no vote; a problem without any vote scores 0.

    Args:
        k: Number of samples per problem.
        key: Maps answers to candidates: answers with the same key are votes for the same candidate. By default ``vote_key``,
            which ignores only spaces and LaTeX sizing.
        kwargs: Further arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int, key: Callable[[str], str] | None = None, **kwargs: Any) -> None:
        super().__init__("maj", k, **kwargs)
        self._key = key

    def update(self, outcomes: Sequence[Outcome], answers: Sequence[str | None]) -> None:
        """Add one problem; ``answers[i]`` is the answer extracted from sample i, or None."""
        self._check_count(outcomes)
        if len(answers) != len(outcomes):
            raise ValueError(f"{self.label}: expected one answer (or None) per sample, got {len(answers)} for {self.k}")
        self._add(majority(outcomes, answers, self._key))
