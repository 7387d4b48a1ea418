"""Tables of an evaluation, as Markdown and CSV: a row a set, accuracy by level and subject, the paper's efficiency."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from lit_tpgrpo.errors import StorageError
from lit_tpgrpo.evaluation.scores import AVERAGE, ScoredGroup, by_label, interval
from lit_tpgrpo.metrics.scores import average
from lit_tpgrpo.rollout.store import write_whole

COLUMNS = {
    "set": "set",
    "problems": "problems",
    "samples": "k",
    "avg": "avg@k",
    "low": "95% low",
    "high": "95% high",
    "maj": "maj@k",
    "pass": "pass@k",
    "length_mean": "tokens, mean",
    "length_median": "median",
    "length_p95": "p95",
    "truncated": "truncated",
    "no_answer": "no answer",
}
"""Columns of the main table, key to heading. Accuracies and shares are in percent, as in the paper."""
_PART_COLUMNS = {key: COLUMNS[key] for key in ("set", "problems", "samples", "avg", "low", "high")}
_PERCENT = ("avg", "low", "high", "maj", "pass", "truncated", "no_answer")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Efficiency:
    """What training gained for its price: ``gain / solutions x 1e5`` (the paper's Effic.).

    Attributes:
        base: average accuracy of the initial policy on the same sets, in percent.
        trained: average accuracy now, in percent.
        solutions: solutions that optimizer steps have trained on.
    """

    base: float
    trained: float
    solutions: int

    @property
    def gain(self) -> float:
        """Percentage points over the initial policy."""
        return self.trained - self.base

    @property
    def value(self) -> float | None:
        """gain / solutions x 1e5; None before anything was trained on.

        >>> round(Efficiency(48.06, 50.10, 5600).value, 2)
        36.43
        """
        return self.gain / self.solutions * 1e5 if self.solutions else None


@dataclass(frozen=True)
class SuiteTable:
    """Rows of an evaluation's tables: sets and their average, levels, subjects."""

    rows: Sequence[Row]
    parts: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    @classmethod
    def of(cls, sets: Mapping[str, Sequence[ScoredGroup]], scores: Mapping[str, Tensor]) -> SuiteTable:
        """Return the tables of sets with their scores."""
        rows = [_set_row(name, groups, scores) for name, groups in sets.items()]
        if AVERAGE in scores:
            values = {"avg": AVERAGE, "low": f"{AVERAGE}_low", "high": f"{AVERAGE}_high"}
            row = {key: float(scores[name]) for key, name in values.items() if name in scores}
            rows.append({"set": AVERAGE, "problems": sum(map(len, sets.values()))} | row)
        parts = {kind: [r for n, g in sets.items() for r in _part_rows(n, g, kind)] for kind in ("level", "subject")}
        return cls(rows, {kind: rows for kind, rows in parts.items() if rows})

    def markdown(self, efficiency: Efficiency | None = None) -> str:
        """Return all tables as Markdown."""
        blocks = [_markdown(COLUMNS, self.rows)]
        if efficiency is not None:
            blocks.append(_markdown(_EFFICIENCY_COLUMNS, [_efficiency_row(efficiency)]))
        for kind, rows in self.parts.items():
            blocks.append(_markdown(_part_columns(kind), rows))
        return "\n\n".join(blocks) + "\n"

    def csv(self, efficiency: Efficiency | None = None) -> str:
        """Return all rows as one CSV: ``table`` names the table of a row, the columns are keys instead of headings."""
        keys = ["table", "set", "level", "subject", *list(COLUMNS)[1:], *list(_EFFICIENCY_COLUMNS)]
        rows: list[Row] = [{"table": "sets"} | dict(row) for row in self.rows]
        if efficiency is not None:
            rows.append({"table": "efficiency"} | _efficiency_row(efficiency))
        rows += [{"table": kind} | dict(row) for kind, part in self.parts.items() for row in part]
        text = io.StringIO()
        writer = csv.DictWriter(text, keys, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _in_percent(key, value) for key, value in row.items()})
        return text.getvalue()


_EFFICIENCY_COLUMNS = {
    "base": "base",
    "trained": "trained",
    "gain": "gain",
    "solutions": "solutions trained on",
    "efficiency": "efficiency (gain / solutions x 1e5)",
}


def _efficiency_row(e: Efficiency) -> dict[str, Any]:
    # In percent already: see Efficiency.
    values = {"base": e.base, "trained": e.trained, "gain": e.gain, "solutions": e.solutions}
    return values | ({} if e.value is None else {"efficiency": e.value})


def _part_columns(kind: str) -> dict[str, str]:
    return {"set": "set", kind: kind} | {key: name for key, name in _PART_COLUMNS.items() if key != "set"}


def _set_row(name: str, groups: Sequence[ScoredGroup], scores: Mapping[str, Tensor]) -> Row:
    k = len(groups[0].outcomes)
    prefix = f"{name}/" if name else ""
    measured = {
        "avg": f"avg@{k}",
        "low": f"avg@{k}_low",
        "high": f"avg@{k}_high",
        "maj": f"maj@{k}",
        "pass": f"pass@{k}",
    }
    measured |= {key: key for key in ("length_mean", "length_median", "length_p95")}
    measured |= {"truncated": "truncated_share", "no_answer": "no_answer_share"}
    values = {key: float(scores[prefix + label]) for key, label in measured.items() if prefix + label in scores}
    return {"set": name or "all", "problems": len(groups), "samples": k} | values


def _part_rows(name: str, groups: Sequence[ScoredGroup], kind: str) -> list[Row]:
    rows = []
    for label, part in by_label(groups, kind).items():
        scores = [average(g.outcomes) for g in part]
        row = {"set": name or "all", kind: label, "problems": len(part), "samples": len(part[0].outcomes)}
        row |= {"avg": fmean(scores)}
        if len(part) > 1:
            row |= dict(zip(("low", "high"), interval([scores]), strict=True))
        rows.append(row)
    return rows


def _in_percent(key: str, value: Any) -> Any:
    if key in _PERCENT:
        return round(100 * value, 4)
    return round(value, 4) if isinstance(value, float) else value  # float32 lengths: 113.65, not 113.6500015


def _markdown(columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Return an aligned Markdown table."""
    texts = [list(columns.values()), *([_shown(key, row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in texts) for i in range(len(columns))]
    numbers = [all(not isinstance(row.get(key), str) for row in rows) for key in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numbers, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if n else "-") for w, n in zip(widths, numbers, strict=True)) + "|"
    return "\n".join([line(texts[0]), rule, *map(line, texts[1:])])


def _shown(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in _PERCENT:
        return f"{100 * value:.2f}" if key in ("avg", "low", "high", "maj", "pass") else f"{100 * value:.1f}"
    if key.startswith("length"):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def write_tables(
    folder: Path, table: SuiteTable, results: Mapping[str, Any] | None = None, efficiency: Efficiency | None = None
) -> None:
    """Write ``table.md``, ``table.csv`` and, if given, ``scores.json`` into an evaluation's folder.

    Raises:
        StorageError: they cannot be written.
    """
    files = {"table.md": table.markdown(efficiency), "table.csv": table.csv(efficiency)}
    files |= {} if results is None else {"scores.json": json.dumps(dict(results), indent=1) + "\n"}
    try:
        for name, text in files.items():
            write_whole(folder / name, text)
    except OSError as error:
        raise StorageError(
            f"the evaluation's table cannot be written to {folder} ({error.strerror or error}); free space or make it "
            "writable, then repeat the command: complete groups are not sampled again"
        ) from error
