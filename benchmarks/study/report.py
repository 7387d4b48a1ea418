"""The study's report: table.md, and pictures where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.study.results import Result, Results
from benchmarks.study.settings import Study
from benchmarks.study.statistics import Estimate
from benchmarks.study.summary import (
    ArmRuns,
    ArmSummary,
    common_tokens,
    diagnostics,
    evaluated,
    first_and_last,
    summarise,
)
from lit_tpgrpo.rollout.store import write_whole

_DASH = "–"
EMPTY = "There are no results yet."


def write_report(study: Study, results: Results, out: Path, command: str) -> list[Path]:
    """Write ``table.md`` and pictures of the results that are of the study's settings; return the files.

    Without such a result a table of earlier ones is left as it is. ``command`` is the command line, for the table.
    """
    arms, notes = gather_runs(study, results)
    table = out / "table.md"
    if not arms and has_content(table):
        return []
    out.mkdir(parents=True, exist_ok=True)
    write_whole(table, report(study, arms, notes, command))
    if not arms:
        return [table]
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures are written: they need matplotlib (requirements-dev.txt)", flush=True)
        return [table]
    from benchmarks.study.pictures import write_pictures

    return [table, *write_pictures(arms, study.reference, out)]


def has_content(table: Path) -> bool:
    """Return whether a table of results is there already, and print that it is left as it is."""
    if not table.exists() or EMPTY in table.read_text(encoding="utf-8"):
        return False
    print(f"{table} is left as it is: there is no result of today's settings", flush=True)
    return True


def gather_runs(study: Study, results: Results) -> tuple[list[ArmRuns], list[str]]:
    """Return the arms with results, and a line on each run that is left out.

    Left out are runs that failed, are missing, are of other settings, or were evaluated at other steps or on other problems
    than most are.
    """
    arms, notes = [], []
    for arm in study.arms:
        found: dict[int, Result] = {}
        for seed in study.budget.seeds:
            result, reason = results.read(study, arm, seed)
            if result is not None:
                found[seed] = result
                continue
            failure = results.failure(arm.name, seed)
            if failure is not None:
                reason = f"failed: {failure['reason']}"
            notes.append(f"{arm.name}, seed {seed}: {reason or 'not run yet'}")
        arms.append(ArmRuns(arm, found))
    kinds = Counter(evaluated(result) for runs in arms for result in runs.results.values())
    usual = kinds.most_common(1)[0][0] if kinds else ()
    for runs in arms:
        for seed in [seed for seed, result in runs.results.items() if evaluated(result) != usual]:
            notes.append(f"{runs.arm.name}, seed {seed}: evaluated at other steps or on other problems than most runs")
            del runs.results[seed]
    return [runs for runs in arms if runs.results], notes


def report(study: Study, arms: Sequence[ArmRuns], notes: Sequence[str], command: str) -> str:
    """Return the report as Markdown."""
    parts = [f"# Study, {study.budget.name} budget", ""]
    if not arms:
        parts += [EMPTY, ""]
    else:
        summaries = summarise(arms, study.reference)
        parts += [_about(summaries, command), "", accuracy_table(summaries, study.reference), ""]
        parts += [efficiency_table(summaries), "", *_ACCURACY_NOTES, ""]
        parts += ["## Diagnostics", "", diagnostics_table(arms), "", *_DIAGNOSTICS_NOTES, ""]
        parts += ["## Signs of reward hacking", "", signs_table(arms), "", kinds_table(arms), "", *_SIGNS_NOTES, ""]
    if notes:
        parts += ["## Runs left out", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(parts)


def _about(summaries: Sequence[ArmSummary], command: str) -> str:
    results = [r for s in summaries for r in s.runs.results.values()]
    first = results[0]["evaluations"][-1]
    codes = ", ".join(sorted({code for r in results for code in r["code"]}))
    return (
        f"{len(results)} runs: {len(summaries)} arms, {results[0]['steps']} optimizer steps each. Accuracy is that of sampled "
        f"solutions, {first['samples']} for each of {len(first['correct'])} held-out problems. Intervals are 95%; one seed has "
        "none. "
        f"Made with {codes}. This table was written by `{command}`."
    )


_ACCURACY_NOTES = (
    "*at N tokens*: accuracy where each run's curve has N sampled tokens, the most that all runs have. "
    "*end*, *difference*: interval by a bootstrap over seeds and problems. *p*: exact sign-flip test over the seeds that both "
    "arms have, at least 2/2^seeds; *Holm*: adjusted for all arms. *area*: mean accuracy over the solutions sampled. "
    "*solutions to 90%*: solutions at which the mean curve has 90% of the reference's gain from its start to its end, "
    "interpolated between evaluations. *ratio*: of these to the reference's own; below 1 is faster. ∞: not reached within the "
    "budget; as a bound: in so many resamples of the seeds that the bound is unknown.",
)
_DIAGNOSTICS_NOTES = (
    "All rounds of a run together, mean over seeds. *information*: mutual information in nats between the sign (−, 0, +) of a "
    "token's advantage and whether its step is right; at most ln 2 = 0.693; *explained*: its share of the entropy of "
    "right/wrong. The paper reports a variance of 77.97 and an information of 0.22 without merging, 0.69 with (its unit is not "
    "given). *A<0, A>0*: share of the tokens of wrong (right) steps with such an advantage. *F1*, *agreement*: the judge's "
    "labels against exact truth.",
)
_SIGNS_NOTES = (
    "Training solutions, first → last fifth of the rounds, all seeds together. In brackets: share of these steps that are "
    "wrong, at the end. *repeated*: steps a solution whose text occurred before in it.",
)


def accuracy_table(summaries: Sequence[ArmSummary], reference: str) -> str:
    """Return the main table, a row an arm."""
    rows = []
    for s in summaries:
        c = s.comparison
        against = [_DASH] * 3 if c is None else [_interval(c.difference, sign="+"), f"{c.p:.3f}", f"{c.p_holm:.3f}"]
        row = [s.runs.arm.title, s.runs.arm.group, str(len(s.runs.seeds)), f"{s.start:.3f}", _interval(s.final)]
        rows.append([*row, *against])
    return markdown(["arm", "group", "seeds", "start", "end", f"difference to {reference}", "p", "Holm"], rows)


def efficiency_table(summaries: Sequence[ArmSummary]) -> str:
    """Return the table of areas, solutions to 90% of the reference's gain, and what was sampled in all."""
    rows = []
    for s in summaries:
        c = s.comparison
        reach = [_DASH] * 3 if c is None else [_interval(c.area, "+"), _count(c.reached), _interval(c.ratio, digits=2)]
        size = [_count(s.solutions), _count(s.tokens), f"{s.seconds / 60:.1f}"]
        rows.append([s.runs.arm.title, _interval(s.at_tokens), _interval(s.area), *reach, *size])
    at_tokens = f"at {common_tokens([s.runs for s in summaries]):,.0f} tokens"
    head = [
        "arm",
        at_tokens,
        "area",
        "difference of areas",
        "solutions to 90%",
        "ratio",
        "solutions",
        "tokens",
        "minutes",
    ]
    return markdown(head, rows)


