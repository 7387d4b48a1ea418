"""avg@k, pass@k and maj@k over problems, each with its standard error, exact across ranks.

All three are updated alike, once for each problem, so one call feeds a ``MetricCollection``::

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
    """Mean of a score over problems. ``compute`` gives it under ``label`` and its standard error under ``label_se``.

    Without a problem both are NaN (torchmetrics also warns), with one the error is.
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
        # The name differs from metric to metric because MetricCollection unites metrics whose states have the same
        # names and, after the first update, the same values: an all-correct first problem would make avg@8 of pass@8.
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
                f"{self.label}: expected the {self.k} samples of one problem, got {len(outcomes)}. Give k the number "
                f"of samples that are drawn."
            )


class AvgAtK(_MeanOverProblems):
    """Mean share of correct samples, k for each problem.

    Args:
        k: Number of samples for each problem.
        kwargs: Of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__("avg", k, **kwargs)

    def update(self, outcomes: Sequence[Outcome], answers: Sequence[str | None] | None = None) -> None:
        """Add one problem. ``answers`` is not used."""
        self._check_count(outcomes)
        self._add(average(outcomes))


class PassAtK(_MeanOverProblems):
    """Probability that one of k samples is correct, by the unbiased estimator from n >= k samples for each problem.

    Args:
        k: Number of tries.
        kwargs: Of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__("pass", k, **kwargs)

    def update(self, outcomes: Sequence[Outcome], answers: Sequence[str | None] | None = None) -> None:
        """Add one problem with k samples or more. ``answers`` is not used."""
        self._add(pass_at_k(outcomes, self.k))


class MajAtK(_MeanOverProblems):
    """Share of problems whose most frequent answer among k samples is correct; ties count their expected value.

    Samples without an answer have no vote; a problem where none has one scores 0.

    Args:
        k: Number of samples for each problem.
        key: Maps answers to candidates: answers with one key vote together. By default ``vote_key``, which disregards
            spaces and LaTeX sizing only.
        kwargs: Of ``torchmetrics.Metric``.
    """

    def __init__(self, k: int, key: Callable[[str], str] | None = None, **kwargs: Any) -> None:
        super().__init__("maj", k, **kwargs)
        self._key = key

    def update(self, outcomes: Sequence[Outcome], answers: Sequence[str | None]) -> None:
        """Add one problem: ``answers[i]`` is what was extracted from sample i, or None."""
        self._check_count(outcomes)
        if len(answers) != len(outcomes):
            raise ValueError(f"{self.label}: expected one answer (or None) a sample, got {len(answers)} for {self.k}")
        self._add(majority(outcomes, answers, self._key))
