"""Pictures of the study: learning curves by group, differences to the reference, diagnostics, signs of reward hacking."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.study.report import DIAGNOSTICS
from benchmarks.study.settings import GROUPS
from benchmarks.study.statistics import Estimate, bootstrap_curve
from benchmarks.study.summary import ArmRuns, diagnostics, summarise, text_signs

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable with any colour vision; black is the reference's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D00", "#7F3C8D")
REFERENCE = "#000000"
IN_PANEL = 6
"""Arms in a panel of lines, beside the reference: no more than there are colours."""
_STEADY = 0.1
"""A sign whose lines all lie within this share of the highest is not drawn: each solution has one answer, for example."""
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
}


def write_pictures(arms: Sequence[ArmRuns], reference: str, out: Path) -> list[Path]:
    """Write the pictures as PNG; return their paths."""
    drawn = {
        "curves": lambda: curves_by_group(arms, reference),
        "differences": lambda: differences(arms, reference),
        "diagnostics": lambda: diagnostics_picture(arms, reference),
        "signs": lambda: signs_picture(arms, reference),
    }
    paths = []
    with plt.rc_context(_STYLE):
        for name, draw in drawn.items():
            figure = draw()
            paths.append(out / f"{name}.png")
            figure.savefig(paths[-1], dpi=150, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
    return paths


def _colours(arms: Sequence[ArmRuns], reference: str) -> dict[str, str]:
    """Return the colour of each arm of a panel."""
    others = [runs.arm.name for runs in arms if runs.arm.name != reference]
    return dict(zip(others, COLOURS, strict=False)) | {reference: REFERENCE}


def curves_by_group(arms: Sequence[ArmRuns], reference: str) -> Figure:
    """Draw held-out accuracy against sampled solutions with bands, the reference in each panel.

    A panel holds a group, or ``IN_PANEL`` arms of it in their order: more bands hide one another.
    """
    base = [runs for runs in arms if runs.arm.name == reference]
    groups = dict(_panels([runs for runs in arms if runs.arm.name != reference])) or {"baseline": []}
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    most = max(map(len, groups.values())) + len(base)
    size = (4.6 * columns, (3.6 + 0.18 * most) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (group, members) in zip(axes.flat, groups.items(), strict=False):
        colours = _colours(members, reference)
        for runs in (*members, *base):
            _band(axis, runs, colours[runs.arm.name])
        axis.set_title(group)
        axis.set_xlabel("solutions sampled")
        # Below the panel, where it hides no line.
        axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, ncols=1)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("held-out accuracy")
    figure.suptitle(f"Held-out accuracy: {_of_seeds(arms)}")
    return figure


def _of_seeds(arms: Sequence[ArmRuns]) -> str:
    """Return what a line and its band are."""
    least, most = (of(len(runs.seeds) for runs in arms) for of in (min, max))
    if most == 1:
        return "one seed"
    seeds = f"{least} to {most}" if least < most else f"{most}"
    return f"mean and bootstrap interval (95%) over {seeds} seeds, too narrow for so few"


def _panels(arms: Sequence[ArmRuns]) -> Iterator[tuple[str, list[ArmRuns]]]:
    """Yield titles and arms of the panels, in the order of ``GROUPS``."""
    for group in GROUPS:
        members = [runs for runs in arms if runs.arm.group == group]
        panels = -(-len(members) // IN_PANEL)
        for i in range(panels):
            part = members[i * len(members) // panels : (i + 1) * len(members) // panels]  # of about equal numbers
            yield (group if panels == 1 else f"{group}, {i + 1} of {panels}"), part


def _band(axis: Axes, runs: ArmRuns, colour: str) -> None:
    curves = runs.curves(runs.seeds)
    mean, low, high = bootstrap_curve(curves.accuracy.tolist())
    x = curves.solutions.mean(0)
    axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    label = f"{runs.arm.title} ({mean[-1]:.3f})"
    axis.plot(x, mean, label=label, linewidth=1.8, marker="o", markersize=2.5, color=colour)


def differences(arms: Sequence[ArmRuns], reference: str) -> Figure:
    """Draw each arm's difference to the reference at the end with its interval, and the differences of single seeds."""
    base = next((runs for runs in arms if runs.arm.name == reference), None)
    compared = [s for s in summarise(arms, reference) if s.comparison is not None]
    figure, axis = plt.subplots(figsize=(7, 1.2 + 0.34 * max(1, len(compared))), layout="constrained")
    axis.axvline(0, color=REFERENCE, linewidth=1)
    for place, summary in enumerate(compared):
        assert summary.comparison is not None
        assert base is not None
        estimate, runs = summary.comparison.difference, summary.runs
        colour = COLOURS[GROUPS.index(runs.arm.group) % len(COLOURS)]
        seeds = sorted(set(runs.seeds) & set(base.seeds))
        single = (runs.final(seeds) - base.final(seeds)).mean(1)
        axis.plot(single, np.full(len(single), place), "|", color=colour, alpha=0.55, markersize=9)
        axis.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
        axis.plot(estimate.value, place, "o", color=colour, markersize=6)
    axis.set_yticks(range(len(compared)), [f"{s.runs.arm.title} ({s.runs.arm.group})" for s in compared])
    axis.set_ylim(max(1, len(compared)) - 0.5, -0.5)
    axis.set_xlabel("difference of held-out accuracy at the end; bars: 95% interval, ticks: seeds")
    title = base.arm.title if base is not None else reference
    axis.set_title(f"Difference to {title}")
    return figure


