"""The runner with real processes: order, failures, changed settings, interruption; one real training, killed and resumed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule

from benchmarks.study.__main__ import main
from benchmarks.study.results import Results
from benchmarks.study.runs import Runner
from benchmarks.study.settings import ROOT, Arm, Budget, Study, read_study
from benchmarks.study.sweep import read_sweep
from lit_tpgrpo.cli import SETTINGS, TPGRPOCLI
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.protocol_check import accept_by_methods

# A stand-in for train.py: writes what a run records, or does what its arm is named after.
CHILD = """
import json, signal, sys, time
from pathlib import Path
folder, arm, seed, order = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
folder.mkdir(parents=True, exist_ok=True)
with order.open("a") as file: file.write(f"{arm}{seed}\\n")
if arm == "fails": sys.exit("error: no such setting")
if arm == "waits" and not (folder / "checkpoints").exists():
    def stop(number, frame):
        (folder / "checkpoints").mkdir(); (folder / "checkpoints" / "last.ckpt").touch(); sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (folder / "ready").touch()
    while True: time.sleep(0.05)
text = {"solutions": 4, "tokens": 40, "truncated": 0, "unparsable": 0, "kinds": {"step": [3, 1]}}
credit = {"credited": 4, "steps": 8, "thoughts": 6, "repeated": 1, "advantages": {"n": 40, "sum": 0.0, "squares": 40.0},
          "signs": [[[5, 5], [0, 0], [10, 0]], [[2, 8], [10, 0], [0, 0]]], "labels": {"correct": {"correct": 4}}}
