"""JudgeRefresh: refresh the judge every n rounds, invalidate its earlier verdicts, and audit it on labelled steps."""

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
from lit_tpgrpo.judges.scoring import ALARM_F1, LabelCounts, count_labels
from lit_tpgrpo.records import StepLabel
from lit_tpgrpo.rollout.hooks import RoundCallback, rollout_source, shows_bars
from lit_tpgrpo.rollout.sampling import bar
from lit_tpgrpo.rollout.trainer_state import log_to_all

log = logging.getLogger(__name__)


@runtime_checkable
class AuditSet(Protocol):
    """Solutions with known step labels, to audit a judge with."""

    def cases(self, tokenizer: PreTrainedTokenizerBase) -> Sequence[tuple[JudgeCase, tuple[StepLabel, ...]]]: ...


@checked_arguments()
class JudgeRefresh(RoundCallback):
    """Every n rounds, before sampling: refresh the judge if it can be, invalidate its earlier verdicts, and audit it.

    A judge that does not depend on the policy is not refreshed and its verdicts stay valid. The audit logs precision,
    recall and F1 of each label, the share of ABSTAINED steps and the judge's own counters under ``judge_audit/``, and
    warns if an F1 is below ``alarm_f1``.

    Args:
        every_n_rounds: at least 1.
        audit: labelled solutions; None skips the audit.
        alarm_f1: F1 below which a label is warned of, in [0, 1].
    """

    def __init__(self, every_n_rounds: int = 1, audit: AuditSet | None = None, alarm_f1: float = ALARM_F1) -> None:
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
                cases = self.audit.cases(pl_module.tokenizer)[trainer.global_rank :: trainer.world_size]
                with_bar = partial(
                    bar,
                    desc=f"round {round_index}: audit of the judge",
                    total=len(cases),
                    show=shows_bars(trainer, source.progress),
                    unit="solution",
                )
                # A cached reply would measure the judge of an earlier round.
                with source.judge.bypass_cache() if isinstance(source.judge, StoringJudge) else nullcontext():
                    counts = count_labels(source.judge, cases, with_bar)
            # Read the judge's counters here, or the audit's would be added to the round's.
            counters = gather_sum(tally_of(source.judge))
            self._publish(trainer, gather_sum(counts), counters.metrics())

    def _publish(self, trainer: L.Trainer, counts: LabelCounts, counters: Mapping[str, float]) -> None:
        metrics = {f"judge_audit/{name}": value for name, value in {**counters, **counts.metrics()}.items()}
        alarms = counts.alarms(self.alarm_f1)
        metrics["judge_audit/alarms"] = float(len(alarms))
        log_to_all(trainer, metrics)
        for label in alarms:
            log.warning("judge audit: F1 of %s steps is %.3f, under %.3f", label.value, counts.f1(label), self.alarm_f1)
