"""The GPU check rehearsed on a CPU: every part runs, whatever one does the others run, and the table says what happened."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import pickle
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.bench import Bench, GpuCheck
from benchmarks.gpu_check.kernels import LARGEST_DIFFERENCE, _head_values
from benchmarks.gpu_check.models import QWEN2_1_5B, Architecture, solution_lengths
from benchmarks.gpu_check.parts import PARTS
from benchmarks.gpu_check.runner import Run, run_parts
from benchmarks.gpu_check.step import _Report
from benchmarks.gpu_check.table import other_environment, read_records, render
from benchmarks.gpu_check.training import PartFailed, check_that_it_trained, held_out_accuracies, run_echoed

ROOT = Path(__file__).parent.parent.parent
CUDA_ONLY = [part.name for part in PARTS if part.cuda_only]
FAILING = "tests.benchmarks.failing_parts"


# ---- the rehearsal ----


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of all parts at tiny size, by the command that a user gives."""
    out = tmp_path_factory.mktemp("gpu_check")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu_check",
            "--device",
            "cpu",
            "--size",
            "tiny",
            "--jobs",
            "1",
            "--out",
            str(out),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    records = read_records(out / "results.jsonl")
    assert {p.name for p in out.iterdir()} == {"results.jsonl", "table.md", "log.txt"}, done.stdout[-2000:]
    assert (out / "table.md").read_text() == render(records, PARTS)
    failed = [r for r in records if r.get("status") in ("failed", "partly")]
    assert done.returncode == bool(failed)
    return records


def rows_of(records: list[dict[str, Any]], part: str) -> dict[str, dict[str, Any]]:
    return {r["row"]: r for r in records if r.get("part") == part and "row" in r}


@pytest.mark.slow
@pytest.mark.xdist_group("gpu_check")
@pytest.mark.parametrize("part", [part.name for part in PARTS if not part.cuda_only])
def test_each_part_with_a_cpu_form_runs(rehearsal, part):
    end = next(r for r in rehearsal if r.get("part") == part and "status" in r)
    assert end["status"] == "ok", end["error"]
    rows = rows_of(rehearsal, part)
    assert rows
    assert not [r for r in rows.values() if "error" in r]


@pytest.mark.slow
@pytest.mark.xdist_group("gpu_check")
def test_the_step_that_trl_is_timed_on_is_ours(rehearsal):
    """Same weights, tokens, advantages, old log-probs and normalisation: the same loss."""
    rows = rows_of(rehearsal, "trainer_step")
    losses = [r["values"]["first loss"] for label, r in rows.items() if label.startswith(("ours", "TRL"))]
    assert len(losses) == 5
    assert losses == pytest.approx([losses[0]] * 5, rel=2e-3)
    assert abs(losses[0]) > 5e-3


@pytest.mark.slow
@pytest.mark.xdist_group("gpu_check")
def test_engine_and_trainer_agree_in_single_precision(rehearsal):
    assert rows_of(rehearsal, "precision")["32"]["values"]["max log-prob gap"] < 1e-3


TRAINED = ("precision", "fsdp", "fsdp_offload", "fsdp_lora", "resume", "lora", "references", "bitsandbytes")


@pytest.mark.slow
@pytest.mark.xdist_group("gpu_check")
@pytest.mark.parametrize("part", TRAINED)
def test_the_steps_of_the_rehearsal_have_gradients(rehearsal, part):
    norms = [row["values"].get("grad norm") for row in rows_of(rehearsal, part).values() if "steps" in row["values"]]
    assert norms
    assert all(norm > 1e-3 for norm in norms)


@pytest.mark.slow
@pytest.mark.xdist_group("gpu_check")
def test_each_step_of_trl_and_the_ratio_to_each_row_of_ours_are_rows(rehearsal):
    labels = list(rows_of(rehearsal, "trainer_step"))
    assert labels[5:] == [
        "step 1 of TRL, batches of 8",
        "step 2 of TRL, batches of 8",
        "step 3 of TRL, batches of 8",
        "TRL, batches of 8",
        "ratio of ours, gradient checkpointing to TRL",
        "ratio of ours to TRL",
        "ratio of ours, packed to TRL",
        "ratio of ours, masked to TRL",
    ]


