"""Figures of the page, as plotly's JSON: curves with bands, and stage times stacked."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from lit_tpgrpo.report.experiments import Experiment, band
from lit_tpgrpo.report.runs import RunData

# Paul Tol's "bright" scheme, which colour-blind readers can tell apart, on light and on dark.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
DASHES = ("solid", "dash", "dot", "dashdot")
STAGES = {"sampling": "#4477AA", "judging": "#CCBB44", "training": "#EE6677", "other": "#BBBBBB"}
_FIRST = (
    ("rollout/accuracy", "accuracy of the round's solutions"),
    ("rollout/length_mean", "tokens of a solution"),
    ("train/entropy", "entropy of the policy"),
    ("train/kl_ref", "KL to the reference"),
    ("credit/kept_share", "share of solutions trained on"),
    ("judge/thoughts_per_solution", "thoughts of a solution"),
    ("judge/wrong_thought_share", "wrong thoughts, share"),
    ("judge/incorrect_thought_share", "incorrect thoughts in correct solutions, share"),
    ("credit/advantage_variance", "variance of token advantages"),
    ("judge_audit/f1_incorrect", "judge's F1 on INCORRECT steps"),
    ("train/grad_norm", "gradient norm"),
)
"""Curves that are shown first, after held-out accuracy; the others are chosen from a list."""
_HELDOUT = re.compile(r"eval/(.+/)?(avg@\d+|average)")


def heldout_metrics(groups: Sequence[Experiment]) -> list[str]:
    """Return the names of held-out accuracies, the average over sets first."""
    names = metric_names(groups)
    return sorted((n for n in names if _HELDOUT.fullmatch(n)), key=lambda n: (n != "eval/average", n))


def metric_names(groups: Sequence[Experiment]) -> list[str]:
    """Return the names of all metrics of all runs."""
    return sorted({name for group in groups for run in group.runs for name in run.metrics})


def curves(groups: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Return all curves, those to look at first in front: name, title, whether it is one of these, plotly's traces."""
    first = {name: f"held-out accuracy, {name.removeprefix('eval/')}" for name in heldout_metrics(groups)[:3]}
    names = metric_names(groups)
    first |= {name: title for name, title in _FIRST if name in names}
    rest = {name: name for name in names if name not in first and name not in ("epoch", "round", "round_step")}
    return [
        {"name": name, "title": title, "first": name in first, "traces": _curve(groups, name)}
        for name, title in (first | rest).items()
    ]


def _curve(groups: Sequence[Experiment], metric: str) -> list[dict[str, Any]]:
    import plotly.graph_objects as go

    figure = go.Figure()
    for n, group in enumerate(groups):
        series = group.series(metric)
        line = band(series)
        colour, dash = COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)]
        low, high = line.low, line.high
        if len(series) == 1 and f"{metric}_low" in group.runs[0].metrics:  # the evaluation's own interval
            bounds = [band(group.series(f"{metric}_{end}")) for end in ("low", "high")]
            if bounds[0].steps == bounds[1].steps == line.steps:
                low, high = bounds[0].mean, bounds[1].mean
        if (low, high) != (line.mean, line.mean):
            common = {
                "mode": "lines",
                "line_width": 0,
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": group.name,
            }
            figure.add_scatter(x=line.steps, y=high, **common)
            figure.add_scatter(x=line.steps, y=low, fill="tonexty", fillcolor=_faint(colour), **common)
        if line.steps:
            figure.add_scatter(
                x=line.steps,
                y=line.mean,
                name=group.name,
                legendgroup=group.name,
                mode="lines+markers" if len(line.steps) <= 12 else "lines",
                line={"color": colour, "dash": dash, "width": 2},
            )
    return json.loads(figure.to_json() or "{}")["data"]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def stage_times(runs: Sequence[RunData], names: Sequence[str]) -> dict[str, Any]:
    """Return stacked bars of the seconds of each stage: by run (``totals``), and by round for each run (``rounds``)."""
    import plotly.graph_objects as go

    totals, by_round = go.Figure(), []
    for stage, colour in STAGES.items():
        seconds = [sum(row.seconds.get(stage, 0.0) for row in run.rounds) for run in runs]
        if any(seconds):
            totals.add_bar(y=list(names), x=seconds, name=stage, orientation="h", marker_color=colour)
    for run in runs:
        figure = go.Figure()
        for stage, colour in STAGES.items():
            seconds = [row.seconds.get(stage, 0.0) for row in run.rounds]
            if any(seconds):
                figure.add_bar(x=[row.index for row in run.rounds], y=seconds, name=stage, marker_color=colour)
        by_round.append(json.loads(figure.to_json() or "{}")["data"])
    return {"totals": json.loads(totals.to_json() or "{}")["data"], "rounds": by_round}


def run_names(groups: Sequence[Experiment]) -> list[str]:
    """Return a name of each run in the order of experiments: the experiment's, with the seed where it has several runs."""
    names = []
    for group in groups:
        for n, (run, seed) in enumerate(zip(group.runs, group.seeds, strict=True)):
            known = seed is not None and group.seeds.count(seed) == 1
            part = f"seed {seed}" if known else run.path.name if run.path.name != group.name else str(n + 1)
            names.append(group.name if len(group.runs) == 1 else f"{group.name}, {part}")
    taken: dict[str, itertools.count[int]] = {}
    counted = [next(taken.setdefault(name, itertools.count(1))) for name in names]
    return [name if number == 1 else f"{name} #{number}" for name, number in zip(names, counted, strict=True)]
