"""JudgedSolutionWriter: the results of ``predict`` as JSON lines, one judged solution a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.records import Round
from lit_tpgrpo.redaction import redacted
from lit_tpgrpo.rollout.rows import judged_rows
from lit_tpgrpo.rollout.run_folder import run_folder


@checked_arguments()
class JudgedSolutionWriter(L.Callback):
    """Write the solutions that ``predict`` samples, verifies and judges to a file, batch by batch.

    Args:
        path: the file, overwritten by each run; by default ``judged_solutions.jsonl`` in the run's folder. With
            several ranks each writes its own file, with the rank before the suffix.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path
        self.written = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._file = self._target(trainer)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("")
        self.written = 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, Round):
            # A lone surrogate (in an error that a judge quotes) is written as JSON's escape, which reads back the same.
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for row in judged_rows(batch):
                    file.write(redacted(json.dumps(row, ensure_ascii=False)) + "\n")
            self.written += len(batch.credited)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Start a new line: the progress bar leaves the cursor at its end.
        print(f"\n{self.written} judged solutions in {self._file}", flush=True)

    def _target(self, trainer: L.Trainer) -> Path:
        path = Path(self.path) if self.path is not None else run_folder(trainer) / "judged_solutions.jsonl"
        return path if trainer.world_size == 1 else path.with_suffix(f".{trainer.global_rank}{path.suffix}")