def test_a_ratio_is_of_one_configuration(tmp_path):
    """The slow, small one and the fast, large one are told apart."""
    report = object.__new__(_Report)
    report.bench = Bench("trainer_step", "cpu", "tiny", tmp_path / "results.jsonl", tmp_path)
    report.results = {"ours, a": (100.0, 20.0), "ours": (300.0, 60.0), "TRL, batches of 4": (200.0, 40.0)}
    report.ratio()
    assert {r["row"]: r["values"] for r in read_records(report.bench.results)} == {
        "ratio of ours, a to TRL": {"ratio of tokens/s": 0.5, "ratio of peak GiB": 0.5},
        "ratio of ours to TRL": {"ratio of tokens/s": 1.5, "ratio of peak GiB": 1.5},
    }


# ---- what goes wrong ----


def test_a_run_that_moved_no_weight_has_not_trained():
    norm, skipped = "train/grad_norm", "train/step_skipped"
    check_that_it_trained("32", [{norm: 0.0}, {norm: 0.1}])
    check_that_it_trained("16-mixed", [{skipped: 1.0}, {norm: 0.1, skipped: 0.0}])
    with pytest.raises(PartFailed, match="32: the gradient's norm is 0 in all 2 steps"):
        check_that_it_trained("32", [{norm: 0.0}, {norm: 0.0}])
    with pytest.raises(PartFailed, match="16-mixed: all 2 steps were skipped"):
        check_that_it_trained("16-mixed", [{skipped: 1.0}, {skipped: 1.0}])
    with pytest.raises(PartFailed, match="the gradient's norm is 0"):
        check_that_it_trained("16-mixed", [{skipped: 1.0}, {norm: 0.0, skipped: 0.0}])


def test_what_a_program_says_is_shown_while_it_runs(tmp_path, monkeypatch):
    """It goes on only when its first line has been seen; the alarm ends it where that never happens."""
    fifo = tmp_path / "seen"
    os.mkfifo(fifo)

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if "epoch 1" in text:
                fifo.write_text("go on")
            return super().write(text)

    program = "import signal; signal.alarm(60); "
    program += f"print('epoch 1', flush=True); open({str(fifo)!r}).read(); print('two'); exit(4)"
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run_echoed([sys.executable, "-c", program]) == (4, "epoch 1\ntwo\n")
    assert screen.getvalue() == "epoch 1\ntwo\n"


def parts(*names: str, seconds: float = 60, **settings: Any) -> list[GpuCheck]:
    return [GpuCheck(name, "", f"{FAILING}.{name}", seconds, **settings) for name in names]


def program_for(tmp_path: Path, preloaded: str = "json") -> Path:
    """A program that runs the run and the parts that it is given on its standard input."""
    script = tmp_path / "program.py"
    script.write_text(
        "import pickle, signal, sys\n"
        "from benchmarks.gpu_check import runner\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # ignored where the tests were started with nohup
        f"runner.PRELOADED = {preloaded!r}\n"
        "if __name__ == '__main__':\n"
        "    print(runner.run_parts(*pickle.load(sys.stdin.buffer), lambda: None))\n"
    )
    return script


def run_here(
    tmp_path: Path, chosen: list[GpuCheck], device: str = "cpu", preloaded: str = "json"
) -> tuple[bool, list[dict[str, Any]]]:
    """The runner in an interpreter of its own, as the command starts it; without the libraries' imports."""
    run = Run(device, "tiny", tmp_path, math.inf, 2)
    done = subprocess.run(
        [sys.executable, str(program_for(tmp_path, preloaded))],
        input=pickle.dumps((run, chosen)),
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        check=True,
        timeout=1200,
    )
    return done.stdout.decode().rstrip().endswith("True"), read_records(run.results)