DIAGNOSTICS = {
    "variance": "advantage variance",
    "information": "information",
    "explained": "explained",
    "wrong_punished": "wrong steps A<0",
    "wrong_rewarded": "wrong steps A>0",
    "right_punished": "right steps A<0",
    "f1_incorrect": "F1 INCORRECT",
    "f1_matched": "F1 MATCHED",
    "agreement": "agreement",
    "abstained": "abstained",
}


def diagnostics_table(arms: Sequence[ArmRuns]) -> str:
    """Return the table of the paper's diagnostics and the judge's quality."""
    rows = []
    for runs in arms:
        values = diagnostics(runs)
        cells = [_interval(values[name]) if name in values else _DASH for name in DIAGNOSTICS]
        rows.append([runs.arm.title, *cells])
    return markdown(["arm", *DIAGNOSTICS.values()], rows)


def signs_table(arms: Sequence[ArmRuns]) -> str:
    """Return the table of lengths and shares, at the beginning and at the end."""
    names = {"length": 0, "steps": 1, "thoughts": 1, "repeated": 2, "unparsable": 3, "truncated": 3, "mixed": 2}
    rows = []
    for runs in arms:
        first, last = first_and_last(runs)
        rows.append([runs.arm.title, *(_change(first[n], last[n], digits) for n, digits in names.items())])
    head = [n if n != "mixed" else "mixed groups" for n in names]
    return markdown(["arm", *head], rows)


def kinds_table(arms: Sequence[ArmRuns]) -> str:
    """Return the table of steps a solution by kind."""
    ends = {runs.arm.title: first_and_last(runs) for runs in arms}
    kinds = sorted(
        {name.removeprefix("kind: ") for pair in ends.values() for e in pair for name in e if "kind: " in name}
    )
    rows = [[title, *(_kind_cell(first, last, kind) for kind in kinds)] for title, (first, last) in ends.items()]
    return markdown(["arm", *kinds], rows)


def _kind_cell(first: Mapping[str, float], last: Mapping[str, float], kind: str) -> str:
    name, wrong = f"kind: {kind}", last.get(f"wrong: {kind}", 0.0)
    share = "" if wrong != wrong or not wrong else f" ({wrong:.1%})"
    return _change(first.get(name, 0.0), last.get(name, 0.0), 2) + share


def _change(first: float, last: float, digits: int) -> str:
    return f"{first:.{digits}f} → {last:.{digits}f}"


def _interval(e: Estimate, sign: str = "", digits: int = 3) -> str:
    if math.isnan(e.value):
        return _DASH
    if math.isnan(e.low):
        return "∞" if math.isinf(e.value) else f"{e.value:{sign}.{digits}f}"
    if math.isinf(e.low):
        return "∞"
    value, low, high = ("∞" if math.isinf(v) else f"{v:{sign}.{digits}f}" for v in (e.value, e.low, e.high))
    return f"{value} [{low}, {high}]"


def _count(value: float) -> str:
    if math.isnan(value):
        return _DASH
    return "not reached" if math.isinf(value) else f"{value:,.0f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
