"""Scores of a validation or test loop over all ranks, logged with Lightning's ``self.log``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from tqdm.auto import tqdm

from lit_tpgrpo.distributed import gather
from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.metrics import AvgAtK, MajAtK, PassAtK
from lit_tpgrpo.records import EvaluatedGroup, Outcome, StopReason


@dataclass(frozen=True, slots=True)
class _Scored:
    """The part of an evaluated group that is kept until the end of the loop."""

    outcomes: tuple[Outcome, ...]
    answers: tuple[str | None, ...]
    truncated: int
    tokens: int


class EvaluationLog:
    """Collects the groups that a loop's batches hold and logs their scores at the loop's end.

    Args:
        pass_at: values of k for pass@k besides the number of samples a problem.

    Attributes:
        scores: of the last loop that held groups, without prefix.
        version: optimizer steps behind the policy that was scored, -1 before the first time.
    """

    def __init__(self, pass_at: Sequence[int] = (1,)) -> None:
        self.pass_at = tuple(pass_at)
        self.scores: dict[str, Tensor] = {}
        self.version = -1
        self._groups: list[_Scored] = []
        self._logging_step: int | None = None

    def start(self) -> None:
        """Discard the groups of a loop that was interrupted."""
        self._groups = []

    def add(self, batch: Any) -> None:
        """Add a batch's group; ignore anything else (another loader's batch, None if other ranks have more)."""
        if isinstance(batch, EvaluatedGroup):
            truncated = sum(s.stop is StopReason.LENGTH for s in batch.solutions)
            tokens = sum(len(s.completion_ids) for s in batch.solutions)
            self._groups.append(_Scored(tuple(batch.outcomes), tuple(batch.answers), truncated, tokens))

    def empty(self) -> bool:
        """Return whether no rank has a group. Collective."""
        return not any(gather(bool(self._groups)))

    def finish(self, module: L.LightningModule, prefix: str) -> None:
        """Log the scores under ``prefix/`` and print them. Collective, in a hook where ``module.log`` may be called."""
        groups = [group for part in gather(self._groups) for group in part]
        self._groups = []
        if not groups:
            return
        self.scores = scores_of(groups, self.pass_at)
        self.version = module.policy_version if isinstance(module, Policy) else module.trainer.global_step
        # Equal on all ranks, so averaging changes nothing; Lightning warns of values that are not synchronised.
        module.log_dict({f"{prefix}/{k}": v for k, v in self.scores.items()}, batch_size=1, sync_dist=True)
        self._log_at(module.trainer, self.version)
        if module.trainer.is_global_zero:
            tqdm.write(score_line(prefix, self.version, self.scores))

    def finished(self, trainer: L.Trainer) -> None:
        """Restore the step counter after Lightning has sent the scores to the loggers."""
        if self._logging_step is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._logging_step
            self._logging_step = None

    def _log_at(self, trainer: L.Trainer, step: int) -> None:
        """Set the step at which Lightning logs the scores; its counter is one behind in ``fit`` and 0 elsewhere.

        Its public remedy, a metric named ``step``, would stay in ``callback_metrics`` and name checkpoints wrongly.
        """
        loop = trainer.fit_loop.epoch_loop
        self._logging_step, loop._batches_that_stepped = loop._batches_that_stepped, step


@runtime_checkable
class ScoresGroups(Protocol):
    """A LightningModule that scores the evaluated groups of its validation and test batches itself."""

    evaluation: EvaluationLog


def scores_of(groups: Sequence[_Scored], pass_at: Sequence[int]) -> dict[str, Tensor]:
    """Compute avg@k, maj@k and pass@k of problems with k samples each.

    Standard errors are added where there are two problems or more.
    """
    samples = len(groups[0].outcomes)
    parts: dict[str, Metric | MetricCollection] = {
        "avg": AvgAtK(samples, sync_on_compute=False),  # the groups are of all processes already
        "maj": MajAtK(samples, sync_on_compute=False),
    }
    metrics = MetricCollection(
        parts | {f"pass_{k}": PassAtK(k, sync_on_compute=False) for k in sorted({*pass_at, samples})}
    )
    for group in groups:
        metrics.update(list(group.outcomes), list(group.answers))
    scores = {k: v for k, v in metrics.compute().items() if not torch.isnan(v)}
    solutions = len(groups) * samples
    undecided = sum(outcome is Outcome.UNDECIDED for g in groups for outcome in g.outcomes)
    scores["undecided_share"] = torch.tensor(undecided / solutions)  # counted as not correct above
    scores["truncated_share"] = torch.tensor(sum(g.truncated for g in groups) / solutions)
    scores["length_mean"] = torch.tensor(sum(g.tokens for g in groups) / solutions)
    scores["problems"] = torch.tensor(float(len(groups)))
    return scores


def score_line(prefix: str, step: int, scores: Mapping[str, Tensor]) -> str:
    """``eval | step 8 | avg@4 0.812 ± 0.031, ...``; without ± where one problem has no error."""
    shown = []
    for name in (k for k in scores if "@" in k and not k.endswith("_se")):
        error = scores.get(f"{name}_se") if name.startswith("avg@") else None
        shown.append(f"{name} {float(scores[name]):.3f}" + ("" if error is None else f" ± {float(error):.3f}"))
    problems = int(scores["problems"])
    return f"{prefix} | step {step} | {', '.join(shown)} | {problems} problem{'s' if problems != 1 else ''}"
