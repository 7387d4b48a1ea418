"""Text of an audit: scores of labels with intervals, alarms, and a judge's counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_tpgrpo.judges.intervals import f1_interval
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import StepLabel

# The line of the report for a count, by the first word of its name; other counts get a line named by that word.
GROUPS = {
    "cases": "solutions",
    "abstained": "solutions",
    "down": "solutions",
    "segmentations": "segmentation",
    "questions": "requests",
    "requests": "requests",
    "retries": "requests",
    "faults": "requests",
}


def label_text(solutions: Sequence[LabelCounts], alarm_f1: float) -> str:
    """Return F1 of each label with its 95% interval, the labels that the data do not have, and the alarms.

    Args:
        solutions: the counts of each judged solution.
        alarm_f1: an F1 below it is an alarm, as in ``JudgeRefresh``.
    """
    total = sum(solutions, LabelCounts())
    present = total.present()
    lines = [f"{'label':<10} {'F1':>7}  {'95% interval':>16} {'steps':>7} {'solutions':>9}"]
    for label in present:
        low, high = f1_interval(solutions, label) or (float("nan"),) * 2
        having = sum(counts.support(label) > 0 for counts in solutions)
        cells = f"{total.f1(label):>7.4f}  {f'{low:.4f} to {high:.4f}':>16} {total.support(label):>7} {having:>9}"
        lines.append(f"{label.value:<10} {cells}")
    unknown = [x.value for x in StepLabel if x not in present and x is not StepLabel.ABSTAINED]
    if unknown:
        lines.append(f"no step of these data is known to be: {', '.join(unknown)}")
    alarms = total.alarms(alarm_f1)
    lines += [f"ALARM: F1 of {x.value} steps is {total.f1(x):.3f}, under {alarm_f1:.3f}" for x in alarms]
    return "\n".join(lines)


def counts_text(metrics: Mapping[str, float]) -> str:
    """Format a judge's counts, one group per line, with the names of zero counts at the end."""
    groups: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if value:
            stem = name.split("_")[0]
            groups.setdefault(GROUPS.get(stem, stem), []).append(f"{name} {_number(value)}")
    lines = [f"{group:<13} {', '.join(counts)}" for group, counts in groups.items()]
    zero = [name for name, value in metrics.items() if not value]
    return "\n".join(lines + ([f"{'zero':<13} {', '.join(zero)}"] if zero else []))


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
