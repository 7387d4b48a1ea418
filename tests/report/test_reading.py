"""What a report reads from a run's folder: metrics, rounds, solutions, settings; and which experiment a run belongs to."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.report import files, read_run
from lit_tpgrpo.report.experiments import Band, band, differing, experiments
from lit_tpgrpo.report.figures import run_names
from lit_tpgrpo.report.files import chosen, total_chars
from lit_tpgrpo.report.metrics import Series, read_metrics, rounds
from lit_tpgrpo.report.solutions import shown_row, thinned
from tests.report.example_runs import METRICS, solution_row, write_rows, write_run


def test_metrics_of_a_csv_file(tmp_path: Path):
    run = read_run(write_run(tmp_path / "run"))
    assert run.metrics["rollout/accuracy"] == Series((0, 2), (0.25, 0.75))
    assert run.metrics["train/loss"] == Series((0, 1, 2), (0.5, 0.4, 0.3))
    assert run.steps == 3
    assert [(r.index, r.step, dict(r.seconds)) for r in run.rounds] == [
        (0, 0, {"sampling": 4.0, "judging": 1.0, "training": 5.0}),
        (1, 2, {"sampling": 2.0, "judging": 0.5, "training": 4.0}),
    ]


def test_tensorboard_has_the_same_metrics_and_the_time_between_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count(1000.0, 10.0)
    monkeypatch.setattr("time.time", lambda: next(clock))
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    values = {"round": 0.0, "rollout/seconds": 4.0, "judge/seconds": 1.0}
    for name, value in values.items():  # one event each, 10 s apart
        logger.experiment.add_scalar(name, value, 0, walltime=100.0)
        logger.experiment.add_scalar(name, value + (name == "round"), 1, walltime=130.0)
    logger.experiment.add_scalar("train/tokens", 60.0, 0, walltime=110.0)
    logger.experiment.add_scalar("train/tokens_per_s", 20.0, 0, walltime=110.0)
    logger.finalize("success")
    metrics = read_metrics(tmp_path / "run")
    assert metrics["rollout/seconds"].steps == (0, 1)
    # 30 s from one round to the next: 3 s of training, then 5 s of sampling and judging; 22 s are left.
    assert rounds(metrics)[0].seconds == {"sampling": 4.0, "judging": 1.0, "training": 3.0, "other": 22.0}
    assert "other" not in rounds(metrics, one_process=False)[0].seconds


def test_steps_that_were_not_logged_take_the_time_of_those_that_were():
    """Every second step is logged: two rounds of four steps, one of a single step that is not, and one of two."""
    metrics = {
        "round": Series((0, 4, 8, 9), (0.0, 1.0, 2.0, 3.0)),
        "train/tokens": Series((1, 3, 5, 7, 9), (10.0, 30.0, 50.0, 50.0, 60.0)),
        "train/tokens_per_s": Series((1, 3, 5, 7, 9), (10.0, 10.0, 0.0, 10.0, 10.0)),
        "eval/avg@2": Series((0, 11), (0.0, 0.5)),
    }
    # Seconds of the logged steps: 1, 3, unknown, 5, 6; the run's mean is 15/4. The evaluation was after 11 steps.
    assert [row.seconds["training"] for row in rounds(metrics)] == [8.0, 20.0, 3.75, 12.0]


LOGGED = [
    {"step": 0, "rollout/seconds": 4.0, "judge/seconds": 1.0, "rollout/accuracy": 0.0, "round": 0},
    {"step": 0, "rollout/seconds": 3.0, "judge/seconds": 0.5, "mismatch/kl": 0.1, "rollout/accuracy": 0.5, "round": 1},
    {"step": 0, "train/loss": 0.7, "train/tokens": 60.0, "train/tokens_per_s": 20.0},
    {
        "step": 1,
        "rollout/seconds": 2.0,
        "judge/seconds": 0.25,
        "mismatch/kl": 0.2,
        "rollout/accuracy": 0.75,
        "round": 2,
    },
]
"""Round 0 keeps nothing, so that round 1 is logged at the same step; it has no metric of the tokens that are kept."""


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_rounds_that_take_no_step_are_rounds_of_their_own(tmp_path: Path, logger):
    written = logger(tmp_path, name="", version="run")
    for row in LOGGED:
        written.log_metrics({name: value for name, value in row.items() if name != "step"}, step=row["step"])
    written.finalize("success")
    metrics = read_metrics(tmp_path / "run")
    first, second, third = rounds(metrics, one_process=False)
    assert [(r.index, r.step) for r in (first, second, third)] == [(0, 0), (1, 0), (2, 1)]
    assert dict(first.seconds) == {"sampling": 4.0, "judging": 1.0, "training": 0.0}
    assert dict(second.seconds) == {"sampling": 3.0, "judging": 0.5, "training": 3.0}
    assert [r.metrics["rollout/accuracy"] for r in (first, second, third)] == [0.0, 0.5, 0.75]
    assert ["mismatch/kl" in r.metrics for r in (first, second, third)] == [False, True, True]
    assert metrics["rollout/accuracy"].values == (0.5, 0.75)  # a curve has one value a step


def test_of_a_round_that_a_resumed_run_logs_again_the_later_one_counts(tmp_path: Path):
    """Rounds 0 and 1 at step 0, 2 at step 1. Resumed at step 0, the run logs round 1 there again, and round 2 at step 3."""
    written = TensorBoardLogger(tmp_path, name="", version="run")
    for index, step, seconds in [(0, 0, 1.0), (1, 0, 2.0), (2, 4, 4.0), (1, 0, 8.0), (2, 3, 16.0)]:
        written.log_metrics({"rollout/seconds": seconds, "round": index}, step=step)
    written.finalize("success")
    found = [(r.index, r.step, r.seconds["sampling"]) for r in rounds(read_metrics(tmp_path / "run"))]
    assert found == [(0, 0, 1.0), (1, 0, 8.0), (2, 3, 16.0)]


def steps_of_ten_seconds(steps: range) -> dict[str, Series]:
    ones = (1.0,) * len(steps)
    return {"train/tokens": Series(tuple(steps), ones), "train/tokens_per_s": Series(tuple(steps), (0.1,) * len(steps))}


def test_a_round_begins_where_training_on_it_begins():
    """Two pipelined rounds of eight steps: each is logged when its last part is credited, after seven of its steps."""
    metrics = steps_of_ten_seconds(range(16)) | {"round": Series((7, 15), (0.0, 1.0), (70.0, 155.0))}
    known = metrics | {"round_step": Series((7, 15), (0.0, 8.0))}
    assert [(r.step, r.seconds["training"]) for r in rounds(known)] == [(0, 80.0), (8, 80.0)]
    assert rounds(known)[0].seconds["other"] == 5.0  # 85 s from one to the next, with the eight steps from 7 to 14
    # Runs of earlier versions do not say where a round begins.
    assert [(r.step, r.seconds["training"]) for r in rounds(metrics)] == [(7, 80.0), (15, 10.0)]


def test_steps_before_a_run_was_resumed_are_not_in_its_report():
    """Resumed at step 12, in the middle of the round that begins at step 8."""
    metrics = steps_of_ten_seconds(range(12, 20)) | {"round": Series((12, 16), (1.0, 2.0))}
    metrics |= {"round_step": Series((12, 16), (8.0, 16.0))}
    assert [(r.step, r.seconds["training"]) for r in rounds(metrics)] == [(8, 40.0), (16, 40.0)]


def test_a_csv_file_that_was_cut_short_is_read_up_to_there(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text(METRICS + "4,2,0.9")
    assert read_metrics(tmp_path)["rollout/accuracy"] == Series((0, 2, 4), (0.25, 0.75, 0.9))
    (tmp_path / "metrics.csv").write_text(METRICS + "\0\0,\n4x,2,0.9\n5,2,nothing\n")
    assert read_metrics(tmp_path)["rollout/accuracy"] == Series((0, 2), (0.25, 0.75))


def test_a_round_that_is_written_twice_counts_once(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    old, new = solution_row(round=0, answer="1"), solution_row(round=0, answer="2")
    write_rows(folder / "solutions.jsonl", [old, solution_row(round=1), new])
    with (folder / "solutions.jsonl").open("a") as file:
        file.write(json.dumps(new)[:50] + "\n[1]\n{}\n")
    run = read_run(folder)
    assert [(s.round, s.answer) for s in run.solutions] == [(0, "2"), (1, "7")]
    assert run.notes == ("solutions.jsonl: 3 lines cut short or of other content, left out",)


@given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=6))
def test_the_pieces_of_a_solution_are_its_text(text: str, cuts: list[int]):
    """Thoughts that leave out some of the text, and steps that cut them anywhere."""
    ends = sorted({min(cut, len(text)) for cut in cuts})
    spans = list(itertools.pairwise(ends))
    thoughts = [
        {"start": a, "end": b, "label": "correct", "process_reward": 0.0, "advantage": 0} for a, b in spans[::2]
    ]
    steps = [{"start": a, "end": b, "label": "correct"} for a, b in spans]
    shown = shown_row(solution_row(text=text, thoughts=thoughts, steps=steps))
    assert "".join("".join(piece.steps) for piece in shown.pieces) == text
    assert [piece.label for piece in shown.pieces].count("correct") == len(thoughts)


@pytest.mark.parametrize(
    "changed",
    [
        {"thoughts": [{"start": 3, "end": 99, "label": "correct", "process_reward": 0, "advantage": 0}]},
        {"thoughts": [{"start": 0, "end": 1, "label": "good", "process_reward": 0, "advantage": 0}]},
        {"text": 7},
        {"sample": True},
        {"outcome_advantage": "1"},
    ],
)
def test_a_row_that_is_no_judged_solution_is_left_out(tmp_path: Path, changed: dict):
    path = write_rows(tmp_path / "judged.jsonl", [solution_row(), solution_row(1) | changed])
    run = read_run(path)
    assert [s.sample for s in run.solutions] == [0]
    assert run.notes == ("judged.jsonl: 1 line cut short or of other content, left out",)


def test_a_problem_may_occur_twice_in_a_round(tmp_path: Path):
    """Three groups of two solutions of one problem; the second round is written again after a crash."""
    row = lambda r, i: solution_row(i % 2, round=r, index=i, text=f"{r}.{i}")  # noqa: E731
    folder = write_run(tmp_path / "run")
    write_rows(
        folder / "solutions.jsonl", [row(*at) for at in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 0)]]
    )
    shown = read_run(folder).solutions
    texts = ["".join(piece.steps[0] for piece in s.pieces) for s in shown]
    assert texts == ["0.0", "0.1", "0.2", "0.3", "1.0", "1.1"]
    assert [(s.round, s.index) for s in thinned(shown, 4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_only_the_solutions_that_are_shown_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_run(tmp_path / "run")
    rows = [solution_row(0, round=n, index=0, text="x" * n) for n in range(20)]
    write_rows(folder / "solutions.jsonl", rows[10:] + rows[:10])
    shown = read_run(folder).solutions
    assert (len(shown), total_chars(shown), [s.round for s in shown[4:6]]) == (20, 190, [4, 5])
    read = []
    monkeypatch.setattr(files, "shown_row", lambda row: read.append(row["round"]) or shown_row(row))
    assert [(s.round, s.chars) for s in chosen(shown, 3)] == [(0, 0), (9, 9), (19, 19)]
    assert read == [0, 9, 19]
    (folder / "solutions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"solutions\.jsonl was changed while it was read; write the report once more"):
        chosen(shown, 3)
    (folder / "solutions.jsonl").unlink()
    with pytest.raises(InputError, match=r"solutions\.jsonl cannot be read \(No such file or directory\)"):
        chosen(shown, 3)


def test_solutions_are_thinned_evenly_and_groups_stay_together():
    rows = [
        shown_row(solution_row(s, round=r, problem=f"p{r}.{p}")) for r in range(6) for p in range(2) for s in range(4)
    ]
    kept = thinned(rows, 16)
    expected = [(0, 0), (1, 1), (3, 1), (5, 1)]  # 0, 3, 7 and 11 of the 12 groups: the last one too
    assert [(s.round, s.uid, s.sample) for s in kept] == [(r, f"p{r}.{p}", s) for r, p in expected for s in range(4)]
    assert thinned(rows, 48) == rows
    assert thinned(rows, 3) == rows[:3]
    assert thinned(rows, 0) == []


def test_whole_groups_are_left_out_until_the_others_fit():
    rows = [shown_row(solution_row(s, round=r)) for r, size in enumerate((6, 1, 1, 1, 6)) for s in range(size)]
    assert [s.round for s in thinned(rows, 9)] == [0] * 6  # the first, third and last together would be 13
    assert [s.round for s in thinned(rows, 13)] == [0] * 6 + [2] + [4] * 6


@pytest.mark.parametrize("most", [0, 1, 5, 47, 100])
def test_no_more_solutions_than_asked_for(most: int):
    rows = [shown_row(solution_row(s, round=r)) for r in range(12) for s in range(4)]
    assert len(thinned(rows, most)) <= most


# ---- experiments ----


def test_runs_that_differ_in_seed_and_folder_are_one_experiment(tmp_path: Path):
    runs = [
        read_run(write_run(tmp_path / "thought" / "version_0", seed=3)),
        read_run(write_run(tmp_path / "other" / "version_0", seed=3, alpha=2.0)),
        read_run(write_run(tmp_path / "thought" / "version_1", seed=4, writer={"path": "x"})),
    ]
    first, second = experiments(runs)
    assert (first.name, first.seeds, second.name) == ("thought", [3, 4], "other")
    assert differing([first, second]) == [
        ("data.credit.alpha", ["1.0", "2.0"]),
        ("seed_everything", ["3 | 4", "3"]),
    ]
    assert run_names([first, second]) == ["thought, seed 3", "thought, seed 4", "other"]


def test_a_resumed_run_is_no_seed_of_another(tmp_path: Path):
    before = read_run(write_run(tmp_path / "x" / "version_0"))
    later = METRICS.replace("\n0,", "\n4,").replace("\n1,", "\n5,").replace("\n2,", "\n6,").replace("\n3,", "\n7,")
    after = read_run(write_run(tmp_path / "x" / "version_1", metrics=later, ckpt_path="x/version_0/last.ckpt"))
    other = read_run(write_run(tmp_path / "x" / "version_2", seed=1, ckpt_path="x/version_0/last.ckpt"))
    groups = experiments([before, after, other])
    assert [[run.path.name for run in group.runs] for group in groups] == [["version_0"], ["version_1"], ["version_2"]]
    assert ("ckpt_path", ["", "x/version_0/last.ckpt", "x/version_0/last.ckpt"]) in differing(groups)
    assert [band(group.series("rollout/accuracy")).steps for group in groups[:2]] == [[0, 2], [4, 6]]


def test_labels_of_the_user_decide(tmp_path: Path):
    paths = [write_run(tmp_path / f"run{n}", alpha=n) for n in (1, 2, 3)]
    groups = experiments([read_run(path, label) for path, label in zip(paths, ("a", "", "a"), strict=True)])
    assert [(g.name, [r.path.name for r in g.runs]) for g in groups] == [("a", ["run1", "run3"]), ("run2", ["run2"])]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("x/version_0", "x/version_1"), ("x/version_0", "x/version_1")),
        (("a/run", "b/run"), ("a/run", "b/run")),
        (("a/x/version_0", "b/x/version_0", "y/version_0"), ("a/x/version_0", "b/x/version_0", "y")),
    ],
)
def test_experiments_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, folders, names):
    runs = [read_run(write_run(tmp_path / folder, alpha=n)) for n, folder in enumerate(folders, start=1)]
    assert tuple(g.name for g in experiments(runs)) == names


def test_a_band_is_mean_and_range_of_the_runs_that_have_values():
    line = band([Series((0, 4, 8), (0.0, 4.0, 8.0)), Series((2, 4, 6), (4.0, float("nan"), 8.0))])
    assert (line.steps, line.mean) == ([0, 2, 4, 6, 8], [0, 3, 5, 7, 8])
    assert (line.low, line.high) == ([0, 2, 4, 6, 8], [0, 4, 6, 8, 8])
    apart = band([Series((0, 1), (1.0, 2.0)), Series((4, 5), (3.0, 4.0))])  # a run and its continuation under one label
    assert apart == Band([0, 1, 4, 5], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])
    assert band([]).steps == []
    assert band([Series((0,), (float("nan"),))]).steps == []


# ---- what is refused ----


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: f / "none", "there is no such run; give a run's folder"),
        (lambda f: f, r"is no run: expected config.yaml, TensorBoard events or metrics.csv in it; give a run's folder"),
        (
            lambda f: write_run(f / "many" / "version_0").parent,
            r"is no run: .* it holds 1 run: give .*many/version_0",
        ),
        (
            lambda f: write_run(f / "new", metrics="") and _emptied(f / "new"),
            "is a run without any metrics or solutions yet",
        ),
        (
            lambda f: _file(f / "x.jsonl", b"\x00\xff\n\x01"),
            "expected judged solutions as `predict` writes them, .* got 2 lines",
        ),
        (lambda f: _file(f / "x.jsonl", b""), "expected judged solutions as `predict` writes them, .* got nothing"),
    ],
    ids=["nothing there", "no run", "folder of runs", "empty run", "another file", "empty file"],
)
def test_what_is_no_run_is_refused(tmp_path: Path, prepare, message: str):
    with pytest.raises(InputError, match=message):
        read_run(prepare(tmp_path))


def _emptied(folder: Path) -> Path:
    (folder / "solutions.jsonl").unlink()
    return folder


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_damaged_settings_are_a_note(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").write_text("a: [1\n")
    (note,) = read_run(folder).notes
    assert note.startswith("no settings: ")
    assert "config.yaml:" in note
