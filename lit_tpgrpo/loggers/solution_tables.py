"""Solution tables and histograms of a round in each logger's own types: one function by the logger's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_tpgrpo.loggers.html_tables import solution_table
from lit_tpgrpo.loggers.thoughts import ThoughtCells, middle_cut, thought_cells, writable
from lit_tpgrpo.loggers.trackio_logger import TrackioLogger
from lit_tpgrpo.records import CreditedSolution

COLUMNS = (
    "step",
    "round",
    "problem",
    "sample",
    "prompt",
    "outcome",
    "answer",
    "outcome_advantage",
    "judge_note",
    *ThoughtCells._fields,
)
"""Columns of the flat tables, a thought a row, of which the first nine repeat for the thoughts of a solution."""

TABLE = "rollout/solutions"
_MLFLOW_FILE = "solutions.json"  # MLflow appends the rows of each round to it


@dataclass(frozen=True)
class RoundPage:
    """What is shown of a round.

    Attributes:
        step: optimizer step at which it is logged.
        round_index: of the round.
        solutions: the solutions that are shown, each with its problem's prompt.
        histograms: values by name, over this rank's whole share of the round (1-d).
        max_chars: longer texts are shortened in the middle.
    """

    step: int
    round_index: int
    solutions: Sequence[tuple[str, CreditedSolution]]
    histograms: Mapping[str, Tensor]
    max_chars: int

    def rows(self) -> list[list[Any]]:
        """Return the flat table, a thought a row, see ``COLUMNS``. API keys are redacted."""
        rows = []
        for prompt, solution in self.solutions:
            judged = solution.judged
            common = [
                self.step,
                self.round_index,
                judged.solution.problem_uid,
                judged.solution.sample,
                middle_cut(prompt, self.max_chars),
                judged.outcome.value,
                judged.answer or "",
                solution.outcome_advantage,
                judged.verdict.note,
            ]
            rows += [[*common, *cells] for cells in thought_cells(solution, self.max_chars)]
        return [[writable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]


@singledispatch
def show_page(logger: Logger, page: RoundPage) -> None:
    """Write a round's solution tables and histograms to a logger; one whose class is not registered has no such types."""


@show_page.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, page: RoundPage) -> None:
    writer = logger.experiment
    tables = (solution_table(solution, prompt, page.max_chars) for prompt, solution in page.solutions)
    writer.add_text(TABLE, "\n<hr>\n".join(tables), page.step)
    for name, values in page.histograms.items():
        writer.add_histogram(name, values, page.step)


@show_page.register(WandbLogger)
def _(logger: WandbLogger, page: RoundPage) -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    logger.log_table(TABLE, columns=list(COLUMNS), data=page.rows(), step=page.step)
    histograms: Any = {name: wandb.Histogram(values.tolist()) for name, values in page.histograms.items()}
    logger.log_metrics(histograms, page.step)


@show_page.register(MLFlowLogger)
def _(logger: MLFlowLogger, page: RoundPage) -> None:
    """Append to one table: MLflow keeps the names of a run's tables in a tag of limited length. It has no histograms."""
    if find_spec("pandas") is None:
        rank_zero_warn("MLflow gets no solution tables: its log_table needs pandas; pip install pandas")
        return
    columns = zip(*page.rows(), strict=True)
    table = dict(zip(COLUMNS, map(list, columns), strict=True)) if page.solutions else {}
    if table:
        logger.experiment.log_table(logger.run_id, table, _MLFLOW_FILE)


@show_page.register(TrackioLogger)
def _(logger: TrackioLogger, page: RoundPage) -> None:
    import trackio  # pyright: ignore[reportMissingImports]

    shown = {TABLE: trackio.Table(columns=list(COLUMNS), data=page.rows())}
    histograms = {name: trackio.Histogram(values.tolist()) for name, values in page.histograms.items()}
    logger.experiment.log(shown | histograms, step=page.step)
