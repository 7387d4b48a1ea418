"""Runs that differ in their seed alone are one experiment: its curves are means with bands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_tpgrpo.report.metrics import Series
from lit_tpgrpo.report.runs import RunData

_SEEDS = ("seed_everything", "data.seed")
# Where a run is written, and callbacks that only write, do not make it another experiment.
_PLACES = re.compile(
    r"trainer\.(default_root_dir|logger\b.*\.?(save_dir|version|name))|data\.store_dir|(writer|table)\b.*|config"
    r"|trainer\.callbacks\.(\w+\.dirpath|(RunReport|SafeCheckpoint|SolutionSamples|ExportHF)\b.*)"
)


@dataclass(frozen=True)
class Experiment:
    """Runs that are shown as one: seeds of the same settings, or those that the user gave one label."""

    name: str
    runs: tuple[RunData, ...]

    @property
    def seeds(self) -> list[Any]:
        return [run.setting(*_SEEDS) for run in self.runs]

    def series(self, metric: str) -> list[Series]:
        """Return a metric of each run that logged it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]


@dataclass(frozen=True, slots=True)
class Band:
    """A metric of an experiment by optimizer step: the mean over its runs, the lowest and the highest."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def experiments(runs: Sequence[RunData]) -> list[Experiment]:
    """Group runs by the user's labels, else by their settings apart from seeds and folders; in the order of first mention."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(f"label {run.label}" if run.label else _identity(run), []).append(run)
    members = [tuple(group) for group in groups.values()]
    names = _distinct([group[0] for group in members])
    return [Experiment(name, group) for name, group in zip(names, members, strict=True)]


def _distinct(runs: Sequence[RunData]) -> list[str]:
    """Return labels and runs' names, with as much of their paths as tells runs of one name apart."""
    depths = [1] * len(runs)
    while True:
        names = [run.label or run_name(run.path, depth) for run, depth in zip(runs, depths, strict=True)]
        unclear = [
            n
            for n, run in enumerate(runs)
            if not run.label and names.count(names[n]) > 1 and depths[n] < len(run.path.absolute().parts)
        ]
        if not unclear:
            return names
        for n in unclear:
            depths[n] += 1


def run_name(path: Path, depth: int = 1) -> str:
    """Return the name of a run: its folder's, or that of the folder with its versions; a file's name is its own.

    Args:
        path: of the run.
        depth: parts of the path in the name; from 2 on the version is one of them.
    """
    path = path.absolute()
    if depth > 1:
        return "/".join(path.parts[-depth:])
    return path.parent.name if re.fullmatch(r"version_\d+", path.name) else path.name


def _identity(run: RunData) -> str:
    # A resumed run is the continuation of another one, and no seed beside it.
    if run.is_predictions or not run.settings or run.settings.get("ckpt_path") is not None:
        return f"path {run.path.absolute()}"
    return json.dumps({k: v for k, v in comparable(run).items() if k not in _SEEDS}, sort_keys=True, default=str)


def comparable(run: RunData) -> dict[str, Any]:
    """Return the settings that say what a run does, and not where it is written."""
    return {key: value for key, value in run.settings.items() if not _PLACES.fullmatch(key)}


def differing(groups: Sequence[Experiment]) -> list[tuple[str, list[str]]]:
    """Return the settings that differ between experiments: key, and its value in each, "" where it has none."""
    columns = [_values(group) for group in groups]
    keys = sorted({key for column in columns for key in column})
    rows = [(key, [column.get(key, "") for column in columns]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _values(group: Experiment) -> Mapping[str, str]:
    """Return an experiment's settings as texts; all values of its runs where these differ."""
    columns = [comparable(run) for run in group.runs]
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: " | ".join(dict.fromkeys(text(c[key]) for c in columns if key in c)) for key in keys}


def text(value: Any) -> str:
    """Return a setting as it would be written in a config."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def band(series: Sequence[Series]) -> Band:
    """Return mean, lowest and highest of several runs' curves, at each step between the first and the last of any of them.

    Runs log rounds at steps of their own: between its steps a curve is interpolated linearly. Outside of them it counts for
    nothing, so that a run that ended early hides none of the others.
    """
    finite = [[(s, v) for s, v in zip(x.steps, x.values, strict=True) if np.isfinite(v)] for x in series]
    curves = [(np.array(steps), np.array(values)) for c in finite if c for steps, values in [zip(*c, strict=True)]]
    if not curves:
        return Band([], [], [], [])
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    values = np.stack([np.interp(grid, *curve, left=np.nan, right=np.nan) for curve in curves])
    summaries = (f(values, axis=0).tolist() for f in (np.nanmean, np.nanmin, np.nanmax))
    return Band(grid.tolist(), *summaries)