outcomes = {"groups": 2, "mixed": 1, "decided": 4, "correct": 2, "kept": 4}
good = arm != "worse"
def at(step): return {"record": "evaluation", "step": step, "samples": 2, "problems": "x", "seconds": step} | text
rows = [at(0) | {"correct": [1, 0]}]
rows += [{"record": "round", "index": i, "step": i, "seconds": i} | text | credit | outcomes for i in range(2)]
rows += [at(1) | {"correct": [1, 1]}, at(2) | {"correct": [2, 1 if good else 0]}]
if arm != "unrecorded": rows.append({"record": "end", "step": 2, "seconds": 3.5})
(folder / "study.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


def a_study(*arms: str, seeds: tuple[int, ...] = (0, 1), **options: Any) -> Study:
    """Arms of these names; ``options`` are the first one's."""
    made = [Arm(name, name.upper(), "baseline", (), options if name == arms[0] else {}) for name in arms]
    return Study((), Budget("short", seeds), arms[0], tuple(made))


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the runner start the stand-in; return the file in which its starts are written."""
    (tmp_path / "child.py").write_text(CHILD)
    path = tmp_path / "order"

    def command(self: Runner, arm: Arm, seed: int) -> list[str]:
        folder = self.folder(arm, seed)
        resume = ["--ckpt_path"] if any(folder.glob("checkpoints/*")) else []
        return [sys.executable, str(tmp_path / "child.py"), str(folder), arm.name, str(seed), str(path), *resume]

    monkeypatch.setattr(Runner, "command", command)
    return path


def ran(order: Path) -> list[str]:
    lines = order.read_text().splitlines() if order.exists() else []
    order.unlink(missing_ok=True)
    return lines


def run(study: Study, tmp_path: Path, processes: int = 1) -> Runner:
    runner = Runner(study, Results(tmp_path / "out"), tmp_path / "work", processes)
    runner.run()
    return runner


def test_runs_go_seed_by_seed_and_are_not_repeated(tmp_path: Path, order: Path):
    run(a_study("a", "b"), tmp_path)
    assert ran(order) == ["a0", "b0", "a1", "b1"]
    result = json.loads((tmp_path / "out" / "by_run" / "a-seed1.json").read_text())
    assert (result["steps"], result["seconds"], len(result["rounds"])) == (2, 3.5, 2)
    assert [row["accuracy"] for row in result["evaluations"]] == [0.25, 0.5, 0.75]
    # Rounds were sampled at steps 0 and 1: before the evaluation at step 1 there is one, at 2 there are two.
    assert [row["sampled_solutions"] for row in result["evaluations"]] == [0, 4, 8]
    run(a_study("a", "b", "c", seeds=(0, 1, 2)), tmp_path)
    assert ran(order) == ["c0", "c1", "a2", "b2", "c2"]
    (tmp_path / "out" / "by_run" / "a-seed0.json").write_text('{"arm": "a", "se')
    run(a_study("a", "b"), tmp_path)
    assert ran(order) == ["a0"]


def test_changed_settings_are_noticed(tmp_path: Path, order: Path, capsys: pytest.CaptureFixture[str]):
    where = tmp_path / "out" / "by_run"
    run(a_study("a", "b", seeds=(0,)), tmp_path)
    ran(order)
    assert f"0 of 2 runs have a result in {where}\n" in capsys.readouterr().out
    run(a_study("a", "b", seeds=(0,)), tmp_path)
    assert ran(order) == []
    assert f"2 of 2 runs have a result in {where}; another --out repeats them\n" in capsys.readouterr().out
    run(a_study("a", "b", seeds=(0,), **{"data.credit.alpha": 0.5}), tmp_path)
    assert ran(order) == ["a0"]
    assert (
        "a, seed 0: its result is not used, data.credit.alpha changed since it was made; it is run again"
        in capsys.readouterr().out
    )


def test_a_failed_run_is_recorded_and_the_rest_goes_on(tmp_path: Path, order: Path):
    study = a_study("fails", "a", "unrecorded", seeds=(0,))
    runner = run(study, tmp_path)
    assert ran(order) == ["fails0", "a0", "unrecorded0"]
    assert [line.split(":")[0] for line in runner.failed] == ["fails, seed 0", "unrecorded, seed 0"]
    failure = Results(tmp_path / "out").failure("fails", 0)
    assert failure is not None
    assert (failure["status"], failure["log"]) == (1, ["error: no such setting"])
    assert "StudyRecorder" in runner.failed[1]
    run(study, tmp_path)
    assert ran(order) == ["fails0", "unrecorded0"]  # tried again


def test_the_code_of_each_start_is_recorded(tmp_path: Path, order: Path, monkeypatch: pytest.MonkeyPatch):
    """Commits between the starts of a study, and between a run's own: what is read when a run ends is not what it ran."""
    versions = iter(["a", "b", "c", "c"])
    monkeypatch.setattr("benchmarks.study.runs.code_version", lambda: next(versions))
    study = a_study("a", "fails", seeds=(0,))
    run(study, tmp_path)
    results, arm = Results(tmp_path / "out"), study.arms[0]
    failure = results.failure("fails", 0)
    assert failure is not None
    assert failure["code"] == ["b"]
    assert code_of(results, "a") == ["a"]
    results.path("a", 0).unlink()
    checkpoint = Runner(study, results, tmp_path / "work", 1).folder(arm, 0) / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    run(replace(study, arms=(arm,)), tmp_path)
    assert code_of(results, "a") == ["a", "c"]  # resumed
    results.path("a", 0).unlink()
    checkpoint.unlink()
    run(replace(study, arms=(arm,)), tmp_path)
    assert code_of(results, "a") == ["c"]


def code_of(results: Results, arm: str) -> list[str]:
    return json.loads(results.path(arm, 0).read_text())["code"]


def test_a_run_that_ends_early_has_failed(tmp_path: Path, order: Path):
    """The stand-in takes 2 steps; the arm's option comes before the budget's."""
    study = replace(a_study("a", seeds=(0,)), budget=Budget("short", (0,), ({"trainer": {"max_steps": 3}},)))
    runner = run(study, tmp_path)
    assert "a, seed 0: it ended after 2 of 3 optimizer steps" in runner.failed[0]
    assert not Results(tmp_path / "out").path("a", 0).exists()
    assert run(replace(study, arms=a_study("a", **{"trainer.max_steps": 2}).arms), tmp_path).failed == []


DRIVER = """
import sys
from pathlib import Path
from benchmarks.study.results import Results
from benchmarks.study.runs import Runner
from benchmarks.study.settings import Arm, Budget, Study
tmp = Path(sys.argv[1])
def command(self, arm, seed):
    folder = self.folder(arm, seed)
    return [sys.executable, str(tmp / "child.py"), str(folder), arm.name, str(seed), str(tmp / "order")]
Runner.command = command
study = Study((), Budget("short", (0, 1)), "waits", (Arm("waits", "WAITS", "baseline"),))
try:
    Runner(study, Results(tmp / "out"), tmp / "work", 2).run()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="that children end with a killed parent is asked of Linux")
def test_an_interrupted_study_ends_its_runs_with_checkpoints(tmp_path: Path, order: Path, number: int):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, env=environment)
    try:
        wait_for(lambda: len(list(tmp_path.glob("work/*/run/ready"))) == 2)
        driver.send_signal(number)
        assert driver.wait() == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    finally:
        driver.kill()
    wait_for(lambda: len(list(tmp_path.glob("work/*/run/checkpoints/last.ckpt"))) == 2)
    assert sorted(ran(order)) == ["waits0", "waits1"]
    run(a_study("waits"), tmp_path)  # waits for runs that still hold the folder
    assert ran(order) == ["waits0", "waits1"]


@pytest.mark.parametrize("shared", ["work", "out"])
def test_studies_with_a_folder_in_common_wait_for_one_another(tmp_path: Path, order: Path, shared: str):
    """While the first one runs, its folders of runs and of results are locked; nothing is after it."""
    seen: list[bool] = []
    runner = Runner(a_study("a", seeds=(0,)), Results(tmp_path / "out"), tmp_path / "work", 1)
    waiting = runner._waiting

    def look() -> list[tuple[Arm, int]]:
        seen.append(locked())
        return waiting()

    def locked() -> bool:
        lock = tmp_path / "work" / ".lock" if shared == "work" else tmp_path / "out" / "by_run" / ".lock"
        with lock.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    runner._waiting = look
    runner.run()
    assert seen == [True]
    assert not locked()


def wait_for(condition: Any) -> None:
    while not condition():  # pytest's faulthandler limit ends it if it never comes
        time.sleep(0.02)


def test_settings_are_checked(tmp_path: Path):
    content = yaml.safe_load((ROOT / "benchmarks" / "study" / "arms.yaml").read_text())

    def refused(change: dict[str, Any]) -> str:
        (tmp_path / "arms.yaml").write_text(yaml.safe_dump(content | change))
        with pytest.raises(ConfigError) as error:
            read_study(tmp_path / "arms.yaml")
        return str(error.value)

    arm = {"name": "a", "title": "A", "group": "ours"}
    assert "there is no arm 'none'" in refused({"reference": "none"})
    assert "different names; a occurs twice" in refused({"arms": [arm, arm], "reference": "a"})
    assert "one of the groups" in refused({"arms": [arm | {"group": "x"}], "reference": "a"})
    assert "needs name, title, group" in refused({"arms": [arm | {"overlay": "x"}], "reference": "a"})
    assert "letters, digits" in refused({"arms": [arm | {"name": "a/b"}], "reference": "a/b"})
    assert "no budget 'short'" in refused({"budgets": {"full": {"seeds": [0]}}})
    assert "expected the keys" in refused({"arm": []})


def test_the_study_of_the_repository_is_consistent():
    """Its configs exist, and the sweep's seeds are not the study's."""
    for budget in ("short", "full"):
        study = read_study(budget=budget)
        assert study.arms
        assert all(study.hashes(arm) for arm in study.arms)
        read_sweep(ROOT / "benchmarks" / "study" / "sweep.yaml", study)


@pytest.mark.slow
def test_every_arm_builds(tmp_path: Path):
    """The command of each arm, without starting it: configs and options fit, and the recorder is among the callbacks."""
    accept_by_methods()
    study = read_study()
    runner = Runner(study, Results(tmp_path / "out"), tmp_path / "work", 1)
    settings = SETTINGS | {"parser_kwargs": {"allow_abbrev": False}}
    for arm in study.arms:
        runner.folder(arm, 0).parent.mkdir(parents=True)
        options = runner.command(arm, 0)[3:]
        cli = TPGRPOCLI(TPGRPOModule, LightningDataModule, run=False, args=options, **settings)
        names = [type(callback).__name__ for callback in cli.trainer.callbacks]
        assert names.index("MathEvaluation") < names.index("StudyRecorder")


def test_a_sweep_is_a_grid_on_one_arm_with_seeds_of_its_own(tmp_path: Path):
    grid = tmp_path / "sweep.yaml"
    grid.write_text("{arm: a, seeds: [7], grid: {model.optimizer.lr: [0.1, 0.2], model.loss.kl_beta: [0, 1]}}")
    sweep = read_sweep(grid, a_study("a", "b", **{"data.x": 3}))
    assert [arm.name for arm in sweep.study.arms] == [
        "lr_0.1-kl_beta_0",
        "lr_0.1-kl_beta_1",
        "lr_0.2-kl_beta_0",
        "lr_0.2-kl_beta_1",
    ]
    assert sweep.study.arms[1].options == {"data.x": 3, "model.optimizer.lr": 0.1, "model.loss.kl_beta": 1}
    assert sweep.study.budget.seeds == (7,)
    grid.write_text("{arm: a, seeds: [1, 7], grid: {x: [1]}}")
    with pytest.raises(ConfigError, match="seeds 1 are the study's"):
        read_sweep(grid, a_study("a", "b"))


def test_applying_a_sweeps_result_keeps_the_sweep_and_changes_the_study(tmp_path: Path):
    (tmp_path / "tuned.yaml").write_text("model: {lr: 1}")
    grid = tmp_path / "sweep.yaml"
    grid.write_text("{arm: a, seeds: [7], grid: {x: [1]}}")
    study = replace(a_study("a"), tuned=str(tmp_path / "tuned.yaml"))
    sweep = read_sweep(grid, study).study
    before = study.hashes(study.arms[0]), sweep.hashes(sweep.arms[0])
    (tmp_path / "tuned.yaml").write_text("model: {lr: 2}")
    after = study.hashes(study.arms[0]), sweep.hashes(sweep.arms[0])
    assert after[0] != before[0]
    assert after[1] == before[1]
    command = Runner(study, Results(tmp_path / "out"), tmp_path / "work", 1).command(study.arms[0], 0)
    assert command[command.index("--config") + 1] == str(tmp_path / "tuned.yaml")


def test_settings_are_compared_as_merged(tmp_path: Path):
    """What a later config replaces is no setting of a run; what is merged or an option is one, whatever file it is in."""
    first = tmp_path / "first.yaml"
    last = {"trainer": {"callbacks": ["recorder"]}, "data": {"n": 4}}
    study = Study((str(first),), Budget("short", (0,), (last,), {"x": 1}), "a", (Arm("a", "A", "ours"),))

    def parts(content: dict[str, Any]) -> dict[str, Any]:
        first.write_text(yaml.safe_dump(content))
        return study.parts(study.arms[0])

    config = {"seed_everything": 0, "trainer": {"callbacks": ["x"], "max_steps": 2}, "data": {"n": 1, "m": {"k": 2}}}
    merged = {"trainer": {"callbacks": ["recorder"], "max_steps": 2}, "data": {"n": 4, "m": {"k": 2}}, "x": 1}
    assert parts(config) == merged
    assert parts(config | {"trainer": {"callbacks": ["x", "RunReport"], "max_steps": 2}}) == merged
    assert parts(config | {"data": {"n": 1, "m": {"k": 3}}}) != merged
    first.write_text("- a list")
    with pytest.raises(ConfigError, match="expected settings by key, got list"):
        study.hashes(study.arms[0])


TINY = {
    "trainer.max_steps": 3,
    "trainer.val_check_interval": 1,
    "data.steps_per_epoch": 3,
    "data.steps_per_round": 1,
    "data.problems_per_step": 1,
    "data.group_size": 2,
    "data.val.n": 2,
    "data.eval_samples": 2,
    "data.train.level": "1",
    "data.val.level": "1",
    "data.sampling.max_new_tokens": 120,
}


@pytest.mark.slow
def test_a_killed_training_goes_on_and_records_what_an_uninterrupted_one_does(tmp_path: Path):
    """Real training: one run to its end; another whose study is killed after the first step, and started again."""
    settings = tmp_path / "arms.yaml"
    configs = ["configs/quickstart.yaml", "benchmarks/study/base.yaml"]
    checkpoints = {"trainer.callbacks.every_n_train_steps": 1}
    arm = {"name": "thought", "title": "TP-GRPO", "group": "paper"}
    budgets = {"short": {"seeds": [3], "options": TINY | checkpoints}}
    settings.write_text(yaml.safe_dump({"configs": configs, "reference": "thought", "budgets": budgets, "arms": [arm]}))

    def arguments(name: str) -> list[str]:
        folders = ["--out", str(tmp_path / name), "--work", str(tmp_path / f"{name}_work")]
        return ["--settings", str(settings), "--processes", "1", *folders]

    assert main(arguments("whole")) == 0
    killed = subprocess.Popen([sys.executable, "-m", "benchmarks.study", *arguments("killed")], cwd=ROOT)
    try:
        wait_for(
            lambda: any(
                '"record": "round", "index": 1' in p.read_text() for p in tmp_path.glob("killed_work/*/run/study.jsonl")
            )
        )
    finally:
        killed.kill()
    killed.wait()
    assert main(arguments("killed")) == 0
    results = [
        json.loads((tmp_path / name / "by_run" / "thought-seed3.json").read_text()) for name in ("whole", "killed")
    ]
    assert "resuming" in next(tmp_path.glob("killed_work/*/log.txt")).read_text()
    for result in results:
        for row in [*result["rounds"], *result["evaluations"], result]:
            del row["seconds"]
    assert results[0] == results[1]
    assert [row["step"] for row in results[0]["evaluations"]] == [0, 1, 2, 3]
    assert "TP-GRPO" in (tmp_path / "killed" / "table.md").read_text()
