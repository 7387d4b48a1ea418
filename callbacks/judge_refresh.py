"""JudgeRefresh: renews the judge every n rounds, voids verdicts it made before, and audits it on labelled steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Protocol, runtime_checkable

import lightning as L
from transformers import PreTrainedTokenizerBase

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.distributed import gather_sum, raise_on_all_ranks
from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.judges.base import JudgeCase, RefreshableJudge, StoringJudge, tally_of
from lit_tpgrpo.judges.scoring import LabelCounts, count_labels
from lit_tpgrpo.records import StepLabel
from lit_tpgrpo.rollout.hooks import RoundCallback, rollout_source, shows_bars
from lit_tpgrpo.rollout.sampling import bar

log = logging.getLogger(__name__)


@runtime_checkable
class AuditSet(Protocol):
    """Solutions whose step labels are known."""

    def cases(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[JudgeCase, tuple[StepLabel, ...]]]: ...


@checked_arguments()
class JudgeRefresh(RoundCallback):
    """Every n rounds, before sampling: refresh the judge where it can be, void older verdicts, audit.

    A judge that does not change with the policy is frozen: it stays as it is and its verdicts stay valid. The audit logs
    precision, recall and F1 of each label, the share of steps left ABSTAINED and the judge's own counts under
    ``judge_audit/``, and warns where an F1 falls below ``alarm_f1``.

    Args:
        every_n_rounds: at least 1.
        audit: labelled solutions; None audits nothing.
        alarm_f1: F1 under which a label raises the alarm, in [0, 1].
    """

    def __init__(self, every_n_rounds: int = 1, audit: AuditSet | None = None, alarm_f1: float = 0.8) -> None:
        if every_n_rounds < 1 or not 0 <= alarm_f1 <= 1:
            raise ConfigError(
                f"every_n_rounds must be at least 1 and alarm_f1 in [0, 1], got {every_n_rounds} and {alarm_f1}"
            )
        self.every_n_rounds = every_n_rounds
        self.audit = audit
        self.alarm_f1 = alarm_f1

    def on_round_start(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        if round_index % self.every_n_rounds:
            return
        source = rollout_source(trainer, self)
        if isinstance(source.judge, RefreshableJudge) and isinstance(pl_module, Policy):
            changed = source.judge.refresh(pl_module)
            if changed:
                source.invalidate_verdicts()
        if self.audit is not None and isinstance(pl_module, Policy):
            with raise_on_all_ranks("the audit of the judge"):
                mine = self.audit.cases(pl_module.tokenizer)[trainer.global_rank :: trainer.world_size]
                watched = partial(
                    bar,
                    desc=f"round {round_index}: audit of the judge",
                    total=len(mine),
                    show=shows_bars(trainer, source.progress),
                    unit="solution",
                )
                # A stored reply says nothing of the judge of today.
                with source.judge.bypass_cache() if isinstance(source.judge, StoringJudge) else nullcontext():
                    counts = count_labels(source.judge, mine, watched)
            # Taken here, or they would be added to the round's.
            own = gather_sum(tally_of(source.judge))
            self._publish(trainer, gather_sum(counts), own.metrics())

    def _publish(self, trainer: L.Trainer, counts: LabelCounts, own: Mapping[str, float]) -> None:
        metrics = {f"judge_audit/{name}": value for name, value in {**own, **counts.metrics()}.items()}
        alarms = [label for label in counts.present() if counts.f1(label) < self.alarm_f1]
        metrics["judge_audit/alarms"] = float(len(alarms))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        for label in alarms:
            log.warning("judge audit: F1 of %s steps is %.3f, under %.3f", label.value, counts.f1(label), self.alarm_f1)
