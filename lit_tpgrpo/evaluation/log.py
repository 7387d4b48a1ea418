"""Scores of a validation or test loop over all ranks, logged with Lightning's ``self.log``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch import Tensor
from tqdm.auto import tqdm

from lit_tpgrpo.distributed import gather, gather_sum, raise_on_all_ranks
from lit_tpgrpo.engines.base import CountingEngine, Policy
from lit_tpgrpo.evaluation.scores import AVERAGE, ScoredGroup, by_set, suite_scores
from lit_tpgrpo.evaluation.sets import SetSampling
from lit_tpgrpo.evaluation.tables import SuiteTable, write_tables
from lit_tpgrpo.fingerprint import content_hash, settings_of, tokenizer_fingerprint
from lit_tpgrpo.judges.base import Counts
from lit_tpgrpo.records import EvaluatedGroup

SPLITS = {"eval": "val", "test": "test"}


@runtime_checkable
class HeldoutSource(Protocol):
    """What the log asks the trainer's DataModule, if it has it."""

    evaluation_folder: Path | None
    """Where the last evaluation keeps its groups; None if nowhere."""

    def heldout_sampling(self, split: str) -> Mapping[str, SetSampling]:
        """Return how each evaluation set of a split is sampled, by name."""
        ...


class EvaluationLog:
    """Collects the groups that a loop's batches hold and logs their scores at the loop's end.

    Args:
        pass_at: values of k for pass@k besides the number of samples a problem.

    Attributes:
        scores: of the last loop that held groups, without prefix.
        headline: name of the score that sums them up: ``avg@k`` of a single set, ``average`` of sets with names.
        measured: hash of what the scores are of: problems, samples and settings. Scores are comparable where it is equal.
        table: of the last loop.
        version: optimizer steps behind the policy that was scored, -1 before the first time.
    """

    def __init__(self, pass_at: Sequence[int] = (1,)) -> None:
        self.pass_at = tuple(pass_at)
        self.scores: dict[str, Tensor] = {}
        self.headline, self.measured = "", ""
        self.table: SuiteTable | None = None
        self.version = -1
        self._groups: list[ScoredGroup] = []
        self._logging_step: int | None = None

    def start(self) -> None:
        """Discard the groups of a loop that was interrupted."""
        self._groups = []

    def add(self, batch: Any) -> None:
        """Add the groups of a batch; ignore anything else (another loader's batch, None if other ranks have more)."""
        for group in batch if isinstance(batch, tuple) else (batch,):
            if isinstance(group, EvaluatedGroup):
                self._groups.append(ScoredGroup.of(group))

    def empty(self) -> bool:
        """Return whether no rank has a group. Collective."""
        return not any(gather(bool(self._groups)))

    def finish(self, module: L.LightningModule, prefix: str) -> None:
        """Log the scores under ``prefix/``, print and store them. Collective, in a hook where ``module.log`` may be called."""
        groups = [group for part in gather(self._groups) for group in part]
        self._groups = []
        if not groups:
            return
        source = getattr(module.trainer, "datamodule", None)
        heldout = source if isinstance(source, HeldoutSource) else None
        sampling = {} if heldout is None else heldout.heldout_sampling(SPLITS[prefix])
        sets = by_set(groups, list(sampling))
        self.scores = suite_scores(sets, self.pass_at)
        self.headline = AVERAGE if AVERAGE in self.scores else f"avg@{len(groups[0].outcomes)}"
        self.measured = _measured(sets, sampling, source, module)
        self.version = module.policy_version if isinstance(module, Policy) else module.trainer.global_step
        self.table = SuiteTable.of(sets, self.scores)
        # Equal on all ranks, so averaging changes nothing; Lightning warns of values that are not synchronised.
        cost = _engine_counters(source)
        logged = {f"{prefix}/{k}": v for k, v in (self.scores | cost).items()}
        module.log_dict(logged, batch_size=1, sync_dist=True)
        self._log_at(module.trainer, self.version)
        with raise_on_all_ranks("writing the evaluation's scores"):
            if module.trainer.is_global_zero:
                tqdm.write(score_line(prefix, self.version, self.scores))
                if heldout is not None and heldout.evaluation_folder is not None:
                    values = {"step": self.version, "measured": self.measured, "headline": self.headline}
                    scores = {name: float(value) for name, value in self.scores.items()}
                    folder = heldout.evaluation_folder
                    spent = sum((Counts(group.cost) for group in groups), Counts())  # of what was read from disk, too
                    values |= {"scores": scores} | ({"engine": spent} if spent else {})
                    write_tables(folder, self.table, values)

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


def _engine_counters(source: Any) -> dict[str, float]:
    """Return what the DataModule's engine counted since the last loop, over all ranks; see ``CountingEngine``. Collective."""
    engine = getattr(source, "engine", None)
    return gather_sum(engine.tally()).metrics() if isinstance(engine, CountingEngine) else {}


def _measured(
    sets: Mapping[str, Sequence[ScoredGroup]], sampling: Mapping[str, SetSampling], source: Any, module: Any
) -> str:
    """Return a hash of problems, samples and their parameters, prompt template, tokenizer, verifier and format.

    Not of split or seed.
    """
    problems = {name: [(g.problem, len(g.outcomes)) for g in groups] for name, groups in sets.items()}
    parts = {name: getattr(source, name, None) for name in ("verifier", "format")}
    settings = {
        "tokenizer": tokenizer_fingerprint(module.tokenizer) if isinstance(module, Policy) else None,
        "sampling": {name: repr(s.params) for name, s in sampling.items()},
        "prompt": [getattr(source, n, None) for n in ("prompt_template", "system_prompt", "chat_template_kwargs")]
        + ([] if getattr(source, "apply_chat_template", True) else [False]),  # an evaluation before this setting had it
    } | {name: None if part is None else settings_of(part) for name, part in parts.items()}
    return content_hash([problems, settings])


def score_line(prefix: str, step: int, scores: Mapping[str, Tensor]) -> str:
    """``eval | step 8 | avg@4 0.812 ± 0.031, ...``; without ± where one problem has no error.

    Of sets with names: ``eval | step 8 | average 0.501 ± 0.010 | aime24 avg@32 0.331, math500 avg@4 0.845 | 530 problems``.
    """

    def shown(name: str) -> str:
        error = scores.get(f"{name}_se")
        return f"{float(scores[name]):.3f}" + ("" if error is None else f" ± {float(error):.3f}")

    problems = int(scores["problems"])
    count = f"{problems} problem{'s' if problems != 1 else ''}"
    plain = [name for name in scores if "@" in name and not name.endswith(("_se", "_low", "_high"))]
    if AVERAGE in scores:
        parts = [name.split("/") for name in plain if name.count("/") == 1 and "/avg@" in name]
        sets = ", ".join(f"{name} {label} {float(scores[f'{name}/{label}']):.3f}" for name, label in parts)
        return f"{prefix} | step {step} | {AVERAGE} {shown(AVERAGE)} | {sets} | {count}"
    values = [
        f"{name} " + (shown(name) if name.startswith("avg@") else f"{float(scores[name]):.3f}")
        for name in plain
        if "/" not in name
    ]
    return f"{prefix} | step {step} | {', '.join(values)} | {count}"