def diagnostics_picture(arms: Sequence[ArmRuns], reference: str) -> Figure:
    """Draw the diagnostics of each arm with their intervals over seeds, a panel a diagnostic; variances on a log scale."""
    values = [diagnostics(runs) for runs in arms]
    names = [name for name in DIAGNOSTICS if any(name in v for v in values)]
    columns = 5
    rows = -(-len(names) // columns)
    size = (2.7 * columns, (0.9 + 0.25 * len(arms)) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        for place, (runs, row) in enumerate(zip(arms, values, strict=True)):
            if name in row:
                group = COLOURS[GROUPS.index(runs.arm.group) % len(COLOURS)]
                _dot(axis, place, row[name], REFERENCE if runs.arm.name == reference else group)
        axis.set_title(DIAGNOSTICS[name])
        if name == "information":
            axis.axvline(np.log(2), color="#999999", linewidth=0.8, linestyle="dashed")
        if name == "variance":
            axis.set_xscale("log")
        else:
            axis.set_xlim(0, 1.0 if name != "information" else 0.72)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    axes[0, 0].set_yticks(range(len(arms)), [runs.arm.title for runs in arms])
    axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    figure.suptitle("Diagnostics over all rounds (information in nats; dashed: its maximum, ln 2)")
    return figure


def _dot(axis: Axes, place: int, estimate: Estimate, colour: str) -> None:
    axis.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2, clip_on=False)
    axis.plot(estimate.value, place, "o", color=colour, markersize=5, clip_on=False)


def signs_picture(arms: Sequence[ArmRuns], reference: str) -> Figure:
    """Draw signs of reward hacking over the rounds, mean over seeds: a column a sign, a row a panel of arms."""
    curves = {runs.arm.name: _sign_curves(runs) for runs in arms}
    names = _changing_signs(curves.values())
    base = [runs for runs in arms if runs.arm.name == reference]
    panels = dict(_panels([runs for runs in arms if runs.arm.name != reference])) or {"baseline": []}
    size = (2.1 * len(names) + 3.2, 1.9 * len(panels) + 0.6)
    shape = {"sharex": True, "sharey": "col", "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(len(panels), len(names), figsize=size, **shape)
    for row, (title, members) in zip(axes, panels.items(), strict=True):
        colours = _colours(members, reference)
        for axis, name in zip(row, names, strict=True):
            for runs in (*members, *base):
                if name in curves[runs.arm.name]:
                    x, y = curves[runs.arm.name][name]
                    axis.plot(x, y, label=runs.arm.title, linewidth=1.4, color=colours[runs.arm.name])
        row[0].set_ylabel(title)
        handles, labels = row[0].get_legend_handles_labels()
        row[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7.5, frameon=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(_SIGN_TITLES.get(name, f"{name.removeprefix('kind: ').upper()} a solution"))
        axis.set_ylim(bottom=0)  # of the whole column, when all of its lines are there
    for axis in axes[-1]:
        axis.set_xlabel("solutions sampled")
    figure.suptitle("Training solutions: signs of reward hacking, mean over seeds")
    return figure


def _changing_signs(curves: Collection[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> list[str]:
    """Return the signs that are not the same in all arms and rounds; kinds of steps after the others."""
    kinds = sorted({name for of_arm in curves for name in of_arm if name.startswith("kind: ")})
    names = [*("length", "steps", "thoughts", "repeated", "unparsable", "truncated"), *kinds]
    values = {name: np.concatenate([of_arm[name][1] for of_arm in curves if name in of_arm]) for name in names}
    return [name for name, y in values.items() if np.ptp(y) > _STEADY * y.max()] or names[:1]


_SIGN_TITLES = {
    "length": "tokens a solution",
    "steps": "steps a solution",
    "thoughts": "thoughts a solution",
    "repeated": "repeated steps a solution",
    "unparsable": "unparsable share",
    "truncated": "truncated share",
}


def _sign_curves(runs: ArmRuns) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each sign by round: solutions sampled before it and the sign, mean over the seeds that have such a round."""
    points: dict[int, list[tuple[int, dict[str, float]]]] = {}
    for rounds in runs.rounds():
        sampled = 0
        for place, row in enumerate(rounds):
            points.setdefault(place, []).append((sampled, text_signs(row)))
            sampled += row["solutions"]
    names = sorted({name for rows in points.values() for _, signs in rows for name in signs if "wrong: " not in name})
    x = np.array([np.mean([sampled for sampled, _ in points[place]]) for place in sorted(points)])
    # A kind that a round lacks occurred 0 times.
    return {
        name: (x, np.array([np.mean([signs.get(name, 0.0) for _, signs in points[place]]) for place in sorted(points)]))
        for name in names
    }
