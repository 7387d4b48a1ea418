"""The soak's own checks: what it counts is what happened, and a broken promise is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import run as soak_run
from benchmarks.soak import watch
from benchmarks.soak.__main__ import broken, growth, main
from benchmarks.soak.endpoint import FAULTS, MAX_IN_A_ROW, judge_endpoint
from benchmarks.soak.run import SoakFailed, SoakOutcome
from benchmarks.soak.watch import ProcessTree, ResourceReading
from lit_tpgrpo.chat.base import ChatError, ChatRequest
from lit_tpgrpo.chat.openai_chat import OpenAIChat


def held(memory: list[float], handles: int = 9, threads: int = 5) -> list[ResourceReading]:
    return [ResourceReading(at, mb, handles, threads) for at, mb in enumerate(memory)]


def test_growth_is_that_of_the_steady_rounds():
    """Warm-up of 20 rounds, then 0.2 MB a round: 20 MB in 100."""
    assert growth(held([300.0 + 5 * r for r in range(20)] + [400 + 0.2 * r for r in range(80)])) == pytest.approx(20)
    assert growth(held([300.0 + 5 * r for r in range(20)] + [400.0] * 80)) == 0


@pytest.mark.parametrize(
    ("outcome", "equal", "said"),
    [
        (SoakOutcome(1, False, readings=[held([400.0] * 100)]), True, []),
        (SoakOutcome(1, True, readings=[held([400.0] * 100)]), True, ["planned faults were not injected"]),
        (SoakOutcome(1, True, due=2, kills=1, disks=1, endpoint={"reset": 3}, readings=[held([400.0] * 100)]), True, []),
        (SoakOutcome(1, True, due=2, kills=1, endpoint={"reset": 3}, readings=[held([400.0] * 100)]), True,
         ["planned faults were not injected"]),
        (SoakOutcome(1, False, readings=[held([400.0 + 20 * s] * 9) for s in range(6)]), True,
         ["memory grows from start to start"]),
        (SoakOutcome(1, False, readings=[held([400.0] * 100)]), False, ["the weights differ from the undisturbed run"]),
        (SoakOutcome(1, False, left=2, readings=[held([400.0] * 100)]), True, ["2 processes were left behind"]),
        (SoakOutcome(1, False, readings=[held([400.0 + r for r in range(100)])]), True, ["memory grows"]),
        (SoakOutcome(1, False, readings=[held([400.0] * 50), held([400.0] * 99, 9)[:-1] + held([400.0], 30)]), True,
         ["open files grow"]),
        (SoakOutcome(1, False, tracebacks=1, files=["a"], readings=[held([400.0])]), True,
         ["temporary files were left behind: a", "1 starts ended with a traceback"]),
    ],
)  # fmt: skip
def test_broken_promises_are_reported(outcome: SoakOutcome, equal: bool, said: list[str]):
    assert broken(outcome, equal) == said


def test_a_process_that_outlives_its_run_is_counted_and_killed(monkeypatch):
    monkeypatch.setattr(watch, "GONE_WITHIN_S", 0.0)
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); "
    with subprocess.Popen(
        [sys.executable, "-c", code + "print(p.pid, flush=True); input()"], stdin=-1, stdout=-1, text=True
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        tree = ProcessTree(run.pid)
        tree.update()
        run.kill()
        run.wait()
        assert tree.left_behind() == 1
        monkeypatch.setattr(watch, "GONE_WITHIN_S", 60.0)
        assert tree.left_behind() == 0


@pytest.mark.slow
def test_every_fault_is_one_that_the_client_names_or_a_reply_that_says_nothing():
    """With faults alone each prompt is answered after as many as it may meet in a row."""

    async def asked(url: str) -> list[str]:
        chat, ends = OpenAIChat("soak", url, timeout_s=2.0), []
        schema = {"type": "object"}
        prompt = '{"id": "abcd"}\n[1] a step\n'
        async with chat.session():
            for _ in range(MAX_IN_A_ROW + 1):
                request = ChatRequest("", prompt, schema=schema, schema_name="segmentation", max_tokens=9)
                try:
                    ends.append((await chat.complete(request)).text)
                except ChatError as error:
                    ends.append(error.fault.value)
        return ends

    with judge_endpoint(0, 1.0) as (url, counts):
        ends = asyncio.run(asked(url))
        assert sum(count.value for count in counts.values()) == MAX_IN_A_ROW
        assert set(counts) == set(FAULTS)
    assert ends[-1] == '{"id": "abcd", "steps": [[1, 1]]}'
    assert ends[-1] not in ends[:-1]


@pytest.mark.slow
def test_a_short_soak_keeps_its_promises(tmp_path: Path, capsys):
    out = tmp_path / "soak"
    assert main(["--rounds", "6", "--kill_every", "3", "--processes", "1", "--out", str(out)]) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| 1 process, disturbed")]
    starts, faults = rows[-1][1], rows[-1][2]
    assert starts == "2"
    assert faults.startswith("1 / 0 / ")
    assert rows[-1][-2] == "yes"


@pytest.mark.slow
def test_a_run_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(soak_run, "CONFIGS", (tmp_path / "none.yaml",))
    with pytest.raises(SoakFailed, match=r"status 2 without a fault(.|\n)*none\.yaml"):
        soak_run.Soak(tmp_path / "soak", 4, 1, disturbed=False, seed=0).run()
