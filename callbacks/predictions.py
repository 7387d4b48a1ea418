"""JudgedSolutionWriter: the results of ``predict`` as JSON lines, one judged solution a line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import Round
from lit_tpgrpo.redaction import redacted
from lit_tpgrpo.rollout.rows import judged_rows
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.trainer_state import is_dev_run


@checked_arguments()
class JudgedSolutionWriter(L.Callback):
    """Write the solutions that ``predict`` samples, verifies and judges to a file, batch by batch.

    Args:
        path: the file; one that exists is refused before anything is sampled. By default ``judged_solutions.jsonl`` in the
            run's folder, with a number where that exists. With several ranks each writes its own file, with the rank before
            the suffix. Until the last batch its name ends in ``.partial``. ``fast_dev_run`` writes none.

    Raises:
        InputError: the file exists.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path
        self.written = 0
        self._file: Path | None = None  # that is being written

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "predict" and self.path is not None and not is_dev_run(trainer):
            with raise_on_all_ranks("the file of predictions"):
                if (path := self._target(trainer)).exists():
                    raise InputError(f"{path} exists already: give another --writer.path, or remove it")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.written, self._file = 0, None
        if not is_dev_run(trainer):
            self._final = self._target(trainer)
            self._file = self._final.with_name(self._final.name + ".partial")
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text("")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, Round) and self._file is not None:
            # A lone surrogate (in an error that a judge quotes) is written as JSON's escape, which reads back the same.
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                for row in judged_rows(batch):
                    file.write(redacted(json.dumps(row, ensure_ascii=False)) + "\n")
            self.written += len(batch.credited)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._file is None:
            return
        self._file.rename(self._final)
        # Start a new line: the progress bar leaves the cursor at its end.
        print(f"\n{self.written} judged solutions in {self._final}", flush=True)

    def _target(self, trainer: L.Trainer) -> Path:
        if self.path is not None:
            return self._of_rank(trainer, Path(self.path))
        stems = itertools.chain(["judged_solutions"], (f"judged_solutions_{n}" for n in itertools.count(1)))
        paths = (self._of_rank(trainer, run_folder(trainer) / f"{stem}.jsonl") for stem in stems)
        return next(path for path in paths if not path.exists())

    @staticmethod
    def _of_rank(trainer: L.Trainer, path: Path) -> Path:
        return path if trainer.world_size == 1 else path.with_suffix(f".{trainer.global_rank}{path.suffix}")
