"""Results of all pairs as JSON values, and as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.judge_audit.pairs import PairScores
from lit_tpgrpo.judges.error_detection import ErrorScores
from lit_tpgrpo.judges.intervals import Interval, detection_intervals, f1_interval
from lit_tpgrpo.judges.scoring import LabelCounts
from lit_tpgrpo.records import StepLabel

LABELS = tuple(label for label in StepLabel if label is not StepLabel.ABSTAINED)
Result = Mapping[str, Any]


def result_of(judge: str, set_name: str, scores: PairScores, alarm_f1: float) -> dict[str, Any]:
    """Return the scores of a pair as JSON values; intervals are 95% bootstrap intervals over solutions."""
    total, n = sum(scores.labels, LabelCounts()), len(scores.labels)
    judged = scores.judged
    requests = scores.counts["requests"] + scores.counts["requests_stored"]
    return {
        "judge": judge,
        "set": set_name,
        "solutions": n,
        "of": scores.of,
        "labels": {label.value: _label(scores.labels, total, label) for label in total.present()},
        "detection": None if scores.detection is None else _detection(scores.detection),
        "abstained": scores.abstained / n,
        "abstentions": {k: int(v) for k, v in sorted(scores.counts.items()) if k.startswith("abstained_")},
        "requests_per_solution": requests / judged,
        "tokens_per_solution": (scores.counts["tokens_prompt"] + scores.counts["tokens_completion"]) / judged,
        "replies_invalid": scores.counts["replies_invalid"] / requests if requests else 0.0,
        "replies_read_from_store": int(scores.counts["requests_stored"]),
        "cost_per_solution": scores.counts["cost"] / judged,
        "seconds_per_solution": scores.seconds / judged,
        "alarm_f1": alarm_f1,
        "alarms": [label.value for label in total.alarms(alarm_f1)],
    }


def _label(solutions: Sequence[LabelCounts], total: LabelCounts, label: StepLabel) -> dict[str, Any]:
    return {
        "f1": total.f1(label),
        "interval": f1_interval(solutions, label),
        "precision": total.precision(label),
        "recall": total.recall(label),
        "steps": total.support(label),
        "solutions": sum(counts.support(label) > 0 for counts in solutions),
    }


def _detection(solutions: Sequence[ErrorScores]) -> dict[str, Any]:
    total = sum(solutions, ErrorScores())
    intervals = detection_intervals(solutions)
    return {
        name: {"value": value, "interval": intervals.get(name)}
        for name, value in total.scores().items()
        if value is not None
    }


def markdown(results: Sequence[Result], sets: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """Return the tables: labels and costs, error detection, what each set can say."""
    alarm = results[0]["alarm_f1"]
    head = ["judge", "set", "solutions", *(label.name for label in LABELS)]
    head += ["abstained", "requests", "tokens", f"alarm (F1 < {alarm:g})"]
    rows = [_label_row(result) for result in results]
    names = ("accuracy, with an error", "accuracy, error-free", "F1 (harmonic mean)", "right steps flagged")
    detection = [
        [r["judge"], r["set"], *(_score(r["detection"].get(name), "value") for name in names)]
        for r in results
        if r["detection"] is not None
    ]
    blocks = [
        "# Judges on solutions with known step labels",
        f"Command that makes it: `{command}`. It goes on where an earlier one ended, so parts may have been measured in "
        "several runs. Numbers in full: [results.json](results.json).",
        "F1 by label with its 95% bootstrap interval (solutions are resampled, 2,000 times); `-` where the judged "
        "solutions have no such label. *n of m*: a random sample, of solutions with a known label first. *Abstained* is the "
        "share of solutions, requests and tokens (prompt and completion) are per solution. *Alarm* lists the labels of which "
        "`JudgeRefresh` and `python -m lit_tpgrpo.audit` warn. An interval of one value says only that no resample of so few "
        "solutions has another.",
        _table(head, rows),
        "## First wrong step (ProcessBench's scores)",
        "Share of solutions with an error whose first wrong step is the first one flagged; of error-free ones with nothing "
        "flagged; their harmonic mean. This is what judges of mathematical errors are for; the paper's protocol, which all "
        "judges here follow, labels corrections and adoptions, so read it as how far these are from errors.",
        _table(["judge", "set", "first error found", "error-free not flagged", "F1", names[3]], detection),
        "## What each set can score",
        "\n".join(f"- **{name}**: {given['labels']}." for name, given in sets.items()),
    ]
    return "\n\n".join(blocks) + "\n"


def _label_row(result: Result) -> list[str]:
    n, of = result["solutions"], result["of"]
    labels = [_score(result["labels"].get(label.value), "f1") for label in LABELS]
    costs = [f"{result['requests_per_solution']:.2f}", f"{result['tokens_per_solution']:,.0f}"]
    size = f"{n:,}" if n == of else f"{n:,} of {of:,}"
    alarms = ", ".join(name.upper() for name in result["alarms"]) or ("none" if result["labels"] else "-")
    return [result["judge"], result["set"], size, *labels, f"{100 * result['abstained']:.1f}%", *costs, alarms]


def _score(found: Mapping[str, Any] | None, key: str) -> str:
    if found is None:
        return "-"
    bounds: Interval | None = found["interval"]
    return f"{found[key]:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
