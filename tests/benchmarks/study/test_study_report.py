"""The study's table and pictures from results whose numbers are worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study.__main__ import main
from benchmarks.study.report import gather_runs, report, write_report
from benchmarks.study.results import Results
from benchmarks.study.settings import Arm, Budget, Study, read_study
from benchmarks.study.summary import ArmRuns, diagnostics, first_and_last, summarise, text_signs
from benchmarks.study.sweep import read_sweep, write_sweep
from lit_tpgrpo.errors import InputError

ARMS = (
    Arm("base", "plain", "baseline"),
    Arm("fast", "twice as fast", "ours", options={"data.credit.alpha": 2}),
    Arm("slow", "no gain", "rival"),
)
STUDY = Study((), Budget("short", (0, 1, 2)), "base", ARMS)
CORRECT = {"base": [0, 2, 4], "fast": [0, 5, 6], "slow": [0, 1, 2]}
"""Right ones of 4 x 2 held-out solutions at each evaluation, on every seed."""


def a_round(index: int, fillers: int = 0) -> dict[str, Any]:
    return {
        "record": "round", "index": index, "step": 10 * index, "seconds": 1.0, "solutions": 100, "tokens": 1000 * (index + 1),
        "truncated": 1, "unparsable": 20, "kinds": {"step": [60, 20]} | ({"filler": [fillers, 0]} if fillers else {}),
        "groups": 10, "mixed": 5, "decided": 100, "correct": 50, "kept": 100, "credited": 100, "steps": 400, "thoughts": 150,
        "repeated": 10, "advantages": {"n": 10, "sum": 5.0, "squares": 20.0},
        "signs": [[[0, 2], [0, 0], [4, 0]], [[1, 2], [3, 0], [0, 0]]],
        "labels": {"correct": {"correct": 8, "incorrect": 1}, "incorrect": {"correct": 2, "incorrect": 3, "abstained": 1}},
    }  # fmt: skip


def a_result(study: Study, arm: Arm, seed: int, correct: list[int]) -> dict[str, Any]:
    """Evaluations after 0, 100 and 200 solutions; on four problems with two solutions each, the right ones on the first."""
    evaluations = [
        {
            "step": 10 * i, "samples": 2, "problems": "x", "accuracy": n / 8, "tokens": 640, "solutions": 8,
            "sampled_solutions": 100 * i, "sampled_tokens": 1000 * (0, 1, 3)[i],
            "correct": [min(2, max(0, n - 2 * p)) for p in range(4)],
        }
        for i, n in enumerate(correct)
    ]  # fmt: skip
    rounds = [a_round(0), a_round(1, fillers=40)]
    head = {
        "arm": arm.name,
        "seed": seed,
        "settings": study.hashes(arm),
        "code": ["0.1.0 abc", "0.1.0 abd"] if seed else ["0.1.0 abc"],
        "steps": 20,
        "seconds": 120.0,
    }
    return head | {"evaluations": evaluations, "rounds": rounds}


def store(out: Path, result: dict[str, Any]) -> None:
    path = Results(out).path(result["arm"], result["seed"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for arm in ARMS:
        for seed in STUDY.budget.seeds:
            store(tmp_path, a_result(STUDY, arm, seed, CORRECT[arm.name]))
    return tmp_path


def rows(text: str, title: str) -> list[list[str]]:
    """Return the cells of all rows of an arm, a list a table."""
    return [
        [c.strip() for c in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {title} |")
    ]


def test_table_by_hand(out: Path):
    """fast: 6/8 against 4/8, and at 3.6/8 after 72 solutions instead of 180. slow: 2/8, never there."""
    arms, notes = gather_runs(STUDY, Results(out))
    text = report(STUDY, arms, notes, "command")
    accuracy, efficiency, *_ = rows(text, "twice as fast")
    # Right ones are on the first problems: the differences by problem are 0, 0, 1, 0, which resampled problems give 0 to 1.
    assert accuracy[:4] == ["twice as fast", "ours", "3", "0.000"]
    assert accuracy[5].split(" ")[0] == "+0.250"
    assert accuracy[6:] == ["0.250", "0.500"]  # three seeds of one sign: 2/8, times two arms
    # Areas: base (0 + 2)/2 and (2 + 4)/2 of 8, mean 0.25; fast 2.5 and 5.5 of 8, 0.5; slow 0.5 and 1.5 of 8, 0.125.
    assert efficiency[1] == "0.750 [0.750, 0.750]"
    assert efficiency[2:] == [
        *("0.500 [0.500, 0.500]", "+0.250 [+0.250, +0.250]", "72", "0.40 [0.40, 0.40]", "200", "3,000", "2.0")
    ]
    assert rows(text, "no gain")[1][2:6] == ["0.125 [0.125, 0.125]", "-0.125 [-0.125, -0.125]", "not reached", "∞"]
    assert rows(text, "plain")[0][5:] == ["–", "–", "–"]
    assert "9 runs: 3 arms, 20 optimizer steps each" in text
    assert "Made with 0.1.0 abc, 0.1.0 abd. " in text
    assert "Runs left out" not in text


def test_accuracy_at_equal_tokens_by_hand(out: Path):
    """The slow arm samples 2,000 tokens. base: 2/8 at 1,000 and 4/8 at 3,000 tokens, so 3/8 at 2,000; fast: 5/8 and 6/8."""
    for seed in STUDY.budget.seeds:
        result = a_result(STUDY, ARMS[2], seed, CORRECT["slow"])
        result["evaluations"][-1]["sampled_tokens"] = 2000 + 100 * seed
        store(out, result)
    arms, notes = gather_runs(STUDY, Results(out))
    assert [s.at_tokens.value for s in summarise(arms, "base")[:2]] == pytest.approx([3 / 8, 5.5 / 8])
    assert "| at 2,000 tokens |" in report(STUDY, arms, notes, "command")


def test_diagnostics_by_hand(out: Path):
    """Two equal rounds: mean 0.5, mean square 2. Signs (−, 0, +) by (right, wrong): (1, 4), (3, 0), (4, 0) a round."""
    arms, _ = gather_runs(STUDY, Results(out))
    values = {name: estimate.value for name, estimate in diagnostics(arms[0]).items()}
    cells, total = {(1, 5, 8): 1, (4, 5, 4): 4, (3, 3, 8): 3, (4.0, 4, 8): 4}, 12
    information = sum(
        n / total * math.log((n / total) / ((row / total) * (column / total))) for (_, row, column), n in cells.items()
    )
    assert values["variance"] == pytest.approx(2 - 0.25)
    assert values["information"] == pytest.approx(information)
    assert values["explained"] == pytest.approx(information / -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert (values["wrong_punished"], values["wrong_rewarded"], values["right_punished"]) == (1.0, 0.0, 1 / 8)
    assert values["f1_incorrect"] == pytest.approx(2 * 3 / (6 + 4))
    assert values["agreement"] == pytest.approx(11 / 15)
    assert values["abstained"] == pytest.approx(1 / 15)
    assert "f1_matched" not in values


def test_signs_by_hand(out: Path):
    first, last = first_and_last(gather_runs(STUDY, Results(out))[0][0])
    assert (first["length"], last["length"], first["steps"], first["thoughts"]) == (10, 20, 4, 1.5)
    assert (first["unparsable"], first["truncated"], first["repeated"], first["mixed"]) == (0.2, 0.01, 0.1, 0.5)
    assert (first["kind: step"], first["wrong: step"]) == (1.0, 0.25)  # a readable solution
    assert "kind: filler" not in first
    assert last["kind: filler"] == 0.5
    assert text_signs(a_round(0) | {"unparsable": 100, "kinds": {}})["length"] == 10


def test_missing_failed_and_changed_runs_are_named_and_not_used(out: Path):
    Results(out).path("slow", 1).unlink()
    Results(out).path("slow", 2).unlink()
    Results(out).fail(ARMS[2], 2, 1, "it ended with status 1", out / "no log")
    other = Arm("fast", "twice as fast", "ours", options={"data.credit.alpha": 3})
    store(out, a_result(STUDY, other, 0, CORRECT["fast"]))
    arms, notes = gather_runs(STUDY, Results(out))
    assert notes == [
        "fast, seed 0: data.credit.alpha changed since it was made",
        "slow, seed 1: not run yet",
        "slow, seed 2: failed: it ended with status 1",
    ]
    assert [runs.seeds for runs in arms] == [[0, 1, 2], [1, 2], [0]]
    pairs = {s.runs.arm.name: s.comparison.pairs for s in summarise(arms, "base") if s.comparison is not None}
    assert pairs == {"fast": 2, "slow": 1}
    assert "- slow, seed 1: not run yet" in report(STUDY, arms, notes, "command")


def test_a_report_without_results_or_reference(tmp_path: Path):
    assert "no results yet" in report(STUDY, *gather_runs(STUDY, Results(tmp_path)), "command")
    store(tmp_path, a_result(STUDY, ARMS[1], 0, [0, 1, 2]))
    assert rows(report(STUDY, *gather_runs(STUDY, Results(tmp_path)), "command"), "twice as fast")[0][5:] == [
        "–",
        "–",
        "–",
    ]


def test_a_report_of_given_seeds_has_the_budgets_too(tmp_path: Path):
    """Seeds that are given limit what is run, not what the table says; it names the command line that wrote it."""
    settings, out = tmp_path / "arms.yaml", tmp_path / "out"
    arm = {"name": "base", "title": "plain", "group": "baseline"}
    budgets = {"short": {"seeds": [0, 1]}}
    settings.write_text(json.dumps({"configs": [], "reference": "base", "budgets": budgets, "arms": [arm]}))
    study = read_study(settings)
    for seed in (0, 1, 7, 8):
        store(out, a_result(study, study.arms[0], seed, CORRECT["base"]))
    arguments = ["--settings", str(settings), "--out", str(out), "--work", str(tmp_path), "--report-only"]
    assert main([*arguments, "--seeds", "7"]) == 0
    text = (out / "table.md").read_text()
    assert rows(text, "plain")[0][2] == "3"  # 0, 1 and 7
    assert f"written by `python -m benchmarks.study --settings {settings} " in text
    assert "--seeds 7`" in text


def test_runs_with_other_evaluations_are_left_out(out: Path):
    result = a_result(STUDY, ARMS[1], 0, CORRECT["fast"])
    result["evaluations"] = result["evaluations"][:2]
    store(out, result)
    arms, notes = gather_runs(STUDY, Results(out))
    assert notes == ["fast, seed 0: evaluated at other steps or on other problems than most runs"]
    assert [runs.seeds for runs in arms] == [[0, 1, 2], [1, 2], [0, 1, 2]]
    assert f"## Runs left out\n\n- {notes[0]}" in report(STUDY, arms, notes, "command")
    with pytest.raises(InputError, match="base with seed 0 and fast with seed 0 differ"):
        summarise([*arms, ArmRuns(ARMS[1], {0: result})], "base")


def test_sweep_table(tmp_path: Path):
    grid = tmp_path / "sweep.yaml"
    grid.write_text("{arm: base, seeds: [7, 8], grid: {model.optimizer.lr: [0.1, 0.2]}}")
    sweep = read_sweep(grid, STUDY)
    for arm, correct in zip(sweep.study.arms, ([0, 2, 4], [0, 4, 6]), strict=True):
        store(tmp_path / "sweep", a_result(sweep.study, arm, 7, correct))
    store(tmp_path / "sweep", a_result(sweep.study, sweep.study.arms[1], 8, [0, 4, 8]))
    (path,) = write_sweep(sweep, Results(tmp_path / "sweep"), tmp_path)
    table = [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("|")]
    assert table[0] == ["model.optimizer.lr", "end, seed 7", "end, seed 8", "end", "area", "tokens"]
    assert table[2] == ["0.1", "0.500", "–", "0.500", "0.250", "3,000"]
    assert table[3] == [f"**{c}**" for c in ("0.2", "0.750", "1.000", "0.875", "0.469", "3,000")]
    assert "- lr_0.1, seed 8: not run yet" in path.read_text()


def test_a_table_is_not_replaced_by_an_empty_one(out: Path, capsys: pytest.CaptureFixture[str]):
    table, sweep = out / "table.md", out / "sweep.md"
    changed = replace(STUDY, budget=replace(STUDY.budget, options={"trainer.max_steps": 3}))
    (out / "sweep.yaml").write_text("{arm: base, seeds: [7], grid: {x: [1]}}")
    grid = read_sweep(out / "sweep.yaml", changed)
    assert write_report(changed, Results(out), out, "command") == [table]  # nothing there yet
    assert write_sweep(grid, Results(out / "sweep"), out) == [sweep]
    for path in (table, sweep):
        assert "no results yet" in path.read_text()
        path.write_text("numbers")
    assert write_report(changed, Results(out), out, "command") == write_sweep(grid, Results(out / "sweep"), out) == []
    assert table.read_text() == sweep.read_text() == "numbers"
    assert f"{table} is left as it is" in capsys.readouterr().out


@pytest.mark.slow
def test_pictures_show_the_results(out: Path):
    pytest.importorskip("matplotlib")
    from benchmarks.study import pictures

    arms, _ = gather_runs(STUDY, Results(out))
    curves = pictures.curves_by_group(arms, "base")
    assert [axis.get_title() for axis in curves.axes if axis.get_visible()] == ["rival", "ours"]
    fast, base = curves.axes[1].get_lines()
    assert fast.get_xydata().tolist() == [[0, 0], [100, 0.625], [200, 0.75]]
    assert base.get_color() == pictures.REFERENCE
    assert fast.get_label() == "twice as fast (0.750)"
    labels = [text.get_text() for text in pictures.differences(arms, "base").axes[0].get_yticklabels()]
    assert labels == ["twice as fast (ours)", "no gain (rival)"]
    signs = {axis.get_title(): axis for axis in pictures.signs_picture(arms, "base").axes}
    # The first round has no filler: 0 of them, not a missing point.
    assert signs["FILLER a solution"].get_lines()[-1].get_xydata().tolist() == [[0, 0], [100, 0.5]]
    written = pictures.write_pictures(arms, "base", out)
    assert [path.name for path in written] == ["curves.png", "differences.png", "diagnostics.png", "signs.png"]
    assert all(path.stat().st_size > 10_000 for path in written)


@pytest.mark.slow
def test_no_panel_of_lines_is_crowded(out: Path):
    """26 bands lay over one another in one panel, and of 34 lines of signs two looked the same."""
    pytest.importorskip("matplotlib")
    from benchmarks.study import pictures

    base, fast, slow = gather_runs(STUDY, Results(out))[0]
    many = [replace(slow, arm=replace(slow.arm, name=f"slow{i}", title=str(i))) for i in range(13)]
    drawn = [axis for axis in pictures.curves_by_group([base, *many, fast], "base").axes if axis.get_visible()]
    assert [axis.get_title() for axis in drawn] == ["rival, 1 of 3", "rival, 2 of 3", "rival, 3 of 3", "ours"]
    labels = [[line.get_label().split()[0] for line in axis.get_lines()] for axis in drawn]
    assert labels == [
        ["0", "1", "2", "3", "plain"],
        ["4", "5", "6", "7", "plain"],
        ["8", "9", "10", "11", "12", "plain"],
        ["twice", "plain"],
    ]
    signs = pictures.signs_picture([base, *many, fast], "base")
    of_lengths = [axis for axis in signs.axes if axis.get_ylabel()]  # the first of each row
    assert [axis.get_ylabel() for axis in of_lengths] == [axis.get_title() for axis in drawn]
    assert [[line.get_label().split()[0] for line in axis.get_lines()] for axis in of_lengths] == labels
    for axis in (*drawn, *signs.axes):
        colours = [line.get_color() for line in axis.get_lines()]
        assert len(set(colours)) == len(colours)
        assert colours[-1] == pictures.REFERENCE  # over the others


@pytest.mark.parametrize(
    ("seeds", "said"), [([1, 1], "one seed"), ([2, 5], "over 2 to 5 seeds"), ([3, 3], "over 3 seeds")]
)
def test_curves_say_of_how_many_seeds_they_are(out: Path, seeds: list[int], said: str):
    pytest.importorskip("matplotlib")
    from benchmarks.study import pictures

    base, fast, _ = gather_runs(STUDY, Results(out))[0]
    result = next(iter(base.results.values()))
    arms = [replace(runs, results=dict.fromkeys(range(n), result)) for runs, n in zip((base, fast), seeds, strict=True)]
    title = pictures.curves_by_group(arms, "base").get_suptitle()
    assert said in title
    assert ("interval" in title) == (seeds != [1, 1])
