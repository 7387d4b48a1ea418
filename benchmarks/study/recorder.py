"""StudyRecorder: a callback that writes what the study measures, one JSON line a round and an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L

from benchmarks.study.measures import credit_counts, outcome_counts, text_counts
from benchmarks.study.results import FILE
from lit_tpgrpo.datamodules.arithmetic.truth import solution_truth
from lit_tpgrpo.fingerprint import content_hash
from lit_tpgrpo.jsonl import append_line
from lit_tpgrpo.records import EvaluatedGroup, Outcome, Problem, Round
from lit_tpgrpo.rollout.hooks import RoundCallback
from lit_tpgrpo.rollout.run_folder import run_folder


class StudyRecorder(RoundCallback):
    """Write counts of each round, of each evaluation and of the end of training to ``study.jsonl`` in the run's folder.

    A resumed run appends; a round or evaluation that it repeats has the same content, and the last line counts. For runs on
    one process.

    Args:
        truth: exact truth of a text, ``(problem, text) -> object with steps``; see ``benchmarks.study.measures``.
    """

    def __init__(self, truth: Callable[[Problem, str], Any] = solution_truth) -> None:
        self.truth = truth
        self._groups: list[EvaluatedGroup] = []
        self._before = 0.0  # seconds of the starts that this run was resumed from
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of the run up to now, over all its starts, without what was lost between checkpoint and interruption."""
        return self._before + time.monotonic() - self._started

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        groups = (*round_.groups, *round_.dropped)
        problems = {group.problem.uid: group.problem for group in groups}
        texts = [(group.problem, judged.solution) for group in groups for judged in group.solutions]
        counts = outcome_counts(groups) | text_counts(texts, self.truth)
        counts |= credit_counts(problems, round_.credited, self.truth) | {"kept": len(round_.kept)}
        evidence = {name: value for name, value in round_.metrics.items() if name.startswith("evidence/")}
        counts |= {"evidence": evidence} if evidence else {}  # what was sampled besides the solutions
        self._write(trainer, {"record": "round", "index": round_.index, "step": round_.policy_version} | counts)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._groups = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._groups += [g for g in (batch if isinstance(batch, tuple) else (batch,)) if isinstance(g, EvaluatedGroup)]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        groups = sorted(self._groups, key=lambda g: (g.set_name, g.index))
        if not groups or trainer.sanity_checking:
            return
        correct = [sum(o is Outcome.CORRECT for o in g.outcomes) for g in groups]
        row = {
            "record": "evaluation",
            "step": trainer.global_step,
            "samples": len(groups[0].outcomes),
            "problems": content_hash([g.problem.uid for g in groups], 4),
            "correct": correct,
        }
        self._write(trainer, row | text_counts([(g.problem, s) for g in groups for s in g.solutions], self.truth))
        self._groups = []

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, {"record": "end", "step": trainer.global_step})

    def _write(self, trainer: L.Trainer, row: dict[str, Any]) -> None:
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        append_line(folder / FILE, row | {"seconds": round(self.seconds, 2)})

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["seconds"]
