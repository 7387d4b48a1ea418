"""EvaluationTable: the table of ``test``, with the paper's efficiency."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.callbacks.evaluation import MathEvaluation
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.evaluation.log import EvaluationLog, HeldoutSource, ScoresGroups
from lit_tpgrpo.evaluation.tables import Efficiency, write_tables
from lit_tpgrpo.rollout.trainer_state import callbacks_of


@checked_arguments()
class EvaluationTable(L.Callback):
    """Print the table of ``test`` as Markdown and write it with the efficiency of training: gain / solutions x 1e5.

    The gain is in percentage points of the headline score (the average over sets, or avg@k of a single one) over that of the
    initial policy. The evaluation's folder holds the table as ``table.md`` and ``table.csv``.

    Args:
        base: accuracy of the initial policy, in percent; or a folder (or its ``scores.json``) in which an evaluation of it was
            stored. By default what ``MathEvaluation`` measured before the first optimizer step, as the checkpoint says. An
            accuracy on other problems, samples or settings is not used.
        solutions: solutions that optimizer steps have trained on; by default as the checkpoint says.
    """

    def __init__(self, base: float | str | None = None, solutions: int | None = None) -> None:
        if isinstance(base, float | int) and not 0 <= base <= 100:
            raise ConfigError(f"table: base is an accuracy in percent, from 0 to 100, got {base}")
        if solutions is not None and solutions < 1:
            raise ConfigError(f"table: solutions must be at least 1, got {solutions}")
        self.base, self.solutions = base, solutions
        self._stored: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the evaluation of the initial policy before anything is sampled."""
        if stage == "test" and isinstance(self.base, str):
            self._stored = _stored_scores(Path(self.base))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log = _log_of(trainer, pl_module)
        if not trainer.is_global_zero or log is None or log.table is None:
            return
        efficiency, reason = self._efficiency(trainer, pl_module, log)
        print(f"\n{log.table.markdown(efficiency)}{reason}", flush=True)
        source = getattr(trainer, "datamodule", None)
        folder = source.evaluation_folder if isinstance(source, HeldoutSource) else None
        if folder is not None:
            write_tables(folder, log.table, efficiency=efficiency)
            print(f"evaluation: {folder} (table.md, table.csv, scores.json, groups.*.jsonl)", flush=True)

    def _efficiency(
        self, trainer: L.Trainer, pl_module: L.LightningModule, log: EvaluationLog
    ) -> tuple[Efficiency | None, str]:
        """Return the efficiency, or None and a line that says what is missing."""
        trained_on = self.solutions or getattr(pl_module, "solutions_trained", None)
        if trained_on == 0:
            return None, "\nefficiency: none, nothing was trained\n"
        base, reason = self._base_accuracy(trainer, log)
        if trained_on is None:
            reason = "the checkpoint does not say how many solutions were trained on; give --table.solutions"
        if base is None or trained_on is None:
            return None, f"\nefficiency: unknown, {reason}\n"
        return Efficiency(base, 100 * float(log.scores[log.headline]), trained_on), ""

    def _base_accuracy(self, trainer: L.Trainer, log: EvaluationLog) -> tuple[float | None, str]:
        """Return the accuracy of the initial policy in percent, or None and why there is none."""
        if isinstance(self.base, float | int):
            return float(self.base), ""
        if self._stored is not None:
            if self._stored["measured"] != log.measured:
                return None, f"{self.base} was measured on other problems, samples or settings"
            return 100 * self._stored["scores"][self._stored["headline"]], ""
        before = next((c.before_training for c in callbacks_of(trainer) if isinstance(c, MathEvaluation)), None)
        remedy = "give --table.base (percent, or the folder of an evaluation of the initial policy)"
        if before is None:
            return None, f"the checkpoint has no accuracy before training; {remedy}"
        if before[1] != log.measured:
            return None, f"the accuracy before training is of other problems, samples or settings; {remedy}"
        return 100 * before[0], ""


def _log_of(trainer: L.Trainer, module: L.LightningModule) -> EvaluationLog | None:
    if isinstance(module, ScoresGroups):
        return module.evaluation
    return next((c.evaluation for c in callbacks_of(trainer) if isinstance(c, MathEvaluation)), None)


def _stored_scores(path: Path) -> dict[str, Any]:
    """Read ``scores.json`` of an evaluation.

    Raises:
        InputError: it is missing, or is not one.
    """
    file = path / "scores.json" if path.is_dir() else path
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        value = stored["scores"][stored["headline"]]
        if not isinstance(stored["measured"], str) or not math.isfinite(value):
            raise ValueError("measured or its headline score is missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--table.base {path}: expected a number, or a folder with the scores.json of an evaluation, got "
            f"{type(error).__name__}: {error}"
        ) from error
    return stored
