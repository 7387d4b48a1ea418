"""A round with each verifier: the machine's misfortune is left out of the group's statistics and of the loss, and counted; what
exhausts the verifier stays wrong."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lit_tpgrpo import CodeVerifier, FunctionVerifier, MathVerifier, MultipleChoiceVerifier
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.pretrained import load_tokenizer
from lit_tpgrpo.records import Outcome, Problem
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import Assignment, RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.verify.base import Verifier
from lit_tpgrpo.verify.code.process import SandboxedProcess
from lit_tpgrpo.verify.worker_process import WorkerKilled, WorkerProcess
from tests.rollout.scripted_engine import Scripted

C, I, U, UNDECIDED = Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNVERIFIABLE, Outcome.UNDECIDED  # noqa: E741


def compare(gold: str, answer: str) -> bool | Outcome:
    if answer == "exhausting":
        raise MemoryError
    return Outcome.UNDECIDED if answer == "unlucky" else gold == answer


def program(code: str) -> str:
    return f"```python\n{code}\n```"


def box(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


SUM = json.dumps({"inputs": ["1 2"], "outputs": ["3"]})
# Verifier, gold, and the answers of four solutions: right, wrong, exhausting the verifier, right on a machine out of luck.
CASES: dict[str, tuple[Verifier, str, list[str]]] = {
    "maths": (MathVerifier(workers=1, timeout_s=20.0), "x+1", [box("1+x"), box("x+2"), box("9" * 1001), box("1+x+0")]),
    "function": (FunctionVerifier(compare), "3", [box("3"), box("4"), box("exhausting"), box("unlucky")]),
    "code": (
        CodeVerifier(workers=1, timeout_s=20.0),
        SUM,
        [program("print(3)"), program("print(4)"), program("'a' * 10**11"), program("print(3)  # unlucky")],
    ),
    # It runs in this process: there is no machine to blame.
    "multiple choice": (MultipleChoiceVerifier(), "B", [box("B"), box("C"), box("B" + " " * 2000 + ".")]),
}


def out_of_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes that are asked about the unlucky answers be killed from outside."""
    ask, start = WorkerProcess.ask, SandboxedProcess.__init__

    def ask_or_die(self, gold, answer):
        if answer == "1+x+0":
            raise WorkerKilled
        return ask(self, gold, answer)

    def start_and_die(self, role, limits, folder, code="", *args):
        start(self, role, limits, folder, code, *args)
        if "unlucky" in code:
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(WorkerProcess, "ask", ask_or_die)
    monkeypatch.setattr(SandboxedProcess, "__init__", start_and_die)


@pytest.mark.parametrize("name", CASES)
def test_a_round(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out_of_luck(monkeypatch)
    verifier, gold, answers = CASES[name]
    tokenizer = load_tokenizer("embedded:tiny-qwen2")
    maker = RoundMaker(
        Scripted(tokenizer, [f"<think>\nWe add.\n</think>\n{answer}" for answer in answers]),  # pyright: ignore
        verifier,
        RuleJudge(),
        ThoughtCredit(ddof=1, eps=0.0),
        keep_all,
        tokenizer,
        SamplingParams(max_new_tokens=4096),
        len(answers),
        RolloutPrompt("{problem}"),
        show_progress=False,
    )
    file = RoundStore(tmp_path).open(0, {"group_size": len(answers)}, maker.judging_settings())
    problem = Problem("p", "What is it?", gold)
    try:
        round_, tally = maker.make(0, [Assignment(0, problem, 0)], file, GroupAccuracy(), policy_version=0)
    finally:
        verifier.close()
    unlucky = len(answers) - 3
    assert [s.outcome for s in round_.groups[0].solutions] == [C, I, U, UNDECIDED][: len(answers)]
    # Rewards 1, -1, -1 of the decided ones: mean -1/3, sample deviation sqrt(4/3).
    right, wrong = (4 / 3) / (4 / 3) ** 0.5, (-2 / 3) / (4 / 3) ** 0.5
    assert [s.outcome_advantage for s in round_.credited] == pytest.approx([right, wrong, wrong, 0.0][: len(answers)])
    assert round_.groups[0].accuracy == pytest.approx(1 / 3)
    assert round_.kept_indices == (0, 1, 2)  # what the loss sees
    metrics = tally.metrics()
    assert metrics["rollout/undecided_share"] == unlucky / len(answers)
    assert metrics["rollout/unverifiable_share"] == 1 / len(answers)
    assert (metrics["verify/undecided"], metrics["verify/unverifiable"], metrics["verify/pairs"]) == (
        unlucky,
        1,
        len(answers),
    )
