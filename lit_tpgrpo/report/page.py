"""The page: its data as JSON, its templates, and the file. Nothing in it is loaded from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lit_tpgrpo import __version__
from lit_tpgrpo.errors import ConfigError, InputError, StorageError
from lit_tpgrpo.loggers.thoughts import writable
from lit_tpgrpo.redaction import redacted, redacted_value
from lit_tpgrpo.report.experiments import Experiment, differing, experiments, text
from lit_tpgrpo.report.figures import COLOURS, curves, run_names, stage_times
from lit_tpgrpo.report.files import chosen, total_chars
from lit_tpgrpo.report.overview import ROUND_COLUMNS, overview, round_cells
from lit_tpgrpo.report.runs import RunData
from lit_tpgrpo.report.solutions import ShownSolution

MAX_SOLUTIONS = 2000
MAX_CHARS = 20_000_000
"""Text of all solutions together, beyond which fewer are shown: a browser has to hold them."""
_ASSETS = Path(__file__).parent / "assets"
_GENERATOR = '<meta name="generator" content="lit_tpgrpo.report'


def write_report(runs: Sequence[RunData], out: Path, max_solutions: int = MAX_SOLUTIONS) -> int:
    """Write the report of runs as one HTML file, which is replaced whole; return the number of solutions in it.

    Args:
        runs: as ``read_run`` returns them.
        out: the file; one that exists is replaced if it is a report.
        max_solutions: solutions in the browser, over all runs.

    Raises:
        ConfigError: ``max_solutions`` is negative, or there is no run.
        InputError: ``out`` exists and is no report.
        StorageError: the file cannot be written.
    """
    if max_solutions < 0 or not runs:
        raise ConfigError(f"a report needs a run and max_solutions of at least 0, got {len(runs)} and {max_solutions}")
    _check_target(out)
    page, shown = render(runs, max_solutions)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(page.encode("utf-8", "backslashreplace"))
        os.replace(partial, out)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(
            f"the report cannot be written to {out} ({error.strerror or error}); free space or make it writable, or give "
            "another file"
        ) from error
    return shown


def _check_target(out: Path) -> None:
    """Refuse to replace a file that is no report, such as a run's config.yaml."""
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the file to write, e.g. {out / 'report.html'}")
    with contextlib.suppress(OSError):
        with out.open("rb") as file:
            start = file.read(2000)
        if start and _GENERATOR.encode() not in start:
            raise InputError(f"{out} exists and is no report of this package; give another file, or remove it")


def render(runs: Sequence[RunData], max_solutions: int = MAX_SOLUTIONS) -> tuple[str, int]:
    """Return the page as HTML, and the number of solutions in it."""
    from plotly.offline import get_plotlyjs

    groups = experiments(runs)
    ordered = [run for group in groups for run in group.runs]
    # Keys are redacted in the data alone: in the finished page one may be a word of its scripts, whose hashes the policy names.
    groups = [replace(group, name=redacted(group.name)) for group in groups]
    names = [redacted(name) for name in run_names(groups)]
    trained = [(name, run) for name, run in zip(names, ordered, strict=True) if run.metrics]
    solutions, available = _browsed(ordered, max_solutions)
    shown = sum(len(rows) for rows in solutions)
    charts = {
        "curves": [c | {"name": redacted(c["name"]), "title": redacted(c["title"])} for c in curves(groups)],
        "stages": stage_times([run for _, run in trained], [name for name, _ in trained]),
    }
    scripts = [_asset(name) for name in ("charts.js", "solutions.js")]
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        version=__version__,
        title=", ".join(group.name for group in groups),
        policy=_policy([*scripts, plotly := get_plotlyjs()]),
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        plotly=Markup(plotly),
        overview=[{key: redacted(value) for key, value in line.items()} for line in overview(groups)],
        colours=COLOURS,
        round_columns=ROUND_COLUMNS,
        tables=[(name, round_cells(run)) for name, run in trained if run.rounds],
        trained=[name for name, _ in trained],
        names=names,
        experiments=[group.name for group in groups],
        paths=[redacted(str(run.path)) for run in ordered],
        differing=redacted_value(differing(groups)),
        settings=redacted_value(
            [(g.name, [(k, text(v)) for k, v in sorted(g.runs[0].settings.items())]) for g in groups]
        ),
        notes=redacted_value(_notes(groups)),
        shown=shown,
        available=available,
        charts=_script_data(charts),
        solutions=_script_data(_solution_data(names, solutions)),
    )
    return page, shown


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """Return the content security policy: these scripts and no others, nothing from a network."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _script_data(value: Any) -> Markup:
    """Return a value as JSON that can lie inside a script element: no ``<`` of a solution can end it."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _notes(groups: Sequence[Experiment]) -> list[str]:
    """Return the notes of all runs, each once with the number of runs that it is about."""
    runs = [run for group in groups for run in group.runs]
    counts = Counter(note for run in runs for note in run.notes)
    return [note if n == len(runs) else f"{n} of {len(runs)} runs: {note}" for note, n in counts.items()]


def _browsed(runs: Sequence[RunData], most: int) -> tuple[list[list[ShownSolution]], int]:
    """Return the solutions to show of each run, at most ``most`` and MAX_CHARS together, and the number that there are."""
    available = sum(len(run.solutions) for run in runs)
    chars = sum(total_chars(run.solutions) for run in runs)
    most = min(most, available, int(available * MAX_CHARS / max(chars, 1)))
    return [chosen(run.solutions, most * len(run.solutions) // max(available, 1)) for run in runs], available


def _solution_data(names: Sequence[str], solutions: Sequence[Sequence[ShownSolution]]) -> dict[str, Any]:
    """Return the data of the browser; a problem's texts are there once."""
    problems: dict[tuple[str, str, str], int] = {}
    rows = [
        _row(run, problems.setdefault((s.uid, s.prompt, s.gold), len(problems)), s)
        for run, shown in enumerate(solutions)
        for s in shown
    ]
    return {"runs": list(names), "problems": [list(map(_clean, problem)) for problem in problems], "solutions": rows}


def _row(run: int, problem: int, shown: ShownSolution) -> dict[str, Any]:
    """Return a solution with short keys, without those that say nothing."""
    row: Mapping[str, Any] = {
        "run": run,
        "problem": problem,
        "round": shown.round,
        "sample": shown.sample,
        "outcome": shown.outcome,
        "answer": None if shown.answer is None else _clean(shown.answer),
        "stop": shown.stop,
        "note": _clean(shown.note),
        "kept": shown.kept,
        "advantage": _rounded(shown.outcome_advantage),
        "rewards": [[_clean(name), _rounded(value)] for name, value in shown.rewards],
        "thoughts": [
            [p.label, _rounded(p.process_reward), _rounded(p.advantage), list(map(_clean, p.steps))]
            for p in shown.pieces
        ],
    }
    return {key: value for key, value in row.items() if value is not None and value != "" and value != []}


def _clean(content: str) -> str:
    return redacted(writable(content))


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
