"""RunReport in real runs: what it records is what was trained on, and it never fails a run."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lit_tpgrpo.callbacks import MathEvaluation, RoundCallback, RunReport
from lit_tpgrpo.callbacks import run_report as callback_module
from lit_tpgrpo.errors import ConfigError, StorageError
from lit_tpgrpo.jsonl import append_line
from lit_tpgrpo.records import Round
from lit_tpgrpo.report import read_run
from tests.callbacks.test_evaluation import ANYWHERE, data, module


class Rounds(RoundCallback):
    def __init__(self) -> None:
        self.seen: list[Round] = []

    def on_round_end(self, trainer, pl_module, round_) -> None:
        self.seen.append(round_)


def fit(folder: Path, random_model: str, *callbacks: L.Callback, **options) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name="", version="run"),
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **(ANYWHERE | {"max_steps": 4} | options),
    )
    trainer.fit(module(random_model), datamodule=data())
    return trainer


@pytest.mark.slow
def test_the_report_of_a_run_has_what_was_trained_on(random_model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rounds, report = Rounds(), RunReport(solutions_per_round=3)
    fit(tmp_path, random_model, report, MathEvaluation(), rounds)
    assert report.report_path == tmp_path / "run" / "report.html"
    lines = capsys.readouterr().out.splitlines()
    assert "report: run/report.html (open it in a browser)" in lines
    run = read_run(tmp_path / "run")
    trained = [(r.index, c) for r in rounds.seen for c in r.credited[:3]]
    assert len(trained) == 6
    assert [
        (s.round, s.uid, s.outcome_advantage, [p.advantage for p in s.pieces if p.label]) for s in run.solutions
    ] == [
        (
            index,
            c.judged.solution.problem_uid,
            c.outcome_advantage,
            [float(c.advantages[t.token_start]) for t in c.thoughts],
        )
        for index, c in trained
    ]
    assert [s.index for s in run.solutions] == [i for r in rounds.seen for i in r.credited_indices[:3]]
    assert {s.kept for s in run.solutions} == {True}  # data.keep is all
    # The evaluation after the last step is in the page: the loggers have written all by then.
    page = report.report_path.read_text(encoding="utf-8")
    assert run.metrics["eval/avg@2"].steps[-1] == 4
    assert '"name":"eval/avg@2"' in page
    # Without the callback's file the stored rounds have the same thoughts, of all solutions, and no advantages.
    (tmp_path / "run" / "solutions.jsonl").unlink()
    stored = read_run(tmp_path / "run")
    assert [(s.round, s.uid, s.outcome, s.outcome_advantage) for s in stored.solutions] == [
        (r.index, c.judged.solution.problem_uid, c.judged.outcome.value, None) for r in rounds.seen for c in r.credited
    ]
    assert [[p.label for p in s.pieces] for s in stored.solutions] == [
        [t.label.value for t in c.thoughts] for r in rounds.seen for c in r.credited
    ]
    assert ["".join("".join(p.steps) for p in s.pieces) for s in stored.solutions] == [
        c.judged.solution.text for r in rounds.seen for c in r.credited
    ]
    assert stored.notes[-1].startswith("solutions come from the rounds still stored and show no advantages")


def test_a_run_that_was_killed_is_read_as_far_as_it_was_written(random_model, tmp_path):
    fit(tmp_path, random_model, max_steps=2)
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[:-7])
    with next((tmp_path / "run" / "rounds").glob("round_*/verdicts.0.jsonl")).open("r+") as file:
        file.truncate(file.seek(0, 2) - 20)
    run = read_run(tmp_path / "run")
    assert run.metrics["rollout/accuracy"].steps == (0,)
    assert len(run.rounds) == 1
    assert len(run.solutions) == 3  # of the four one has no whole verdict


def test_a_run_starts_its_own_file(random_model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "solutions.jsonl").write_text('{"round": 7}\n')
    fit(tmp_path, random_model, RunReport(1), max_steps=2)
    rows = [json.loads(line) for line in (tmp_path / "run" / "solutions.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0]


def test_a_run_that_has_nothing_to_train_keeps_silent(random_model, tmp_path, recwarn):
    """As one that is resumed after its last step: it has no metrics of its own, and no command would find some."""
    report = RunReport()
    fit(tmp_path, random_model, report, max_steps=0)
    assert report.report_path is None
    assert [str(w.message) for w in recwarn if "report" in str(w.message)] == []
    assert list(tmp_path.rglob("*.html")) == []


ERRORS = [StorageError("the disk is full"), KeyError("unexpected"), ModuleNotFoundError("No module named 'plotly'")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_report_that_fails_is_a_warning(random_model, tmp_path, monkeypatch, error: Exception):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(callback_module, "write_report", fail)
    reading = isinstance(error, ModuleNotFoundError)
    monkeypatch.setattr(callback_module, "append_line", (lambda *args: None) if reading else fail)
    report = RunReport()
    with pytest.warns(
        UserWarning, match=f"report was not written: {type(error).__name__}: {error}; python -m"
    ) as caught:
        trainer = fit(tmp_path, random_model, report, max_steps=4)
    assert trainer.global_step == 4
    assert report.report_path is None
    kept = [str(w.message) for w in caught if "no more solutions are kept" in str(w.message)]
    expected = f"no more solutions are kept for the run's report: {type(error).__name__}: {error}"
    assert kept == ([] if reading else [expected])


def test_a_dev_run_leaves_nothing(random_model, tmp_path):
    fit(tmp_path, random_model, RunReport(), fast_dev_run=True, max_steps=-1)
    assert list(tmp_path.rglob("*.html")) + list(tmp_path.rglob("*.jsonl")) == []


def test_a_file_of_solutions_does_not_grow_without_bound(random_model, tmp_path, monkeypatch):
    def long_line(path: Path, row: dict) -> None:
        append_line(path, row | {"note": "x" * 400_000})

    monkeypatch.setattr(callback_module, "append_line", long_line)
    with pytest.warns(UserWarning, match="solutions are kept") as caught:
        fit(tmp_path, random_model, RunReport(2, max_megabytes=1), max_steps=4)
    (said,) = [str(w.message) for w in caught if "solutions are kept" in str(w.message)]
    file = tmp_path / "run" / "solutions.jsonl"
    assert said == f"no more solutions are kept for the run's report: {file} has 1 MB, the max_megabytes of RunReport"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 0, 1]  # the third reaches 1.2 MB


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"solutions_per_round": -1}, "solutions_per_round must be at least 0, got -1"),
        ({"max_megabytes": 0}, "max_megabytes must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        RunReport(**given)