def test_a_part_that_fails_or_dies_says_why_and_the_next_one_runs(tmp_path):
    names = ("fails", "dies", "fails_in_a_row", "succeeds")
    ok, records = run_here(tmp_path, parts(*names))
    ends = {r["part"]: r for r in records if "status" in r}
    assert not ok
    assert {name: ends[name]["status"] for name in names} == {
        "fails": "failed",
        "dies": "failed",
        "fails_in_a_row": "partly",
        "succeeds": "ok",
    }
    assert "ValueError: the card is on fire" in ends["fails"]["error"]
    assert "exit code -6" in ends["dies"]["error"]
    assert rows_of(records, "fails")["before the error"]["values"] == {"n": 1}
    assert "no such kernel" in rows_of(records, "fails_in_a_row")["first"]["error"]
    assert rows_of(records, "fails_in_a_row")["second"]["values"] == {"n": 2}
    assert "the card is on fire" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_no_part_outlives_the_main_process(tmp_path, signal_name):
    """Nor does anything hold its output, and with a signal that can be handled the end is in the results."""
    fifo = tmp_path / "pids"
    os.mkfifo(fifo)
    run = Run("cpu", "tiny", tmp_path, math.inf, 1)
    chosen = [*parts("waits_where_it_says", arguments=(str(fifo),)), *parts("succeeds")]
    with subprocess.Popen(
        [sys.executable, str(program_for(tmp_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as main:
        assert main.stdin is not None
        main.stdin.write(pickle.dumps((run, chosen)))
        main.stdin.close()
        main.stdin = None
        pids = [int(pid) for pid in fifo.read_text().split()]
        ends = [os.pidfd_open(pid) for pid in pids]
        try:
            for _ in range(2):  # as timeout does
                main.send_signal(signal.Signals[signal_name])
            output, _ = main.communicate(timeout=1200)  # to the end of its output, whoever holds it
            assert [select.select([end], [], [], 1200)[0] for end in ends] == [[end] for end in ends]
        finally:
            for end in ends:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(end, signal.SIGKILL)
                os.close(end)
    records = read_records(run.results)
    assert not [r for r in records if r["part"] == "succeeds"]
    if signal_name != "SIGKILL":
        assert main.returncode == 128 + signal.Signals[signal_name]
        assert f"stopped by {signal_name}" in output.decode()
        assert records[-1]["error"].startswith(f"stopped by {signal_name}")


def test_what_cannot_be_preloaded_costs_the_imports_alone(tmp_path):
    (tmp_path / "preloads_badly.py").write_text(
        "from benchmarks.gpu_check.bench import preload\npreload(('tests.benchmarks.raises_on_import', 'json'))\n"
    )
    ok, _ = run_here(tmp_path, parts("succeeds"), preloaded="preloads_badly")
    assert ok
    assert "the driver is too old" in (tmp_path / "log.txt").read_text()


def test_without_a_fork_server_parts_fail_one_by_one(tmp_path):
    (tmp_path / "dies_at_once.py").write_text("import os\nos._exit(9)\n")
    ok, records = run_here(tmp_path, parts("succeeds", "fails"), preloaded="dies_at_once")
    assert not ok
    assert {r["part"]: r["status"] for r in records if "status" in r} == {"succeeds": "failed", "fails": "failed"}


def test_arguments_reach_a_part(tmp_path):
    ok, records = run_here(tmp_path, parts("succeeds", arguments=("hello",)))
    assert ok
    assert rows_of(records, "succeeds")["fine"]["values"] == {"said": "hello"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="forked processes can use the GPU here")
def test_a_part_runs_in_a_fresh_interpreter_where_a_forked_one_cannot_use_the_gpu(tmp_path):
    ok, records = run_here(tmp_path, parts("succeeds", "fails", arguments=()), device="cuda")
    ends = {r["part"]: r for r in records if "status" in r}
    assert not ok
    assert {name: end["status"] for name, end in ends.items()} == {"succeeds": "ok", "fails": "failed"}
    assert rows_of(records, "succeeds")["fine"]["values"] == {"said": "nothing"}
    assert "the card is on fire" in ends["fails"]["error"]
    assert "runs in a new interpreter" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_part_over_its_limit_ends_with_all_that_it_started(tmp_path):
    # On a CPU limits are ten times as long.
    ok, records = run_here(tmp_path, parts("waits_for_ever", seconds=0.3))
    end = next(r for r in records if "status" in r)
    assert not ok
    assert end["status"] == "failed"
    assert "stopped at its limit of 3 s" in end["error"]
    pid = rows_of(records, "waits_for_ever")["started"]["values"]["pid"]
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1]


def test_what_cannot_run_is_skipped_by_name(tmp_path):
    chosen = [*parts("succeeds", needs=("no_such_package",)), *parts("fails", cuda_only=True)]
    ok, records = run_here(tmp_path, chosen)
    assert ok
    assert {r["part"]: (r["status"], r["error"]) for r in records} == {
        "succeeds": ("skipped", "not installed: no_such_package"),
        "fails": ("skipped", "does not run on a CPU"),
    }


def test_parts_that_the_budget_has_no_time_for_are_skipped(tmp_path):
    run = Run("cuda", "full", tmp_path, 10.0, 1)
    ok = run_parts(run, [GpuCheck("late", "", f"{FAILING}.fails", 60)], lambda: None)
    assert ok
    assert [(r["part"], r["status"]) for r in read_records(run.results)] == [("late", "skipped")]


# ---- what is taken to the machine ----


def pins(name: str) -> dict[str, str]:
    """name -> version of a requirements file."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = (re.split(r"(?:\[.*\])?==", line) for line in lines if line)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_the_wheels_hold_what_the_package_needs_besides_what_the_machine_has():
    there = {
        "torch",
        "lightning",
        "transformers",
        "torchmetrics",
        "tensorboard",
        "peft",
        "tqdm",
        "jinja2",
        "numpy",
        "pyarrow",
    }
    wheels = pins("benchmarks/gpu_wheels.txt")
    needed = {name: v for name, v in pins("requirements.txt").items() if name not in there}
    assert needed.pop("bitsandbytes") == pins("benchmarks/gpu_wheels_bitsandbytes.txt")["bitsandbytes"]
    assert {name: wheels.get(name) for name in needed} == needed
    assert wheels["trl"].startswith("1.16.")


def test_the_script_passes_its_options_on(tmp_path):
    script, env = str(ROOT / "benchmarks/gpu_check.sh"), os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", script, "-", str(tmp_path / "out"), "--list"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == [part.name for part in PARTS]
    bare = subprocess.run(["bash", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)
    assert bare.returncode == 2
    assert "WHEELS is a folder of wheels" in bare.stderr


# ---- the table ----


def test_the_table_of_what_is_there(tmp_path):
    """The last run of a part counts, a line cut short by a kill is left out, errors are shown whole."""
    records = [
        {
            "environment": {
                "device": "cuda",
                "size": "full",
                "gpu": "H100, 80 GB",
                "machine": "x",
                "python": "3.12.3",
                "versions": {"torch": "2.11.0"},
            }
        },
        {"part": "engine", "row": "64 sequences", "values": {"tokens/s": 1}},
        {"part": "engine", "status": "failed", "seconds": 3.0, "at_once": 1, "error": "old"},
        {"part": "engine", "row": "64 sequences", "values": {"tokens/s": 2500, "peak GiB": None}},
        {"part": "engine", "row": "256 | sequences", "error": "OutOfMemoryError:\nno memory"},
        {"part": "engine", "status": "ok", "seconds": 12.5, "at_once": 1, "error": None},
        {"part": "judge", "status": "skipped", "error": "not installed: llguidance"},
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + '\n{"part": "compi')
    assert render(read_records(path), PARTS) == (
        "# GPU check\n"
        "\n"
        "- H100, 80 GB; x; size full\n"
        "- Python 3.12.3, torch 2.11.0\n"
        "\n"
        "| part | settles | result | seconds | at once | again with |\n"
        "|---|---|---|---|---|---|\n"
        "| judge | the tiny judge with LocalChat | skipped |  |  | `python -m benchmarks.gpu_check --parts judge` |\n"
        "| engine | HFEngine's tokens/s at 64 and 256 sequences, 1.5B | ok | 12.5 | 1 | "
        "`python -m benchmarks.gpu_check --parts engine` |\n"
        "\n"
        "## judge\n"
        "\n"
        "\n"
        "```\n"
        "not installed: llguidance\n"
        "```\n"
        "\n"
        "## engine\n"
        "\n"
        "| | tokens/s | error |\n"
        "|---|---|---|\n"
        "| 64 sequences | 2500 |  |\n"
        "| 256 \\| sequences |  | OutOfMemoryError: no memory |\n"
    )


def results_of(table: str) -> dict[str, str]:
    """part -> its result in the first table."""
    rows = (line.split(" | ") for line in table.splitlines() if line.startswith("| ") and "`python" in line)
    return {row[0].lstrip("| "): row[2] for row in rows}


def test_the_table_names_parts_that_were_not_reached_and_keeps_rows_of_those_skipped_later():
    found = {"device": "cpu", "size": "tiny", "machine": "x", "python": "3.12.3", "versions": {}}
    records = [
        {"environment": found | {"parts": ["judge", "engine", "lora"]}},
        {"part": "judge", "started": 1},
        {"part": "judge", "row": "r", "values": {"n": 7}},
        {"part": "judge", "status": "ok", "seconds": 1.0, "at_once": 1, "error": None},
        {"part": "lora", "started": 2},
        {"part": "lora", "status": "ok", "seconds": 2.0, "at_once": 1, "error": None},
        {"environment": found | {"parts": ["judge", "lora"]}},
        {"part": "judge", "status": "skipped", "error": "3 s of the budget are left"},
        {"part": "lora", "started": 3},
    ]
    table = render(records, PARTS)
    assert results_of(table) == {"lora": "not finished", "judge": "ok", "engine": "not reached"}
    assert "| r | 7 |" in table
    assert "budget" not in table
    assert "## engine" not in table


def test_results_of_another_device_or_size_are_refused_before_anything_runs(tmp_path):
    gpu = {"device": "cuda", "size": "full", "gpu": "H100, 81559 MiB, 590.1"}
    earlier = [{"environment": gpu}]
    assert other_environment([], gpu) is None
    assert other_environment(earlier, gpu | {"gpu": "H100, 81559 MiB, 595.2"}) is None
    assert other_environment(earlier, gpu | {"gpu": "unknown (nvidia-smi: gone)"}) is None
    assert other_environment(earlier, gpu | {"gpu": "H200, 1 MiB, 590.1"}) == "gpu H100, not H200"
    assert other_environment(earlier, gpu | {"size": "tiny"}) == "size full, not tiny"
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(earlier[0]) + "\n")
    with pytest.raises(
        SystemExit, match=re.escape(f"{tmp_path} contains results of device cuda, not cpu: give another folder")
    ):
        main(["--device", "cpu", "--out", str(tmp_path), "--parts", "judge"])
    assert read_records(results) == earlier
    assert list(tmp_path.iterdir()) == [results]


def test_the_last_line_of_the_quickstart_is_read():
    assert held_out_accuracies("held-out accuracy 0.1 -> 0.2\nmore\nheld-out accuracy 0.531 -> 0.953\n") == (
        0.531,
        0.953,
    )
    with pytest.raises(PartFailed, match="no held-out accuracy"):
        held_out_accuracies("Traceback")


# ---- what is timed ----


def test_operations_of_a_step():
    """H = 4, one layer, 2 heads of width 2, 1 key-value head, intermediate 8, V = 10, worked by hand.

    Matrices: q, o 2 * 16; k, v 2 * 4 * 2; gate, up, down 3 * 32: 144. Prompts and completions of (1, 2) and (0, 3) tokens:
    6 * 144 * 6 + 6 * 4 * 10 * 5 + 6 * 4 * (9 + 9) = 5184 + 1200 + 432.
    """
    arch = Architecture(4, 8, 1, 2, 1, 10)
    assert arch.matrix_parameters == 144
    assert arch.training_flops([(1, 2), (0, 3)]) == 6816


def test_the_large_policy_is_the_one_it_is_called(tmp_path):
    """Qwen2.5-1.5B has 1.54 billion parameters with its embedding, 1.31 without (its model card)."""
    embedding = QWEN2_1_5B.vocab_size * QWEN2_1_5B.hidden_size
    assert round(QWEN2_1_5B.matrix_parameters / 1e9, 2) == 1.31
    assert round((QWEN2_1_5B.matrix_parameters + embedding) / 1e9, 2) == 1.54


def test_lengths_of_a_step_are_the_quantiles_of_their_distribution():
    lengths = solution_lengths(4, 10, 50, 20, spread=1.0)
    # 20 * exp(z) at the normal quantiles 1/8, 3/8, 5/8, 7/8: z = -1.1503, -0.3186, 0.3186, 1.1503; the last is cut.
    assert lengths == [10, 14, 27, 50]
    assert solution_lengths(40, 1024, 8192, 3000) == sorted(solution_lengths(40, 1024, 8192, 3000))


def test_rows_are_on_disk_at_once(tmp_path):
    bench = Bench("p", "cpu", "tiny", tmp_path / "results.jsonl", tmp_path)
    bench.row("one", x=1.5)
    assert read_records(bench.results) == [{"part": "p", "row": "one", "values": {"x": 1.5}}]


# ---- the log-prob head ----


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_a_compiled_head_with_other_values_fails(value, tmp_path, monkeypatch):
    from benchmarks import logprobs

    bench = Bench("logprob_head", "cpu", "tiny", tmp_path / "results.jsonl", tmp_path)
    monkeypatch.setattr(logprobs, "differences", lambda settings: dict.fromkeys(LARGEST_DIFFERENCE, 0.0))
    _head_values(bench, argparse.Namespace())
    monkeypatch.setattr(
        logprobs, "differences", lambda settings: dict.fromkeys(LARGEST_DIFFERENCE, 0.0) | {"entropy": value}
    )
    with pytest.raises(RuntimeError, match=r"differs from the eager one: entropy (5\.0e-01|nan)"):
        _head_values(bench, argparse.Namespace())
