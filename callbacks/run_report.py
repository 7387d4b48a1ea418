"""RunReport: keeps judged solutions of each round, and writes the report of the run when training ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.jsonl import append_line
from lit_tpgrpo.records import Round
from lit_tpgrpo.report import read_run, write_report
from lit_tpgrpo.report.solutions import RECORDED
from lit_tpgrpo.rollout.hooks import RoundCallback
from lit_tpgrpo.rollout.rows import judged_row
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.trainer_state import is_dev_run


@checked_arguments()
class RunReport(RoundCallback):
    """Write ``report.html`` into the run's folder when ``fit`` ends: curves, rounds, stage times, settings and solutions.

    ``python -m lit_tpgrpo.report`` writes it at any time, also of a run that goes on or was killed. After each round its first
    solutions are appended to ``solutions.jsonl``, with the advantages that they are trained on: stored rounds have none, and
    only the newest of them are kept. What cannot be written is one warning; training goes on. ``fast_dev_run`` writes
    none.

    Args:
        solutions_per_round: that are kept of each round, of the first process; 0 keeps none.
        max_megabytes: of ``solutions.jsonl``, after which no more solutions are kept.

    Attributes:
        report_path: of the page, once it is written.

    Raises:
        ConfigError: ``solutions_per_round`` is negative, or ``max_megabytes`` is below 1.
    """

    def __init__(self, solutions_per_round: int = 32, max_megabytes: int = 200) -> None:
        if solutions_per_round < 0:
            raise ConfigError(f"solutions_per_round must be at least 0, got {solutions_per_round}")
        if max_megabytes < 1:
            raise ConfigError(f"max_megabytes must be at least 1, got {max_megabytes}")
        self.solutions_per_round = solutions_per_round
        self.max_megabytes = max_megabytes
        self.report_path: Path | None = None
        self._folder: Path | None = None  # of the run; None on the other processes, in a dev run and in other commands
        self._recording = True
        self._trained = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.report_path, self._folder, self._recording, self._trained = None, None, True, False
        if stage == "fit" and not is_dev_run(trainer):
            folder = run_folder(trainer)  # collective
            self._folder = folder if trainer.is_global_zero else None

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        if self._folder is None or not self._recording or not self.solutions_per_round:
            return
        problems = {g.problem.uid: g.problem for g in round_.groups}
        kept, file = set(round_.kept_indices), self._folder / RECORDED
        pairs = zip(round_.credited, round_.credited_indices, strict=True)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if round_.index == 0:  # of an earlier run that wrote into this folder
                file.unlink(missing_ok=True)
            for solution, index in list(pairs)[: self.solutions_per_round]:
                if file.exists() and file.stat().st_size >= self.max_megabytes * 1_000_000:
                    self._recording = False
                    rank_zero_warn(
                        f"no more solutions are kept for the run's report: {file} has {self.max_megabytes} MB, the "
                        "max_megabytes of RunReport"
                    )
                    return
                problem = problems[solution.judged.solution.problem_uid]
                where = {"round": round_.index, "index": index, "kept": index in kept}
                row = where | {"problem": problem.uid, "prompt": problem.prompt, "gold": problem.answer}
                append_line(file, row | judged_row(solution))
        except Exception as error:  # on this process alone: the others would wait for it
            self._recording = False
            rank_zero_warn(f"no more solutions are kept for the run's report: {_described(error)}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._trained = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._folder is None or not self._trained:  # a run that is complete already ends here too
            return
        path = self._folder / "report.html"
        try:
            for logger in trainer.loggers:
                logger.save()
            write_report([read_run(self._folder)], path)
            self.report_path = path
        except Exception as error:  # training is complete, and the command writes the report too
            rank_zero_warn(
                f"the run's report was not written: {_described(error)}; "
                f"python -m lit_tpgrpo.report {self._folder} writes it"
            )


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
